"""Joint operating envelopes: limits on each prosumer's net load that are safe whatever all do.

The operator publishes how much each may draw and feed in, hour by hour. Every combination within
these limits, not only the outermost, keeps voltages, ratings and the total on the linear grid: each
limit is a row of net loads, whose worst over a box is known in closed form (`net_limits`). Which of
the many safe boxes it is says the rule, and what trading within them costs says `beside`
(docs/envelopes.md).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .box_rules import Box, filled, grown, of_most_room
from .caps import capped
from .clearing import clear
from .clock import hour_name, hours_of, in_hour
from .comparison import outcome
from .corners import Found, at_corners, drawn_patterns, patterns
from .each import for_one
from .market import Caps, Grid, Market
from .model import passive_in_zones, potential, rows_like, zeros
from .names import owners
from .net_limits import FAMILIES, NetLimits, Reach, net_limits, reach, rows_of
from .record import Record, changed
from .result import Clearing, NotCleared
from .runner import jnp
from .tables import QUANTITIES
from .uncontrolled import told, with_state
from .validation import gate

Rule = Literal["equal", "proportional", "fair", "most"]
Table = dict[str, Any]
RULES: tuple[Rule, ...] = ("equal", "proportional", "fair", "most")
NETWORK, NO_NETWORK = "network", "no network"

_BINDS = 1e-6  # relative: room below which a limit holds an envelope back
_ROUNDS = 30  # of tightening until the AC power flow agrees
_OWN = ("generation", "charge", "discharge", "energy", "imports", "exports", "curtailed", "trades")
_UNITS = {"voltage": "pu", "angle": "rad", "line": "kVA", "total": "kW"}  # of `FAMILIES`


class Envelope(Record):
    """How much each prosumer may draw (`imports`) and feed in (`exports`), net, by hour, kW.

    An export limit below 0 is what a prosumer draws at least, whatever it does, and an import limit
    below 0 what it feeds in at least. `rule` is the one that chose them, `limits` are the rows that
    could hold them back; of `hours`, as people call them, `held` says which of these do.
    """

    imports: Float[np.ndarray, "N H"]
    exports: Float[np.ndarray, "N H"]
    limits: NetLimits
    rule: Rule = eqx.field(static=True)
    hours: tuple[str, ...] = eqx.field(static=True)  # what people call them
    held: tuple[tuple[str, ...], ...] = eqx.field(static=True)

    def __str__(self) -> str:
        lines = [f"{'':16} {'imports, kW':>12} {'exports, kW':>12}  rule {self.rule!r}, held by"]
        totals = np.sum(self.imports, axis=0), np.sum(self.exports, axis=0)
        for hour, into, out, held in zip(self.hours, *totals, self.held, strict=True):
            more = f" and {len(held) - 2} more" if len(held) > 2 else ""
            words = ", ".join(held[:2]) + more if held else "nothing: all can do what they like"
            lines.append(f"{hour:16} {into:12.2f} {out:12.2f}  {words}")
        return "\n".join(lines)


@for_one()
def joint(
    market: Market,
    rule: Rule = "equal",
    *,
    weights: Any = None,
    around: Any = None,
    ac: bool = False,
) -> Envelope:
    """The largest envelopes by a `rule` that are safe together, on the linear grid.

    - "equal": the same limit for all, in kW, one of imports and one of exports in each hour.
    - "proportional": limits in proportion to `weights`, by default to what each can draw or feed in
      at most (`net_limits.reach`).
    - "fair": equal until a limit of the grid binds, and more for those whom it does not feel, until
      the next one binds: nobody could have more but from one who has less. With `weights` for each
      share.
    - "most": the largest sum of all limits, a linear program; `weights` say what a kW of each
      counts, by default 1.

    Nobody gets more than it can use, nor less than what it has no choice about. `weights` are one a
    prosumer, or by hour too, 0 or more. Where a limit feels imports of some and exports of others,
    as in three phases, equal and proportional limits first grow together in both ways, then exports
    alone, then imports. `around`, for "most" only, are net loads (N H, kW) that are within in any
    case, as those of a plan; by default each draws as near to nothing as it can. With `ac` the
    linear limits are tightened until an AC power flow at the worst corners agrees, to 1e-4 pu and
    0.1 % of ratings and totals.

    Raises `ValueError` where what nobody can choose breaks a limit by itself, naming it, for
    another rule or unfit weights, and for grids that are not linear in net loads: with lines that
    close loops, about an AC state, and with devices at another bus than their owner's.
    """
    gate(market, "envelopes")
    if rule not in RULES:
        raise ValueError(f"envelopes: rule={rule!r} is none of {', '.join(RULES)}.")
    can, limits = reach(market), net_limits(market, "envelopes")
    shares = _shares(can, rule, weights)
    can = can if around is None else _around(can, rule, around)
    found = _by_rule(market, limits, can, rule, shares)
    if not (ac and market.grid.model.networked):
        return _envelope(market, found, limits, can, rule)
    up = patterns(limits)
    seen = at_corners(market, *found, up)
    for _ in range(_ROUNDS):
        if seen.safe or not np.all(seen.converged):
            break
        limits = _tightened(market, limits, seen)
        found = _by_rule(market, limits, can, rule, shares)
        seen = at_corners(market, *found, up)
    if not seen.safe:
        raise ValueError(
            f"envelopes: the AC power flow finds {seen.worst(market)} however much envelopes are "
            "tightened; widen that limit, or leave ac=True out."
        )
    return _envelope(market, found, limits, can, rule)


def _by_rule(market: Market, limits: NetLimits, can: Reach, rule: Rule, shares: Box) -> Box:
    """The box of a rule within limits, which what has no choice must keep."""
    left = limits.left(can.rest, can.rest)
    beyond = left < -_BINDS * (1 + np.abs(limits.room))
    if np.any(beyond):
        row, step = np.unravel_index(np.argmin(np.where(beyond, left, 0.0)), left.shape)
        family = FAMILIES[int(limits.family[row])]
        over = -left[row, step] * limits.unit[row]
        if family == "voltage":  # of squares, about 1 pu
            over = over / market.grid.model.power
        raise ValueError(
            f"envelopes: {limits.named(market, int(row))} does not hold "
            f"{in_hour(market, int(step))} at the net loads that envelopes are to be around, by "
            f"{over:.3g} {_UNITS[family]}; widen that limit, or give rule='most' and around= those "
            "of a plan that holds it, model.net_load(market, jg.clear(market).plan)."
        )
    could = np.any(limits.left(can.low, can.high) < 0, axis=1)
    rows = rows_of(limits, could)
    return {"most": of_most_room, "fair": filled}.get(rule, grown)(rows, can, shares)


def _around(can: Reach, rule: Rule, around: Any) -> Reach:
    """What prosumers can reach, about other net loads than those nearest to none."""
    if rule != "most":
        raise ValueError(f"envelopes: around= goes with rule='most', not with {rule!r}.")
    given, near = np.asarray(around, float), _BINDS * (1 + np.abs(can.low) + np.abs(can.high))
    if given.shape != can.rest.shape:
        raise ValueError(
            f"envelopes: around= has the shape {given.shape}; give net loads by prosumer and hour, "
            f"{can.rest.shape}, in kW."
        )
    beyond = ~((given >= can.low - near) & (given <= can.high + near))
    if np.any(beyond):
        row, step = np.argwhere(beyond)[0]
        raise ValueError(
            f"envelopes: around= says {given[row, step]:.4g} kW of prosumer {row} in step {step}, "
            f"which can draw {can.low[row, step]:.4g} to {can.high[row, step]:.4g} kW; give net "
            "loads within that."
        )
    return changed(can, rest=np.clip(given, can.low, can.high))


def _shares(can: Reach, rule: Rule, weights: Any) -> Box:
    """What each counts in a rule, of exports and of imports."""
    shape = can.rest.shape
    if weights is None:
        if rule == "proportional":
            return Box(np.maximum(-can.low, 0.0), np.maximum(can.high, 0.0))
        return Box(np.ones(shape), np.ones(shape))
    if rule == "equal":
        raise ValueError("envelopes: rule='equal' takes no weights; give rule='proportional'.")
    given = np.asarray(weights, float)
    if given.shape not in (shape[:1], shape) or not np.all(np.isfinite(given) & (given >= 0)):
        raise ValueError(
            f"envelopes: weights of shape {given.shape}; give one a prosumer, {shape[:1]}, or by "
            f"hour too, {shape}: finite, and 0 or more."
        )
    given = np.broadcast_to(given if given.ndim == 2 else given[:, None], shape)
    return Box(given, given)


def _envelope(market: Market, box: Box, limits: NetLimits, can: Reach, rule: Rule) -> Envelope:
    kept = rows_of(limits, np.any(limits.left(can.low, can.high) < 0, axis=1))
    binds = kept.left(*box) <= _BINDS * (1 + np.abs(kept.room))
    each = [kept.named(market, row) for row in range(len(kept.place))]
    held = tuple(tuple(dict.fromkeys(each[r] for r in np.flatnonzero(step))) for step in binds.T)
    hours = tuple(hour_name(market, step) for step in range(len(held)))
    return Envelope(box.high, -box.low, kept, rule, hours, held)


def _tightened(market: Market, limits: NetLimits, seen: Found) -> NetLimits:
    """Limits with as much less room as the AC power flow finds them exceeded at any corner."""
    grid, power = market.grid, market.grid.model.power
    high, low = (np.asarray(a)[:, None] for a in (grid.voltage_max, grid.voltage_min))
    volts = [power * end ** (power - 1) * a for end, a in ((high, seen.above), (low, seen.below))]
    tables = {
        "voltage": volts,
        "line": [seen.overload, seen.overload],
        "total": [seen.beyond[:1], seen.beyond[1:]],
    }
    over = np.zeros(limits.room.shape)
    for family, both in tables.items():
        for side, table in zip((1, -1), both, strict=True):
            rows = (limits.family == FAMILIES.index(family)) & (limits.side == side)
            over[rows] = table[limits.place[rows]]
    return changed(limits, room=limits.room - over / limits.unit[:, None])


@for_one()
def check(market: Market, envelope: Envelope, *, corners: int = 0, seed: int = 0) -> Found:
    """What an AC power flow finds at the corners of an `envelope` that some limit likes least.

    And at as many random `corners` more, drawn by `seed`. `Found.safe` says whether all limits
    hold, `Found.worst(market)` which is exceeded most. Raises `ValueError` for a market without a
    grid, and what `joint` raises for grids that are not linear in net loads.
    """
    if not market.grid.model.networked:
        raise ValueError("envelopes.check: copperplate has no grid; build the market with one.")
    gate(market, "envelopes.check")
    low, high = _box(envelope)
    up = patterns(net_limits(market, "envelopes.check"))
    more = drawn_patterns(corners, up.shape[1], seed)
    return at_corners(market, low, high, np.concatenate([up, more]))


def _box(envelope: Envelope) -> Box:
    return Box(-np.asarray(envelope.exports), np.asarray(envelope.imports))


@for_one()
def without_network(market: Market) -> Market:
    """The market on a copperplate: the same people, devices, pairs and prices, at one place."""
    gate(market, "without_network")
    passive = passive_in_zones(market, market.grid.consumed[0])  # a bus for each
    people, units, stores = market.prosumers, market.generators, market.buffers
    return changed(
        market,
        prosumers=changed(people, bus=jnp.zeros_like(people.bus)),
        grid=Grid(passive, model="copperplate", zone=np.arange(passive.shape[0])),
        generators=changed(units, bus=jnp.full_like(units.bus, -1)),
        buffers=changed(stores, bus=jnp.full_like(stores.bus, -1)),
    )


@for_one()
def embedded(market: Market, envelope: Envelope) -> Market:
    """The market without a network whose prosumers keep their net loads within an `envelope`.

    Each limit is a cap of its own (`jg.Caps`), `envelope of prosumer 3`, on the load, generation
    and storage of one prosumer; who cannot leave its envelope has none. What a limit costs is told
    by `clearing.prices.cap`. Raises `ValueError` for an envelope of a market of another size.
    """
    low, high = _box(envelope)
    can = reach(market)
    near = _BINDS * (1 + np.abs(can.high) + np.abs(can.low))
    most = np.where(high < can.high - near, high, np.inf)
    least = np.where(low > can.low + near, low, -np.inf)
    held = np.flatnonzero(np.any(np.isfinite(most) | np.isfinite(least), axis=1))
    if not held.size:
        return without_network(market)
    everyone, units, stores = np.arange(len(low)), market.generators.owner, market.buffers.owner
    terms = {"load": (everyone, 1.0), "generation": (units, -1.0)}
    terms |= {"charge": (stores, 1.0), "discharge": (stores, -1.0)}
    rows = {name: np.flatnonzero(np.isin(owner, held)) for name, (owner, _) in terms.items()}
    sizes = [len(each) for each in rows.values()]
    mine = [np.asarray(terms[name][0])[row] for name, row in rows.items()]
    named = owners(market)
    own = Caps(
        most[held],
        level_min=least[held],
        hours=low.shape[1],
        cap=np.searchsorted(held, np.concatenate(mine)),
        row=np.concatenate([*rows.values()]),
        quantity=np.repeat([QUANTITIES.index(name) for name in rows], sizes),
        weight=np.repeat([sign for _, sign in terms.values()], sizes)[:, None],
        names=tuple(f"envelope of {named.prosumer(i)}" for i in held),
        units=("kW",) * len(held),
    )
    return capped(without_network(market), own)


@for_one()
def beside(
    market: Market, rules: Sequence[Rule] = RULES, *, ac: bool = False, tol: Any = None
) -> dict[str, tuple[Market, Clearing]]:
    """The market on its network, without any, and within envelopes of each of `rules`.

        print(jg.compare(jg.envelopes.beside(market), reference="network"))

    "network" and "no network" are cleared to `tol`, as is the market `embedded` in the envelopes of
    each rule (`ac` as in `joint`). What the grid makes of a plan is in its clearing's
    `certificate.ac`; those without the network are told as plans of the market itself, of status
    `uncontrolled`. `decoupling` says what each costs. An envelope that there is not, and one within
    which nothing clears, is left out with a `UserWarning`; raises `NotCleared` where the market
    itself does not clear.
    """
    found = {NETWORK: (market, clear(market, tol=tol))}
    alone = without_network(market)
    found[NO_NETWORK] = (market, _told(market, alone, clear(alone, tol=tol)))
    for rule in rules:
        try:
            within = embedded(market, joint(market, rule, ac=ac))
            found[rule] = (market, _told(market, within, clear(within, tol=tol)))
        except (NotCleared, ValueError) as stop:
            warnings.warn(f"envelopes: {rule!r} is left out: {stop}", stacklevel=3)
    return found


def _told(market: Market, alone: Market, found: Clearing) -> Clearing:
    """A plan without the network as one of the market, with the state of its grid."""
    plan = replace(zeros(market), **{name: getattr(found.plan, name) for name in _OWN})
    prices = replace(
        rows_like(market),
        **{name: getattr(found.prices, name) for name in ("balance", "energy", "aggregate")},
    )
    if prices.cap is not None:  # those of the market come first
        count = len(prices.cap)
        caps = {name: getattr(found.prices, name)[:count] for name in ("cap", "level")}
        prices = replace(prices, **caps)
    return told(market, with_state(market, plan), prices)


def decoupling(cleared: Mapping[str, tuple[Market, Clearing]]) -> Table:
    """What each way of `beside` costs, and what an AC power flow says of it, as columns.

    `cleared` is what `beside` returns, or some of it. `objective_eur` is what equilibria make small
    (model.md: Equilibrium): on the network it is never more than within envelopes, by
    `decoupling_eur`. `social_cost_eur` is cash, as `jg.compare` has it. `outside_pu` is how far
    voltages are outside their limits at most, `loading` the largest share of a rating by current,
    and `ac_safe` 1 where all limits hold.
    """
    names = list(cleared)
    objective = np.array([float(potential(m, c.plan)) for m, c in cleared.values()])
    base = objective[names.index(NETWORK)] if NETWORK in names else np.nan
    checks = [c.certificate.ac for _, c in cleared.values()]
    numbers = [(np.nan,) * 3 if a is None else (a.excess, a.loading, a.safe) for a in checks]
    outside, loading, safe = np.array(numbers, float).T
    return {
        "market": names,
        "objective_eur": objective,
        "decoupling_eur": objective - base,
        "social_cost_eur": np.array([float(outcome(m, c).social) for m, c in cleared.values()]),
        "outside_pu": outside,
        "loading": loading,
        "ac_safe": safe,
    }


@for_one()
def table(market: Market, envelope: Envelope) -> Table:
    """An `envelope` as columns, one row a prosumer and hour: bus, and both limits in kW."""
    low, high = _box(envelope)
    count, steps = low.shape
    return {
        "prosumer": np.repeat(np.arange(count), steps),
        "bus": np.repeat(np.asarray(market.prosumers.bus), steps),
        "hour": np.tile(hours_of(market), count),
        "import_max_kw": high.ravel(),
        "export_max_kw": -low.ravel(),
    }
