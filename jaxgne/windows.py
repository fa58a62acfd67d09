"""Windows of a long market: some steps of it, the later ones merged, and idle ones beyond its end.

A window of quarter hours now and whole hours later has as many steps wherever it begins, so one
compiled program clears all of them. Powers, prices and limits on powers of a merged step are means
over it, drains are sums, and limits on contents hold at its end.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from .clock import Clock, begun
from .commitments import refuse
from .market import FIELDS, Market, replaced
from .radial import forest, loops
from .record import changed
from .runner import by_numpy, jnp, to_host
from .scenarios import tree
from .succession import leaves, onward, way_to
from .tables import has_caps

Lengths = Int[np.ndarray, " W"]
Table = Float[np.ndarray, "... W"]
DAY = 24.0  # h after which much comes again

_NOTHING = (  # what is 0 in an idle step
    *("prosumers.load", "prosumers.reactive", "prosumers.export_max", "prosumers.curtail_max"),
    *("generators.power_min", "generators.power_max"),
    *("buffers.charge_max", "buffers.discharge_max", "buffers.drain"),
    *("grid.passive", "grid.passive_reactive", "grid.compensation_max"),
    *("caps.base", "caps.weight"),
)
_OPEN = {  # limits that nothing happening must not break
    **{"tariff.total_min": np.minimum, "tariff.total_max": np.maximum},
    **{"caps.level_min": np.minimum, "caps.level_max": np.maximum},
    **{"caps.rise_min": np.minimum, "caps.rise_max": np.maximum},
}
_ENDS = ("buffers.energy_min", "buffers.energy_max")  # what holds at the end of a merged step
_SUMS = ("buffers.drain", "hour_length")
_NEAR, _HAIR = 1e-3, 1e-6  # of a buffer's range, what tolerances leave out of reach; a hair


def lengths_of(window: int | Sequence[int], steps: int) -> Lengths:
    """How many steps of a market each step of a window merges: `window`, or 1 for each of so many.

    Never more steps in all than the market's. Raises `ValueError` for what are no lengths.
    """
    given: Any = window
    one = isinstance(given, int | np.integer) and not isinstance(given, bool)
    found = np.ones(int(given), int) if one and int(given) > 0 else np.asarray(given)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu" or np.any(found < 1):
        raise ValueError(
            f"window={window!r:.60}; give how many steps it has, such as 96, or how many steps of "
            "the market each of its steps merges, such as (1,) * 4 + (4,) * 23."
        )
    first = np.cumsum(found) - found
    kept = found[first < steps]
    kept[-1] = min(kept[-1], steps - first[len(kept) - 1])
    return kept


def window(
    truth: Market,
    at: int,
    lengths: Sequence[int] | Lengths,
    *,
    energy: Any = None,
    level: Any = None,
    final_value: Any = None,
) -> Market:
    """The market of the steps from `at` on: step k merges `lengths[k]` steps of `truth`.

    Buffers begin with `energy` (K,) kWh and caps with `level` (M,), those of `truth` unless given;
    `final_value` (K,) EUR/kWh likewise. Steps beyond the last of `truth` are idle: nobody uses,
    makes or moves anything, and contents stay what they are. A merged step of which a part lies
    beyond is as long as what lies before. Arrays are NumPy's.

    Raises `ValueError` for a market that `check` refuses, and for an `at` that it does not have.
    """
    lengths = np.asarray(lengths)
    check(truth, merged=bool(np.any(lengths > 1)))
    steps = truth.prosumers.load.shape[1]
    if not 0 <= at < steps:
        raise ValueError(f"window: at={at}; this market has steps 0 to {steps - 1}.")
    ends = np.minimum(at + np.cumsum(lengths), steps)
    first = at + np.cumsum(lengths) - lengths
    first = first[first < steps]
    cut = _Cut(first, ends[: len(first)], np.asarray(truth.hour_length, float))
    found = {
        field.dotted: cut.table(truth, field.dotted, np.asarray(field.find(truth)))
        for field in FIELDS.values()
        if field.timed(truth)
    }
    idle = lengths[len(first) :]
    if len(idle):
        found = _with_idle(truth, found, idle)
    found |= _stored(truth, cut, lengths)
    given = {
        "buffers.energy_start": energy,
        "buffers.final_value": final_value,
        "caps.start": level,
    }
    found |= {name: a for name, a in given.items() if a is not None}
    return replaced(changed(truth, clock=_clock(truth, at)), found)


def check(truth: Market, *, merged: bool) -> None:
    """Refuse what cannot be cut: trees, AC states, steps that do not count once, some if `merged`.

    Raises `ValueError`.
    """
    refuse("window", truth, "give one that decides in each step")
    if truth.before is not None:
        raise ValueError("window: this market's steps make a tree; give one with a path of steps.")
    if truth.grid.tangent is not None:
        raise ValueError("window: this market is about an AC state; give the one it was made of.")
    if np.any(np.asarray(truth.weight) != 1):
        raise ValueError("window: Market.weight is not 1; steps that follow one another come once.")
    if not merged:
        return
    if not has_caps(truth):
        return
    for k, name in enumerate(truth.caps.names):
        carry, slack = float(truth.caps.carry[k]), float(truth.caps.slack[k])
        if carry not in (0.0, 1.0) or slack not in (0.0, np.inf):
            raise ValueError(
                f"window: cap {name!r} has a carry of {carry:g} and a slack of {slack:g}, with "
                "which steps cannot be merged; give a window of single steps, such as window=96."
            )


class _Cut:
    """How tables by step of the market become tables by step of the window, but for idle ones."""

    def __init__(self, first: Lengths, ends: Lengths, hours: Float[np.ndarray, " T"]):
        self.first, self.ends = first - first[0], ends
        self.span = slice(int(first[0]), int(ends[-1]))
        self.plain = self.span.stop - self.span.start == len(first)  # nothing is merged
        self.share = hours[self.span] / np.repeat(
            np.add.reduceat(hours[self.span], self.first), ends - first
        )

    def sums(self, table: np.ndarray, weight: Any = 1.0) -> Table:
        return np.add.reduceat(table[..., self.span] * weight, self.first, axis=-1)

    def means(self, table: np.ndarray, weight: Any = 1.0) -> Table:
        """Means over each step, by length; of what is infinite somewhere in it, that."""
        with np.errstate(invalid="ignore"):
            return self.sums(table, weight * self.share)

    def left(self, kept: np.ndarray) -> np.ndarray:
        """What of each step's content is left at the end of the merged step that it is in."""
        here, found = kept[:, self.span], np.ones((len(kept), self.span.stop - self.span.start))
        last = set((self.ends - self.span.start - 1).tolist())
        for step in range(here.shape[1] - 2, -1, -1):
            if step not in last:
                found[:, step] = found[:, step + 1] * here[:, step + 1]
        return found

    def table(self, truth: Market, name: str, table: np.ndarray) -> Table:
        """A field of the market over the window's steps."""
        if self.plain:
            return table[..., self.span]
        if name in _ENDS:
            return table[..., self.ends - 1]
        if name in _SUMS:
            return self.sums(table)
        if name == "weight":
            return np.ones(len(self.first))
        if name.startswith("caps."):
            return self.of_caps(truth, name, table)
        return self.means(table)

    def of_caps(self, truth: Market, name: str, table: np.ndarray) -> Table:
        """What adds up over a merged step is summed; the level it adds to holds at its end."""
        caps = truth.caps
        carried = np.asarray(caps.carry) == 1
        adds = carried & (np.asarray(caps.adds) == 1)
        row, field = adds, name.removeprefix("caps.")
        if field == "weight":
            row = adds[np.asarray(caps.cap)]
        elif field in ("rise_min", "rise_max"):
            row = carried
        whole = table[..., self.ends - 1] if field.startswith("level") else self.sums(table)
        return np.where(row[:, None], whole, self.means(table))


