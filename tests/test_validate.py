"""Every kind of bad input has its sentence, and no market that can be cleared is refused."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.market import cast
from jaxgne.validation import numbers, preference_cycle, problems, structure, tables, validate
from jaxgne.validation.doubtful import doubts
from tests.good import GOOD, HOURS, batch, good, mesh
from tests.markets import HAND_MADE, random_market


def at(where: Callable[[jg.Market], Any], place: Any, value: Any) -> Callable[[], jg.Market]:
    """The good market with one entry changed."""
    return lambda: eqx.tree_at(where, good(), where(good()).at[place].set(value))


def put(where: Callable[[jg.Market], Any], value: Any, market=good) -> Callable[[], jg.Market]:
    """The good market with a whole array replaced."""
    return lambda: eqx.tree_at(where, market(), value)


def grid(**changes: Any) -> Callable[[], jg.Market]:
    return lambda: good(grid=changes)


# What is wrong, a market with that mistake, and what its sentence says: field, place, number, fix.
# fmt: off
BAD: list[tuple[str, Callable[[], jg.Market], tuple[str, ...]]] = [
    ("one array with a batch axis",
     put(lambda m: m.tariff.slope, jnp.ones((5, HOURS))),
     ("Tariff.slope has a leading axis of 5 scenarios", "jg.scenarios.sweep gives it to every")),
    ("too few rows",
     put(lambda m: m.prosumers.reactive, jnp.ones((3, HOURS))),
     ("Prosumers.reactive: shape (3, 4), expected (4, 4)", "one number per prosumer and hour")),
    ("a row of hours too many",
     put(lambda m: m.buffers.drain, jnp.ones((1, 7))),
     ("Buffers.drain: shape (1, 7), expected (1, 4)", "per buffer and hour")),
    ("loads without hours",
     put(lambda m: m.prosumers.load, jnp.ones(4)),
     ("Prosumers.load: shape (4,), expected (4, 4)", "per prosumer and hour")),
    ("indices that are floats",
     put(lambda m: m.generators.owner, jnp.asarray([0.0, 1.0])),
     ("Generators.owner: float64 instead of an array of integers", "convert it")),
    ("a plain number instead of an array",
     put(lambda m: m.tariff.anticipation, 0.25),
     ("Tariff.anticipation: float instead of an array of floats", "convert it")),
    ("no prosumer",
     lambda: jg.Market(
         jg.Prosumers((), np.zeros((0, 2))), jg.Grid(np.zeros((1, 2))), jg.Tariff(0.1, hours=2)
     ),
     ("Prosumers.load: there is no prosumer", "at least one")),
    ("no hour",
     lambda: jax.tree.map(
         lambda a: a[..., :0] if a.shape[-1:] == (3,) else a,
         jg.Market(
             jg.Prosumers([0], np.zeros((1, 3))), jg.Grid(np.zeros((1, 3))), jg.Tariff(0.1, hours=3)
         ),
     ),
     ("Prosumers.load: there is no hour", "at least one")),
    ("one table in float32",
     lambda: put(lambda m: m.prosumers.load, np.ones((4, HOURS), np.float32))(),
     ("Prosumers.load: float32 in a market of float64", "convert it")),
    ("names missing",
     grid(names=("799", "701")),
     ("Grid.names: 2 different names for 4 buses", "give each bus its own, or give none")),
    ("a name used twice",
     grid(names=("799", "701", "701", "703")),
     ("Grid.names: 3 different names for 4 buses", "each bus its own")),
    ("a line without a name",
     grid(line_names=("trunk", "end")),
     ("Grid.line_names: 2 different names for 3 lines", "give each line its own, or give none")),
    ("a rating below zero on a named line",
     grid(line_names=("trunk", "middle", "end"), rating=[9.0, -1.0, 9.0]),
     ("Grid.rating row 1 ('middle')", "is negative")),
    ("a bus that does not exist",
     at(lambda m: m.prosumers.bus, 2, 40),
     ("Prosumers.bus row 2: bus 40 does not exist", "the grid has buses 0 to 3")),
    ("a negative bus",
     at(lambda m: m.grid.target, 1, -1),
     ("Grid.target row 1: bus -1 does not exist", "buses 0 to 3")),
    ("a line from nowhere",
     at(lambda m: m.grid.source, 0, 4),
     ("Grid.source row 0: bus 4 does not exist", "buses 0 to 3")),
    ("a feeder that is no bus",
     put(lambda m: m.grid.feeder, jnp.asarray([7])),
     ("Grid.feeder row 0: bus 7 does not exist", "buses 0 to 3")),
    ("a generator of nobody",
     at(lambda m: m.generators.owner, 1, 9),
     ("Generators.owner row 1: prosumer 9 does not exist", "there are 0 to 3")),
    ("a battery of nobody",
     at(lambda m: m.buffers.owner, 0, -2),
     ("Buffers.owner row 0: prosumer -2 does not exist", "there are 0 to 3")),
    ("an unknown seller",
     at(lambda m: m.trading.seller, slice(0, 2), 4),
     ("Trading.seller row 0: prosumer 4 does not exist", "(and 1 more row)")),
    ("trading with oneself",
     at(lambda m: m.trading.seller, 1, 1),
     ("Trading.seller row 1: prosumer 1 is buyer and seller", "remove the pair")),
    ("a pair given twice",
     lambda: good(trading={"buyer": [0, 1, 0], "seller": [1, 2, 1]}),
     ("Trading.buyer row 2: prosumers 0 and 1 are a pair in row 0", "keep one row")),
    ("a pair given both ways",
     lambda: good(trading={"buyer": [0, 1, 2], "seller": [1, 2, 1]}),
     ("Trading.buyer row 2: prosumers 2 and 1 are a pair in row 1", "whichever way round")),
    ("a line from a bus to itself",
     at(lambda m: m.grid.target, 2, 2),
     ("Grid.target row 2: the line joins bus '702' to itself", "remove it")),
    ("a feeder listed twice",
     grid(feeder=[0, 0]),
     ("Grid.feeder row 1: bus '799' is listed twice", "keep one")),
    ("no feeder",
     grid(feeder=()),
     ("Grid.feeder: lindistflow needs a connection to the main grid", "list a bus")),
    ("a loop",
     grid(source=[0, 1, 2, 3], target=[1, 2, 3, 1]),
     ("Grid.source row 2: the line from bus '702' to bus '703' closes a loop", "model='paper'")),
    ("two feeders in one tree",
     grid(feeder=[0, 3]),
     ("Grid.source row 1", "joins the trees of feeders bus '799' and bus '703'", "open a line")),
    ("a bus without a line",
     grid(source=[0, 1], target=[1, 2]),
     ("Grid.passive row 3 ('703')", "bus '703' has no path to a feeder bus", "missing line")),
    ("a line that points towards the feeder",
     grid(source=[0, 2, 2], target=[1, 1, 3]),
     ("Grid.source row 1: the line from bus '702' to bus '701'", "swap its source and target")),
    ("children before parents",
     grid(source=[1, 0, 2], target=[2, 1, 3]),
     ("Grid.source row 0", "before the line that reaches bus '701'", "sort the lines")),
    ("an island in the paper's grid",
     lambda: mesh(source=[0, 1], target=[1, 2]),
     ("Grid.passive row 3 ('703')", "no path to a feeder bus", "missing line or feeder bus")),
    ("a charge efficiency of zero",
     at(lambda m: m.buffers.charge_efficiency, (0, 0), 0.0),
     ("Buffers.charge_efficiency row 0: 0 is out of range", "give a share (0.95, not 95)")),
    ("an efficiency in percent",
     at(lambda m: m.buffers.charge_efficiency, (0, 0), 92.0),
     ("Buffers.charge_efficiency row 0: 92 is out of range", "not 95")),
    ("a discharge efficiency above one",
     at(lambda m: m.buffers.discharge_efficiency, (0, 0), 1.1),
     ("Buffers.discharge_efficiency row 0: 1.1 is out of range", "at most 1")),
    ("a retention above one",
     at(lambda m: m.buffers.retention, (0, 0), 1.01),
     ("Buffers.retention row 0: 1.01 is out of range", "share kept per step")),
    ("an hour of no length",
     put(lambda m: m.hour_length, jnp.zeros(4)),
     ("Market.hour_length hour 0: 0 h is out of range", "above 0")),
    ("a battery that makes energy",
     at(lambda m: m.buffers.charge_efficiency, (0, 0), 3.0),
     ("Buffers.charge_efficiency row 0: charging and discharging 1 kWh returns 2.7 kWh",
      "set discharge_max to 0 for a heat pump")),
    ("a load that is not a number",
     at(lambda m: m.prosumers.load, (1, 2), np.nan),
     ("Prosumers.load row 1, hour 2: nan is not a finite number", "give one in kW")),
    ("a reactive load that is not a number",
     at(lambda m: m.grid.passive_reactive, (3, 0), np.nan),
     ("Grid.passive_reactive row 3 ('703'), hour 0: nan", "give one in kvar")),
    ("an infinite generator",
     at(lambda m: m.generators.power_max, 0, np.inf),
     ("Generators.power_max row 0, hour 0: inf", "in kW (and 3 more hours)")),
    ("an infinite trading limit",
     at(lambda m: m.trading.limit, 0, np.inf),
     ("Trading.limit row 0: inf is not a finite number", "give one in kW")),
    ("an import limit of minus infinity",
     at(lambda m: m.prosumers.import_max, (0, 1), -np.inf),
     ("Prosumers.import_max row 0, hour 1: -inf is not a finite number", "give one in kW")),
    ("an anticipation that is not a number",
     put(lambda m: m.tariff.anticipation, jnp.asarray(np.nan)),
     ("Tariff.anticipation: nan is not a finite number", "give one.")),
    ("generation bounds swapped",
     at(lambda m: m.generators.power_min, (1, 3), 4.0),
     ("Generators.power_max row 1, hour 3: 3 kW is below power_min 4 kW", "swap or raise it")),
    ("energy bounds swapped",
     at(lambda m: m.buffers.energy_max, (0, 2), 0.5),
     ("Buffers.energy_max row 0, hour 2: 0.5 kWh is below energy_min 1 kWh", "swap or raise")),
    ("voltage bounds swapped",
     at(lambda m: m.grid.voltage_max, 2, 0.9),
     ("Grid.voltage_max row 2 ('702'): 0.9 pu is below voltage_min 0.95 pu", "swap or raise")),
    ("angle bounds swapped",
     at(lambda m: m.grid.angle_max, 1, -1.0),
     ("Grid.angle_max row 1 ('701'): -1 rad is below angle_min", "swap or raise")),
    ("limits of the total swapped",
     lambda: good(tariff={"total_min": 30.0, "total_max": 20.0}),
     ("Tariff.total_max hour 0: 20 kW is below total_min 30 kW", "(and 3 more hours)")),
    ("a voltage bound in kV",
     put(lambda m: (m.grid.voltage_min, m.grid.voltage_max),
         (jnp.full(4, 4.6), jnp.full(4, 5.0))),
     ("Grid.voltage_min row 0 ('799'): 4.6 pu is no voltage per unit", "like 0.95")),
    ("a voltage bound of zero",
     at(lambda m: m.grid.voltage_min, 3, 0.0),
     ("Grid.voltage_min row 3 ('703'): 0 pu is no voltage per unit", "like 0.95")),
    ("an anticipation of two",
     lambda: good(tariff={"anticipation": 2.0}),
     ("Tariff.anticipation: 2 is not between 0 and 1", "1 for Nash")),
    ("a line without impedance in the paper's grid",
     lambda: mesh(resistance=[1e-5, 0, 1e-5, 1e-5], reactance=[1e-5, 0, 0, 1e-5]),
     ("Grid.reactance row 1: resistance and reactance are both 0", "merge its two buses")),
    *(
     (
         f"a negative {name.split('.')[1].replace('_', ' ')} ({name.split('.')[0]})",
         at(lambda m, n=name: getattr(getattr(m, n.split(".")[0].lower()), n.split(".")[1]),
            0, -2.0),
         (f"{name} ", " 0", f"-2 {unit}".strip() + " is negative", "give 0 or more"),
     )
     for name, unit in {
         "Prosumers.import_max": "kW",
         "Prosumers.export_max": "kW",
         "Prosumers.curtail_max": "kW",
         "Generators.quadratic": "EUR/kW^2h",
         "Buffers.charge_max": "kW",
         "Buffers.discharge_max": "kW",
         "Buffers.quadratic": "EUR/kW^2h",
         "Trading.limit": "kW",
         "Trading.toll": "EUR/kWh",
         "Grid.resistance": "pu/kW",
         "Grid.reactance": "pu/kW",
         "Grid.rating": "kVA",
         "Tariff.slope": "EUR/kWh per kW",
     }.items()
    ),
    ("a battery asked for more than it can charge",
     at(lambda m: m.buffers.energy_min, (0, 1), 7.7),
     # 4 + 0.9 (2 + 2) = 7.6
     ("Buffers.energy_min row 0, hour 1: 7.7 kWh is out of reach", "gives 7.6 kWh", "lower it")),
    ("a battery that cannot be emptied in time",
     put(lambda m: (m.buffers.energy_max, m.buffers.energy_start),
         (jnp.full((1, HOURS), 3.0), jnp.asarray([5.5]))),
     # 5.5 - 2 / 0.9 = 3.28
     ("Buffers.energy_max row 0, hour 0: 3 kWh cannot be kept", "leaves 3.27778 kWh",
      "lower energy_start")),
    ("a drain that empties the battery",
     put(lambda m: m.buffers.drain, jnp.full((1, HOURS), 5.0)),
     # 4 - 5 + 1.8 = 0.8 < 1
     ("Buffers.energy_min row 0, hour 0: 1 kWh is out of reach", "gives 0.8 kWh")),
    ("a load that nobody can serve",
     lambda: eqx.tree_at(
         lambda m: (m.prosumers.import_max, m.prosumers.load), good(),
         (jnp.full((4, HOURS), 1.0), good().prosumers.load.at[0, 2].set(12.0)),
     ),
     # 12 - (1 + 3 + 5)
     ("Prosumers.load row 0, hour 2: 12 kW is 3 kW more than", "raise import_max")),
    ("a battery too empty for its prosumer",
     put(lambda m: (m.prosumers.import_max, m.trading.limit, m.buffers.energy_start,
                    m.prosumers.load),
         (jnp.zeros((4, HOURS)), jnp.zeros((3, 1)), jnp.asarray([2.5]),
          jnp.zeros((4, HOURS)).at[2].set(2.0))),
     # 2 - (2.5 - 1) 0.9 = 0.65
     ("Prosumers.load row 2, hour 0: 2 kW is 0.65 kW more than", "a device, or lower the load")),
    ("a surplus with no way out",
     at(lambda m: m.prosumers.load, (3, 1), -12.0),
     # 12 - (5 + 3 + 1)
     ("Prosumers.load row 3, hour 1: -12 kW leaves a surplus 3 kW above", "raise export_max")),
    ("together too little import",
     put(lambda m: m.prosumers.import_max, jnp.full((4, HOURS), 0.2)),
     # 10 - 6 - 2 = 2 > 0.8
     ("Prosumers.import_max hour 0: all prosumers together need 2 kW", "may import 0.8 kW",
      "add generation")),
    ("nobody together can take the surplus",
     put(lambda m: m.prosumers.load, jnp.asarray([[-4.0] * HOURS] * 4)),
     # 16 - 1 curtailed - 2 charged
     ("Prosumers.export_max hour 0: all prosumers together must send 13 kW", "may export 3 kW",
      "raise export_max or curtail_max")),
    ("a limit of the total below what is needed",
     lambda: good(tariff={"total_max": [9.0, 5.0, 9.0, 9.0]}),
     # 4 passive + 10 - 6 made - 2 discharged
     ("Tariff.total_max hour 1: 5 kW is below 6 kW", "raise it or add generation")),
    ("a limit of the total above what can be drawn",
     lambda: good(tariff={"total_min": 20.0}),
     # 4 passive + 10 + 2 charged + 1 curtailed
     ("Tariff.total_min hour 0: 20 kW is above 17 kW", "lower it", "(and 3 more hours)")),
]
# fmt: on


@pytest.mark.parametrize("name", GOOD)
def test_a_good_market_passes_unchanged(name):
    market = GOOD[name]()
    assert validate(market) is market
    assert problems(market) == []
    assert validate(cast(market, jnp.float32)).tariff.slope.dtype == jnp.float32


@pytest.mark.parametrize(("market", "words"), [case[1:] for case in BAD], ids=[b[0] for b in BAD])
def test_a_mistake_has_its_sentence(market, words):
    """One sentence names the field, the place, the number and the fix; each has one line."""
    with pytest.raises(ValueError, match=r"\.$") as caught:
        validate(market())
    sentences = str(caught.value).splitlines()
    assert [s for s in sentences if all(word in s for word in words)], sentences
    assert sentences == problems(market())


def street(
    *,
    load: float = 1.0,
    impedance: float = 1.0,
    slope: float = 0.002,
    base: float = 0.2,
    **grid: Any,
) -> jg.Market:
    """Two houses on 0.2 ohm of cable each, at 0.4 kV."""
    each = impedance * 0.2 / (1000 * 0.4**2)
    wires = {"source": [0, 1], "target": [1, 2], "resistance": each, "reactance": each / 3}
    return jg.Market(
        jg.Prosumers([1, 2], load * np.array([[2.0, 3.0], [1.0, 4.0]])),
        jg.Grid(np.zeros((3, 2)), **({} if "model" in grid else wires), **grid),
        jg.Tariff(slope, hours=2, base=base),
    )  # fmt: skip


DOUBTFUL: list[tuple[str, Callable[[], jg.Market], str]] = [  # name, market, words of the warning
    (
        "selling to the main grid above its price",
        lambda: good(tariff={"export": 0.9}),
        # what is drawn at least: passive 4, load 10, less 6 made and 2 discharged: 0.1 + 0.01 6
        r"Tariff.export hour 0: 0.9 EUR/kWh .* as low as 0.16 EUR/kWh; .* lower it",
    ),
    (
        "selling at the flat price of buying",
        lambda: good(tariff={"export": 0.1, "slope": 0.0}),
        r"Tariff.export hour 0: 0.1 EUR/kWh .* as low as 0.1 EUR/kWh; .* raise base",
    ),
    (
        "ohms as pu/kW",  # of 0.4 kV: 160 times as much
        lambda: street(impedance=160.0),
        # 0.2 ohm and 7 kW, then 0.2 ohm and 4 kW
        r"Grid.resistance: .* by 2.2 pu on the way to bus 2 in hour 1; give impedances in pu/kW",
    ),
    (
        "W as kW",
        lambda: street(load=1000.0, slope=1e-6),
        r"Grid.resistance: .* by 13.75 pu .* loads in kW",
    ),
    (
        "W as kW, without a network",
        lambda: street(load=1000.0, model="copperplate"),
        r"Tariff.slope hour 0: all load together, 3000 kW, would pay 6.2 EUR/kWh; .* not W",
    ),
    ("MW as kW", lambda: street(load=1e-3), r"Prosumers.load: .* is 0.007 kW; give kW, not MW"),
    (
        "volts",
        lambda: street(voltage_max=420.0),
        r"Grid.voltage_max row 0: 420 pu limits nothing; .* not volts",
    ),
    (
        "ratings in MVA",
        lambda: street(rating=0.1),
        r"Grid.rating: 4 kW are drawn at bus 2 in hour 1, whose lines carry 0.1 kVA; .* not MVA",
    ),
    (
        "prices in cents",
        lambda: street(base=25.0),
        r"Tariff.base hour 0: 25 EUR/kWh is no usual price; give EUR, not cents",
    ),
]


@pytest.mark.parametrize(
    ("market", "words"), [d[1:] for d in DOUBTFUL], ids=[d[0] for d in DOUBTFUL]
)
def test_what_is_seldom_meant_is_a_warning(market, words):
    """One sentence, and the market is returned as it is."""
    made = market()
    with pytest.warns(UserWarning, match=words) as caught:
        assert validate(made) is made
    assert len(caught) == 1
    assert problems(made) == []


def test_usual_markets_raise_no_doubts():
    """Small and large, tight, sunny and flexible ones, of every grid model: no warning."""
    usual = [random_market(seed) for seed in range(30)] + [made() for made in HAND_MADE.values()]
    usual += [street(), street(load=3.0), street(impedance=3.0), street(rating=5.0)]
    usual += [jg.ieee37(stress=True), jg.ieee123(20, stress=True), jg.synthetic(40, buses=9)]
    for market in usual:  # what is wrong with a few of them is no doubt
        assert doubts(tables.Values(market)) == []


def test_there_are_enough_kinds_of_mistakes():
    assert len({name for name, *_ in BAD}) == len(BAD) >= 45


def test_all_mistakes_are_reported_at_once():
    market = eqx.tree_at(
        lambda m: (m.prosumers.bus, m.trading.toll, m.grid.voltage_max, m.prosumers.load),
        good(),
        (
            jnp.asarray([1, 2, 9, 3]),
            jnp.full((3, 1), -1.0),
            jnp.full(4, 0.5),
            good().prosumers.load.at[0, 0].set(jnp.nan),
        ),
    )
    found = problems(market)
    fields = ["Prosumers.bus", "Prosumers.load", "Trading.toll", "Grid.voltage_max"]
    assert [sentence.split(" ")[0] for sentence in found] == fields


def test_many_offenders_are_counted():
    """Rows 1 to 3 of 4 are wrong: the first is named, two more are counted."""
    market = eqx.tree_at(
        lambda m: m.prosumers.curtail_max, good(), jnp.full((4, HOURS), -1.0).at[0].set(0.0)
    )
    (sentence,) = [s for s in problems(market) if s.startswith("Prosumers.curtail_max")]
    assert "row 1, hour 0" in sentence
    assert "(and 2 more rows)" in sentence


def test_clear_refuses_nonsense_and_leaves_what_has_no_plan_to_the_solver():
    """A NaN, a wrong bus, crossed bounds are nonsense; a deficit is for the solver to find."""
    for place, value, where in (
        ((0, 0), np.nan, lambda m: m.prosumers.load),
        (0, 4, lambda m: m.prosumers.bus),
        ((1, 3), 4.0, lambda m: m.generators.power_min),
    ):
        with pytest.raises(ValueError, match=r"row \d.*\.$"):
            jg.clear(at(where, place, value)())
    assert structure(good(tariff={"total_min": 20.0})) == []
    assert problems(good(tariff={"total_min": 20.0})) != []


@pytest.mark.parametrize("market", [case[1] for case in BAD], ids=[b[0] for b in BAD])
def test_suspects_are_the_scenarios_that_have_a_wrong_number(market):
    """What reads each array twice finds what the sentences find: alone, and in a batch of two."""
    one = market()
    if tables.shapes(one):
        return
    wrong = bool(numbers.mistakes(tables.Values(one)))
    assert numbers.suspects(one).tolist() == [wrong]
    twice = jax.tree.map(lambda a: np.stack([a, a]), one)
    assert numbers.suspects(twice).tolist() == [wrong, wrong]


def test_a_batch_is_checked_scenario_by_scenario():
    """Percent in scenario 6, a negative resistance in 2: named, by `clear_many` and `validate`."""
    many = eqx.tree_at(
        lambda m: (m.buffers.charge_efficiency, m.grid.resistance),
        batch(8),
        (jnp.full((8, 1, 1), 0.9).at[6].set(95.0), jnp.full((8, 3), 1e-5).at[2, 1].set(-1e-5)),
    )
    sentences = (
        r"\Ascenario 2: Grid.resistance row 1: -1e-05 pu/kW is negative; give 0 or more\.\n"
        r"scenario 6: Buffers.charge_efficiency row 0: 95 is out of range; give a share"
    )
    for refuses in (jg.clear_many, jg.validate):
        with pytest.raises(ValueError, match=sentences):
            refuses(many)
    assert jg.validate(batch(2)).prosumers.load.shape == (2, 4, HOURS)


def test_numbers_shared_by_all_scenarios_are_read_once():
    """`sweep` broadcasts what it does not vary; a wrong number in there is in every scenario."""
    market = at(lambda m: m.grid.resistance, 0, -1.0)()
    swept = jg.scenarios.sweep(market, lambda m: m.tariff.base, np.linspace(0.1, 0.2, 7))
    with pytest.raises(
        ValueError, match=r"scenario 4: Grid.resistance.*\n2 more scenarios likewise"
    ):
        jg.clear_many(swept)


def test_clear_says_what_to_do_with_a_batch():
    with pytest.raises(
        ValueError, match=r"^clear\(\) takes one market, this one has a leading axis of 8 "
        r"scenarios: use jg\.clear_many\(markets\)\.$",
    ):  # fmt: skip
        jg.clear(batch(8))
    with pytest.raises(ValueError, match=r"8 scenarios: use jax\.vmap\(jg\.clear\)\(markets\)\."):
        jax.jit(jg.clear)(batch(8))


CONSTRUCTORS: list[tuple[str, Callable[[], Any], str]] = [
    ("flat load", lambda: jg.Prosumers([0], [1.0, 2.0]), r"Prosumers.load: expected shape"),
    ("flat demand", lambda: jg.Grid([1.0, 2.0]), r"Grid.passive: expected shape"),
    (
        "a grid model of no name",
        lambda: jg.Grid([[1.0]], model="dc"),  # type: ignore[arg-type]
        r"Grid.model: 'dc' is none of copperplate, paper, lindistflow",
    ),
    (
        "lindistflow without reactive power",
        lambda: jg.Grid([[1.0]], reactive_balance=False),
        r"Grid.reactive_balance: .* use model='paper'",
    ),
    (
        "rows that do not fit",
        lambda: jg.Generators([0, 1], [1.0, 2.0, 3.0], hours=4),
        r"Generators.power_max: shape \(3,\) does not fit; give .*, or both, \(2, 4\)",
    ),
    (
        "prices of other hours",
        lambda: jg.Tariff(0.1, hours=24, base=[0.1, 0.2]),
        r"Tariff.base: shape \(2,\) does not fit; .*, or one per hour, shape \(24,\)\.$",
    ),
    (
        "limits of other pairs",
        lambda: jg.Trading([0], [1], [1.0, 2.0]),
        r"Trading.limit: .* give one number, \(1, 1\) one per pair, \(1, hours\) by hour",
    ),
    (
        "buffers of other hours",
        lambda: jg.Market(
            jg.Prosumers([0], [[1.0, 2.0]]),
            jg.Grid(np.zeros((1, 2))),
            jg.Tariff(0.1, hours=2),
            buffers=jg.Buffers([0], 1.0, 1.0, 1.0, 1.0, hours=3),
        ),
        r"Buffers.charge_max: 3 hours, but Prosumers.load has 2",
    ),
    (
        "a tariff of other hours",
        lambda: jg.Market(
            jg.Prosumers([0], [[1.0]]), jg.Grid([[0.0]]), jg.Tariff([0.1, 0.1], hours=2)
        ),
        r"Tariff.slope: 2 hours, but Prosumers.load has 1",
    ),
    (
        "buses without loads",
        lambda: jg.Market(jg.Prosumers([0, 0], [[1.0]]), jg.Grid([[0.0]]), jg.Tariff(0.1, hours=1)),
        r"Prosumers.bus: 2 buses for 1 rows",
    ),
    (
        "half a line",
        lambda: jg.Market(
            jg.Prosumers([0], [[1.0]]), jg.Grid([[0.0]], [0], ()), jg.Tariff(0.1, hours=1)
        ),
        r"Grid.source: 1 sources but 0 targets",
    ),
    (
        "half a pair",
        lambda: jg.Market(
            jg.Prosumers([0], [[1.0]]),
            jg.Grid([[0.0]]),
            jg.Tariff(0.1, hours=1),
            trading=jg.Trading([0], (), 1.0),
        ),
        r"Trading.buyer: 1 buyers but 0 sellers",
    ),
]


@pytest.mark.parametrize(("build", "words"), [c[1:] for c in CONSTRUCTORS],
                         ids=[c[0] for c in CONSTRUCTORS])  # fmt: skip
def test_tables_that_do_not_fit_are_refused_when_built(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def ring(fee: float, toll: float, **changes: Any) -> jg.Market:
    """Prosumers 0, 1, 2 in a ring, where each values what its left neighbor sells by `fee`."""
    pairs = {"buyer": [1, 2, 0], "seller": [0, 1, 2], "fee_buyer": -fee, "toll": toll}
    return good(trading=pairs | changes)


def test_a_cycle_of_preferences_is_warned_of():
    """Each kW round the ring earns 3 0.03 and pays both charges, 3 2 0.01: 0.03 EUR/kWh won."""
    market = ring(0.03, 0.01)
    assert sorted(preference_cycle(market)) == [0, 1, 2]
    with pytest.warns(UserWarning, match=r"prosumers (0 to 1 to 2|1 to 2 to 0|2 to 0 to 1) to"):
        validate(market)


def test_a_cycle_is_found_whichever_side_has_the_preference():
    market = ring(0.0, 0.01, fee_seller=0.03)
    assert sorted(preference_cycle(market)) == [0, 1, 2]


@pytest.mark.parametrize(
    "market",
    [
        lambda: ring(0.019, 0.01),  # pays more than it earns
        lambda: ring(0.03, 0.01, fee_seller=-0.03),  # the same for both sides
        lambda: ring(0.03, 0.01, limit=[5.0, 5.0, 0.0]),  # one pair of the ring cannot trade
        lambda: ring(0.0, 0.0, fee_buyer=[0.3, 0.1, -0.4]),  # potentials: 0.3 + 0.1 - 0.4 = 0
        lambda: ring(0.0, 0.01, buyer=[1, 2, 3], seller=[0, 1, 2], fee_buyer=-1.0),  # no ring
        lambda: ring(0.0, 0.01, fee_buyer=[-0.1, 0.03, 0.03]),  # 0.04 won, 0.06 paid
    ],
)
def test_preferences_that_do_not_circle_are_not_warned_of(market):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preference_cycle(validate(market())) == []


def random_pairs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Some pairs of `count` prosumers, each once, in either orientation."""
    low, high = np.triu_indices(count, 1)
    chosen = rng.permutation(len(low))[: rng.integers(0, len(low) + 1)]
    pairs = np.stack([low[chosen], high[chosen]])
    return np.where(rng.random(len(chosen)) < 0.5, pairs, pairs[::-1])


