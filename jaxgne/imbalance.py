"""What becomes of a plan where the truth comes out otherwise than the forecast it was made for.

Devices, trades and batteries do as planned within their limits. What a prosumer then lacks it
curtails less, then sells less, then buys; what it has too much it buys less, then sells, then
curtails, all at its own meter and at the main grid's price. What the meter's limits do not let
through stays unserved, or is spilled.
"""

from dataclasses import replace
from typing import Any

from jaxtyping import Array, Float

from .each import for_each
from .market import Market
from .model import (
    Plan,
    bought,
    by_owner,
    counted,
    exceeded,
    export_prices,
    grid_price,
    import_prices,
    zone_totals,
)
from .record import Record
from .runner import jnp
from .succession import onward
from .tables import retained
from .uncontrolled import with_state


class Closed(Record):
    """A plan as it was carried out, and what of it was not planned, by step.

    `imbalance` is what each prosumer drew from the main grid beyond its plan (negative: less), and
    `cost` what that added to what it pays the main grid. `unserved` is load that no limit let
    through, `spilled` power that nobody could take, so that

        load + curtailed + charge - discharge - generation
            = imports - exports + trades bought + unserved - spilled.

    `short` is by how much contents are outside their limits. `outside` tells by how much voltages
    are outside theirs, `overload` flows over ratings and `beyond` the total exchange over its own,
    each where it is most; 0 where all are kept.
    """

    plan: Plan
    imbalance: Float[Array, "N H"]  # kW
    cost: Float[Array, "N H"]  # EUR
    unserved: Float[Array, "N H"]  # kW
    spilled: Float[Array, "N H"]  # kW
    short: Float[Array, "K H"]  # kWh
    outside: Float[Array, " H"]  # pu
    overload: Float[Array, " H"]  # kVA
    beyond: Float[Array, " H"]  # kW


@for_each
def closed(market: Market, plan: Plan) -> Closed:
    """A `plan` carried out in a `market`, the truth of the same steps.

    The state of the grid is that of its own model, or of an AC power flow where lines close loops
    (`linear_flow.grid_state`); levels of caps follow from what their members do, with the least
    rise. Energy balances in each step and for each buffer to rounding.
    """
    people, units, pairs = market.prosumers, market.generators, market.trading
    generation = jnp.clip(plan.generation, units.power_min, units.power_max)
    trades = jnp.clip(plan.trades, -pairs.limit, pairs.limit)
    charge, discharge, energy = _stored(market, plan)
    needed = people.load - by_owner(market, generation, units.owner)
    needed = needed + by_owner(market, charge - discharge, market.buffers.owner)
    needed = needed - bought(market, trades)
    imports = jnp.clip(plan.imports, 0.0, people.import_max)
    exports = jnp.clip(plan.exports, 0.0, people.export_max)
    curtailed = jnp.clip(plan.curtailed, 0.0, people.curtail_max)

    lack = needed + curtailed + exports - imports
    short, over = jnp.maximum(lack, 0.0), jnp.maximum(-lack, 0.0)
    cut = jnp.minimum(short, curtailed)
    unsold = jnp.minimum(short - cut, exports)
    more = jnp.minimum(short - cut - unsold, people.import_max - imports)
    less = jnp.minimum(over, imports)
    sold = jnp.minimum(over - less, people.export_max - exports)
    lost = jnp.minimum(over - less - sold, people.curtail_max - curtailed)
    found = replace(
        plan,
        generation=generation,
        charge=charge,
        discharge=discharge,
        energy=energy,
        trades=trades,
        imports=imports + more - less,
        exports=exports + sold - unsold,
        curtailed=curtailed + lost - cut,
    )
    found = with_state(market, found)
    bought_more, sold_more = found.imports - plan.imports, found.exports - plan.exports
    price = import_prices(market, grid_price(market, zone_totals(market, found)))
    paid = price * bought_more - export_prices(market) * sold_more
    stores = market.buffers
    beyond = jnp.maximum(stores.energy_min - energy, energy - stores.energy_max)
    outside, overload, total = exceeded(market, found)
    return Closed(
        plan=found,
        imbalance=bought_more - sold_more,
        cost=counted(market) * paid,
        unserved=short - cut - unsold - more,
        spilled=over - less - sold - lost,
        short=jnp.maximum(beyond, 0.0),
        outside=jnp.max(outside, axis=0, initial=0.0),
        overload=jnp.max(overload, axis=0, initial=0.0),
        beyond=total,
    )


def _stored(market: Market, plan: Plan) -> tuple[Float[Array, "K H"], ...]:
    """Charging, discharging and contents: as planned, but where that would break a limit.

    What would overflow charges less; what would fall short discharges less, then charges more.
    """
    stores, ts = market.buffers, market.hour_length
    bounds = (stores.charge_max, stores.discharge_max, stores.energy_min, stores.energy_max)
    shares = (retained(market), stores.charge_efficiency, stores.discharge_efficiency)
    shares = (share + jnp.zeros_like(stores.drain) for share in shares)

    def step(content: Array, x: Any) -> tuple[Array, tuple[Array, ...]]:
        charge, discharge, most, least, low, top, drain, kept, into, out, length = x
        charge, discharge = jnp.clip(charge, 0.0, most), jnp.clip(discharge, 0.0, least)

        def end(charge: Array, discharge: Array) -> Array:
            return kept * content - drain + length * (into * charge - discharge / out)

        over = jnp.maximum(end(charge, discharge) - top, 0.0)
        charge = jnp.maximum(charge - over / (length * into), 0.0)
        lack = jnp.maximum(low - end(charge, discharge), 0.0)
        discharge = jnp.maximum(discharge - lack * out / length, 0.0)
        lack = jnp.maximum(low - end(charge, discharge), 0.0)
        charge = jnp.minimum(charge + lack / (length * into), most)
        content = end(charge, discharge)
        return content, (charge, discharge, content)

    tables = (plan.charge, plan.discharge, *bounds, stores.drain, *shares)
    over = (*(table.T for table in tables), ts)
    charge, discharge, energy = (t.T for t in onward(None, step, stores.energy_start, over))
    return charge, discharge, energy
