"""What all rounds of the mechanism share: slots, step sizes, everybody's private sets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ..incidence import entries
from ..market import Market
from ..model import (
    Plan,
    boxes,
    by_owner,
    counted,
    curvature,
    members,
    rows_like,
    shared_out,
    toll,
    without_curves,
    zeros,
    zone_slopes,
)
from ..model import rows as constraint_rows
from ..record import Record
from ..scales import much, scales
from ..succession import handed
from ..tables import device_buses, has_caps, kw_per_unit, retained, weighty
from .local import Choice, Prosumer, tolerance
from .projection import Network

Rule = Literal["columns", "paper"]
Sizes = tuple[int | None, int | None, int | None]  # slots for generators, buffers and pairs

_MARGIN = 0.99  # how close step sizes go to their bounds
_LOOSE = 1e-3  # proximal weight of stored energy, times hour^2, against omega
_FIRM = 6.0  # the least of it where numbers are coarse, in roundings to a local solve's tolerance


class Slots(Record):
    """Where each item (device, or side of a pair) sits in its owner's padded row of slots."""

    owner: Int[Array, " I"]
    place: Int[Array, " I"]
    item: Int[Array, "N S"]  # I where the slot is empty

    def pad(self, values: Float[Array, "I ..."], empty: float = 0.0) -> Float[Array, "N S ..."]:
        """Values of items, slot by slot."""
        filler = jnp.full((1, *values.shape[1:]), empty, values.dtype)
        return jnp.concatenate([values, filler])[self.item]

    def take(self, padded: Float[Array, "N S ..."]) -> Float[Array, "I ..."]:
        """Values of slots, item by item."""
        return padded[self.owner, self.place]


class Steps(Record):
    """Inverse step of decisions, EUR/kW^2, step of rows, EUR/kWh per kW (model.md: Step sizes)."""

    device: Float[Array, " H"]  # 1/alpha of generation, charge, discharge, curtailed
    imports: Float[Array, " H"]
    exports: Float[Array, " H"]
    trades: Float[Array, " H"]
    network: Float[Array, ""]  # flows and exchange, over Ts: EUR/kWh per kW
    trade: Float[Array, ""]  # beta_tr
    limit: Float[Array, " H"]  # gamma
    exchange: Float[Array, " H"]  # beta_tg
    bus: Float[Array, " B"]  # beta_pb


class CapSteps(Record):
    """The same of caps: of their own columns and rows, and what they add for members."""

    members: dict[str, Float[Array, "R H"]]  # more 1/alpha, EUR/kW^2, by table
    level: Float[Array, "M H"]  # 1/alpha, EUR per unit^2
    rise: Float[Array, "M H"]
    spare: Float[Array, "M H"]
    cap: Float[Array, "M H"]  # of prices, EUR per unit^2
    levels: Float[Array, "M H"]


class Setting(Record):
    """What stays the same from round to round."""

    prosumers: Prosumer  # leading axis N
    generators: Slots
    buffers: Slots
    sides: Slots  # of pairs: all buyers, then all sellers
    network: Network  # offset with trailing axis H
    steps: Steps
    caps: CapSteps | None

    @property
    def places(self) -> tuple[Slots, Slots, Slots]:
        """Slots of generators, buffers and sides of pairs."""
        return self.generators, self.buffers, self.sides


def choices_of(places: Sequence[Slots], plan: Plan, sides: Float[Array, "2E H"]) -> Choice:
    """A plan's entries prosumer by prosumer, in slots; `sides` are trades seen from each side."""
    made, kept, both = places
    return Choice(
        generation=made.pad(plan.generation),
        charge=kept.pad(plan.charge),
        discharge=kept.pad(plan.discharge),
        energy=kept.pad(plan.energy),
        imports=plan.imports,
        exports=plan.exports,
        curtailed=plan.curtailed,
        trades=both.pad(sides),
    )


