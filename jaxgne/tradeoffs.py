"""What two aims cost one another: the Pareto front of a market's numbers, by epsilon constraints.

The first objective is made small while the second is at most a level, for levels between both ends
of the front (Haimes, Lasdon, Wismer, IEEE Trans. SMC 1, 1971). The ends are lexicographic: of what
has the least of one objective that with the least of the other (Mavrotas, Applied Mathematics and
Computation 213, 2009). Levels, weights and multipliers are arrays, so that all tunings share their
compiled programs.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .arguments import of_tables
from .clearing import blank
from .cluster import check, each, shared
from .coordinates import Bijection, is_batch, names_of, place, with_fields
from .descent import cleared, slopes
from .epsilon import Asked, Options, Start, Traded, tuned
from .front import Front, FrontProgress, nondominated
from .history import History
from .market import Market
from .options import checked_options
from .result import Clearing, Stopped
from .stationary import compromise
from .tuning import Measure, Outcome

_NEAR = 1e-3  # of the front's range: a level counts as met within it
_SAME = 1e-4  # of that range: outcomes that differ less are one
_ALIKE = 1e-9  # of the values: ends that differ less are one
_MOVED = (
    0.1  # of that range: where ends moved further meanwhile, levels between them are swept anew
)
_SWEEPS = 2  # at most
_INSIDE = (0.05, 0.95)  # of the range between bounds: where random starts lie


@of_tables
def pareto(
    market: Market,
    objectives: Sequence[Outcome],
    where: Callable[[Market], Any],
    *,
    bounds: tuple[Any, Any] | None = None,
    points: int = 10,
    starts: int = 2,
    seed: int = 0,
    bijection: Bijection | None = None,
    constraints: Sequence[Outcome] = (),
    reduce: Callable[[Array], Array] = jnp.mean,
    progress: Callable[[FrontProgress], None] | None = None,
    client: Any = None,
    **options: Unpack[Options],
) -> Front:
    """What two `objectives` cost one another, as the fields `where(market)` move within `bounds`.

    Each is a function of market and clearing, a number that is to be small, as for `tune`. Returns
    up to `points` markets: both ends of the front, and between them the least of the first
    objective for levels of the second at equal distances. What is dominated, or the same as
    another, is dropped. A point is tuned from its neighbor's numbers, equilibrium and multipliers,
    and from `starts - 1` places within the bounds that `seed` draws; an end from the market as it
    is and such places. Whatever a step came to may be taken for any point. Tunings are local, as
    those of `tune`: where objectives are not convex the true front may be lower, and
    `Front.residuals` tell where this one is not even the best near by.

    `constraints`, `reduce`, `bijection` and `options` are those of `tune`; `steps` are those of
    each tuning, of which there are `starts * points + 2`, and `starts * (points - 2)` more where
    the ends turn out to lie elsewhere. `folder` keeps a folder for each, and the same call goes on
    after the last step. `progress` is called after each tuning.

    With a `client`, a `distributed.Client`, the workers of a Dask cluster do the tunings: those of
    both ends at a time, those from drawn places of all points at a time, and from neighbors one
    after the other. They come to the same front; a `folder` must be on a disk that all workers see
    (`docs/cluster.md`).

    Raises `NotCleared` if the market does not clear as it is, `ValueError` for what `tune` refuses,
    without bounds, for a `client` that is none, and for objectives that are not two functions with
    one number each, and `RuntimeError` if no step meets the constraints.
    """
    solver = options.get("solver")
    given = {name: options.get(name) for name in ("adjoint", "patience", "steps")}
    given |= {"points": points, "starts": starts}
    checked_options("pareto", market, solver, progress=progress, **given)
    _refuse(market, objectives, solver, bounds, points)
    if client is not None:
        check(client)
    market = jax.tree.map(jnp.asarray, market)
    both = Measure(objectives[0], (*objectives, *constraints), reduce)
    how = {"bounds": bounds, "bijection": bijection}
    search = _Search(market, both, where, how, options, starts, seed, progress, client)
    search.total = starts * points + 2  # where one sweep does
    try:
        levels = search.explore(points)
    except KeyboardInterrupt:
        words = f"stopped after {search.done} of {search.total} tunings"
        raise Stopped(words, None) from None
    return search.front(levels, _names(objectives))


class _Look(NamedTuple):
    """An outcome cleared once more: objectives and constraints, and their slopes."""

    market: Market
    clearing: Clearing
    found: Float[np.ndarray, " C"]
    rows: Float[np.ndarray, "C n"]
    shares: Float[np.ndarray, " n"]


class _Search:
    """All tunings of a front, and what their steps came to."""

    def __init__(
        self,
        market: Market,
        both: Measure,
        where: Callable[[Market], Any],
        how: dict[str, Any],
        options: Options,
        starts: int,
        seed: int,
        progress: Callable[[FrontProgress], None] | None,
        client: Any,
    ):
        self.market, self.both, self.where, self.how = market, both, where, how
        self.starts, self.seed, self.progress, self.client = starts, seed, progress, client
        self.total = self.asked = self.done = 0  # tunings
        self.coordinates, self.shares = place(market, where, how["bounds"], how["bijection"])
        self.options, folder = options, shared(options.get("folder"))
        self.work = partial(tuned, both, where, how, options, folder)
        self.scales, self.last = np.ones(2), None
        self.values, self.met, self.tuned = np.zeros((0, 2)), np.zeros(0, bool), None
        self.looks: dict[int, _Look] = {}  # at outcomes
        self.stopped: list[str] = []
        self.unstarted, self.begun = 0, time.perf_counter()

    def explore(self, points: int) -> Float[np.ndarray, " K"]:
        """Run all tunings; the levels of the second objective, one for each point."""
        free, count = np.full(2, np.inf), self.starts
        alone = [self.ask(axis, free, None, drawn=k > 0) for axis in (0, 1) for k in range(count)]
        found = [run for _, run in self.run(alone)]
        ends = [self.end(found[:count]), self.end(found[count:])]
        self.rescale()
        near = [self.start(index, pushed=False) for index in ends]
        least = [np.where([k == 0, k == 1], self.values[ends[k]], np.inf) for k in (0, 1)]
        for told in self.run([self.ask(1 - k, least[k], near[k]) for k in (0, 1)]):
            self.take(*told)
        levels = self.levels(points)
        for _ in range(_SWEEPS):
            self.sweep(levels[1:-1])
            before, levels = levels, self.levels(points)
            if np.all(np.abs(levels - before) <= _MOVED * self.scales[1]):
                break
        return levels

    def sweep(self, levels: Float[np.ndarray, " K"]) -> None:
        """Tune for each level: from its neighbor's end, and from random places of its own."""
        near = self.least(0)
        if near == self.least(1):
            return
        first, drawn = [], []
        for level in levels:
            most = np.array([np.inf, level])
            first.append(self.ask(0, most, None))
            drawn += [self.ask(0, most, None, drawn=True) for _ in range(self.starts - 1)]
        others = iter(self.run(drawn))
        for level, asked in zip(levels, first, strict=True):
            here = asked._replace(start=self.start(near))
            for told in (*self.run([here]), *islice(others, self.starts - 1)):
                self.take(*told)
            near = self.at_most(1, level)

    def levels(self, points: int) -> Float[np.ndarray, " K"]:
        """Levels of the second objective between the ends of all that was seen."""
        self.rescale()
        return np.linspace(self.values[self.least(0), 1], self.values[self.least(1), 1], points)

    def front(self, levels: np.ndarray, names: tuple[str, str]) -> Front:
        """The best of all outcomes at each level, less what is dominated."""
        inner = [self.at_most(1, level) for level in levels[1:-1]]
        chosen = np.array([self.least(0), *inner, self.least(1)])
        levels[[0, -1]] = self.values[chosen[[0, -1]], 1]
        kept = nondominated(np.round(self.values[chosen] / (_SAME * self.scales)))
        asked, chosen = len(chosen), chosen[kept]
        found = [self.looks[index] for index in chosen.tolist()]
        tradeoffs = [self.tradeoff(look) for look in found]
        weights = np.stack([weights for weights, _ in tradeoffs])
        with np.errstate(divide="ignore"):
            rates = weights[:, 1] / weights[:, 0]
        return Front(
            values=self.values[chosen],
            levels=levels[kept],
            rates=rates,
            residuals=np.array([residual for _, residual in tradeoffs]),
            tuned=jax.tree.map(lambda a: a[chosen], self.tuned),
            markets=tuple(look.market for look in found),
            clearings=tuple(look.clearing for look in found),
            seen=self.values[self.met],
            asked=asked,
            unstarted=self.unstarted,
            stopped=tuple(self.stopped),
            names=names,
            fields=tuple(names_of(self.market, self.where)),
        )

    def end(self, runs: list[History | None]) -> int:
        """The outcome with the least of one objective alone, of tunings that made it small."""
        known = [run for run in runs if run is not None]
        self.stopped += [run.stopped for run in known]
        self.unstarted += len(runs) - len(known)
        best = min(known, key=lambda run: (not _met(run)[run.best], run.value[run.best]))
        fields = jax.tree.map(lambda a: a[best.best][None], best.tuned)
        self.add(np.full((1, 2), np.nan), _met(best)[best.best][None], fields)
        self.look(len(self.values) - 1)
        return len(self.values) - 1

    def ask(self, axis: int, levels: np.ndarray, near: Start | None, drawn: bool = False) -> Asked:
        """A tuning from near by, from the market as it is, or from a random place."""
        number, self.asked = self.asked, self.asked + 1
        at = near or Start(self.drawn(number) if drawn else self.market, None, None)
        return Asked(number, at, axis, levels, self.scales, drawn)

    def run(self, asked: list[Asked]) -> list[tuple[Asked, History | None]]:
        """Tunings that do not know of one another, and what each of them did."""
        found = {}
        with closing(each(self.client, self.work, asked)) as done:
            for at, history in done:
                found[at] = history
                self.done += 1
                if self.progress and history is not None:
                    value, seconds = history.value[history.best], time.perf_counter() - self.begun
                    told = (self.done - 1, self.total, float(value), len(history.value), seconds)
                    self.progress(FrontProgress(*told))
        return [(one, found[at]) for at, one in enumerate(asked)]

    def take(self, asked: Asked, history: History | None) -> None:
        """Choose from what the steps of a tuning came to, too."""
        if history is None:
            self.unstarted += 1
            return
        self.stopped.append(history.stopped)
        known = np.isfinite(asked.levels)
        above = history.constraints[:, :2] * asked.scales + np.where(known, asked.levels, 0.0)
        self.add(np.where(known, above, history.value[:, None]), _met(history), history.tuned)

    def drawn(self, number: int) -> Market:
        """The market at random numbers within the bounds."""
        draw = np.random.default_rng([self.seed, number])
        shares = jax.tree.map(
            lambda a: jnp.asarray(draw.uniform(*_INSIDE, a.shape), a.dtype), self.shares
        )
        return with_fields(self.market, self.where, self.coordinates.fields(shares))

    def add(self, values: np.ndarray, met: np.ndarray, tuned: Any) -> None:
        """More outcomes to choose from."""
        self.values, self.met = np.concatenate([self.values, values]), np.append(self.met, met)
        both = [tuned] if self.tuned is None else [self.tuned, tuned]
        self.tuned = jax.tree.map(lambda *parts: np.concatenate(parts), *both)

    def least(self, axis: int) -> int:
        """The outcome with the least of one objective and, of all near that, of the other."""
        if not self.met.any():
            raise RuntimeError(
                "pareto: no step of any tuning meets the constraints; relax them, or give more "
                "steps or starts."
            )
        while self.look(lowest := self._first(self.values[:, axis], self.met)):
            pass
        return self.at_most(axis, self.values[lowest, axis])

    def at_most(self, axis: int, level: float) -> int:
        """The outcome with the least of the other objective where this one is at most a level."""
        while True:
            within = self.met & (self.values[:, axis] <= level + _NEAR * self.scales[axis])
            if not self.look(best := self._first(self.values[:, 1 - axis], within)):
                return best

    def _first(self, values: np.ndarray, among: np.ndarray) -> int:
        """The outcome with the least of these values; of equal ones with the least of both."""
        total = (self.values / self.scales).sum(axis=1)
        return int(np.lexsort((total, np.where(among, values, np.inf)))[0])

    def rescale(self) -> None:
        """Take the front's range for the objectives' unit."""
        ends = self.values[[self.least(0), self.least(1)]]
        width = np.abs(ends[1] - ends[0])
        self.scales = np.where(width > _ALIKE * np.abs(ends).max(axis=0), width, 1.0)

    def look(self, index: int) -> bool:
        """Clear an outcome's market once more, unless that is done; whether it is news.

        What a step came to is as exact as its clearing: what is good by rounding only is told.
        """
        if index in self.looks:
            return False
        fields = jax.tree.map(lambda a: jnp.asarray(a[index]), self.tuned)
        market = with_fields(self.market, self.where, fields)
        solver, tol = self.options.get("solver"), self.options.get("tol")
        clearing = cleared(market, solver, tol, None, throw=True)
        plain = Traded(self.both, *(jnp.array(a, float) for a in ([1, 0], [0, 0], [1, 1])))
        adjoint = self.options.get("adjoint")
        told = slopes(market, plain, self.where, clearing, adjoint=adjoint, **self.how)
        self.looks[index] = _Look(market, clearing, *told)
        self.values[index] = told[0][:2]
        return True

    def tradeoff(self, look: _Look) -> tuple[Float[np.ndarray, " C"], float]:
        """Weights by which objectives and constraints hold each other, and what they leave."""
        rows = look.rows / np.append(self.scales, np.ones(len(look.found) - 2))[:, None]
        held = look.found[2:] > -_NEAR * np.abs(look.found[2:]).max(initial=0.0)
        weights, left = compromise(rows * np.append([True, True], held)[:, None], look.shares)
        return np.append(weights[:2] / self.scales, weights[2:]), left

    def start(self, index: int, *, pushed: bool = True) -> Start:
        """An outcome to begin at, with the multipliers that it has for the first objective."""
        look = self.looks[index]
        weights, _ = self.tradeoff(look)
        parts = weights[:2] * self.scales
        if pushed and parts[0] > _NEAR * parts[1]:
            pushes = weights / weights[0]
            pushes[:2] *= [0.0, self.scales[1]]
        else:
            pushes = np.zeros_like(weights)
        return Start(look.market, look.clearing, jnp.array(pushes))