def feasible(seed: int) -> jg.Market:
    """A market made round a plan: bounds at or beyond what is done, the load what is supplied."""
    rng = np.random.default_rng(seed)
    count, hours, makers, stores, buses = (int(n) for n in rng.integers(1, [6, 6, 4, 4, 5]))
    ts = rng.choice([0.25, 1.0])

    def draw(rows: int) -> np.ndarray:
        return rng.uniform(0, 5, (rows, hours)) * (rng.random((rows, hours)) < 0.7)

    def above(values: np.ndarray) -> np.ndarray:
        return values + rng.uniform(0, 3, values.shape) * (rng.random(values.shape) < 0.5)

    pairs = random_pairs(rng, count)
    made, owner = draw(makers), rng.integers(0, count, makers)
    charge, discharge, keeper = draw(stores), draw(stores), rng.integers(0, count, stores)
    imports, exports, curtailed = draw(count), draw(count), draw(count)
    trades = draw(pairs.shape[1]) * rng.choice([-1, 1], (pairs.shape[1], 1))
    retention, gain, loss = rng.uniform([0.9, 0.8, 0.8], 1.0, (stores, 3)).T
    drain, start = rng.uniform(-1, 1, (stores, hours)), rng.uniform(0, 5, stores)
    energy, content = np.zeros((stores, hours)), start
    for h in range(hours):
        stored = gain * charge[:, h] - discharge[:, h] / loss
        content = retention * content + ts * stored - drain[:, h]
        energy[:, h] = content
    load = imports - exports - curtailed
    for index, values in (
        (owner, made), (keeper, discharge - charge), (pairs[0], trades), (pairs[1], -trades)
    ):  # fmt: skip
        np.add.at(load, index, values)
    passive = rng.uniform(0, 2, (buses, hours))
    total = np.sum(imports - exports, axis=0) + np.sum(passive, axis=0)
    return jg.Market(
        jg.Prosumers(
            rng.integers(0, buses, count), load, import_max=above(imports),
            export_max=above(exports), curtail_max=above(curtailed),
        ),
        jg.Grid(
            passive, [rng.integers(0, bus) for bus in range(1, buses)], range(1, buses), 1e-5, 1e-5
        ),
        jg.Tariff(0.01, hours=hours, base=0.1, total_max=above(total), total_min=total),
        jg.Generators(owner, above(made), hours=hours, power_min=-above(-made)),
        jg.Buffers(
            keeper, above(charge), above(discharge), above(energy), start, hours=hours,
            energy_min=-above(-energy), drain=drain, retention=retention, charge_efficiency=gain,
            discharge_efficiency=loss,
        ),
        jg.Trading(pairs[0], pairs[1], above(np.max(np.abs(trades), axis=1, initial=0.0))),
        hour_length=ts,
    )  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_a_market_that_has_a_plan_is_never_refused(seed):
    """Conditions are necessary ones: bounds may be as tight as the plan, in either precision."""
    market = feasible(seed)
    assert problems(market) == []
    assert problems(cast(market, jnp.float32)) == []


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_the_order_of_prosumers_and_pairs_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    for name in ("lindistflow", "paper", "copperplate"):
        market = GOOD[name]()
        order = jnp.asarray(rng.permutation(4))
        place, pairs = jnp.argsort(order), jnp.asarray(rng.permutation(3))
        market = eqx.tree_at(
            lambda m: (m.prosumers, m.generators.owner, m.buffers.owner, m.trading),
            market,
            (
                jax.tree.map(lambda a, order=order: a[order], market.prosumers),
                place[market.generators.owner],
                place[market.buffers.owner],
                jax.tree.map(lambda a, pairs=pairs: a[pairs], market.trading),
            ),
        )
        market = eqx.tree_at(
            lambda m: (m.trading.buyer, m.trading.seller),
            market,
            (place[market.trading.seller], place[market.trading.buyer]),
        )
        assert problems(market) == []


def test_a_traced_market_has_its_shapes_checked():
    @jax.jit
    def total(market: jg.Market) -> jax.Array:
        return jnp.sum(validate(market).prosumers.load)

    assert float(total(at(lambda m: m.prosumers.load, (0, 0), 7.0)())) == 42.0
    with pytest.raises(ValueError, match=r"Tariff\.base: shape"):
        total(put(lambda m: m.tariff.base, jnp.ones(3))())
