"""A market and its clearing, and what follows from both, computed when a column first asks."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .. import settlement
from ..acflow import Flow, drawn, flow
from ..clock import hours_of
from ..market import Market
from ..model import Plan
from ..names import by_column
from ..programs import program
from ..radial import forest
from ..result import Clearing
from ..runner import hosted
from ..settlement import Bills, PriceParts
from ..status import STATUSES, Status, is_status, status_name


class Told:
    """What tables of a market and its clearing are made of, in NumPy's arrays.

    Of a batch every array has a leading axis of scenarios. `caller` begins the sentences in which
    `ValueError` tells of a clearing of another market, and of one market that is infeasible.
    """

    def __init__(self, caller: str, market: Market, clearing: Clearing):
        ours, theirs = np.shape(market.prosumers.load), np.shape(clearing.plan.imports)
        if ours != theirs:
            raise ValueError(
                f"{caller}: loads of shape {ours} but imports of shape {theirs}; pass the market, "
                "or the batch of markets, that this clearing is of."
            )
        self.batch = len(ours) > 2
        if not self.batch and status_name(clearing.status) == "infeasible":
            raise ValueError(f"{caller}: an infeasible market has neither plan nor prices.")
        self.market, self.clearing = market, clearing
        self.plan, self.prices = jax.tree.map(np.asarray, (clearing.plan, clearing.prices))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many rows of each kind there are, and how many steps and scenarios."""
        market = self.market
        rows = {
            "prosumer": market.prosumers.bus,
            "generator": market.generators.owner,
            "buffer": market.buffers.owner,
            "pair": market.trading.buyer,
            "line": market.grid.source,
            "bus": market.grid.voltage_min,
            "cap": market.caps.carry,
            "step": market.hour_length,
        }
        found = {row: np.shape(of)[-1] for row, of in rows.items()}
        found["zone"] = np.shape(market.zones.base)[-2]
        return found | ({"scenario": len(market.prosumers.load)} if self.batch else {})

    @cached_property
    def names(self) -> dict[str, np.ndarray]:
        """What rows are called where they have names, by the columns that tell of them."""
        known = by_column(self.market)
        return {column: np.array(each) for each, columns in known if each for column in columns}

    @cached_property
    def status(self) -> np.ndarray:
        """The word for how each scenario ended, or the market."""
        status = self.clearing.status
        ended = [np.asarray(is_status(status, getattr(Status, word))) for word in STATUSES]
        return np.select(ended, STATUSES, "")

    @cached_property
    def known(self) -> Bool[np.ndarray, "..."]:
        """Whether there are a plan and prices: not in infeasible scenarios."""
        return self.status != "infeasible"

    @cached_property
    def hours(self) -> np.ndarray:
        """Hours since the start at which steps begin."""
        return hours_of(self.market)

    @cached_property
    def seconds(self) -> Int[np.ndarray, "... H"]:
        """Seconds since 1970 in UTC at which steps begin, by the market's clock."""
        assert self.market.clock is not None, "told of markets with a clock"
        begun = 60 * np.asarray(self.market.clock.start, np.int64)[..., None]
        return begun + np.rint(3600 * self.hours).astype(np.int64)

    @cached_property
    def paid(self) -> Bills:
        """Who pays whom."""
        return self.each(settlement.settle, self.clearing)

    @cached_property
    def parts(self) -> PriceParts:
        """What prices are made of."""
        return self.each(settlement.price_parts, self.clearing)

    @cached_property
    def drawn(self) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
        """What buses draw, kW and kvar."""
        return self.each(drawn, self.clearing.plan)

    @cached_property
    def radial(self) -> bool:
        """Whether one path leads to each bus of a grid, in all scenarios."""
        networked = self.market.grid.model.networked
        return not networked or bool(np.all(self.each(_radial)))

    @cached_property
    def ac(self) -> dict[str, np.ndarray]:
        """What an AC power flow finds, NaN in hours in which it does not converge."""
        found = self.each(_flow, self.clearing.plan)
        fine = by_hour(found.ok)
        names = ("voltage", "current", "losses")
        return {name: np.where(fine, np.asarray(getattr(found, name)), np.nan) for name in names}

    def each(self, of: Callable[..., Any], *more: Any) -> Any:
        """`of(market, ...)`, for each scenario of a batch, which pays compiling."""
        return (_computed if self.batch else hosted(_computed))(of, self.market, *more)


@program("columns of tables", once=True)
def _computed(of: Callable[..., Any], market: Market, *more: Any) -> Any:
    return (jax.vmap(of) if np.ndim(market.prosumers.load) > 2 else of)(market, *more)


def by_hour(values: Any) -> np.ndarray:
    """One value for all rows of an hour."""
    return np.asarray(values)[..., None, :]


def _radial(market: Market) -> Bool[Array, ""]:
    return forest(market.grid).radial


def _flow(market: Market, plan: Plan) -> Flow:
    return flow(market.grid, *drawn(market, plan))
