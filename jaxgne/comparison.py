"""What a market is worth to everyone: outcomes, and the same market without parts of it.

Costs are what devices cost, less the value of what storage gained (`Buffers.final_value`), and what
bills say (`settlement`), so that all that is paid inside the community cancels. Preferences and
anticipated effects on prices do not count.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .arguments import check_cleared, of_tables
from .each import for_each
from .fields import naming
from .market import Market
from .model import aggregate, by_side, counted, device_costs, ended, net_exchange, parties
from .record import Record
from .result import Clearing
from .runner import hosted, jnp
from .settlement import bills, for_each_priced
from .status import Status, is_status
from .succession import onward
from .tables import retained
from .unmet import unmet

REFERENCE = "no trading"  # what benefits are measured against, where it is among those compared
_ROUNDING = 1e-9  # of any unit: less is printed as 0
_FINE = 1e-5  # of all that is used, what may be unmet and counts as none


class Outcome(Record):
    """What one clearing means, in cash and energy. Scalars but for `cost` and `bill`.

    Contracts are what is bought and sold; physical is what the transformer carries, net, beside
    them. `docs/indicators.md` defines each number.
    """

    party: Bool[Array, " N"]  # who has a load, a device or a contract, not who passes energy on
    cost: Float[Array, " N"]  # EUR, of each prosumer: devices and bill
    bill: Float[Array, " N"]  # EUR that each prosumer pays: main grid, peers, operator
    passive: Float[Array, ""]  # EUR that passive consumers pay
    operator: Float[Array, ""]  # EUR that the operator receives, less losses that it buys
    network_fees: Float[Array, ""]  # EUR of that, and of what is paid the main grid: tolls, fees
    contract_fees: Float[Array, ""]  # EUR that own contracts add to it (`Bills.fees`)
    social: Float[Array, ""]  # EUR that all pay the main grid, contracts, for devices, for caps
    peak: Float[Array, ""]  # kW, highest contracted import
    imported: Float[Array, ""]  # kWh from the main grid, net of exports
    traded: Float[Array, ""]  # kWh
    contracted_self_sufficiency: Float[Array, ""]  # 1 less contracted imports over net load
    transformer_in: Float[Array, ""]  # kWh from the main grid, of the hours that draw
    transformer_out: Float[Array, ""]  # kWh to it, of the others
    peak_in: Float[Array, ""]  # kW at the transformer
    peak_out: Float[Array, ""]  # kW
    consumed: Float[Array, ""]  # kWh used here
    made: Float[Array, ""]  # kWh made here
    self_sufficiency: Float[Array, ""]  # share of `consumed` that does not come from the main grid
    self_consumption: Float[Array, ""]  # share of `made` that stays here; 1 where nothing is made
    stored: Float[Array, ""]  # kWh that storage holds more at the end than at the start
    unmet: Float[Array, ""]  # kWh beyond contracts, and lacking where due (`unmet`)
    losses: Float[Array, ""]  # kWh in lines by the AC power flow; NaN where that is not known
    tight: Float[Array, ""]  # h that lines are above 80 % of their rating, all lines; likewise
    outside: Float[Array, ""]  # h that buses are outside their voltage limits, all; likewise
    carbon: Float[Array, ""]  # kg of CO2, 0 where no factors are given


@of_tables
@for_each_priced
def outcome(
    market: Market,
    clearing: Clearing,
    *,
    grid_carbon: Any = 0.0,
    generator_carbon: Any = 0.0,
    network_fee: Any = 0.0,
) -> Outcome:
    """What a plan and prices cost everyone under the market's own tariff; of a batch by scenario.

    `grid_carbon` (kg/kWh, one number or by hour) and `generator_carbon` (one number or by unit)
    give the CO2 of what is bought of the main grid, net of exports, and of what units make.
    `network_fee` (EUR/kWh, one number or by hour) is the part of the main grid's price that is for
    the network. What the AC power flow finds is that of `clearing.certificate`. Raises `ValueError`
    for a clearing without prices, as `settle` does.
    """
    return measured(market, clearing, grid_carbon, generator_carbon, network_fee)


def measured(
    market: Market,
    clearing: Clearing,
    grid_carbon: Any = 0.0,
    generator_carbon: Any = 0.0,
    network_fee: Any = 0.0,
) -> Outcome:
    """`outcome` of whatever plan and prices a clearing holds, also where they mean nothing."""
    plan, load = clearing.plan, market.prosumers.load

    def energy(power: Array) -> Array:
        """kWh, of kW by hour."""
        return jnp.sum(counted(market) * power)

    paid = bills(market, plan, clearing.prices)
    sigma = aggregate(market, plan)
    net = net_exchange(market, plan)
    trading = by_side(market, market.trading.quadratic[:, None] * plan.trades**2)
    devices = device_costs(market, plan) + jnp.sum(counted(market) * trading, axis=1)
    stored, passive = energy(plan.charge - plan.discharge), market.grid.passive
    needed = energy(jnp.maximum(load, 0.0)) + energy(passive) + stored
    # curtailable power is own sun; what feeds in without being curtailable is, too
    sun = jnp.maximum(market.prosumers.curtail_max, -jnp.minimum(load, 0.0))
    consumed = energy(load + sun) + energy(jnp.maximum(passive, 0.0)) + stored
    made = energy(sun - plan.curtailed) + energy(plan.generation)
    made = made - energy(jnp.minimum(passive, 0.0))
    drawn, fed = (energy(jnp.maximum(flow, 0.0)) for flow in (net, -net))
    makers = market.generators.owner
    lacks, stores = unmet(market, plan), market.buffers
    gained = ended(market) * (plan.energy - stores.energy_start[:, None])
    zero = jnp.sum(0 * net)
    losses, tight, outside = _by_ac(clearing, zero)
    unit_carbon = jnp.broadcast_to(jnp.asarray(generator_carbon), makers.shape)
    return Outcome(
        party=parties(market),
        cost=devices + jnp.sum(paid.prosumers, axis=1),
        bill=jnp.sum(paid.prosumers, axis=1),
        passive=jnp.sum(paid.passive) + jnp.sum(paid.passive_caps + paid.passive_carbon),
        operator=jnp.sum(paid.receipts - paid.losses),
        network_fees=jnp.sum(paid.tolls) + energy(network_fee * sigma),
        contract_fees=jnp.sum(paid.fees),
        social=jnp.sum(devices) + jnp.sum(paid.sales) + jnp.sum(paid.levies) + jnp.sum(paid.fees),
        peak=jnp.max(sigma),
        imported=energy(net),
        traded=energy(jnp.abs(plan.trades)),
        contracted_self_sufficiency=1 - energy(sigma) / jnp.where(needed > 0, needed, 1.0),
        transformer_in=drawn,
        transformer_out=fed,
        peak_in=jnp.maximum(jnp.max(net), 0.0),
        peak_out=jnp.maximum(-jnp.min(net), 0.0),
        consumed=consumed,
        made=made,
        self_sufficiency=1 - drawn / jnp.where(consumed > 0, consumed, 1.0),
        self_consumption=1 - fed / jnp.where(made > 0, made, 1.0),
        stored=jnp.sum(gained),
        unmet=sum((jnp.sum(a) for a in lacks.energies()), zero),
        losses=losses,
        tight=tight,
        outside=outside,
        carbon=energy(grid_carbon * net) + energy(unit_carbon[:, None] * plan.generation),
    )


def _by_ac(clearing: Clearing, zero: Array) -> tuple[Array, Array, Array]:
    """What the AC power flow says of losses, tight lines and voltages; NaN where it says nothing.

    That is so on a copperplate, and where there is no state or it was not examined.
    """
    judged, unknown = clearing.certificate, zero + jnp.nan
    found = judged.ac if judged is not None else None  # None while it is made
    if found is None:
        return unknown, unknown, unknown
    known = found.examined & found.converged
    each = (found.losses, found.tight, found.outside)
    losses, tight, outside = (jnp.where(known, a.astype(zero.dtype), jnp.nan) for a in each)
    return losses, tight, outside


class Comparison(Record):
    """Outcomes side by side; prints as a table. `rows` maps each name to its numbers by key.

    Keys carry their units. Benefits are what each prosumer saves against the reference, the cost of
    no trading where that is compared, of whom takes part on its own account, as a pool does not:
    `worst_benefit_eur` at least 0 is individual rationality.
    `jain` is 1 where all benefit alike, `gini` 0; both are None where someone loses. The price of
    anarchy is the social cost over that of the social optimum.
    """

    outcomes: dict[str, Outcome]
    rows: dict[str, dict[str, float | None]] = eqx.field(static=True)
    names: tuple[str, ...] = naming("name of each prosumer, or nothing")

    def __str__(self) -> str:
        names = list(self.rows)
        keys = list(self.rows[names[0]])
        wide = max(map(len, keys))
        lines = [" ".join([" " * wide, *(f"{name:>15}" for name in names)])]
        for key in keys:
            values = (self.rows[name][key] for name in names)
            cells = map(_cell, values)
            lines.append(" ".join([f"{key:<{wide}}", *(f"{cell:>15}" for cell in cells)]))
        return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{0 if abs(value) < _ROUNDING else value:.4g}"


def compare(
    cleared: Mapping[str, tuple[Market, Clearing]],
    *,
    reference: str = REFERENCE,
    grid_carbon: Any = 0.0,
    generator_carbon: Any = 0.0,
    network_fee: Any = 0.0,
) -> Comparison:
    """One table of what clearings mean: `cleared` is `{"market": (market, clearing), ...}`.

    `market` is where money is reckoned: for a clearing of the social optimum's market give the
    market itself. `grid_carbon`, `generator_carbon` and `network_fee` are those of `outcome`.
    Batches are compared scenario by scenario: `outcomes` then have their leading axis, and each
    number of `rows` is the mean over scenarios, None where it is None in one of them.

    Benefits are measured against the `reference`, one of those compared.

    Raises `ValueError` for a clearing that did not clear, a reference that there is not, and where
    prosumers or scenarios differ in number.
    """
    check_cleared("compare", cleared, Market, Clearing)
    if reference not in cleared and reference != REFERENCE:
        raise ValueError(
            f"compare: reference={reference!r} is none of those compared: {', '.join(cleared)}."
        )
    sizes = {np.shape(market.prosumers.bus) for market, _ in cleared.values()}
    if len(sizes) != 1:
        shown = " and ".join(" scenarios of ".join(map(str, size)) for size in sorted(sizes))
        raise ValueError(f"compare: markets of {shown} prosumers; compare like with like.")
    for name, (_, clearing) in cleared.items():
        uncontrolled = np.asarray(is_status(clearing.status, Status.uncontrolled))
        lost = np.flatnonzero(~(np.asarray(clearing.ok) | uncontrolled))
        if lost.size and np.ndim(clearing.steps):
            raise ValueError(
                f"compare: scenario {lost[0]} of {name!r} did not clear ({lost.size} of "
                f"{len(clearing.steps)}); keep in all of them those that did, "
                "jg.scenarios.lane((markets, clearings), clearings.ok)."
            )
        if lost.size:
            raise ValueError(f"compare: {name!r} did not clear; leave it out, or clear it first.")
    found = {
        name: outcome(
            market,
            clearing,
            grid_carbon=grid_carbon,
            generator_carbon=generator_carbon,
            network_fee=network_fee,
        )
        for name, (market, clearing) in cleared.items()
    }
    alone, best = found.get(reference), found.get("social optimum")
    rows = {name: _mean_row(one, alone, best) for name, one in found.items()}
    called = {market.prosumers.names for market, _ in cleared.values()}
    return Comparison(found, rows, called.pop() if len(called) == 1 else ())


def _mean_row(one: Outcome, alone: Outcome | None, best: Outcome | None) -> dict[str, float | None]:
    """The row of one market, or the mean of those of a batch's scenarios."""
    held = jax.tree.map(np.asarray, (one, alone, best))
    if not np.ndim(one.peak):
        return _row(*held)
    rows = [
        _row(*jax.tree.map(lambda a, k=k: a[k], held)) for k in range(len(np.asarray(one.peak)))
    ]
    means: dict[str, float | None] = {}
    for key in rows[0]:
        known = [value for row in rows if (value := row[key]) is not None]
        means[key] = float(np.mean(known)) if len(known) == len(rows) else None
    return means


