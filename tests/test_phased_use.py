"""What is done with markets in three phases beside clearing them."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse

import jaxgne as jg
from jaxgne import matrix, mechanisms
from jaxgne.cases.limits import servable
from jaxgne.contracts import distance
from jaxgne.linear_flow import grid_state
from jaxgne.model import energy_prices
from jaxgne.padding import pad
from jaxgne.phases import by_phase, row
from jaxgne.runner import by_numpy, to_host
from jaxgne.sensitivity.active import active_set
from jaxgne.settlement import bills, price_parts
from jaxgne.validation.doubtful import _falls
from jaxgne.validation.tables import Values
from tests.agreement import potential
from tests.markets import _changed, anything
from tests.phased import busy_market, market
from tests.reference import clarabel, solve


def whole(**limits: Any) -> jg.Market:
    """Buses 0 to 3 with all phases, terminals 1.ab, 1.bc, 1.ca, 1.abc and 2.ab."""
    return market(1, buses=4, whole=True, **limits)


@pytest.fixture(scope="module")
def tight() -> tuple[jg.Market, jg.Clearing]:
    """A market whose voltages bind, with a rating that does."""
    base = busy_market(2, False, whole=True, buses=4, hours=2)
    clearing = jg.clear(base, tol=1e-9)
    assert np.abs(clearing.prices.bus).max() > 1e-2
    return base, clearing


def put(field: str, row: Any, value: Any) -> Callable[[jg.Grid], jg.Grid]:
    """One number of a field of the grid replaced."""

    def change(grid: jg.Grid) -> jg.Grid:
        return replace(grid, **{field: getattr(grid, field).at[jnp.asarray(row)].set(value)})

    return change


# fmt: off
WRONG: list[tuple[str, Callable[[jg.Grid], jg.Grid], str]] = [
    ("of one phase", lambda g: replace(g, model=jg.grids.LinDistFlow()),
     "Grid.coupled: 9 rows, but lindistflow has one phase; leave them out"),
    ("a row that is not there", put("phase_a", 2, 99),
     "Grid.phase_a row 2: bus 99 does not exist; the grid has buses 0 to 16, or -1"),
    ("a row of two phases", put("phase_b", 1, 3),
     "Grid.phase_b row 1: bus '1.a' is a phase of another bus already, or a terminal"),
    ("a terminal as a phase", put("phase_b", 1, 12), "bus '1.ab' is a phase of another bus"),
    ("conductors crossed", put("target", [0, 1], np.array([4, 3], np.int32)),
     "Grid.target row 0 ('0-1.a'): the line leads from phase a to phase b; join rows of one phase"),
    ("two lines coupled", put("coupled", 0, 5),
     "Grid.coupled row 0: lines 5 and 1 join different buses; couple conductors of one line"),
    ("a terminal coupled", put("coupled", 0, 9), "lines 9 and 1 join different buses"),
    ("couplings the other way", lambda g: replace(g, coupled=g.following, following=g.coupled),
     "Grid.following row 0: line 0 of phase a does not come after line 1 of phase b; swap them"),
    ("a coupling twice", lambda g: put("following", 1, 1)(put("coupled", 1, 0)(g)),
     "Grid.coupled row 1: line 0 is coupled to a following one already; keep one row"),
    ("a line that is not there", put("coupled", 0, 99), "line 99 does not exist"),
    ("no number", put("mutual_resistance", 0, np.nan), "Grid.mutual_resistance row 0: nan is"),
    ("a terminal twice", put("terminal", 1, 9),
     "Grid.terminal row 1: line 9 leads to a terminal already; keep one row"),
    ("a terminal with an impedance", put("resistance", 9, 1e-4),
     "Grid.terminal row 0: line 9 has an impedance or a tap, but a terminal stands at its bus"),
    ("a terminal with a tap", put("tap", 9, 1.1), "line 9 has an impedance or a tap"),
    ("an impedance behind a terminal", lambda g: put("source", 13, 12)(put("terminal", 4, 12)(
        put("resistance", 13, 1e-4)(g))),
     "line 13 begins at the terminal bus '1.ab', which is no phase of a bus"),
    ("the wrong next phase", put("second", 0, 5),
     "Grid.second row 0: bus '1.c' is not the phase after bus '1.a' at its bus; give that"),
    ("a phase of another bus", put("second", 0, 1), "bus '0.b' is not the phase after bus '1.a'"),
    ("a terminal of a terminal", put("second", 1, 14), "bus '1.ca' is not the phase after"),
    ("the wrong last phase", put("third", 3, 4),
     "Grid.third row 3: bus '1.b' is not the phase before bus '1.a' at its bus; give that, or -1"),
    ("no third phase", put("third", 0, 99),
     "Grid.third row 0: bus 99 does not exist; there are 0 to 16, or -1"),
    ("a loop", put("source", 6, 9), "joins bus '3.a' to itself; remove it"),
]
# fmt: on


@pytest.mark.parametrize(("change", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_mistake_in_phases_is_said(change: Callable[[jg.Grid], jg.Grid], says: str):
    base = whole()
    with pytest.raises(ValueError, match=re.escape(says)):
        jg.validate(replace(base, grid=change(base.grid)))


def test_a_sound_grid_is_not_complained_of():
    for seed in range(8):
        jg.validate(market(seed, buses=5, hours=1))


def test_a_span_is_limited_by_its_own_phases():
    """The widest limits of the phases that it spans, whatever is said of one that is not there."""
    phases = np.array([[True] * 3, [False, True, True]])
    none = np.zeros((1, 3, 3))
    grid = by_phase(phases, np.array([0]), np.array([1]), none, none, hours=1, spans=[(1, "bc")],
                    voltage_min=[[0.9] * 3, [np.nan, 0.95, 0.93]],
                    voltage_max=[[1.1] * 3, [np.nan, 1.04, 1.05]])  # fmt: skip
    at = row(grid, "1", "bc")
    assert (float(grid.voltage_min[at]), float(grid.voltage_max[at])) == (0.93, 1.05)


def test_shuffled_lines_are_sorted_with_their_couplings(tight: Any):
    """Conductors in any order, some the other way round: `oriented` gives the same plan."""
    base, clearing = tight
    grid, rng = base.grid, np.random.default_rng(0)
    order = rng.permutation(len(grid.source))
    turned, place = rng.uniform(size=len(order)) < 0.5, np.argsort(order)
    assert turned[place[np.asarray(grid.terminal)]].any()
    near, far = (np.asarray(a)[order] for a in (grid.source, grid.target))
    tap = np.asarray(grid.tap)[order]
    seen = np.where(turned, tap, 1.0)  # the other side of a transformer is that of the source
    own = {name: np.asarray(getattr(grid, name))[order] * seen**power
           for name, power in (("resistance", 2), ("reactance", 2), ("rating", -1))}  # fmt: skip
    ends = {name: place[np.asarray(getattr(grid, name))] for name in ("coupled", "following")}
    both = seen[ends["coupled"]] * seen[ends["following"]]
    mutual = {name: np.asarray(getattr(grid, name)) * both
              for name in ("mutual_resistance", "mutual_reactance")}  # fmt: skip
    mixed = replace(
        grid,
        source=jnp.asarray(np.where(turned, far, near)),
        target=jnp.asarray(np.where(turned, near, far)),
        tap=jnp.asarray(np.where(turned, 1 / tap, tap)),
        terminal=jnp.asarray(place[np.asarray(grid.terminal)]),
        line_names=tuple(grid.line_names[line] for line in order),
        **jax.tree.map(jnp.asarray, own | ends | mutual),
    )
    with pytest.raises(ValueError, match=r"Grid\.source.*jg\.oriented\(grid\)"):
        jg.validate(replace(base, grid=mixed))
    found = replace(base, grid=jg.oriented(mixed))
    jg.validate(found)
    again = jg.clear(found, tol=1e-9)
    np.testing.assert_allclose(again.prices.bus, clearing.prices.bus, atol=1e-5)
    back = np.array([found.grid.line_names.index(name) for name in grid.line_names])
    np.testing.assert_allclose(again.plan.active[back], clearing.plan.active, atol=1e-3)


def test_rows_that_take_part_in_nothing_change_nothing(tight: Any):
    base, clearing = tight
    buses = len(base.grid.passive)
    padded = jg.scenarios.pad(base, prosumers=7, generators=4, buffers=3, pairs=12, buses=buses + 3)
    jg.validate(padded)
    found = jg.clear(padded, tol=1e-9)
    np.testing.assert_allclose(found.prices.bus[:buses], clearing.prices.bus, atol=1e-5)
    np.testing.assert_allclose(found.plan.generation[:2], clearing.plan.generation, atol=1e-4)


def test_money_and_the_parts_of_prices(tight: Any):
    """Transfers cancel, receipts are rent, parts sum up; of lines there are some where one is full.

    With a rating that binds at a terminal, whose price is then its own.
    """
    base, clearing = tight
    loads = np.hypot(clearing.plan.active, clearing.plan.reactive).max(axis=1)
    with by_numpy():
        here, found = to_host((base, clearing))
        paid, parts = bills(here, found.plan, found.prices), price_parts(here, found)
        random = bills(here, *to_host(anything(base, 0)))
        for each in (paid, random):
            out = np.asarray(each.prosumers).sum(axis=0) + np.asarray(each.passive).sum(axis=0)
            np.testing.assert_allclose(out, each.sales + each.receipts + each.fees, atol=1e-8)
        np.testing.assert_allclose(paid.receipts, paid.rent, atol=1e-6)
    assert np.all(loads < np.asarray(base.grid.rating) - 1e-3)  # so there is no part of lines
    assert np.abs(parts.voltage).max() > 1e-2
    np.testing.assert_allclose(parts.lines, 0, atol=1e-6)
    worth = clearing.prices.bus + clearing.prices.aggregate + clearing.prices.exchange
    np.testing.assert_allclose(parts.total - parts.energy, worth, atol=1e-9)


def test_an_envelope_ends_where_a_limit_binds():
    """A kW at one phase also raises others, and one between two turns reactive power; states by
    the package's own sums, of which one more kW is asked for at a time.
    """
    base = whole(voltage_min=0.5, voltage_max=1.5)
    free = jg.clear(base)
    volts = np.sqrt(np.asarray(free.plan.voltage))
    carried = np.hypot(free.plan.active, free.plan.reactive).max(axis=1)
    base = _changed(base, grid__voltage_min=volts.min() - 1e-3, grid__rating=carried + 8.0,
                    grid__voltage_max=volts.max(axis=1) + 1e-3)  # fmt: skip
    table = mechanisms.envelope(base, tol=1e-9)
    found = jg.clear(base, tol=1e-9)
    grid = base.grid
    shape = grid.passive.shape
    held = set()
    with by_numpy():
        here, plan = to_host((base, found.plan))
        drawn = here.grid.passive.at[here.prosumers.bus].add(jg.model.net_load(here, plan))
        kvar = here.grid.passive_reactive.at[here.prosumers.bus].add(here.prosumers.reactive)
        for name, sign in (("draw_kw", 1), ("feed_in_kw", -1)):
            more = table[name].reshape(shape)
            assert np.isinf(more[np.asarray(grid.feeder)]).all()
            for bus in range(3, shape[0]):
                after: Any = grid_state(here, drawn.at[bus].add(sign * more[bus]), kvar)
                square = np.asarray(after["voltage"])
                load = np.hypot(after["active"], after["reactive"])
                gaps = {
                    "low": square - np.asarray(grid.voltage_min)[:, None] ** 2,
                    "high": np.asarray(grid.voltage_max)[:, None] ** 2 - square,
                    "full": (np.asarray(grid.rating)[:, None] - load) / 100,
                }
                gaps["low"][:3] = gaps["high"][:3] = 1.0
                least = np.min([gap.min(axis=0) for gap in gaps.values()], axis=0)
                np.testing.assert_allclose(least, 0, atol=1e-6)
                where = [int(gap.argmin(axis=0)[0]) for gap in gaps.values()]
                kind = int(np.argmin([gap.min(axis=0)[0] for gap in gaps.values()]))
                held.add((sign, tuple(gaps)[kind], grid.names[where[kind]][-1] if kind < 2 else ""))
                with_less: Any = grid_state(here, drawn.at[bus].add(0.5 * sign * more[bus]), kvar)
                inside = np.asarray(with_less["voltage"])
                assert np.all(inside[3:] <= np.asarray(grid.voltage_max)[3:, None] ** 2 + 1e-9)
    kinds = {one[:2] for one in held}
    assert (1, "high") in kinds  # drawing more on one phase is held by another that rises


def test_loads_are_not_taken_to_lower_all_voltages():
    """What raises phase a is load on phase c: no market is refused that has a plan."""
    z = np.full((3, 3), 4e-4 * (0.3 + 0.9j)) + np.eye(3) * 4e-4 * (0.7 + 0.7j)
    wye = np.zeros((2, 3))
    wye[1, 2] = 60.0
    grid = by_phase(np.ones((2, 3), bool), np.array([0]), np.array([1]), z.real[None], z.imag[None],
                    hours=1, passive=wye, voltage_min=[[0.5] * 3, [1.005, 0.5, 0.5]],
                    voltage_max=1.5)  # fmt: skip
    base = jg.Market(jg.Prosumers([5], [[1.0]]), grid, jg.Tariff(1e-3, hours=1, base=0.2))
    assert solve(base).status == "solved"
    clearing = jg.clear(base)
    assert float(clearing.plan.voltage[3, 0]) > 1.005**2
    assert servable(base) is base


def test_a_load_between_phases_is_shared_out_before_it_is_doubted():
    """2 MW on three phases are 0.67 on each: 0.31 pu, where one phase would lose 0.9."""
    base = whole()
    passive = np.zeros(base.grid.passive.shape)
    passive[base.grid.names.index("1.abc")] = 2000.0
    large = _changed(base, grid__passive=passive, grid__passive_reactive=0.0,
                     prosumers__load=0.0, prosumers__reactive=0.0)  # fmt: skip
    fall, drawn = _falls(Values(large))
    line, own = base.grid.line_names.index("0-1.a"), np.asarray(base.grid.resistance)
    np.testing.assert_allclose(fall[[3, 15]], own[line] * 2000 / 3)
    assert drawn.sum() == passive.sum()


def test_phases_of_a_bus_are_at_one_place():
    """Pairs below one line are near, whichever phases they are on; all its conductors are cut."""
    base = whole()
    names = base.grid.names
    bus = [names.index(name) for name in ("3.a", "3.c", "1.bc", "2.ab", "2.b")]
    base = replace(base, prosumers=replace(base.prosumers, bus=jnp.asarray(bus, jnp.int32)))
    base = replace(base, trading=jg.Trading([0, 0, 3, 0], [1, 2, 4, 3], 1.0))
    assert distance(base).tolist() == [0, 0, 0, 0]
    assert distance(base, ["1-3.b"]).tolist() == [0, 1, 0, 1]
    assert distance(base, ["0-2.a"]).tolist() == [0, 0, 0, 1]


@pytest.mark.slow  # compiles for seconds
def test_rows_as_a_matrix_and_the_convex_program(tight: Any):
    """A x + b are the rows of any plan, and the program's least value is the potential."""
    base, clearing = tight
    made = matrix.linear(base)
    plan, _ = anything(base, 0)
    x = np.zeros(made.matrix.shape[1])
    own = matrix.flat(plan)
    x[: len(own)] = own
    expected = matrix.flat(jg.model.rows(base, plan))
    np.testing.assert_allclose(made.matrix @ x + made.constant, expected, atol=1e-9)
    program = jg.convex(base)
    P, q, A, b, *_ = program.conic()
    options = clarabel.DefaultSettings()
    options.verbose = False
    cones = [getattr(clarabel, kind)(*numbers) for kind, *numbers in program.cones]
    half = sparse.triu(P, format="csc")
    x = np.array(clarabel.DefaultSolver(half, q, A, b, cones, options).solve().x)
    value = x @ (program.P @ x) / 2 + program.q @ x + program.constant
    assert value == pytest.approx(potential(base, clearing.plan), rel=1e-6)


