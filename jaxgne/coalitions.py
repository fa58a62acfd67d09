"""Fair splits of what prosumers gain by trading: what each coalition gains, and who gets how much.

The value of a coalition is what its members save together by trading among themselves, in cash
(`comparison.outcome`: bills by `settle` and devices), against no trades at all. The others stay in
the market and on the grid without trades: all pay the main grid's price, which rises with what
everyone imports, and what others gain or lose by that does not count. So a prosumer alone gains 0.
Such others are singletons of a partition (Chander, Tulkens, Int. J. Game Theory 26, 1997).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from .arguments import named, of_tables
from .batch import clear_many
from .clearing import clear
from .comparison import baselines, outcome
from .cooperative import (
    Core,
    Game,
    Split,
    ahead,
    core_of,
    evenest,
    every,
    nucleolus_of,
    orders,
    shapley_exact,
    shapley_sampled,
)
from .each import refuse_batch
from .market import Market
from .model import Plan, counted, net_load, parties
from .names import prosumer_name
from .record import Record, nameless
from .result import Clearing
from .runner import on_host
from .scenarios import lane, sweep
from .sharing import who_gains

__all__ = [
    "by_benefit",
    "by_energy",
    "compare",
    "core_check",
    "equal",
    "equal_profit",
    "game",
    "least_core",
    "nucleolus",
    "shapley",
]

_MOST, _EVER = 8, 12  # prosumers of whom all coalitions are cleared: unless asked, and at all


def game(
    given: Any, *, most: int = _MOST, tol: Any = None, names: Sequence[str] = (), client: Any = None
) -> Game:
    """What every coalition gains, EUR: of a market, or of a table of values.

    `given` is a market, whose coalitions are cleared in one batch, each set of open pairs once; or
    2^N values: in number k are those in whose bit of k is 1 (`names` are then those of the
    players); or a game, which stays as it is. Other functions here take any of these.

    A market has at most `most` prosumers, which may be 12 at most, and is cleared to `tol`, by the
    workers of a `client` where there is one, as of `clear_many`. Raises `ValueError` for more,
    where a coalition's market does not clear, and for another table.
    """
    if isinstance(given, Game):
        return given
    if isinstance(given, Market):
        _one("game", given)
        return _valued(given, every(_few("game", given, most)), tol, client)
    if isinstance(given, Record) or given is None or isinstance(given, str):
        raise ValueError(
            f"game: {named(given)} was given; give a jaxgne.Market, or the values of all "
            "coalitions."
        )
    values = np.asarray(given, float)
    players = max(values.size.bit_length() - 1, 0)
    if (
        values.ndim != 1
        or players < 1
        or values.size != 2**players
        or not np.isfinite(values).all()
    ):
        raise ValueError(
            f"game: values of shape {values.shape}; give a finite one for each of the 2^N "
            "coalitions, in number k that of those whose bit of k is 1."
        )
    if values[0] != 0:
        raise ValueError(f"game: nobody gains {values[0]:.3g} EUR; give 0 as the first value.")
    if players > _EVER:
        raise ValueError(f"game: {players} players; give at most {_EVER}.")
    if names and len(names) != players:
        raise ValueError(f"game: {len(names)} names for {players} players; give one each.")
    nothing = np.full(players, np.nan)
    return Game(every(players), values, nothing, np.zeros(()), tuple(names))


def _one(caller: str, market: Market) -> None:
    if not on_host():
        refuse_batch(caller, market=market)


def _few(caller: str, market: Market, most: int) -> int:
    """How many prosumers there are; `ValueError` where these are more than `most`."""
    count = market.prosumers.bus.shape[0]
    if most > _EVER:
        raise ValueError(f"{caller}: most={most}; give {_EVER} at most, or take samples.")
    if count > most:
        larger = f"give most={count}, or " if count <= _EVER else ""
        raise ValueError(
            f"{caller}: {count} prosumers make {2**count} coalitions to clear, and most={most}; "
            f"{larger}take samples, jaxgne.coalitions.shapley(market, samples=200)."
        )
    return count


def _asked(caller: str, given: Any, rows: Bool[np.ndarray, "C N"] | None, tol: Any) -> Game:
    """The game, of a market with those coalitions that `rows` has and all."""
    if not isinstance(given, Market):
        return game(given)
    _one(caller, given)
    count = given.prosumers.bus.shape[0]
    some = np.vstack([np.eye(count, dtype=bool), np.ones((1, count), bool)])
    return _valued(given, some if rows is None else np.vstack([some, rows]), tol)


def _valued(market: Market, members: Bool[np.ndarray, "C N"], tol: Any, client: Any = None) -> Game:
    """What coalitions gain; each set of pairs that may trade in one of them is cleared once."""
    members = np.unique(np.vstack([members, np.ones_like(members[:1])]), axis=0)
    pairs = market.trading
    limit, energy = np.asarray(pairs.limit), np.zeros(members.shape[1])
    between = ~np.asarray(parties(market))  # who passes energy on does so for all
    nothing = Game(
        members,
        np.zeros(len(members)),
        energy,
        np.zeros(()),
        market.prosumers.names,
        tuple(np.flatnonzero(between).tolist()),
    )
    inside = members | between
    some = inside[:, np.asarray(pairs.buyer)] & inside[:, np.asarray(pairs.seller)]
    some &= (limit > 0).any(axis=1)
    if not some.any():
        return nothing
    nobody = np.zeros_like(some[:1])
    opened, which = np.unique(np.vstack([nobody, some]), axis=0, return_inverse=True)
    markets = sweep(market, lambda m: m.trading.limit, np.where(opened[:, :, None], limit, 0.0))
    clearings = clear_many(markets, tol=tol, client=client)
    lost = np.flatnonzero(~np.asarray(clearings.ok))
    if lost.size:
        row = int(np.flatnonzero(which == lost[0])[0])
        who = "nobody trades" if row == 0 else f"only {nothing.called(members[row - 1])} trade"
        raise ValueError(
            f"coalitions: where {who} the market does not clear, so that has no value; loosen "
            "what holds it there, such as import_max, total_max or a line's rating: jg.relax of "
            "that market says by how much."
        )
    cost = np.asarray(_costs(markets, clearings))
    saved = cost[which[0]] - cost[which[1:]]
    whole = which[1:][members.all(axis=1)][0]
    ends = [np.asarray(side)[some.any(axis=0)] for side in (pairs.buyer, pairs.seller)]
    energy[np.concatenate(ends)] = 1.0
    energy = _inside(market, lane(clearings, whole).plan, energy)
    judged = clearings.certificate
    off = 2 * np.max(np.asarray(judged.error) * np.asarray(judged.scales.bill))  # of two costs
    values = np.sum(np.where(members, saved, 0.0), axis=1)
    return replace(nothing, values=values, energy=energy, precision=off)


@nameless
@eqx.filter_jit
def _costs(markets: Market, clearings: Clearing) -> Float[Array, "S N"]:
    return outcome(markets, clearings).cost


def _inside(market: Market, plan: Plan, trades: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """kWh of each that stay among those who trade: all who draw, or feed in, have the same part."""
    net = trades[:, None] * np.asarray(net_load(market, plan))
    draws, feeds = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    each = np.stack([draws.sum(axis=0), feeds.sum(axis=0)])
    part = np.divide(each.min(axis=0), each, out=np.zeros_like(each), where=each > 0)
    return (draws * part[0] + feeds * part[1]) @ np.asarray(counted(market))


def _split(found: Game, rule: str, gains: Any) -> Split:
    return Split(np.asarray(gains), np.zeros(found.players), found, rule)


def shapley(
    given: Any,
    *,
    samples: int | None = None,
    seed: int = 0,
    most: int = _MOST,
    tol: Any = None,
    client: Any = None,
) -> Split:
    """The Shapley value: what each adds, in the mean over all orders in which all come together.

    Exact unless `samples` says over how many orders, drawn by `seed`, half of them the others
    reversed; then with standard errors. `given` is a market, a game or a table of values as `game`
    takes them, with its `most`, `tol` and `client`. Of a market one batch clears the coalitions
    that the orders pass through, at most `samples` times its prosumers.

    What each gets sums to what all gain, sampled or not. Raises `ValueError` as `game` does, and
    for `samples` that are odd or below 4.
    """
    if samples is None:
        found = game(given, most=most, tol=tol, client=client)
        return _split(found, "Shapley value", shapley_exact(found))
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 4 or samples % 2:
        raise ValueError(f"shapley: samples={samples!r}; give an even number, 4 or more.")
    if isinstance(given, Market):
        _one("shapley", given)
        ranks = orders(given.prosumers.bus.shape[0], samples, seed)
        found = _valued(given, ahead(ranks).reshape(-1, ranks.shape[1]), tol, client)
    else:
        found = game(given)
        ranks = orders(found.players, samples, seed)
    return Split(*shapley_sampled(found, ranks), found, f"Shapley value by {samples} orders")


def nucleolus(given: Any, *, most: int = _MOST, tol: Any = None) -> Split:
    """The nucleolus: whichever coalition is worst off is best off, then the next, and so on.

    It is in the core where there is one. `given` is a market, a game or a table of values as `game`
    takes them, with its `most` and `tol`, and raises what that does.
    """
    found = game(given, most=most, tol=tol)
    return _split(found, "nucleolus", nucleolus_of(found))


def least_core(given: Any, *, most: int = _MOST, tol: Any = None) -> Split:
    """The split nearest to equal that leaves the worst off coalition as much as any split can.

    What that coalition has more than its value is `-jaxgne.coalitions.core_check(split.game,
    split).gain`, EUR; below 0 there is no core. `given` is a market, a game or a table of values as
    `game` takes them, with its `most` and `tol`, and raises what that does.
    """
    found = game(given, most=most, tol=tol)
    return _split(found, "least core", evenest(found, found.people * 1.0, core=False))


def equal(given: Any, *, tol: Any = None) -> Split:
    """The same for everyone. `given` is as `game` takes it, a market of any size, cleared to `tol`.

    Raises `ValueError` as `game` does.
    """
    found = _asked("equal", given, None, tol)
    return _split(found, "equal", _proportional(found, found.people * 1.0))


def by_energy(given: Any, *, energy: Any = None, tol: Any = None) -> Split:
    """In proportion to the kWh that each draws of the community or feeds into it, or to `energy`.

    By meters, as single trades are not unique: of what is fed in all who draw have the same part.
    `given` is as `game` takes it, a market of any size, cleared to `tol`. Raises `ValueError` as
    `game` does, and for an `energy` that is not there, has another shape, or is below 0.
    """
    found = _asked("by_energy", given, None, tol)
    return _split(found, "by energy", _proportional(found, _energy("by_energy", found, energy)))


def by_benefit(given: Any, *, tol: Any = None) -> Split:
    """In proportion to what all gain less without each: v(N) - v(N without i), at least 0.

    `given` is as `game` takes it, a market of any size N, of which N + 1 coalitions are cleared to
    `tol`. Raises `ValueError` as `game` does.
    """
    market = given.prosumers.bus.shape[-1] if isinstance(given, Market) else 0
    found = _asked("by_benefit", given, ~np.eye(market, dtype=bool) if market else None, tol)
    added = found.whole - found.at(~np.eye(found.players, dtype=bool))
    return _split(found, "by benefit", _proportional(found, np.maximum(added, 0.0)))


def equal_profit(given: Any, *, energy: Any = None, most: int = _MOST, tol: Any = None) -> Split:
    """The split in the core whose gains per kWh traded are most even; else in the least core.

    After the equal profit method (Frisk et al., European Journal of Operational Research 205,
    2010), by least squares, so that there is one. `energy` are kWh of each; without them those of
    `by_energy`. `given` is a market, a game or a table of values as `game` takes them, with its
    `most` and `tol`. Raises `ValueError` as `game` and `by_energy` do.
    """
    found = game(given, most=most, tol=tol)
    weights = _energy("equal_profit", found, energy)
    weights = weights if weights.sum() > 0 else np.ones(found.players)
    return _split(found, "equal profit per kWh", evenest(found, weights, core=True))


def _energy(caller: str, found: Game, energy: Any) -> Float[np.ndarray, " N"]:
    """kWh of each prosumer, which were given or which it trades."""
    kwh = np.asarray(found.energy if energy is None else energy, float)
    if energy is None and np.isnan(kwh).any():
        raise ValueError(f"{caller}: a table of values has no energy; give energy=, kWh of each.")
    if kwh.shape != (found.players,) or not (np.isfinite(kwh) & (kwh >= 0)).all():
        raise ValueError(
            f"{caller}: energy of shape {kwh.shape}; give a number of kWh, 0 or more, for each of "
            f"the {found.players} prosumers."
        )
    return kwh


def _proportional(found: Game, weights: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """What there is in proportion to weights; alike where nobody has any."""
    weights = weights if weights.sum() > 0 else np.ones(found.players)
    return found.whole * weights / weights.sum()


def core_check(
    given: Any, split: Any, *, tolerance: float | None = None, most: int = _MOST, tol: Any = None
) -> Core:
    """Whether a coalition would gain by leaving a split, which one gains most, and how much.

    `split` is a `Split`, or EUR for each prosumer. A coalition leaves for more than `tolerance`
    EUR, by default 1e-4 of the largest value and no less than values may be off by. `given` is a
    market, a game or a table of values as `game` takes them, with its `most` and `tol`. Where a
    game was sampled, as `split.game` of `shapley(market, samples=200)`, only coalitions that it
    knows are asked: that is no proof.

    Raises `ValueError` as `game` does, and for a split that hands out more than all gain.
    """
    found = game(given, most=most, tol=tol)
    return core_of(found, split.gains if isinstance(split, Split) else split, tolerance)


class Splits(Record):
    """Who gains what by each rule, EUR, and who would leave; prints as a table."""

    gains: dict[str, Float[np.ndarray, " N"]]  # EUR, by rule
    cores: dict[str, Core]  # which coalition would leave, by rule
    game: Game  # what all coalitions gain

    def __str__(self) -> str:
        people = [prosumer_name(self.game.names, i) for i in range(self.game.players)]
        wide = [max(len(name), 6) + 2 for name in people]
        head = "".join(f"{name:>{width}}" for name, width in zip(people, wide, strict=True))
        lines = [f"{'gain, EUR':<22}{head}  who would leave, for EUR"]
        for rule, gains in self.gains.items():
            cells = (round(float(g), 2) + 0.0 for g in gains)
            row = "".join(f"{c:>{width}.2f}" for c, width in zip(cells, wide, strict=True))
            core = self.cores[rule]
            who = ", ".join(people[i] for i in core.coalition)
            left = "nobody" if core.holds else f"{who}: {float(core.gain):.2f}"
            lines.append(f"{rule:<22}{row}  {left}")
        return "\n".join(lines)


@of_tables
def compare(market: Market, *, most: int = _MOST, tol: Any = None) -> Splits:
    """What each gains by splits of coalitions' values, and by rules that pay for trades.

    Beside equal, by energy, by benefit, equal profit per kWh, least core, nucleolus and Shapley
    value stand marginal prices (`settle`) and the other rules that `sharing.who_gains` knows of
    such a market, which keep the operator's rent. All of them split what all gain. `most` and `tol`
    are those of `game`, and it raises what that does.
    """
    _one("compare", market)
    _few("compare", market, most)
    found = game(market, most=most, tol=tol)
    rules = (equal, by_energy, by_benefit, equal_profit, least_core, nucleolus, shapley)
    splits = [rule(found) for rule in rules]
    gains = {split.rule: split.gains for split in splits}
    alone = baselines(market)["no trading"]
    paid = who_gains(market, clear(market, tol=tol), (alone, clear(alone, tol=tol)))
    gains |= {rule: np.asarray(gain) for rule, gain in paid.gains.items()}
    return Splits(gains, {rule: core_of(found, gain) for rule, gain in gains.items()}, found)