def _row(one: Outcome, alone: Outcome | None, best: Outcome | None) -> dict[str, float | None]:
    row: dict[str, float | None] = {
        "prosumers_bill_eur": float(one.bill.sum()),
        "prosumers_cost_eur": float(one.cost.sum()),
        "passive_cost_eur": float(one.passive),
        "operator_receipts_eur": float(one.operator),
        "network_fees_eur": float(one.network_fees),
        "contract_fees_eur": float(one.contract_fees),
        "social_cost_eur": float(one.social),
        "price_of_anarchy": _ratio(one, best),
        "contracted_peak_kw": float(one.peak),
        "net_import_kwh": float(one.imported),
        "traded_kwh": float(one.traded),
        "contracted_self_sufficiency": float(one.contracted_self_sufficiency),
        "transformer_in_kwh": float(one.transformer_in),
        "transformer_out_kwh": float(one.transformer_out),
        "transformer_peak_in_kw": float(one.peak_in),
        "transformer_peak_out_kw": float(one.peak_out),
        "physical_self_sufficiency": float(one.self_sufficiency) if one.consumed > 0 else None,
        "physical_self_consumption": float(one.self_consumption) if one.made > 0 else None,
        "losses_kwh": _known(one.losses),
        "line_hours_over_80_percent": _known(one.tight),
        "bus_hours_outside_limits": _known(one.outside),
        "stored_kwh": float(one.stored),
        "unmet_kwh": float(one.unmet) if one.unmet > _FINE * one.consumed else 0.0,
        "co2_kg": float(one.carbon),
    }
    if alone is not None:
        benefit = np.asarray(alone.cost - one.cost)[np.asarray(one.party)]
        rounding = 1e-6 * np.abs(np.asarray(alone.cost)[np.asarray(one.party)]).mean()
        benefit = np.where(np.abs(benefit) <= rounding, 0.0, benefit)
        row |= {
            "mean_benefit_eur": float(benefit.mean()),
            "worst_benefit_eur": float(benefit.min()),
            "share_that_gains": float((benefit > 0).mean()),
            "gini": gini(benefit),
            "jain": jain(benefit),
        }
    return row