def test_the_cheapest_way_out_names_phases():
    """A market whose voltages are out of reach clears as `relax` says, by rows like 3.b."""
    base = whole(voltage_min=1.03, voltage_max=1.2)
    assert solve(base).status == "infeasible"
    said = str(jg.relax(base))
    assert "lower Grid.voltage_min of bus 3.b in hour" in said


FIELDS = (
    *("prosumers__load", "generators__linear", "grid__resistance", "grid__mutual_resistance"),
    *("grid__mutual_reactance", "grid__tap", "grid__voltage_min", "grid__rating"),
    *("grid__passive_reactive", "grid__feeder_voltage"),
)


def told(market: jg.Market, clearing: jg.Clearing) -> Any:
    """What is unique, in one number."""
    worth = jnp.sum(energy_prices(market, clearing.prices) ** 2)
    made = jnp.sum(jnp.sin(clearing.plan.generation))
    return jnp.sum(clearing.aggregate**2) + made + worth + jg.model.potential(market, clearing.plan)


def told_of(market: jg.Market) -> tuple[float, bytes]:
    """That, by NumPy, and which bounds hold."""
    clearing = jg.clear(market, tol=1e-10, runner="numpy")
    with by_numpy():
        here, found = to_host((market, clearing))
        active = active_set(here, found.plan, found.prices)
        held = b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves((active.plan, active.net)))
        return float(told(here, found)), held


