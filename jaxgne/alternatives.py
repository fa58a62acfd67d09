"""Today as it is, the market, and the same market without parts of it, cleared side by side."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx

from .arguments import of_tables
from .batch import clear_many
from .clearing import clear
from .comparison import baselines
from .each import for_each, leading
from .market import Market
from .model import Plan
from .result import Clearing, NotCleared
from .runner import jnp
from .solve import Progress
from .succession import leaves
from .uncontrolled import Until, today

TODAY = "today"


@of_tables
def side_by_side(
    market: Market,
    *,
    tol: Any = None,
    until: Until = "due",
    price: Any = None,
    same_end: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, tuple[Market, Clearing]]:
    """Today as it is and all baselines of a market, cleared: what `jg.compare` takes.

        print(jg.compare(jg.side_by_side(market), reference="today"))

    "today" is `uncontrolled.today`, with its `until` and `price`; the others are
    `comparison.baselines`: "market", "no trading", "no storage", "price taking", "social optimum".
    Money is reckoned in the market itself in all of them. With `same_end` each is the market in
    which storage holds at least as much in the end as today: else what a market leaves empty at the
    end of the day looks like a gain (`stored_kwh` tells). `tol` and `progress` are those of
    `clear`. A batch is cleared by `clear_many`, which has no such progress.

    A baseline that does not clear, as one without trades where surplus has nowhere else to go, is
    left out with a `UserWarning`. Raises `NotCleared` where the market itself does not; of a batch
    `compare` tells which scenarios did not.
    """
    found = {TODAY: (market, today(market, until=until, price=price))}
    batch = leading(market) != {()}
    asked = as_full(market, found[TODAY][1].plan) if same_end else market
    for name, variant in baselines(asked).items():
        if batch:
            found[name] = (market, clear_many(variant, tol=tol))
            continue
        try:
            found[name] = (market, clear(variant, tol=tol, progress=progress))
        except NotCleared as stop:
            if name == "market":
                raise
            warnings.warn(f"side_by_side: {name!r} is left out: {stop}", stacklevel=2)
    return found


@for_each
def as_full(market: Market, plan: Plan) -> Market:
    """The market in which storage holds at least as much in the end as in `plan`, where it can."""
    stores = market.buffers
    last = leaves(market.before, stores.energy_min.shape[1])
    held = jnp.minimum(plan.energy, stores.energy_max)
    least = jnp.where(last, jnp.maximum(stores.energy_min, held), stores.energy_min)
    return eqx.tree_at(lambda m: m.buffers.energy_min, market, least)