def _known(value: Any) -> float | None:
    """A number, or None where it is not known."""
    return float(value) if np.isfinite(value) else None


def _ratio(one: Outcome, best: Outcome | None) -> float | None:
    """Social cost over the least there is; None where that is no cost."""
    return float(one.social / best.social) if best is not None and best.social > 0 else None


def gini(values: Any) -> float | None:
    """`inequality`, or None where a value is negative or all are 0."""
    return float(hosted(inequality)(values)) if _shared(values) else None


def jain(values: Any) -> float | None:
    """`evenness`, or None where a value is negative or all are 0."""
    return float(hosted(evenness)(values)) if _shared(values) else None


def _shared(values: np.ndarray) -> bool:
    return bool(values.min(initial=0.0) >= 0 and values.sum() > 0)


def inequality(values: Float[Array, " n"]) -> Float[Array, ""]:
    """Gini index: the mean difference of all pairs over twice the mean."""
    ordered, count = jnp.sort(values), values.shape[0]
    ranks = jnp.arange(1, count + 1)
    return 2 * ranks @ ordered / (count * jnp.sum(values)) - (count + 1) / count


def evenness(values: Float[Array, " n"]) -> Float[Array, ""]:
    """Jain's index, (sum x)^2 / (n sum x^2): 1 where all are alike, 1/n where one has all."""
    return jnp.sum(values) ** 2 / (values.shape[0] * jnp.sum(values**2))