def field_of(market: jg.Market, name: str) -> np.ndarray:
    table, field = name.split("__")
    return np.asarray(getattr(getattr(market, table), field))


def test_derivatives_by_hand_are_differences_of_clears(tight: Any):
    """By NumPy, field by field in a random direction, where no bound switches."""
    base, rng, step, done = tight[0], np.random.default_rng(0), 1e-5, set()
    slopes = jg.sensitivities(base, told, clearing=jg.clear(base, tol=1e-10))
    _, held = told_of(base)
    for name in FIELDS:
        value = field_of(base, name)
        kept = np.isfinite(value)
        if name == "grid__tap":
            kept &= ~np.isin(np.arange(len(value)), np.asarray(base.grid.terminal))
        unit = 0.02 if name in ("grid__tap", "grid__voltage_min", "grid__feeder_voltage") else 1.0
        way = unit * np.where(kept, value, 0.0) * rng.uniform(-1, 1, value.shape)
        ends = [told_of(_changed(base, **{name: value + sign * step * way})) for sign in (1, -1)]
        if {end[1] for end in ends} != {held}:
            continue
        ahead, behind = (end[0] for end in ends)
        found = float(np.vdot(field_of(slopes, name), way))
        assert found == pytest.approx((ahead - behind) / (2 * step), rel=1e-4, abs=1e-4), name
        done |= {name} if abs(found) > 1e-3 else set()
    assert {"prosumers__load", "grid__mutual_resistance", "grid__mutual_reactance"} <= done
    assert {"grid__tap", "grid__voltage_min", "grid__feeder_voltage"} <= done