def step_sizes(market: Market, balance: Float[Array, ""], rule: Rule) -> Steps:
    """Step sizes from the row and column sums of the shared rows (model.md: Step sizes).

    With A the shared rows over all decisions (entries -1, 0, 1; everything times Ts), d the slope
    of the main grid's price and omega the `balance`, one round is a proximal point step in

        [ 1/alpha - d 1 1^T (imports)    -A^T   ]
        [ -A                             1/beta ]

    which must be positive definite. Scaled by omega it is diagonally dominant if for all decisions
    1/alpha > omega (rows it enters) + N d (imports only), and 1/beta > (decisions in it) / omega
    for all rows: the rule `columns`. An import enters the exchange and each finite aggregate limit,
    a device and a trade one row, a flow and an exchange two. A row holds: a pair's 2 copies; a
    limit's imports and exports, and the feeders' exchange besides; bus y's M_y device decisions,
    B_y lines and feeder.

    The rule `paper` is the paper's: one alpha = 1 / (3 omega + N max d) for all, and for bus y
    1/beta = (1 + max(2 N_y, M_y / 3) + B_y) / omega with its N_y prosumers (positive definite as
    1/alpha = 3 omega leaves each row two thirds more room than its entries take).
    """
    grid, ts, tariff = market.grid, counted(market), market.tariff
    lower, upper = boxes(market)
    dtype = lower.imports.dtype
    live = jax.tree.map(lambda low, high: (high > low).astype(dtype), lower, upper)
    count = jnp.asarray(market.prosumers.bus.shape[0], dtype)
    traders = jnp.maximum(count + jnp.sum(live.exports, axis=0), 1.0)
    home, nothing = market.prosumers.bus, jnp.zeros_like(grid.voltage_min)
    decisions, found = _decisions(market, live), entries(grid)
    taken = jnp.abs(found.real) + jnp.abs(found.imaginary)
    lines = nothing.at[found.bus].add(taken.astype(dtype))
    if rule == "paper":
        own, networked, rows = (3.0, 3.0, jnp.full_like(traders, 3.0))
        steep = jnp.full_like(traders, jnp.max(zone_slopes(market), initial=0.0))
        shared = steep[:1].sum() * count
        at_bus = 1 + jnp.maximum(2 * nothing.at[home].add(1.0), decisions / 3) + lines
        exchanged = traders + nothing.shape[0]
    else:
        limits = jnp.isfinite(tariff.total_max).astype(dtype) + jnp.isfinite(tariff.total_min)
        own, networked = 1.0, 2.0
        rows = jnp.maximum(limits + grid.model.networked, 1.0)
        steep, shared = jnp.max(zone_slopes(market), axis=0), 0.0
        at_bus = jnp.maximum(decisions + lines.at[grid.feeder].add(1.0), 1.0)
        exchanged = traders + grid.feeder.shape[0]
    weight = ts / _MARGIN
    return Steps(
        device=weight * (own * balance + shared),
        imports=weight * (rows * balance + count * steep),
        exports=weight * (rows * balance + shared),
        trades=weight * (own * balance + shared),
        network=(networked * balance + shared) / _MARGIN,
        trade=_MARGIN * balance / 2,
        limit=_MARGIN * balance / traders,
        exchange=_MARGIN * balance / exchanged,
        bus=_MARGIN * balance / at_bus,
    )


def _decisions(market: Market, live: Plan) -> Float[Array, " B"]:
    """How many decisions on devices enter the balance of each bus at most."""
    made, kept = live.generation, live.charge + live.discharge
    there, none = device_buses(market), jnp.zeros_like(market.grid.voltage_min)
    if market.grid.model.phased:
        every = (live.curtailed, market.prosumers.bus), (made, there[0]), (kept, there[1])
        for each, bus in every:
            none = none.at[bus].add(jnp.max(each, axis=1, initial=0.0))
        return none
    devices = by_owner(market, made, market.generators.owner)
    devices += by_owner(market, kept, market.buffers.owner) + live.curtailed
    return none.at[market.prosumers.bus].add(jnp.max(devices, axis=1, initial=0.0))


def cap_steps(market: Market, balance: Float[Array, ""]) -> CapSteps:
    """Step sizes of caps, whose rows are counted in kW, one by the heaviest term.

    By the rule `columns`: a term enters a sum by its weight, a rise its level and perhaps the sum,
    a level its own row, those of the next steps, and perhaps the sum.
    """
    caps, unit = market.caps, kw_per_unit(market.caps)
    weight, adds = counted(market) * balance / _MARGIN, caps.adds[:, None] > 0
    own, back = weight * unit**2, _MARGIN * balance * market.hour_length * unit**2
    later = handed(market.before, jnp.broadcast_to(own, caps.level_max.shape))
    lower, upper = boxes(market)
    live = jax.tree.map(lambda low, high: (high > low).astype(low.dtype), lower, upper)
    heavy = weighty(market)
    summed = unit * members(heavy, live)
    return CapSteps(
        members=shared_out(heavy, jnp.broadcast_to(weight * unit, summed.shape)),
        level=own * (2 - adds) + caps.carry[:, None] * later,
        rise=own * (1 + adds),
        spare=own,
        cap=back / (summed + 2),
        levels=back / (2 + caps.carry[:, None]),
    )


