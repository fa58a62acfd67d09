"""Who keeps the prices of what all share: one operator, or each prosumer a copy of its own.

The operator's part of the paper's mechanism (`solvers/semidecentralized.py`, Algorithm 1, step 3)
by what it is told: sums of what prosumers buy, sell and draw. A center gets these by messages; in
its absence prosumers track them by consensus, and mix their copies of the operator's state with
those of their neighbors (`consensus`).
"""

from dataclasses import replace
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .channels import Channel, Medium, along, either, opened, told
from .consensus import Graph, Masses, estimates, masses_of, mixed
from .market import Market
from .model import Plan, own_gradient, pull, rows, rows_like, without_curves, zeros
from .record import Record, changed
from .solvers.semidecentralized import move_limit, operate
from .solvers.setting import STATE, Setting

Round = tuple[Medium, Int[Array, ""], Array]  # the medium, the round's number, a random key


class Report(Record):
    """What each prosumer says of itself, kW: a row for each, or for each that it is sent by."""

    imports: Float[Array, "N H"]
    exports: Float[Array, "N H"]
    drawn: Float[Array, "N H"]  # net load, where there is a network
    trades: Float[Array, "N S H"]  # its own copies, in slots; told to partners only


class View(Record):
    """What each prosumer knows of shared prices."""

    sigma: Float[Array, "N H"]  # total import, kW
    limit: Float[Array, "N H"]  # lambda, EUR/kWh
    exchange: Float[Array, "N H"]  # mu_tg, EUR/kWh
    bus: Float[Array, "N H"]  # mu_pb of its bus, EUR/kWh


class Totals(Record):
    """Sums over prosumers, kW."""

    imports: Float[Array, " H"]
    exports: Float[Array, " H"]
    drawn: Float[Array, "B H"]  # by bus


class Desk(Record):
    """The operator's decisions and the prices that it moves, as in `semidecentralized.Point`."""

    network: Float[Array, "V H"]
    exchange: Float[Array, "F H"]
    above: Float[Array, " H"]
    below: Float[Array, " H"]
    bus: Float[Array, "B H"]
    exchange_price: Float[Array, " H"]


class Met(Record):
    """Shared rows as they were last: net exchange, bus balances, exchange with the feeders, kW."""

    total: Float[Array, " H"]
    bus: Float[Array, "B H"]
    exchange: Float[Array, " H"]


class Keeper(Protocol):
    """What rounds ask of whoever keeps shared prices."""

    def views(self, market: Market) -> View:
        """What each prosumer goes by in the next round."""
        ...

    def heard(
        self,
        market: Market,
        setting: Setting,
        step: Float[Array, ""],
        said: tuple[Report, Report],
        acts: Bool[Array, " N"],
        at: Round,
    ) -> "tuple[Keeper, Float[Array, '']]":
        """The keeper after a round's reports, and how many numbers were sent."""
        ...

    def stands(self, market: Market) -> tuple[Desk, Float[Array, "R H"], Float[Array, ""]]:
        """The one state and prices that it stands for, the operator's own prices, and kW.

        These are how far apart copies of the total import are.
        """
        ...


class Centre(Record):
    """One operator, to whom all report, and who tells everyone its prices."""

    desk: Desk
    private: Float[Array, "R H"]
    met: Met
    totals: Totals
    reports: Channel  # a link from each prosumer
    answers: Channel  # a link to each

    def views(self, market: Market) -> View:
        return self.answers.held

    def heard(
        self,
        market: Market,
        setting: Setting,
        step: Float[Array, ""],
        said: tuple[Report, Report],
        acts: Bool[Array, " N"],
        at: Round,
    ) -> "tuple[Centre, Float[Array, '']]":
        medium, now, key = at
        to, back = jax.random.split(key)
        reports = told(self.reports, _public(said[0]), acts, medium, now, to)
        totals = totals_of(market, reports.held)
        desk, private, met = govern(
            market, setting, step, self.desk, self.private, totals, self.met
        )
        all_of_them = jnp.ones_like(acts)
        view = view_of(market, desk, totals)
        answers = told(self.answers, view, all_of_them, medium, now, back)
        numbers = jnp.sum(acts) * _reported(market) + acts.size * _answered(market)
        return Centre(desk, private, met, totals, reports, answers), numbers.astype(float)

    def stands(self, market: Market) -> tuple[Desk, Float[Array, "R H"], Float[Array, ""]]:
        return self.desk, self.private, jnp.zeros_like(self.met.total[0])