@pytest.mark.slow
def test_derivatives_through_clear_are_those_by_hand(tight: Any):
    """`filter_grad` by JAX, every field."""
    base, clearing = tight
    by_hand = jg.sensitivities(base, told, clearing=clearing)
    found = eqx.filter_grad(lambda m: told(m, jg.clear(m, tol=1e-9, runner="jax")))(base)
    for name in (*FIELDS, "grid__reactance", "grid__voltage_max", "tariff__slope"):
        one, two = field_of(by_hand, name), field_of(found, name)
        np.testing.assert_allclose(one, two, atol=1e-5 * max(np.abs(two).max(initial=0), 1e-2))


@pytest.mark.slow
def test_batches_and_float32(tight: Any):
    """Three scenarios at once, of which each is as alone; float32 to a thousandth."""
    base, clearing = tight
    load, mutual = base.prosumers.load, base.grid.mutual_reactance
    markets = [base, _changed(base, prosumers__load=np.asarray(load) * 0.97),
               _changed(base, grid__mutual_reactance=np.asarray(mutual) * 1.02)]  # fmt: skip
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *markets)
    cleared = jg.clear_many(stacked)
    for k, one in enumerate(markets):
        found = jax.tree.map(lambda a, k=k: a[k], cleared)
        alone = jg.clear(one, tol=1e-9, throw=False)
        assert bool(found.ok) == bool(alone.ok)
        if alone.ok:
            assert potential(one, found.plan) == pytest.approx(potential(one, alone.plan), abs=1e-4)
    narrow = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32) if a.dtype == jnp.float64 else a,
                          base)  # fmt: skip
    found = jg.clear(narrow)
    assert found.plan.voltage.dtype == jnp.float32
    assert potential(base, found.plan) == pytest.approx(potential(base, clearing.plan), rel=1e-3)
    assert energy_prices(narrow, found.prices).dtype == jnp.float32


