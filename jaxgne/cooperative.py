"""Games of coalitions by their values alone: Shapley value, nucleolus, least core, who would leave.

A coalition S of n players gains v(S) together, and v of all is to be split. Nothing here knows of
markets: `coalitions` says what a coalition of prosumers gains.
"""

from dataclasses import replace
from math import comb
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from .fields import naming
from .names import prosumer_name
from .record import Record

Matrix = Float[np.ndarray, "C N"]
Vector = Float[np.ndarray, " N"]

_TINY = 1e-9  # of the largest value: less is rounding of linear programs
_DUAL = 1e-6  # of duals that sum to 1: less is none
_CLOSE = 1e-4  # of the largest value: what a coalition gains by leaving, and does not leave for


class Game(Record):
    """What coalitions gain, EUR: a row of `members` for each coalition whose value is known."""

    members: Bool[np.ndarray, "C N"]  # who is in it
    values: Float[np.ndarray, " C"]  # EUR that these gain together
    energy: Float[np.ndarray, " N"]  # kWh that stay in the community; NaN where not known
    precision: Float[np.ndarray, ""]  # EUR, what values may be off by, as markets are cleared
    names: tuple[str, ...] = naming("name of each prosumer, or nothing")
    passive: tuple[int, ...] = eqx.field(static=True, default=())  # only pass energy on, as a pool

    @property
    def people(self) -> Bool[np.ndarray, " N"]:
        """Who takes part for its own sake: all but those who only pass energy on."""
        return ~np.isin(np.arange(self.players), self.passive)

    @property
    def players(self) -> int:
        """How many there are."""
        return self.members.shape[1]

    @property
    def whole(self) -> float:
        """EUR that all gain together: what there is to split."""
        return float(self.at(np.ones((1, self.players), bool))[0])

    @property
    def complete(self) -> bool:
        """Whether the value of every coalition is known."""
        return len({*_keys(self.members)}) == 2**self.players

    def at(self, members: Bool[np.ndarray, "*K N"]) -> Float[np.ndarray, "*K"]:
        """The values of coalitions given by their `members`; `ValueError` for one not known."""
        wanted = np.asarray(members, bool)
        known = dict(zip(_keys(self.members), np.asarray(self.values).tolist(), strict=True))
        try:
            found = [known[key] for key in _keys(wanted.reshape(-1, self.players))]
        except KeyError:
            raise ValueError(
                "the value of a coalition is not known: give all of them, as "
                "jaxgne.coalitions.game(market) does."
            ) from None
        return np.reshape(found, wanted.shape[:-1])

    def called(self, members: Any) -> str:
        """What people call a coalition."""
        return ", ".join(prosumer_name(self.names, i) for i in np.flatnonzero(np.asarray(members)))


def _keys(members: Any) -> list[bytes]:
    return [row.tobytes() for row in np.packbits(np.asarray(members, bool), axis=1)]


def every(players: int) -> Bool[np.ndarray, "2**N N"]:
    """All coalitions of so many players: in row k those are in whose bit of k is 1."""
    return (np.arange(2**players)[:, None] >> np.arange(players)) & 1 == 1


