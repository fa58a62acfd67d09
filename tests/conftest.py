import gc
import math
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

# The interior point's small systems wait for BLAS threads longer than they compute, the more so
# the busier the machine is. Read once, when SciPy's BLAS is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import equinox as eqx
import jax
import pytest

from jaxgne import choosing, programs

jax.config.update("jax_enable_x64", True)

# Small markets are cleared by NumPy, however slow the machine is, unless a test asks for JAX.
choosing._LOADING = choosing._PATIENCE = math.inf
choosing._BATCH_LOADING = choosing._BATCH = math.inf

# Most tests compile far longer than they run: XLA leaves out what only makes programs faster. Flags
# that it does not know end the process, so other versions go without.
if version("jaxlib").startswith("0.10."):
    quick = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    alone = "--xla_cpu_parallel_codegen_split_count=1"  # the other cores have workers of their own
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick} {alone}"

programs._FAST = programs._QUICK  # also of programs that the package has optimized

gc.set_threshold(100_000, 20, 100)  # tracing makes many objects, few of them garbage


def pytest_configure(config):
    """One store of compiled programs for all workers and the processes that tests start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="jaxgne-compiled-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        os.environ["JAXGNE_CACHE"] = os.path.join(folder.name, "jaxgne")
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


_MAPS = 20_000  # leaves room for a module of many programs, which makes some 25,000

SLOW_NOTEBOOKS = {"paper.ipynb", "fit.ipynb", "tuning.ipynb"}  # what they show has tests of its own

# These compile for longest; others of their kind, by NumPy or on another market, stay quick.
SLOW_TESTS = {
    "test_adversarial.py": ("test_awkward_markets[primal-dual]",),
    "test_cluster.py": (
        "test_a_worker_is_killed_and_nothing_is_lost_or_done_twice",
        "test_a_front_goes_on_where_one_of_three_workers_is_killed",
        "test_a_leaders_starts_end_where_they_end_here",
        "test_simulations_go_on_where_one_of_three_workers_is_killed",
        "test_studies_go_on_where_one_of_three_workers_is_killed",
        "test_work_that_kills_every_worker_is_told",
    ),
    "test_commitments.py": (
        "test_committed_markets_clear_to_what_the_oracle_finds[lindistflow]",
        "test_committed_markets_clear_to_what_the_oracle_finds[copperplate]",
        "test_who_may_be_short_buys_ahead",
        "test_batches_and_float32_know_commitments",
        "test_a_commitment_has_the_value_of_the_newsvendor",
        "test_planning_for_all_branches_and_knowing_the_branch_are_worth_something",
    ),
    "test_balancing.py": ("test_a_curve_is_what_each_deviation_costs",),
    "test_on_off.py": (
        "test_no_pattern_beats_the_bound[0]",
        "test_no_pattern_beats_the_bound[1]",
        "test_no_pattern_beats_the_bound[2]",
        "test_float32_units_clear",
    ),
    "test_envelopes.py": (
        "test_what_does_not_clear_is_left_out",
        "test_the_command_tells_and_writes_all",
    ),
    "test_admm.py": (
        "test_limits_on_the_total_have_their_price",
        "test_any_penalty_converges",
        "test_rounds_end_where_the_oracle_is[a pool]",
        "test_batches_and_float32",
    ),
    "test_placement.py": ("test_four_processes_clear_one_large_market",),
    "test_polishing.py": ("test_a_solve_that_polishes_ends_at_the_same_answer",),
    "test_pool.py": (
        "test_the_pool_is_nobody",
        "test_a_fee_brings_back_what_the_network_earned",
    ),
    "test_risk.py": ("test_committed_markets_shun_risk",),
    "test_agreement.py": (
        "test_random_markets[0-interior point-None]",
        "test_primal_dual_goes_on_from_the_mechanism",
        "test_hand_made_markets[one bus-interior point]",
        "test_hand_made_markets[one bus-primal-dual]",
        "test_hand_made_markets[one importer-interior point]",
        "test_hand_made_markets[inverters-primal-dual]",
        "test_hand_made_markets[two neighbors-interior point]",
        "test_hand_made_markets[two neighbors-primal-dual]",
        "test_hand_made_markets[paper feeder with reactive power-interior point]",
        "test_hand_made_markets[feeder-interior point]",
        "test_hand_made_markets[two price takers-interior point]",
        "test_hand_made_markets[two price takers-primal-dual]",
        "test_hand_made_markets[feeder-primal-dual]",
        "test_hand_made_markets[feeder with tight lines-interior point]",
        "test_hand_made_markets[exports-interior point]",
        "test_hand_made_markets[exports-primal-dual]",
    ),
    "test_batch.py": (
        "test_lanes_do_not_disturb_one_another[platforms0]",
        "test_lanes_do_not_disturb_one_another[platforms1]",
        "test_stragglers_are_stopped_and_named[platforms1]",
        "test_the_mechanism_has_room_for_the_busiest_scenario",
        "test_a_folder_loads_as_it_was_cleared",
        "test_a_batch_is_a_loop[solver0]",
    ),
    "test_caps_iterated.py": (
        "test_few_iterations_solve_what_elimination_does[lindistflow-150-seeds0]",
    ),
    "test_caps_solvers.py": ("test_random_caps_by_programs[primal-dual]",),
    "test_clearing.py": (
        "test_the_certificate_is_of_the_answer[None-jax]",
        "test_float32_clears_to_its_tolerance",
        "test_trace_is_the_path_of_clear[solver0-50]",
        "test_the_certificate_is_of_the_answer[2-jax]",
        "test_large_markets_are_cleared_alike[solver1]",
        "test_an_infeasible_market_ends_as_such_and_names_the_limit[aggregate-solver0]",
    ),
    "test_cli.py": ("test_where_no_plan_keeps_limits_on_ac",),
    "test_cli_folders.py": (
        "test_what_tune_reads_off_is_told_by_name_and_shown_again[reinforcement-names1]",
    ),
    "test_stopping.py": (
        "test_a_tuning_that_is_stopped_is_attached",
        "test_what_was_done_is_kept_and_gone_on_from[study]",
        "test_what_was_done_is_kept_and_gone_on_from[tune]",
    ),
    "test_clock.py": ("test_days_at_other_times_share_a_program",),
    "test_commands.py": (
        "test_lines_of_the_shell_run",
        "test_commands_in_running_text_run",
    ),
    "test_curves.py": (
        "test_what_is_used_is_worth_its_price[mechanism]",
        "test_what_is_used_is_worth_its_price[primal-dual]",
        "test_a_class_of_ones_own_is_cleared",
    ),
    "test_dataset.py": (
        "test_days_of_a_batch_have_their_own_times",
        "test_an_ac_clearing_has_the_voltages_of_ac",
    ),
    "test_each.py": ("test_a_batch_gives_what_its_scenarios_give[certify]",),
    "test_elastic.py": (
        "test_energy_that_hours_cannot_bring_is_infeasible[cars]",
        "test_energy_that_hours_cannot_bring_is_infeasible[full]",
    ),
    "test_exporting.py": (
        "test_what_is_read_of_many_is_what_was_written",
        "test_a_batch_is_read_as_it_was_written",
        "test_a_write_that_fails_leaves_what_was_there[day.zarr]",
    ),
    "test_few_sizes.py": (
        "test_another_number_of_pairs_finds_its_programs",
        "test_what_has_no_plan_is_said_of_the_market_itself",
    ),
    "test_fitting.py": (
        "test_what_nothing_determines_is_not_identified[3.0-0.3]",
        "test_what_nothing_determines_is_not_identified[10.0-0.05]",
    ),
    "test_flat.py": (
        "test_the_tie_break_levels_the_power_at_the_transformer",
        "test_float32_says_what_it_cannot_tell",
    ),
    "test_golden.py": (
        "test_published_optima[n020_b37-jax-nash]",
        "test_published_optima[n020_b37-jax-wardrop]",
        "test_published_optima[n020_b37_congested_derived-jax-nash]",
    ),
    "test_gradients.py": (
        "test_what_numpy_derives_can_be_transposed_batched_and_compiled",
        "test_gradients_are_differences_of_clears[copperplate-wardrop]",
        "test_gradients_are_differences_of_clears[paper-nash]",
    ),
    "test_near_potential.py": (
        "test_where_adders_stand_still_nobody_saves",
        "test_no_regret_is_above_its_bound[0.0]",
        "test_no_regret_is_above_its_bound[0.5]",
        "test_a_price_taker_with_an_elastic_load",
    ),
    "test_leader.py": (
        "test_ramsey_prices",
        "test_no_price_of_a_grid_and_none_of_cma_es_is_better",
        "test_what_cannot_be_met_is_told",
        "test_base_prices_by_hour_lower_a_peak_and_earn_no_less",
    ),
    "test_kinks.py": (
        "test_where_one_limit_holds_and_another_lets_go_a_derivative_ahead_raises",
        "test_a_load_that_a_limit_on_the_total_just_meets_has_no_derivative[<lambda>]",
    ),
    "test_lowering.py": (
        "test_clear[interior point]",
        "test_clear_on_grids",
        "test_batches",
        "test_scenarios_over_devices",
        "test_prosumers_over_devices",
        "test_gradients[implicit-lindistflow]",
        "test_gradients[implicit, of what is not unique-lindistflow]",
        "test_gradients[implicit, of what is not unique-copperplate]",
        "test_gradients[smoothed-lindistflow]",
        "test_gradients[smoothed-copperplate]",
        "test_gradients_of_some_numbers_warn_nobody",
        "test_a_solve_takes_few_numbers_beside_its_state",
        "test_gradients_of_many_prosumers",
        "test_derivatives_ahead_and_of_batches",
        "test_other_markets",
    ),
    "test_objectives.py": ("test_derivative",),
    "test_optimality.py": ("test_the_yardstick_has_finite_derivatives[lindistflow]",),
    "test_options.py": ("test_a_double_market_in_single_mode_is_told",),
    "test_pages.py": ("test_a_page_whose_blocks_take_long_runs",),
    "test_preconditioner.py": ("test_steps_never_overshoot[many devices-1]",),
    "test_report_html.py": (
        *(
            f"test_other_markets_open_too[{name}]"
            for name in ("ieee13", "ieee37", "paper", "european_lv", "synthetic")
        ),
        "test_batches_have_fans",
    ),
    "test_robust.py": (
        "test_radii_that_are_known",
        "test_by_default_a_tenth_more_may_be_paid",
        "test_programs_find_what_numpy_does",
        "test_no_error_within_the_radius_breaks_anything",
        "test_the_worst_error_is_that_of_all_corners",
        "test_a_larger_budget_has_no_smaller_radius",
        "test_a_plan_for_tightened_limits_is_safe",
    ),
    "test_runner.py": (
        "test_either_runner_clears_alike[lindistflow]",
        "test_numpy_comes_first_and_jax_when_it_pays",
        "test_either_runner_clears_alike[paper with reactive power]",
        "test_updates_are_jaxs",
    ),
    "test_semidecentralized.py": ("test_variants_end_at_the_same_plan[options0]",),
    "test_sensitivity.py": (
        "test_derivatives_are_the_oracles_differences[lindistflow-nash-seeds0]",
        "test_gradients_do_not_compile_again",
        "test_iterations_solve_what_elimination_does[lindistflow-150]",
        "test_trust_is_the_same_by_both_runners[False]",
        "test_what_is_not_unique_is_flagged_and_refused",
        "test_iterations_solve_what_elimination_does[lindistflow-0]",
        "test_iterations_end_where_nothing_more_can_be_done",
    ),
    "test_small.py": (
        "test_prices_are_right_down_to_a_millionth_of_the_largest[primal-dual]",
        "test_smaller_ones_are_served_too[decades0-primal-dual]",
    ),
    "test_ordering.py": (
        "test_answers_come_in_the_order_that_was_asked_for[float64]",
        "test_answers_come_in_the_order_that_was_asked_for[float32]",
        "test_what_a_stopped_solve_had_come_to_is_in_order",
        "test_what_has_no_plan_is_proven_by_prices_of_its_own_rows",
    ),
    "test_standard_form.py": ("test_what_clear_finds_solves_the_program",),
    "test_steps.py": (
        "test_a_warm_start_saves_steps[solver0]",
        "test_steps_have_not_grown_by_a_fifth",
    ),
    "test_surplus.py": ("test_what_is_not_unique_is_told",),
    "test_tap.py": ("test_solvers[primal-dual]",),
    "test_threads.py": ("test_overlapping_threads_share_the_limit",),
    "test_tradeoffs.py": (
        "test_a_front_is_that_of_the_closed_form",
        "test_no_clear_of_a_grid_is_better",
        "test_scenarios_share_the_fields_of_a_front",
    ),
    "test_tracking.py": (
        "test_a_market_that_stands_still_is_cleared_as_by_the_solver_alone",
        "test_the_distance_falls_with_rounds_and_is_linear_in_how_fast_the_market_moves",
        "test_with_many_rounds_it_is_at_the_equilibrium_of_each_instant",
        "test_other_numbers_compile_nothing",
        "test_violations_are_those_of_what_devices_do",
        "test_an_instant_without_an_equilibrium_has_no_distance",
        "test_it_prints_and_is_a_table",
    ),
    "test_messages.py": (
        "test_with_all_messages_in_time_it_is_the_mechanism[copperplate]",
        "test_with_all_messages_in_time_it_is_the_mechanism[network]",
        "test_lost_and_late_messages_end_at_the_clearing[copperplate]",
        "test_lost_and_late_messages_end_at_the_clearing[network]",
        "test_without_an_operator_all_agree_on_the_clearing[a ring]",
        "test_without_an_operator_all_agree_on_the_clearing[one way round]",
        "test_without_an_operator_all_agree_on_the_clearing[links in turn, lost and late]",
        "test_on_a_network_all_agree_without_an_operator",
        "test_seeds_together_are_seeds_one_by_one",
        "test_bytes_are_those_counted_by_hand",
        "test_noise_costs_accuracy_and_buys_privacy",
        "test_other_numbers_compile_nothing",
        "test_single_precision_comes_as_near_as_it_can",
        "test_the_command_tells_plots_and_writes_what_the_function_finds",
    ),
    "test_transforms.py": (
        "test_any_answer_starts_any_solver[interior point-mechanism]",
        "test_float32_ends_near_float64[mechanism]",
        "test_any_answer_starts_any_solver[interior point-interior point]",
        "test_any_answer_starts_any_solver[interior point-primal-dual]",
        "test_any_answer_starts_any_solver[primal-dual-interior point]",
        "test_any_answer_starts_any_solver[primal-dual-mechanism]",
    ),
    "test_studies.py": (
        "test_every_study_is_told_and_drawn[horizon]",
        "test_every_study_is_told_and_drawn[uncertainty]",
        "test_every_study_is_told_and_drawn[stackelberg]",
        "test_every_study_is_told_and_drawn[near-potential]",
        "test_who_has_no_potential_saves_no_more_than_its_bound",
        "test_markups_by_hour_earn_as_much_and_cost_no_more",
        "test_foresight_is_worth_more_the_more_forecasts_err",
    ),
    "test_hindsight.py": ("test_beside_foresight_and_no_trading",),
    "test_forecasts.py": ("test_noise_makes_it_dearer",),
    "test_simulation.py": (
        "test_nothing_is_compiled_after_the_first_window",
        "test_foresight_is_never_dearer[2]",
        "test_content_is_worth_something_beyond_the_window[terminal1]",
        "test_a_full_window_is_the_one_shot_clear[<lambda>-1]",
        "test_a_full_window_is_the_one_shot_clear[many_devices-1]",
        "test_uneven_windows_look_as_far_with_fewer_steps",
    ),
    "test_tree.py": (
        "test_the_tree_takes_all_phases_of_a_bus[1]",
        "test_the_tree_takes_all_phases_of_a_bus[2]",
    ),
    "test_examples.py": (
        "test_examples_run_and_their_json_is_of_its_schema[batch]",
        "test_examples_run_and_their_json_is_of_its_schema[compare]",
        "test_examples_run_and_their_json_is_of_its_schema[pareto]",
        "test_examples_run_and_their_json_is_of_its_schema[report]",
        "test_examples_run_and_their_json_is_of_its_schema[simulate]",
        "test_examples_run_and_their_json_is_of_its_schema[study]",
        "test_all_that_a_clearing_may_say_is_of_the_schema",
        "test_stopped_work_is_kept_and_goes_on",
        "test_who_stops_a_study_hears_where_it_goes_on",
    ),
    "test_tuning.py": (
        "test_the_best_tariff_is_found_and_nothing_compiles_again",
        "test_another_tuning_is_refused_its_folder",
        "test_a_step_that_does_not_clear_is_halved",
    ),
    "test_unbalance.py": (
        "test_linear_factor_is_near_that_of_an_ac_power_flow[european_lv]",
        "test_all_solvers_find_the_convex_programs_answer[primal-dual]",
        "test_all_solvers_find_the_convex_programs_answer[mechanism]",
    ),
    "test_uneven.py": ("test_solvers_find_what_the_oracle_finds[1-mechanism]",),
    "test_zones.py": (
        *("test_all_solvers_agree", "test_solvers_agree_on_tie_lines"),
        *("test_batches_clear_as_one_by_one", "test_losses_are_bought_at_the_price_of_their_zone"),
        "test_derivatives_are_those_of_finite_differences[jax]",
    ),
}


def pytest_collection_modifyitems(items):
    for item in items:
        names = {item.name, getattr(item, "originalname", None)}  # with its case, or of all cases
        slow = not names.isdisjoint(SLOW_TESTS.get(item.path.name, ()))
        if slow or item.path.name in SLOW_NOTEBOOKS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Drops compiled programs between modules, before they exhaust a process' memory maps."""
    yield
    choosing._spent.clear()
    if programs.crowded(_MAPS):
        programs.forget()
        eqx.clear_caches()
        jax.clear_caches()


@pytest.fixture
def engine() -> Iterator[Any]:
    """An OpenDSS of the test's own, without windows."""
    dss: Any = pytest.importorskip("dss", reason="needs dss-python")
    found = dss.DSS.NewContext()
    found.AllowForms = False
    yield found
    found.Text.Command = "clear"