@pytest.mark.slow  # compiles for a minute
def test_float32_says_of_its_plan_what_float64_does():
    """Cleared in pairs, to float32's tolerance; its certificate is the one judged in float64."""

    def cast(tree: Any, dtype: Any) -> Any:
        kinds = jnp.float32, jnp.float64
        return jax.tree.map(
            lambda a: jnp.asarray(a, dtype) if jnp.asarray(a).dtype in kinds else a, tree
        )

    base = jg.ieee37(6, hours=2, hour_length=6.0, grid="lindist3flow")
    found = jg.clear(cast(base, jnp.float32))
    assert found.plan.voltage.dtype == jnp.float32
    judged = jg.certify(base, *cast((found.plan, found.prices), jnp.float64))
    told = found.certificate
    assert float(judged.error) <= 1.1e-4
    assert float(told.error) == pytest.approx(float(judged.error), rel=0.1, abs=1e-6)
    assert told.ac is not None and judged.ac is not None
    for name in ("lowest", "highest", "loading", "losses"):
        value = float(getattr(judged.ac, name))
        assert float(getattr(told.ac, name)) == pytest.approx(value, rel=1e-5)
    assert told.ac.answer is True and judged.ac.answer is True
    assert told.ac.unbalance is not None and not bool(told.ac.unbalance.returns)


