"""Whether the tables of a market fit together: shapes, indices, pairs, lines; and how to say it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Int

from ..clock import hour_name
from ..commitments import commitment, steps_of
from ..fields import ROWS
from ..kinds import KINDS
from ..market import FIELDS, Market
from ..names import prosumer_name
from ..tables import QUANTITIES
from .naming import misnamed

Reason = Callable[[tuple[int, ...]], str]

_COUNT = {  # whose rows say how many
    "prosumer": "Prosumers.load",
    "bus": "Grid.passive",
    "cap": "Caps.level_max",
    "line": "Grid.source",
    "zone": "Zones.base",
}
WHOLE = tuple(name for name, field in FIELDS.items() if field.of)
POINTS_TO = {name: _COUNT[FIELDS[name].of] for name in WHOLE if FIELDS[name].of in _COUNT}


class Values(dict[str, np.ndarray]):
    """A market's numbers in NumPy, converted at first use: `values["Prosumers.load"]`."""

    def __init__(self, market: Market):
        self.market = market
        self.names = market.grid.names

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = np.asarray(field(self.market, name), int if name in WHOLE else float)
        return self[name]

    def rows(self, name: str) -> int:
        """How many rows the table of `name` has, without looking at its numbers."""
        return np.shape(field(self.market, name))[0]

    def name(self, axis: str, row: int) -> str:
        """The name of a row, where it has one."""
        tables = {"B": self.names, "L": self.market.grid.line_names, "M": self.market.caps.names}
        tables |= {"N": self.market.prosumers.names, "G": self.market.generators.names}
        tables |= {"K": self.market.buffers.names, "Z": self.market.zones.names}
        names = tables.get(axis)
        return names[row] if names else ""

    def bus(self, bus: Any) -> str:
        """What people call a bus: its name where it has one."""
        return f"bus {self.names[bus]!r}" if self.names else f"bus {bus}"

    def person(self, row: Any) -> str:
        """The name of a prosumer, or its number."""
        return prosumer_name(self.market.prosumers.names, row)

    def text(self, name: str, place: tuple[int, ...]) -> str:
        """The number at `place` with its unit."""
        return number(self[name][place], FIELDS[name].unit)

    def rounding(self) -> float:
        """Relative size of what rounding may make of computed numbers."""
        return float(jnp.finfo(self.market.prosumers.load.dtype).eps) ** 0.5

    def beyond(self, more: Any, less: Any, scale: Any) -> Bool[np.ndarray, "..."]:
        """Where `more` exceeds `less`, both made of numbers of size `scale`, beyond rounding."""
        suspect = more > less
        if not np.any(suspect):
            return suspect
        return more - less > self.rounding() * (np.abs(more) + np.abs(less) + scale)

    def complain(
        self, name: str, bad: np.ndarray, reason: Reason, axes: Sequence[str] = ()
    ) -> list[str]:
        """One sentence on the first place where `bad`, saying how many more there are."""
        if not np.any(bad):
            return []
        place = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
        words = []
        axes = tuple(axes) or FIELDS[name].axes
        for axis, index in zip(axes, place, strict=True):
            if axis == "#H":
                if bad.shape[-1] == 1:
                    continue  # of all hours
                axis = "H"
            own = self.name(axis, index)
            called = f" ({own!r})" if own else ""
            hour = hour_name(self.market, index) if axis == "H" else ""
            words.append(hour or f"row {index}{called}")
        rows = int(np.sum(np.any(bad, axis=1) if bad.ndim == 2 else bad)) - 1
        hours = int(np.sum(bad)) - 1
        timed = axes[:1] == ("H",)
        whole = self.market.clock is None and np.all(np.asarray(self.market.hour_length) == 1)
        each = "hour" if whole else "time"
        unit, count = ("row", rows) if rows and not timed else (each, hours)
        more = f" (and {count} more {unit}{'s' * (count > 1)})" if count else ""
        return [f"{name} {', '.join(words)}".strip() + f": {reason(place)}{more}."]


def number(value: float, unit: str) -> str:
    """A number for people: six digits and the unit."""
    return f"{value:.6g} {unit}".strip()


def field(market: Market, name: str) -> jax.Array:
    """The array of a name like `Prosumers.load`."""
    return FIELDS[name].find(market)