def _with_idle(truth: Market, found: dict[str, Table], idle: Lengths) -> dict[str, Table]:
    """Tables with steps of these lengths at the end in which nothing happens."""
    last = np.asarray(truth.hour_length, float)[-1]
    longer = {}
    for name, table in found.items():
        rest = np.repeat(table[..., -1:], len(idle), axis=-1)
        if name in _NOTHING:
            rest = np.zeros_like(rest)
        elif name in _OPEN:
            rest = _OPEN[name](rest, 0.0)
        elif name == "hour_length":
            rest = last * idle
        elif name == "grid.feeder_voltage":
            rest = rest * _rest(truth, rest)
        longer[name] = np.concatenate([table, rest], axis=-1)
    if has_caps(truth):  # a sum that is a level falls to 0, which costs nothing where rises do not
        caps = truth.caps
        falls = (np.asarray(caps.adds) == 0) & (np.asarray(caps.price) == 0)
        for name, bound in (("caps.rise_min", -np.inf), ("caps.rise_max", np.inf)):
            longer[name][falls, -len(idle) :] = bound
    return longer


def _stored(truth: Market, cut: _Cut, lengths: Lengths) -> dict[str, np.ndarray]:
    """What contents keep, and what charging adds and discharging takes, where that is by step.

    At a constant power a merged step ends as its steps do one after the other.
    """
    stores, idle = truth.buffers, len(lengths) - len(cut.first)
    kept = _by_step(truth, stores.retention)
    leaks, merged = bool(np.any(kept < 1)), bool(np.any(lengths > 1))
    into, out = (np.asarray(a) for a in (stores.charge_efficiency, stores.discharge_efficiency))
    found = {}
    if leaks:
        found["retention"] = np.multiply.reduceat(kept[:, cut.span], cut.first, axis=1)
    if merged and (leaks or max(into.shape[1], out.shape[1]) > 1):
        left = cut.left(kept)  # of what comes in a step, at the merged one's end
        found["drain"] = cut.sums(np.asarray(stores.drain), left)
        found["charge_efficiency"] = cut.means(_by_step(truth, into), left)
        taken = cut.means(1 / _by_step(truth, out), left)
        found["discharge_efficiency"] = np.minimum(1 / taken, 1.0)
    rest = {name: np.repeat(table[:, -1:], idle, axis=1) for name, table in found.items()}
    rest |= {"retention": np.ones((len(kept), idle)), "drain": np.zeros((len(kept), idle))}
    return {
        f"buffers.{name}": np.concatenate([table, rest[name]], axis=1)
        for name, table in found.items()
    }