class Peers(Record):
    """Every prosumer a copy of the operator, its sums tracked and its state mixed over a graph."""

    graph: Graph
    masses: Masses  # of totals and desk
    private: Float[Array, "N R H"]
    met: Met  # leading axis N

    def views(self, market: Market) -> View:
        totals, desk = estimates(self.masses)
        every = jax.vmap(lambda desk, totals: view_of(market, desk, totals))(desk, totals)
        each = jnp.arange(market.prosumers.bus.shape[0])
        return jax.tree.map(lambda a: a[each, each], every)

    def heard(
        self,
        market: Market,
        setting: Setting,
        step: Float[Array, ""],
        said: tuple[Report, Report],
        acts: Bool[Array, " N"],
        at: Round,
    ) -> "tuple[Peers, Float[Array, '']]":
        change = jax.tree.map(jnp.subtract, *map(_public, said))
        own = jax.vmap(lambda one: totals_of(market, one))(_alone(change))
        totals, desk = self.masses.mass
        totals = jax.tree.map(lambda a, more: a + acts.size * more, totals, own)
        masses, speaks = mixed(self.graph, changed(self.masses, mass=(totals, desk)), acts, *at)
        totals, start = estimates(masses)
        move = jax.vmap(lambda *of: govern(market, setting, step, *of))
        desk, private, met = move(start, self.private, totals, self.met)
        new, old = (desk, private, met), (start, self.private, self.met)
        desk, private, met = either(acts, new, old)
        held = jax.tree.map(lambda a: along(masses.weight, a) * a, desk)
        masses = changed(masses, mass=(masses.mass[0], held))
        return Peers(self.graph, masses, private, met), (jnp.sum(speaks) * _mixed(market)).astype(
            float
        )

    def stands(self, market: Market) -> tuple[Desk, Float[Array, "R H"], Float[Array, ""]]:
        totals, desk = estimates(self.masses)
        apart = jnp.max(totals.imports, axis=0) - jnp.min(totals.imports, axis=0)
        mean = jax.tree.map(lambda a: jnp.mean(a, axis=0), (desk, self.private))
        return *mean, jnp.max(apart)


def centre_of(
    market: Market, desk: Desk, private: Float[Array, "R H"], report: Report, depth: int
) -> Centre:
    """An operator that knows what all said at first, as all know its prices."""
    public = _public(report)
    totals = totals_of(market, public)
    met, view = met_by(market, desk, totals), view_of(market, desk, totals)
    return Centre(desk, private, met, totals, opened(public, depth), opened(view, depth))


def peers_of(
    market: Market,
    graph: Graph,
    desk: Desk,
    private: Float[Array, "R H"],
    report: Report,
    depth: int,
) -> Peers:
    """Prosumers that begin with one and the same sums and prices."""
    totals = totals_of(market, _public(report))
    every = (totals, desk), private, met_by(market, desk, totals)
    count = report.imports.shape[0]
    values, private, met = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape)), every)
    return Peers(graph, masses_of(graph, values, depth), private, met)


def govern(
    market: Market,
    setting: Setting,
    step: Float[Array, ""],
    start: Desk,
    private: Float[Array, "R H"],
    totals: Totals,
    before: Met,
) -> tuple[Desk, Float[Array, "R H"], Met]:
    """The operator's own step, and its reflected steps of shared prices, by what it is told.

    It goes `step` of the way, as prosumers do.
    """
    steps, tariff, new = setting.steps, market.tariff, start
    if market.grid.model.networked:
        prices = replace(
            rows_like(market),
            aggregate=start.above - start.below,
            bus=start.bus,
            exchange=start.exchange_price,
        )
        smooth = own_gradient(without_curves(market), zeros(market), 0 * tariff.base[None])
        priced = jax.tree.map(jnp.add, smooth, pull(market, prices))
        state = start.network, start.exchange
        network, exchange, private = operate(market, setting, priced, state, private)
        moved = replace(new, network=network, exchange=exchange)
        new = jax.tree.map(lambda a, to: a + step * (to - a), start, moved)
    now = met_by(market, new, totals)
    total = ahead(step, now.total, before.total)
    excess = total - step * tariff.total_max, step * tariff.total_min - total
    above, below = (
        move_limit(price, steps.limit / step, over)
        for price, over in zip((start.above, start.below), excess, strict=True)
    )
    new = replace(
        new,
        above=start.above + step * (above - start.above),
        below=start.below + step * (below - start.below),
    )
    if market.grid.model.networked:
        bus, fed = ahead(step, now.bus, before.bus), ahead(step, now.exchange, before.exchange)
        new = replace(
            new,
            bus=start.bus + steps.bus[:, None] * bus,
            exchange_price=start.exchange_price + steps.exchange * fed,
        )
    return new, private, now