def default_balance(market: Market) -> Float[Array, ""]:
    """omega where none is given: the market's highest price per power of one prosumer."""
    scale = scales(market, zeros(market))
    return scale.price / scale.power


def busiest(owner: np.ndarray) -> int:
    """Most entries that one owner has, in any scenario."""
    rows = owner.reshape(-1, owner.shape[-1]) if owner.size else owner.reshape(0, 0)
    return max((int(np.bincount(row).max()) for row in rows), default=0)


def slots_needed(market: Market, given: Sizes) -> Sizes:
    """Slots for generators, buffers and pairs of the busiest prosumer, or more where `given`.

    What is given, where the market is traced.
    """
    pairs = market.trading
    owners = (market.generators.owner, market.buffers.owner)
    if any(isinstance(a, Tracer) for a in (*owners, pairs.buyer, pairs.seller)):
        return given
    sides = np.concatenate([pairs.buyer, pairs.seller], axis=-1)
    most = [busiest(np.asarray(a)) for a in (*owners, sides)]
    made, kept, both = (max(least, own or 0) for least, own in zip(most, given, strict=True))
    return made, kept, both


def slots(owner: Int[Array, " I"], count: int, size: int) -> Slots:
    """Give each item of `count` owners one of its owner's `size` slots."""
    items = owner.shape[0]
    order = jnp.argsort(owner, stable=True)
    ranked = owner[order]
    place = jnp.arange(items) - jnp.searchsorted(ranked, ranked)
    place = jnp.zeros(items, jnp.int32).at[order].set(place.astype(jnp.int32))
    item = jnp.full((count, size), items, jnp.int32)
    return Slots(owner, place, item.at[owner, place].set(jnp.arange(items, dtype=jnp.int32)))


def settle_in(
    market: Market,
    balance: Float[Array, ""],
    rule: Rule,
    sizes: Sizes,
) -> Setting:
    """Everything that rounds share; `sizes` are the slots for generators, buffers and pairs."""
    pairs, stores, ts = market.trading, market.buffers, market.hour_length
    curves = market.generators.curves
    count = market.prosumers.bus.shape[0]
    steps = step_sizes(market, balance, rule)
    owners = (
        market.generators.owner,
        stores.owner,
        jnp.concatenate([pairs.buyer, pairs.seller]),
    )
    room = [owner.shape[0] for owner in owners]
    room[2] = min(room[2], max(count - 1, 0))  # each pair trades once
    places = [
        slots(owner, count, most if size is None else size)
        for owner, most, size in zip(owners, room, sizes, strict=True)
    ]
    made, kept, sides = places
    lower, upper = boxes(market)
    steady = curvature(without_curves(market), zeros(market))
    low, high, bend = (
        choices_of(places, plan, share * jnp.concatenate([plan.trades, plan.trades]))
        for plan, share in ((lower, 1.0), (upper, 1.0), (steady, 0.5))
    )
    loose = looseness(ts.dtype) * balance * market.weight / ts
    paid = toll(market) / 2
    proximal = Choice(
        generation=jnp.full_like(low.generation, steps.device),
        charge=jnp.full_like(low.charge, steps.device),
        discharge=jnp.full_like(low.discharge, steps.device),
        energy=jnp.full_like(low.energy, loose),
        imports=jnp.broadcast_to(steps.imports, low.imports.shape),
        exports=jnp.broadcast_to(steps.exports, low.exports.shape),
        curtailed=jnp.full_like(low.curtailed, steps.device),
        trades=jnp.full_like(low.trades, steps.trades),
    )
    capped = None
    if has_caps(market):
        capped = cap_steps(market, balance)
        more = replace(zeros(market), **capped.members)
        also = choices_of(places, more, jnp.concatenate([more.trades, more.trades]))
        proximal = jax.tree.map(jnp.add, proximal, also)
    scale = scales(market, zeros(market))
    prosumers = Prosumer(
        load=market.prosumers.load,
        lower=low,
        upper=high,
        curvature=bend,
        proximal=proximal,
        toll=sides.pad(jnp.concatenate([paid, paid])),
        retention=kept.pad(retained(market)),
        into=kept.pad(ts * stores.charge_efficiency),
        out=kept.pad(ts / stores.discharge_efficiency),
        energy_start=kept.pad(stores.energy_start),
        drain=kept.pad(stores.drain),
        power_scale=jnp.broadcast_to(scale.power, (count,)),
        energy_scale=jnp.broadcast_to(scale.energy, (count,)),
        curves=jax.tree.map(made.pad, curves),
        step=jnp.broadcast_to(counted(market), (count, ts.size)) if curves else None,
        before=market.before,
    )
    network = _network(market, lower, upper, steps.network)
    return Setting(prosumers, made, kept, sides, network, steps, capped)