def _by_step(truth: Market, table: Any) -> Table:
    return np.broadcast_to(np.asarray(table), truth.buffers.energy_max.shape)


def _rest(truth: Market, fed: Float[np.ndarray, "F W"]) -> float:
    """By what feeders' voltages are multiplied in an idle step, so that all are within limits: 1
    where voltages without load are, which loads lower else."""
    grid = truth.grid
    if "voltage" not in grid.model.states or loops(grid):
        return 1.0
    with by_numpy():
        here = to_host(grid)
        ladder, none = forest(here).ladder, jnp.zeros(here.passive.shape[0])
        volts = np.asarray(ladder.base * ladder.along(none.at[here.feeder].set(fed[:, -1])))
    others = np.setdiff1d(np.arange(len(volts)), np.asarray(grid.feeder))
    low = np.max(np.asarray(grid.voltage_min)[others] / volts[others], initial=0.0)
    high = np.min(np.asarray(grid.voltage_max)[others] / volts[others], initial=np.inf)
    return float(np.clip(1.0, low, high)) if low <= high else 1.0


def _clock(truth: Market, at: int) -> Clock | None:
    """When the window begins, on the market's clock."""
    if truth.clock is None:
        return None
    passed = float(np.sum(np.asarray(truth.hour_length, float)[:at]))
    return Clock(
        np.asarray(int(truth.clock.start) + round(60 * passed), np.int32), truth.clock.zone
    )


def within_reach(view: Market) -> Market:
    """A window whose limits on contents can be met from where its buffers stand.

    What a solver's tolerance leaves out of reach, less than a thousandth of a buffer's range, is
    due as far as the buffer comes at full power, less a hair: a content that is a billionth short
    of what only full power makes it would leave no plan.
    """
    stores = view.buffers
    if not len(stores.owner):
        return view
    with by_numpy():
        here = to_host(view)
        span = jnp.max(here.buffers.energy_max - here.buffers.energy_min, axis=1)
        span = jnp.where(jnp.isfinite(span), span, 0.0)

        def step(ends: Any, now: Any) -> tuple[Any, Any]:
            most, least = ends
            charge, discharge, low, high, drain, kept, into, out, length = now
            most = kept * most - drain + length * into * charge
            least = kept * least - drain - length * discharge / out
            short, over = low - most, least - high
            low = jnp.where((short > 0) & (short < _NEAR * span), most - _HAIR * span, low)
            high = jnp.where((over > 0) & (over < _NEAR * span), least + _HAIR * span, high)
            return (jnp.minimum(most, high), jnp.maximum(least, low)), (low, high)

        names = ("charge_max", "discharge_max", *(_name(end) for end in _ENDS), "drain")
        names += ("retention", "charge_efficiency", "discharge_efficiency")
        whole = jnp.zeros_like(here.buffers.drain)
        tables = [(getattr(here.buffers, name) + whole).T for name in names]
        first: Any = (here.buffers.energy_start, here.buffers.energy_start)
        low, high = onward(None, step, first, (*tables, here.hour_length))
    return replaced(view, {_ENDS[0]: np.asarray(low).T, _ENDS[1]: np.asarray(high).T})


