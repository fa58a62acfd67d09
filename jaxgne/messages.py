"""The mechanism over a real network: messages are lost, late and stale, prosumers act when they do.

What the paper's Algorithm 1 becomes then, with an operator or without one, is judged as any answer
is, and told with the rounds and bytes that it takes and the privacy that it spends. Noise hides
what prosumers say (`privacy`); without an operator sums and prices are agreed on over a graph
(`consensus`). `docs/messages.md` says what theory promises of which, and what it does not.
"""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .channels import Medium
from .clearing import clear, ready
from .consensus import Graph, graph_of
from .conversation import NUMBER, Conversation
from .dialogue import Ways, begun, point_of, talked
from .each import for_one
from .market import Market, cast
from .model import Plan, Rows
from .optimality import pin, residuals
from .options import checked_options
from .privacy import Noise, epsilon, round_cost
from .programs import program
from .result import Clearing
from .runner import concrete
from .solvers.base import written
from .solvers.semidecentralized import SemiDecentralized
from .tables import has_caps, has_zones
from .tracking import distances
from .validation import gate

_BOUNDS = {
    "participation": "give a probability above 0 and at most 1",
    "step": "give a share above 0 and at most 1",
    "clip": "give kW above 0, or infinity",
    "delta": "give a probability between 0 and 1",
}
_TOL = 1e-9  # of the clearing that answers are held against