def looseness(dtype: Any) -> float:
    """Proximal weight of stored energy against omega: 1e-3 in float64, 0.09 in float32.

    A price of an energy, rounded, moves it by eps price / weight. With a weight of w omega, omega
    being a price per power, that is eps / w of a power; it must stay below what a local solve is
    to leave (`local.tolerance`), or every one takes all its steps.
    """
    return max(_LOOSE, _FIRM * float(jnp.finfo(dtype).eps) / tolerance(dtype))


STATE = ("active", "reactive", "voltage", "angle", "compensation")  # the operator's private state


def state_of(plan: Plan) -> Float[Array, "V H"]:
    return jnp.concatenate([getattr(plan, name) for name in STATE])


def private_rows(market: Market) -> tuple[str, ...]:
    """Names of the operator's private rows: its physics, as the grid model has it."""
    if not market.grid.model.networked:
        return ()
    balance = ("bus_reactive",) if market.grid.reactive_balance else ()
    return (*market.grid.model.states, *balance)


def _network(market: Market, lower: Plan, upper: Plan, weight: Array) -> Network:
    """The operator's private set; `offset` and bounds have a trailing axis of hours.

    Voltages and angles are weighed so lightly that only flows are held back by the proximal term.
    """
    grid, dtype = market.grid, market.prosumers.load.dtype
    names, empty = private_rows(market), zeros(market)
    sizes = [getattr(empty, name) for name in STATE]
    lines = grid.source.shape[0]

    def values(state: Float[Array, " V"]) -> Float[Array, " R"]:
        parts = jnp.split(state, np.cumsum([a.shape[0] for a in sizes])[:-1])
        spread = [part[:, None] + 0 * a for part, a in zip(parts, sizes, strict=True)]
        plan = replace(empty, **dict(zip(STATE, spread, strict=True)))
        found = constraint_rows(market, plan)
        found = replace(found, bus_reactive=found.bus_reactive.at[grid.feeder].set(0.0))
        return jnp.concatenate(
            [state[:0, None] * empty.imports[:1], *(getattr(found, n) for n in names)]
        )

    nothing = jnp.zeros(sum(a.shape[0] for a in sizes), dtype)
    matrix = jax.jacfwd(lambda z: values(z)[:, 0])(nothing)
    square = jnp.sum(grid.resistance**2 + grid.reactance**2)
    ease = 10 * jnp.where(square > 0, square, 1.0)
    buses = jnp.ones_like(grid.voltage_min)
    give = jnp.concatenate(
        [jnp.ones(2 * lines, dtype), grid.model.power**2 * ease * buses, ease * buses, buses]
    )
    low, high = (state_of(plan) for plan in (lower, upper))
    free = jnp.where(jnp.any(high > low, axis=1), give / weight, 0.0)
    with jax.enable_x64(True):
        wide = matrix.astype(jnp.float64)
        full = (wide * free) @ wide.T
        full += jnp.diag(jnp.where(jnp.diag(full) > 0, 0.0, 1.0))
        size = jnp.sqrt(jnp.diag(full))
        inverse = jnp.linalg.inv(full / size[:, None] / size) / size[:, None] / size
    _, size = much(market, scales(market, empty))
    count = {n: getattr(rows_like(market), n).shape[0] for n in names}
    scale = [jnp.full(count[n], getattr(size, n), dtype) for n in names]
    return Network(
        matrix=matrix,
        offset=-values(nothing),
        lower=low,
        upper=high,
        rating=grid.rating,
        proximal=weight / give,
        preconditioner=inverse.astype(dtype),
        row_scale=jnp.concatenate([nothing[:0], *scale]),
    )