def traced(market: Market) -> bool:
    """Whether `market` has no numbers to look at, being traced by `jax.jit` and the like."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(market))


def shapes(market: Market, caller: str = "clear") -> list[str]:
    """Arrays whose shape or kind of number does not fit their table; of a batch only that it is."""
    sizes: dict[str, int] = {}
    for name in (*_COUNT.values(), *WHOLE):  # these say how many there are
        axes, shape = FIELDS[name].axes, np.shape(field(market, name))
        for axis, size in zip(axes, shape[-len(axes) :], strict=False):
            sizes.setdefault(axis, size)
    wrong: list[str] = []
    leading: dict[str, int | None] = {}  # scenarios of each field that does not fit
    dtypes = {a.dtype for a in jax.tree.leaves(market) if _is_float(a)}
    dtype = max(dtypes, key=lambda d: jnp.finfo(d).bits, default=None)
    arrays = {name: (field(market, name), FIELDS[name].axes) for name in FIELDS}
    whole = {*WHOLE, "Clock.start"}
    if market.clock is not None:
        arrays["Clock.start"] = (market.clock.start, ())
    for curve in market.generators.curves:
        for path, array in jax.tree_util.tree_leaves_with_path(curve):
            arrays[f"{type(curve).__name__}{jax.tree_util.keystr(path)}"] = array, ("G",)
    for name, (array, axes) in arrays.items():
        shape, expected = np.shape(array), tuple(sizes.get(axis, 0) for axis in axes)
        if axes[-1:] == ("#H",):  # an hour each, or one number for all
            expected = (*expected[:-1], 1 if shape[-1:] == (1,) else sizes.get("H", 0))
        kind = ("integers", jnp.integer) if name in whole else ("floats", jnp.floating)
        if shape != expected:
            each = " and ".join(ROWS[axis] for axis in axes)
            fix = f"give one number per {each}" if axes else "give one number"
            if axes[-1:] == ("#H",):
                fix = f"give one number per {ROWS[axes[0]]}, in one column, or one per {each}"
            wrong.append(f"{name}: shape {shape}, expected {expected}; {fix}.")
            leading[name] = shape[0] if shape and shape[1:] == expected else None
        elif not (hasattr(array, "dtype") and jnp.issubdtype(array.dtype, kind[1])):
            found = getattr(array, "dtype", type(array).__name__)
            wrong.append(f"{name}: {found} instead of an array of {kind[0]}; convert it.")
            leading[name] = None
        elif name not in whole and array.dtype != dtype:
            wrong.append(f"{name}: {array.dtype} in a market of {dtype}; convert it to {dtype}.")
            leading[name] = None
    if len(set(leading.values())) == 1 and None not in leading.values():
        return [_batch(market, caller, leading, len(leading) < len(arrays))]
    for axis, name in (("N", "Prosumers.load"), ("H", "Prosumers.load"), ("B", "Grid.passive")):
        if not sizes.get(axis):
            wrong.append(f"{name}: there is no {ROWS[axis]}; give at least one.")
    wrong += misnamed(market, sizes) + uncommitted(market, sizes)
    table, count = market.caps, sizes.get("M", 0)
    if not len({*table.names}) == len(table.names) == len(table.units) == count:
        wrong.append(
            f"Caps.names: {len({*table.names})} different names and {len(table.units)} units for "
            f"{count} caps; give each its own name, and a unit."
        )
    return wrong


def uncommitted(market: Market, sizes: dict[str, int]) -> list[str]:
    """What commitments have that the market has not."""
    try:
        commitment("Market.committed", market.committed, sizes.get("H", 0), sizes.get("N", 0))
    except ValueError as error:
        return [str(error)]
    return []


def uneven(v: Values) -> list[str]:
    """Moments whose steps are not of one length."""
    given, length = v.market.committed, v["Market.hour_length"]
    if given is None:
        return []
    steps, row = steps_of(given)
    first = np.where(row >= 0, steps[row, 0], np.arange(len(length)))
    return v.complain(
        "Market.hour_length",
        length != length[first],
        lambda at: (
            f"{v.text('Market.hour_length', at)}, but step {first[at]} of the same moment has "
            f"{v.text('Market.hour_length', (first[at],))}; give all steps of a moment one length"
        ),
    )


def _is_float(array: Any) -> bool:
    return hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.floating)


def _batch(market: Market, caller: str, leading: dict[str, Any], partly: bool) -> str:
    """What to do with a market of which these fields have a leading axis of scenarios."""
    name, count = next(iter(leading.items()))
    if partly:
        return (
            f"{caller}() takes one market, but {name} has a leading axis of {count} scenarios: "
            "jg.scenarios.sweep gives it to every field, for jg.clear_many."
        )
    many = "jax.vmap(jg.clear)(markets)" if traced(market) else "jg.clear_many(markets)"
    return (
        f"{caller}() takes one market, this one has a leading axis of {count} scenarios: "
        f"use {many}."
    )


def indices(v: Values) -> list[str]:
    """Buses and prosumers that do not exist."""
    wrong = []
    for name, table in POINTS_TO.items():
        index, count = v[name], v.rows(table)
        count = max(count, 1) if table == "Zones.base" else count  # without rows there is one
        one = {
            "Grid.passive": ("bus", "the grid has buses"),
            "Prosumers.load": ("prosumer", "there are"),
            "Caps.level_max": ("cap", "there are"),
            "Grid.source": ("line", "there are"),
            "Zones.base": ("zone", "Market.zones has"),
        }[table]
        wrong += v.complain(
            name,
            (index < 0) | (index >= count),
            lambda at, index=index, one=one, last=count - 1: (
                f"{one[0]} {index[at]} does not exist; {one[1]} 0 to {last}"
            ),
        )
    return wrong


def kinds(v: Values) -> list[str]:
    """Kinds of devices that there are not."""
    wrong = []
    for name, field in FIELDS.items():
        if field.of == "kind":
            found, known = v[name], KINDS[field.row]
            wrong += v.complain(
                name,
                (found < 0) | (found >= len(known)),
                lambda at, found=found, known=known: (
                    f"{found[at]} is none of 0 to {len(known) - 1} ({', '.join(known)})"
                ),
            )
    return wrong


def caps(v: Values) -> list[str]:
    """Terms of caps that sum nothing there is, and payers that do not exist."""
    quantity, row = v["Caps.quantity"], v["Caps.row"]
    known = (quantity >= 0) & (quantity < len(QUANTITIES))
    tables = ("Prosumers.load",) * 2 + ("Generators.power_max",) + ("Buffers.charge_max",) * 2
    tables += ("Prosumers.load", "Prosumers.load", "Trading.limit")
    counts = np.array([v.rows(table) for table in tables])[np.where(known, quantity, 0)]
    owner, people = v["Caps.owner"], v.rows("Prosumers.load")
    switches = {name: v[name] for name in ("Caps.adds", "Caps.carbon")}
    return (
        v.complain(
            "Caps.quantity",
            ~known,
            lambda at: (
                f"{quantity[at]} is none of 0 to {len(QUANTITIES) - 1} ({', '.join(QUANTITIES)})"
            ),
        )
        + v.complain(
            "Caps.row",
            known & ((row < 0) | (row >= counts)),
            lambda at: (
                f"row {row[at]} of {QUANTITIES[quantity[at]]} does not exist; there are 0 to "
                f"{counts[at] - 1}"
            ),
        )
        + [
            line
            for name, one in switches.items()
            for line in v.complain(
                name,
                (one != 0) & (one != 1),
                lambda at, one=one: f"{one[at]} is neither 0 nor 1",
            )
        ]
        + v.complain(
            "Caps.owner",
            (owner < -1) | (owner >= people),
            lambda at: f"prosumer {owner[at]} does not exist; there are 0 to {people - 1}, or -1",
        )
    )


def pairs(v: Values) -> list[str]:
    """Pairs of one prosumer, and pairs given twice."""
    buyer, seller = v["Trading.buyer"], v["Trading.seller"]
    key = np.minimum(buyer, seller) * len(v["Prosumers.bus"]) + np.maximum(buyer, seller)
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    return v.complain(
        "Trading.seller",
        buyer == seller,
        lambda at: f"prosumer {v.person(seller[at])} is buyer and seller; remove the pair",
    ) + v.complain(
        "Trading.buyer",
        again & (buyer != seller),
        lambda at: (
            f"prosumers {v.person(buyer[at])} and {v.person(seller[at])} are a pair in row "
            f"{np.argmax(key == key[at])} already; keep one row per pair, whichever way round"
        ),
    )


def lines(v: Values) -> list[str]:
    """Lines and feeder buses that make no grid, or no tree where lindistflow needs one."""
    model = v.market.grid.model
    source, target, feeder = v["Grid.source"], v["Grid.target"], v["Grid.feeder"]
    repeated = np.ones(len(feeder), bool)
    repeated[np.unique(feeder, return_index=True)[1]] = False
    wrong = v.complain(
        "Grid.target",
        source == target,
        lambda at: f"the line joins {v.bus(target[at])} to itself; remove it",
    ) + v.complain(
        "Grid.feeder", repeated, lambda at: f"{v.bus(feeder[at])} is listed twice; keep one"
    )
    if not model.networked:
        return wrong
    if not len(feeder):
        wrong.append(f"Grid.feeder: {model.name} needs a connection to the main grid; list a bus.")
    if model.radial and not wrong:
        wrong = _tree(v)
    return wrong


def _tree(v: Values) -> list[str]:
    """Why lines are not in tree order, parents first, each pointing away from a feeder bus."""
    source, target, feeder = v["Grid.source"], v["Grid.target"], v["Grid.feeder"]
    lines, count = np.arange(len(source)), v.rows("Grid.passive")
    reached = np.full(count, len(lines))  # the line that reaches a bus
    reached[target], reached[feeder] = lines, -1
    times = np.bincount(np.concatenate([target, feeder]), minlength=count)
    early = reached[source] >= lines
    if np.all(times == 1) and not np.any(early):
        return []
    root, depth, needed = walk(v)

    def ends(at: tuple[int, ...]) -> str:
        return f"the line from {v.bus(source[at])} to {v.bus(target[at])}"

    lost = v.complain(
        "Grid.passive",
        root < 0,
        lambda at: (
            f"{v.bus(at[0])} has no path to a feeder bus; add the missing line or feeder bus"
        ),
        axes="B",
    )
    spare = ~needed & (root[source] >= 0)
    across = root[source] != root[target]
    twins = _twins(source, target)
    doubled = twins != np.arange(len(source))
    loops = (
        v.complain(
            "Grid.source",
            spare & doubled,
            lambda at: f"{ends(at)} lies beside row {twins[at]}; {_merged(v, twins == twins[at])}",
        )
        + v.complain(
            "Grid.source",
            spare & ~across & ~doubled,
            lambda at: (
                f"{ends(at)} closes a loop, {v.market.grid.model.name} needs a tree; open a line "
                "or use model='paper'"
            ),
        )
        + v.complain(
            "Grid.source",
            spare & across & ~doubled,
            lambda at: (
                f"{ends(at)} joins the trees of feeders {v.bus(root[source[at]])} and "
                f"{v.bus(root[target[at]])}; open a line or keep one feeder bus"
            ),
        )
    )
    turned = needed & (depth[source] > depth[target])
    backwards = v.complain(
        "Grid.source",
        turned,
        lambda at: (
            f"{ends(at)} points towards the feeder; swap its source and target, as "
            "jg.oriented(grid) does"
        ),
    )
    order = (
        []
        if np.any(turned) or np.any(spare)
        else v.complain(
            "Grid.source",
            early & (root[source] >= 0),
            lambda at: (
                f"{ends(at)} comes before the line that reaches {v.bus(source[at])}; sort the "
                "lines by their distance from the feeder, as jg.oriented(grid) does"
            ),
        )
    )
    return lost + loops + backwards + order


def _twins(source: np.ndarray, target: np.ndarray) -> Int[np.ndarray, " L"]:
    """The first line between the same two buses as each line, which may be itself."""
    pairs = np.sort(np.stack([source, target]), axis=0)
    _, first, kind = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
    return first[kind.ravel()]


def _merged(v: Values, these: np.ndarray) -> str:
    """What to do about lines side by side: as one, each carries a share by its admittance."""
    if np.any(v["Grid.tap"][these] != 1):  # no one transformer is two, unless they are alike
        return "lindistflow needs a tree; open one of them or use model='paper'"
    each = v["Grid.resistance"][these] + 1j * v["Grid.reactance"][these]
    one = 1 / np.sum(1 / each) if np.all(each) else 0j
    share = np.abs(one / each) if np.all(each) else np.where(each == 0, 1.0, 0.0)
    most = np.min(np.where(share > 0, v["Grid.rating"][these] / np.maximum(share, 1e-300), np.inf))
    return (
        "lindistflow needs a tree: give one line instead, with resistance "
        f"{one.real:.6g} and reactance {one.imag:.6g} pu/kW, and a rating of {most:.6g} kVA"
    )


def walk(v: Values) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"], Bool[np.ndarray, " L"]]:
    """Breadth first from the feeder buses: feeder of each bus (-1: none), distance, lines used."""
    source, target = v["Grid.source"].tolist(), v["Grid.target"].tolist()
    queue = list(dict.fromkeys(v["Grid.feeder"].tolist()))
    near: list[list[tuple[int, int]]] = [[] for _ in range(v.rows("Grid.passive"))]
    for line, (a, b) in enumerate(zip(source, target, strict=True)):
        near[a].append((b, line))
        near[b].append((a, line))
    root, depth = np.full(len(near), -1), np.zeros(len(near), int)
    needed = np.zeros(len(source), bool)
    root[queue] = queue
    for bus in queue:  # grows while it is walked
        for other, line in near[bus]:
            if root[other] < 0:
                root[other], depth[other], needed[line] = root[bus], depth[bus] + 1, True
                queue.append(other)
    return root, depth, needed