def test_every_row_is_a_phase_or_a_terminal():
    """Houses with lines of their own and padding are buses of one phase, known to the tree."""
    base = market(2, voltage_min=0.9, voltage_max=1.1)
    wired = jg.devices.inverter(jg.devices.connection(base, [0, 1], 60.0), [1, 2], 40.0)
    for one in (base, wired, pad(wired, buses=wired.grid.passive.shape[0] + 3)):
        jg.validate(one)
        grid = one.grid
        ends = np.asarray(grid.target)[np.asarray(grid.terminal)]
        rows = np.asarray(grid.phases)
        known = np.sort(np.concatenate([rows[rows >= 0], ends]))
        np.testing.assert_array_equal(known, np.arange(grid.passive.shape[0]))
    lost = {f"phase_{p}": getattr(wired.grid, f"phase_{p}")[:-1] for p in "abc"}
    stray = replace(wired, grid=replace(wired.grid, **lost))
    with pytest.raises(ValueError, match="is no phase of a bus, nor a terminal"):
        jg.validate(stray)


@pytest.mark.slow
def test_the_primal_dual_method_knows_houses_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """It went astray where the tree left their rows out."""
    wired = jg.devices.connection(market(2, voltage_min=0.9, voltage_max=1.1), [0, 1], 60.0)
    monkeypatch.setattr("jaxgne.solvers.network.DENSE", 0)
    found = jg.clear(wired, jg.PrimalDual(), runner="jax", max_steps=3000)
    one, two = (float(jg.model.potential(wired, c.plan)) for c in (found, jg.clear(wired)))
    assert one == pytest.approx(two, rel=1e-5)