def ahead(step: Float[Array, ""], now: Array, before: Array) -> Array:
    """What a row is in the reflected point, times the `step` that was gone towards it.

    From u it went to u + step (v - u), so that 2 row(v) - row(u), which moves its price in the
    mechanism, is row(u) + 2 (now - before) / step.
    """
    return step * before + 2 * (now - before)


def met_by(market: Market, desk: Desk, totals: Totals) -> Met:
    """Shared rows of the operator's state and prosumers' sums, demand minus supply."""
    people = market.prosumers
    nobody = changed(market, prosumers=changed(people, load=jnp.zeros_like(people.load)))
    found = rows(nobody, with_network(zeros(market), desk))
    more = totals.imports - totals.exports
    if not market.grid.model.networked:
        return Met(found.aggregate + more, found.bus, found.exchange)
    return Met(found.aggregate + more, found.bus + totals.drawn, found.exchange + more)


def with_network(plan: Plan, desk: Desk) -> Plan:
    """The plan with the operator's decisions."""
    sizes = [getattr(plan, name).shape[0] for name in STATE]
    state = jnp.split(desk.network, np.cumsum(sizes)[:-1])
    return replace(plan, **dict(zip(STATE, state, strict=True)), exchange=desk.exchange)


def totals_of(market: Market, report: Report) -> Totals:
    """Sums of reports."""
    drawn = jnp.zeros_like(market.grid.passive).at[market.prosumers.bus].add(report.drawn)
    return Totals(jnp.sum(report.imports, axis=0), jnp.sum(report.exports, axis=0), drawn)


def view_of(market: Market, desk: Desk, totals: Totals) -> View:
    """What an operator tells each prosumer."""
    people = market.prosumers.bus.shape[:1]
    sigma = totals.imports + jnp.sum(market.grid.passive, axis=0)
    shared = sigma, desk.above - desk.below, desk.exchange_price
    sigma, limit, fed = (jnp.broadcast_to(a, (*people, *a.shape)) for a in shared)
    return View(sigma, limit, fed, desk.bus[market.prosumers.bus])


def _public(report: Report) -> Report:
    """What of a report goes to the operator: no trades."""
    return replace(report, trades=report.trades[:, :0])


def _alone(report: Report) -> Report:
    """The reports of all, as many times, each time of one prosumer only: leading axes N, N."""
    one = jnp.eye(report.imports.shape[0], dtype=bool)
    return jax.tree.map(lambda a: jnp.where(along(one, a[None]), a, 0.0), report)


def _reported(market: Market) -> int:
    """Numbers of a report: p_mg, p_ex and, on a network, n_i of each hour."""
    return (3 if market.grid.model.networked else 2) * market.hour_length.size


def _answered(market: Market) -> int:
    """Numbers that a prosumer is told: sigma, lambda and, on a network, mu_tg and mu_pb."""
    return (4 if market.grid.model.networked else 2) * market.hour_length.size


def _mixed(market: Market) -> Array:
    """Numbers that one prosumer hands on to another: sums, a copy of the operator's, a weight.

    Of an hour both sides of lambda, the totals of p_mg and p_ex; on a network what is drawn at
    buses of prosumers, mu_pb, mu_tg, and the operator's decisions that its grid model has.
    """
    grid = market.grid
    count = jnp.asarray(4)
    if grid.model.networked:
        buses, lines = grid.passive.shape[0], grid.source.shape[0]
        homes = jnp.zeros(buses, int).at[market.prosumers.bus].set(1)
        injected = jnp.any(grid.compensation_max > 0, axis=1)
        state = 2 * lines + len(grid.model.states) * buses + grid.feeder.shape[0]
        count += jnp.sum(homes) + buses + 1 + state + jnp.sum(injected)
    return count * market.hour_length.size + 1