def _met(history: History) -> Bool[np.ndarray, " T"]:
    """Which steps meet the constraints, to a thousandth of the largest that each has been."""
    rows = history.constraints[:, 2:]
    return np.all(rows <= _NEAR * np.abs(rows).max(axis=0, initial=0.0), axis=1)


def _refuse(market: Market, objectives: Any, solver: Any, bounds: Any, points: int) -> None:
    """`ValueError` in one sentence for what makes no front."""
    if points < 2:
        raise ValueError(f"pareto: points={points}; give at least 2, the ends of the front.")
    if bounds is None:
        raise ValueError("pareto: give bounds=(low, high) of the fields; ends may lie at them.")
    if not isinstance(objectives, Sequence) or len(objectives) != 2:
        raise ValueError(
            "pareto: give two objectives, [f, g]; what else matters may be held by constraints=."
        )
    lanes = is_batch(market)
    for place_, objective in enumerate(objectives):
        if not callable(objective):
            raise ValueError(f"pareto: objectives[{place_}] is no function of market and clearing.")

        def each(market: Market, objective: Outcome = objective) -> Any:
            return objective(market, blank(market, solver))

        found = eqx.filter_eval_shape(jax.vmap(each) if lanes else each, market)
        shape = np.shape(found)[lanes:]
        if shape:
            raise ValueError(
                f"pareto: objectives[{place_}] gives an array of shape {shape}; make one number of "
                "it, such as its sum."
            )


def _names(objectives: Sequence[Outcome]) -> tuple[str, str]:
    """What functions call themselves; of those without a name, which they are."""
    found = [getattr(f, "__name__", "<lambda>") for f in objectives]
    first, second = (
        name if name.isidentifier() and found.count(name) == 1 else word
        for name, word in zip(found, ("first", "second"), strict=True)
    )
    return first, second