@for_each
def baselines(market: Market) -> dict[str, Market]:
    """The market, and it without trades, without storage, with price takers, at its social optimum.

    Storage stands still where its bounds allow that: vehicles, buildings and shiftable loads, whose
    content drains or is due later, stay as they are. The social optimum is what price takers do
    who pay the marginal price of the main grid, p0 + 2 d_mg sigma.
    """
    tariff = market.tariff
    taker = jnp.zeros_like(tariff.anticipation)
    social = (2 * tariff.slope, 2 * market.zones.slope, taker)
    return {
        "market": market,
        REFERENCE: eqx.tree_at(
            lambda m: m.trading.limit, market, jnp.zeros_like(market.trading.limit)
        ),
        "no storage": _without_storage(market),
        "price taking": eqx.tree_at(lambda m: m.tariff.anticipation, market, taker),
        "social optimum": eqx.tree_at(
            lambda m: (m.tariff.slope, m.zones.slope, m.tariff.anticipation), market, social
        ),
    }


def _without_storage(market: Market) -> Market:
    stores = market.buffers
    kept, first = retained(market).T, stores.energy_start
    still = onward(market.before, lambda left, kept: (kept * left,) * 2, first, kept).T
    drains = jnp.any((stores.drain != 0) | (still < stores.energy_min), axis=1, keepdims=True)

    def chosen(moving: Array, standing: Array) -> Array:
        return jnp.where(drains, moving, standing)

    bounds = (
        chosen(stores.charge_max, jnp.zeros_like(still)),
        chosen(stores.discharge_max, jnp.zeros_like(still)),
        chosen(stores.energy_min, jnp.minimum(stores.energy_min, still)),
        chosen(stores.energy_max, jnp.maximum(stores.energy_max, still)),
    )
    names = ("charge_max", "discharge_max", "energy_min", "energy_max")
    return eqx.tree_at(lambda m: [getattr(m.buffers, name) for name in names], market, bounds)