class Split(Record):
    """Who gets how much of what all gain together; prints as a table."""

    gains: Float[np.ndarray, " N"]  # EUR, of each prosumer
    error: Float[np.ndarray, " N"]  # EUR, standard error of that; 0 if none is sampled
    game: Game  # the coalitions that were asked for it
    rule: str = eqx.field(static=True)  # what it is called

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each prosumer, or nothing."""
        return self.game.names

    def __str__(self) -> str:
        sampled = bool(np.any(np.asarray(self.error) > 0))
        people = [prosumer_name(self.names, i) for i in range(self.game.players)]
        wide = max(len(name) for name in ("prosumer", "together", *people))
        lines = [f"{self.rule}\n{'prosumer':<{wide}}  gain, EUR" + "  +- EUR" * sampled]
        for name, gain, error in zip(people, self.gains, self.error, strict=True):
            more = f"{float(error):>8.2f}" if sampled else ""
            lines.append(f"{name:<{wide}}{_cents(gain):>11}{more}")
        lines.append(f"{'together':<{wide}}{_cents(np.sum(np.asarray(self.gains))):>11}")
        return "\n".join([*lines, str(core_of(self.game, self.gains))])


class Core(Record):
    """Whether a coalition would leave a split, and how much it would gain; prints as a sentence."""

    gain: Float[np.ndarray, ""]  # EUR that the coalition below gains by leaving, or -loses
    coalition: tuple[int, ...] = eqx.field(static=True)  # those in it
    holds: bool = eqx.field(static=True)  # whether no coalition that is known gains
    proof: bool = eqx.field(static=True)  # whether all are known
    asked: int = eqx.field(static=True)  # how many are
    names: tuple[str, ...] = naming("name of each prosumer, or nothing")

    def __str__(self) -> str:
        who = ", ".join(prosumer_name(self.names, i) for i in self.coalition)
        many = f"{'all' if self.proof else 'the'} {self.asked} coalitions"
        more = "" if self.proof else "; others were not asked, so this is no proof"
        if not self.holds:
            return f"not in the core: {who} would gain {_cents(self.gain)} EUR by leaving"
        if self.gain > 0 or not self.coalition:
            return f"no coalition gains by leaving, of {many}{more}"
        return (
            f"no coalition gains by leaving, of {many}{more}; "
            f"{who} would lose least, {_cents(-self.gain)} EUR"
        )


def _cents(value: Any) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"


def core_of(game: Game, gains: Any, tolerance: float | None = None) -> Core:
    """The coalition that gains most by leaving a split, of those whose values are known.

    Whoever gains less than `tolerance` EUR, by default 1e-4 of the largest value and no less than
    values may be off by, stays.
    """
    members, values, given = np.asarray(game.members), np.asarray(game.values), np.asarray(gains)
    rounding = float(game.precision) + _TINY * np.abs(values).max(initial=0.0)
    near = max(_CLOSE * np.abs(values).max(initial=0.0), rounding)
    close = near if tolerance is None else tolerance
    if given.shape != (game.players,):
        raise ValueError(
            f"core_check: the split has the shape {given.shape}; give one number for each of the "
            f"{game.players} prosumers."
        )
    if not np.isfinite(given).all():
        raise ValueError("core_check: the split has numbers that are not finite; give EUR of each.")
    over = given.sum() - game.whole
    if over > max(close, rounding):
        raise ValueError(
            f"core_check: the split hands out {over:.3g} EUR more than the {game.whole:.3g} EUR "
            "that all gain together."
        )
    some = members.any(axis=1) & (~members.all(axis=1) | (over < -close))
    excess = np.where(some, values - members @ given, -np.inf)
    first = int(np.argmax(excess))
    if not some.any():
        return Core(np.zeros(()), (), True, game.complete, 0, game.names)
    who = tuple(np.flatnonzero(members[first] & game.people).tolist())
    asked = len({*_keys(members[some])})
    holds = bool(excess[first] <= close)
    return Core(excess[first], who, holds, game.complete, asked, game.names)


def shapley_exact(game: Game) -> Vector:
    """What each adds to a coalition, in the mean over all orders in which all come together.

    The sum over S without i of |S|! (n - |S| - 1)! / n! (v(S and i) - v(S)) (Shapley, A value for
    n-person games, Contributions to the Theory of Games II, 1953).
    """
    members, count = every(game.players), game.players
    size = members.sum(axis=1)
    weight = np.array([1 / (count * comb(count - 1, k)) for k in range(count)])
    joined, before = weight[size - 1], weight[np.minimum(size, count - 1)]
    return game.at(members) @ np.where(members, joined[:, None], -before[:, None])


def orders(players: int, samples: int, seed: int) -> Int[np.ndarray, "P N"]:
    """When each joins, in `samples` random orders; the second half is the first one reversed."""
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(players), (samples // 2, 1)), axis=1)
    return np.concatenate([first, players - 1 - first])


def ahead(ranks: Int[np.ndarray, "P N"]) -> Bool[np.ndarray, "P N+1 N"]:
    """Who has joined after each step of each order."""
    return ranks[:, None, :] < np.arange(ranks.shape[1] + 1)[:, None]


def shapley_sampled(game: Game, ranks: Int[np.ndarray, "P N"]) -> tuple[Vector, Vector]:
    """The Shapley value in the mean over `orders`, and its standard error.

    An order and its reverse are one observation: what is added early in one is added late in the
    other (antithetic pairs). The values sum to that of all in every order.
    """
    added = np.take_along_axis(np.diff(game.at(ahead(ranks)), axis=1), ranks, axis=1)
    pairs = added.reshape(2, -1, ranks.shape[1]).mean(axis=0)
    return pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / np.sqrt(len(pairs))


class _Inside(NamedTuple):
    """Splits x + ways z, of which linear programs pick; the coalitions that these may please."""

    x: Vector
    ways: Float[np.ndarray, "N K"]
    members: Matrix  # of coalitions that gain or lose along a way
    values: Float[np.ndarray, " C"]


def _inside(x: Vector, ways: np.ndarray, members: np.ndarray, values: np.ndarray) -> _Inside:
    free = np.abs(members @ ways).max(axis=1, initial=0.0) > _TINY
    return _Inside(x, ways, members[free], values[free])


def _all_splits(game: Game) -> _Inside:
    """All that hand out what there is, by the values of all coalitions but that of all."""
    from scipy.linalg import null_space

    members, count = every(game.players)[1:-1], game.players
    even = np.full(count, game.whole / count)
    return _inside(even, null_space(np.ones((1, count))), members * 1.0, game.at(members))


def _best(splits: _Inside, floor: Vector) -> tuple[float, _Inside]:
    """The most that the worst off coalition can be left, EUR, and the splits that leave it that.

    Nobody gets less than `floor`. Coalitions with a multiplier get the same in all such splits, and
    there is one whenever there are coalitions: the multipliers sum to 1.
    """
    from scipy.linalg import null_space
    from scipy.optimize import linprog

    x, ways, members, values = splits
    kept = np.isfinite(floor)
    slack = members @ x - values
    found = linprog(
        np.r_[np.zeros(ways.shape[1]), -1.0],
        A_ub=np.vstack([
            np.c_[-members @ ways, np.ones(len(members))],
            np.c_[-ways[kept], np.zeros(kept.sum())],
        ]),
        b_ub=np.r_[slack, (x - floor)[kept]],
        bounds=(None, None),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    if found.status != 0:
        raise ValueError(f"no split was found by linear programming: {found.message}")
    held = -found.ineqlin.marginals[: len(members)] > _DUAL
    left = ways @ null_space(members[held] @ ways, rcond=_TINY)
    return float(found.x[-1]), _inside(x + ways @ found.x[:-1], left, members, values)


def nucleolus_of(game: Game) -> Vector:
    """The split whose worst off coalition is best off, then the next, and so on: there is one.

    Nobody gets less than alone, where that is possible. By at most n - 1 linear programs, each of
    which fixes what some coalitions get (Schmeidler, The nucleolus of a characteristic function
    game, SIAM J. Appl. Math. 17, 1969; Maschler, Peleg, Shapley, Math. Oper. Res. 4, 1979).
    """
    scaled, size = _scaled(game)
    splits, floor = _all_splits(scaled), scaled.at(np.eye(game.players, dtype=bool))
    if floor.sum() > scaled.whole + _TINY:
        floor = np.full(game.players, -np.inf)
    else:  # by rounding, alone is as much as together
        floor = floor - max(0.0, floor.sum() - scaled.whole) / game.players - _TINY
    while splits.ways.shape[1]:
        _, splits = _best(splits, floor)
    return size * splits.x


def evenest(game: Game, weights: Vector, *, core: bool) -> Vector:
    """Of the least core, or the `core` where there is one, the split of the most even gains.

    The least core leaves the worst off coalition as much as any split does. Most even are gains per
    unit of `weights`: the sum of w (x / w - mean)^2 is least, by nonnegative least squares (Lawson,
    Hanson, Solving Least Squares Problems, 1974, chapter 23).
    """
    from scipy.optimize import nnls

    if game.players == 1:
        return np.array([game.whole])
    scaled, size = _scaled(game)
    splits = _all_splits(scaled)
    everything = splits.members, splits.values
    left, narrow = _best(splits, np.full(game.players, -np.inf))
    if core and left > _TINY:
        left = 0.0
    else:
        splits = narrow
    weight = np.maximum(weights, 1e-6 * np.max(weights))
    roots, goal = np.sqrt(weight), scaled.whole * weight / weight.sum()
    # x = near + ways z, least |(x - goal) / roots|: an orthogonal basis in that measure
    basis, triangle = np.linalg.qr(splits.ways / roots[:, None])
    near = splits.x + roots * (basis @ (basis.T @ ((goal - splits.x) / roots)))
    if not triangle.size:
        return size * splits.x
    members, values = everything
    rows = members @ (roots[:, None] * basis)
    asked = values + left - _TINY - members @ near
    found, _ = nnls(np.vstack([rows.T, asked]), np.r_[np.zeros(rows.shape[1]), 1.0])
    rest = np.vstack([rows.T, asked]) @ found - np.r_[np.zeros(rows.shape[1]), 1.0]
    return size * (near + roots * (basis @ (-rest[:-1] / rest[-1])))


def _scaled(game: Game) -> tuple[Game, float]:
    """The game with values of size 1, and what they were times as much."""
    size = float(np.abs(np.asarray(game.values)).max(initial=0.0)) or 1.0
    return replace(game, values=np.asarray(game.values) / size), size