@for_one()
def simulate(
    market: Market,
    solver: SemiDecentralized | None = None,
    *,
    rounds: int = 1000,
    every: int | None = None,
    loss: float = 0.0,
    delay: int = 0,
    participation: float = 1.0,
    step: float = 1.0,
    graph: Any = None,
    noise: float = 0.0,
    noise_kind: Noise = "gaussian",
    clip: float = np.inf,
    delta: float = 1e-5,
    seeds: int = 1,
    seed: int = 0,
    start: Clearing | None = None,
    exact: Clearing | None = None,
) -> Conversation:
    """How `rounds` of the paper's mechanism go where messages may be lost, late and hidden.

    In a round each prosumer acts with probability `participation`: it answers the prices that it
    knows of, and says what it buys, sells and draws, and to its partners what it would trade.
    Everyone goes a `step` of the way to its answer: all of it by default; less where messages are
    late, or else rounds may never end. Each message is lost with probability `loss`, else it
    arrives after 0 to `delay` rounds; receivers go by the newest that they have. `solver` gives
    step sizes: `balance` and `rule`; it is the basic mechanism, without relaxation, inertia and
    preference. One look at the answer comes `every` so many rounds, by default 100 in all.

    Without a `graph` an operator keeps the shared prices. With one there is none: every prosumer
    has a copy of its state and prices and of all sums, which it mixes with those that it hears.
    `graph[i, j]` says whether i hears j (0 and 1), or what i takes of j's (columns add up to 1);
    shape (N, N), or (T, N, N) for graphs that come in turn (`jaxgne.consensus`).

    `noise` in kW is added to each number that a prosumer says of itself: the standard deviation,
    or for a `noise_kind` of "laplace" its scale. With `clip`, kW, which bounds how far all that
    it says may be from the `start`, which everyone knows, that is differentially private, of an
    epsilon at `delta` (`jaxgne.privacy`).

    Runs of a `market` differ by their random numbers, `seeds` of them from `seed` on, all in one
    compiled program. They begin from `start`, a clearing, or cold; `exact` is the clearing that
    they are held against, made where it is not given.

    Raises `TypeError` traced, `ValueError` for options that make no sense, for a market with caps
    or in three phases, and what `clear` raises where the market has no clearing.
    """
    solver = SemiDecentralized() if solver is None else solver
    checked_options(
        "messages.simulate", market, solver, start=start, rounds=rounds, every=every, seeds=seeds
    )
    if not concrete((market, start)):
        raise TypeError("messages.simulate() runs on the host: call it outside of jit.")
    gate(market, "messages.simulate")
    amounts = {"loss": (loss, 0.0, 1.0), "delay": (delay, 0, 1000), "noise": (noise, 0.0, np.inf)}
    _check(market, solver, seed, noise_kind, amounts)
    for word, value, fine in (
        ("participation", participation, 0 < participation <= 1),
        ("step", step, 0 < step <= 1),
        ("clip", clip, clip > 0),
        ("delta", delta, 0 < delta < 1),
    ):
        if not fine:
            raise ValueError(f"messages.simulate: {word}={value!r}; {_BOUNDS[word]}.")
    every = max(1, rounds // 100) if every is None else every
    if every > rounds:
        raise ValueError(f"messages.simulate: every={every} of {rounds} rounds is no look at all.")
    links = None if graph is None else graph_of(graph, market.prosumers.load.shape[0])
    narrow = jnp.finfo(market.prosumers.load.dtype).bits < 64
    if exact is None:
        exact = clear(market, tol=None if narrow else _TOL)
    market, arrays, plan, prices = ready(market, solver, start)
    numbers = {"participation": participation, "noise": noise, "clip": clip, "step": step}
    numbers = {name: jnp.asarray(a, market.prosumers.load.dtype) for name, a in numbers.items()}
    medium = Medium(jnp.asarray(loss), jnp.asarray(delay, jnp.int32))
    ways, spread = Ways(medium, **numbers), jnp.asarray(delta)
    links = cast(links, market.prosumers.load.dtype)
    keys = jax.vmap(jax.random.key)(seed + jnp.arange(seeds))
    found, (plans, their_prices) = _simulate(
        market, arrays, plan, prices, (exact.plan, exact.prices), links, ways, spread,
        jax.random.key_data(keys), jnp.asarray(every, jnp.int32),
        looks=rounds // every, kind=noise_kind, depth=1 << int(delay).bit_length(),
    )  # fmt: skip
    return Conversation(
        rounds=jnp.arange(1, rounds // every + 1) * every,
        **found,
        delta=spread,
        plan=plans,
        prices=their_prices,
        exact=exact,
        told=_in_words(loss, delay, participation, links, noise, noise_kind, clip),
    )


@program("the rounds of messages", once=True)
def _simulate(
    market: Market,
    solver: Any,
    plan: Plan,
    prices: Rows,
    exact: tuple[Plan, Rows],
    graph: Graph | None,
    ways: Ways,
    delta: Array,
    keys: Array,
    every: Array,
    *,
    looks: int,
    kind: Noise,
    depth: int,
) -> tuple[dict[str, Array], tuple[Plan, Rows]]:
    def one(data: Array) -> tuple[dict[str, Array], tuple[Plan, Rows]]:
        key = jax.random.wrap_key_data(data)
        state = solver.init(market, plan, prices)
        setting = state.setting

        def onward(_: Any, talk: Any) -> Any:
            return talked(market, setting, talk, ways, jax.random.fold_in(key, talk.rounds), kind)

        def look(talk: Any, _: None) -> tuple[Any, dict[str, Array]]:
            talk = jax.lax.fori_loop(0, every, onward, talk)
            reached, values, apart = point_of(market, solver, setting, talk)
            found = residuals(market, reached, values)
            far = distances(market, (reached, pin(market, values)), exact)
            names = ("distance", "power", "total", "price")
            seen = dict(zip(names, far, strict=True))
            spent = jnp.max(talk.acted) * round_cost(ways.noise, ways.clip, kind)
            seen |= {"error": found.error, "regret": jnp.sum(found.gap), "apart": apart}
            return talk, seen | {"sent": NUMBER * talk.numbers, "epsilon": epsilon(spent, delta)}

        talk, seen = jax.lax.scan(look, begun(market, state, graph, depth), None, length=looks)
        reached, values, _ = point_of(market, solver, setting, talk)
        return seen, (reached, pin(market, values))

    shown = jax.dtypes.canonicalize_dtype(float)
    with jax.enable_x64(True):
        seen, reached = jax.vmap(one)(keys)
        return cast(seen, shown), cast(reached, market.prosumers.load.dtype)


def _check(
    market: Market,
    solver: SemiDecentralized,
    seed: int,
    noise_kind: str,
    numbers: dict[str, tuple[Any, float, float]],
) -> None:
    """Raise `ValueError` in one sentence for the first thing that makes no sense."""
    name = "messages.simulate"
    if not isinstance(solver, SemiDecentralized):
        raise ValueError(f"{name}: solver is {written(solver)}; give jaxgne.SemiDecentralized().")
    plain = {"relaxation": solver.relaxation == 1, "inertia": solver.inertia == 0}
    plain["preference"] = solver.preference is None
    for word in [word for word, fine in plain.items() if not fine]:
        raise ValueError(f"{name}: solver has a {word}, of which messages tell nothing; leave it.")
    if has_caps(market):
        raise ValueError(f"{name}: this market has caps, whose sums nobody sends; leave them out.")
    if has_zones(market):
        raise ValueError(
            f"{name}: this market has price zones, and one total is sent; take it without zones."
        )
    if market.grid.model.phased:
        raise ValueError(
            f"{name}: this grid is in three phases, and reports are by bus; take its balanced one, "
            "jaxgne.grids.balanced."
        )
    if noise_kind not in get_args(Noise):
        raise ValueError(f"{name}: noise_kind={noise_kind!r} is none of gaussian, laplace.")
    for word, (value, low, high) in {**numbers, "seed": (seed, 0, 2**31)}.items():
        known = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        whole = word not in ("delay", "seed") or (known and value == int(value))
        if not (known and whole and low <= value < high):
            kind = "whole number" if word in ("delay", "seed") else "number"
            raise ValueError(
                f"{name}: {word}={value!r}; give a {kind} from {low:g} to below {high:g}."
            )


def _in_words(
    loss: float,
    delay: int,
    participation: float,
    links: Graph | None,
    noise: float,
    kind: Noise,
    clip: float,
) -> str:
    """What is not as on a network where all arrives at once."""
    center = "an operator"
    if links is not None:
        count, turns = links.source.size, links.share.shape[0]
        center = f"no operator, {count} links" + (f" in {turns} turns" if turns > 1 else "")
    told = [center]
    told += [f"{100 * loss:g} % of messages lost"] * (loss > 0)
    told += [f"up to {delay} rounds late"] * (delay > 0)
    told += [f"{100 * participation:g} % act in a round"] * (participation < 1)
    told += [f"{kind} noise of {noise:g} kW"] * (noise > 0)
    told += [f"words clipped to {clip:g} kW"] * bool(np.isfinite(clip))
    return ", ".join(told)