def _name(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def past(truth: Market, at: int) -> Market:
    """The first `at` steps of a market, which may be none: what is seen when step `at` begins."""
    timed = [field for field in FIELDS.values() if field.timed(truth)]
    return replaced(truth, {one.dotted: np.asarray(one.find(truth))[..., :at] for one in timed})


def later(view: Market, hours: float) -> Int[np.ndarray, " W"]:
    """For each step of a window that of the same path which is under way so many hours later.

    Where the path has ended by then, the step at that hour a day or days earlier, if it has it, or
    its last.
    """
    length = np.asarray(view.hour_length, float)
    first, count = begun(length, view.before), len(length)
    found = np.zeros(count, int)
    for leaf in np.flatnonzero(leaves(view.before, count)):
        way = np.array(way_to(view.before, count, int(leaf)))
        end, middle = first[leaf] + length[leaf], first[way] + length[way] / 2 + hours
        days = np.ceil(np.maximum(middle - end, 0.0) / DAY)
        middle = np.where(middle >= DAY * days, middle - DAY * days, middle)
        found[way] = way[np.searchsorted(first[way], middle, "right") - 1]
    return found


def worth_at(
    view: Market, water: Float[np.ndarray, "K W"], after: float
) -> Float[np.ndarray, " K"]:
    """What a kWh of each buffer is worth so many hours after a window begins, EUR/kWh.

    By its water values at the ends of steps; where it ended or had not begun by then, their mean
    over all steps. In a tree the mean over its branches.
    """
    length = np.asarray(view.hour_length, float)
    count, share = len(length), np.asarray(view.weight, float)
    ends = begun(length, view.before) + length
    if not 0 < after <= np.max(ends) + 1e-6:
        whole = share * length
        return water @ (whole / np.sum(whole))
    found, total = np.zeros(len(water)), 0.0
    for leaf in np.flatnonzero(leaves(view.before, count)):
        way = np.array(way_to(view.before, count, int(leaf)))
        nearest = way[np.argmin(np.abs(ends[way] - after))]
        found, total = found + share[leaf] * water[:, nearest], total + share[leaf]
    return found / total


def quiet(view: Market, real: Market, idle: int) -> Market:
    """A forecast of a window, in whose last `idle` steps nothing happens, as in the `real` one.

    Raises `ValueError` where a forecast is no market of that window's form.
    """
    if view is real:
        return view
    form = jax.tree.structure(real)
    if not isinstance(view, Market) or jax.tree.structure(view) != form:
        raise ValueError("forecast: returns no market of the window's form; change its numbers.")
    tables = {}
    for name, field in FIELDS.items():
        ours, theirs = np.asarray(field.find(view)), np.asarray(field.find(real))
        if ours.shape != theirs.shape:
            raise ValueError(
                f"forecast: {name} has shape {ours.shape}, in the window {theirs.shape}; change "
                "its numbers only."
            )
        if idle and field.timed(real):
            table = ours.copy()
            table[..., -idle:] = theirs[..., -idle:]
            tables[field.dotted] = table
    return replaced(view, tables)


def joined(views: Sequence[Market], probability: Any, split: int) -> Market:
    """Forecasts of one window as a tree (`scenarios.tree`), whose first `split` steps are shared:

    in them each number is the mean of what is forecast.
    """
    share = np.asarray(probability, float)
    means = {}
    for field in FIELDS.values():
        tables = [np.asarray(field.find(view)) for view in views]
        if field.timed(views[0]):
            means[field.dotted] = sum(p * t for p, t in zip(share, tables, strict=True))
    moved = []
    for view in views:
        tables = {}
        for name, mean in means.items():
            table = np.array(attrgetter(name)(view))
            table[..., :split] = mean[..., :split]
            tables[name] = table
        moved.append(replaced(view, tables))
    return tree(moved, share, split)
