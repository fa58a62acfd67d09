"""Whom prosumers would rather deal with: nearby, green, well reputed or known partners.

    market = preferences.with_preferences(market, {"local": 0.02, "green": 0.03})

A preference is about the size of a trade, whichever way it goes, and is no cash: it fills
`Trading.reluctance`, which both sides of a pair reckon with and nobody is paid. Each criterion says
how little a pair is liked, from 0 to 1, and its weight how many EUR/kWh that is worth to the two
together at 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .charges import distances
from .each import for_one
from .kinds import KINDS
from .market import Market
from .model import pairs_of_parties
from .names import rows_of
from .record import changed
from .runner import to_device
from .scenarios import stack

CRITERIA = ("local", "green", "reputation", "social")
Weights = Mapping[str, float]  # EUR/kWh by criterion

_RENEWABLE = ("photovoltaic", "wind", "hydro")
_GIVEN = ("reputation", "social")  # what no market knows


@for_one()
def with_preferences(
    market: Market,
    weights: Weights | Sequence[Weights],
    *,
    green: Any = None,
    reputation: Any = None,
    social: Any = None,
) -> Market:
    """The market whose pairs reckon with the sum of all criteria, each times its weight, EUR/kWh.

    `weights` are by criterion, EUR/kWh of both sides together at a dislike of 1. Several of them
    make a batch, one scenario each, for `jg.clear_many`: the front between what is liked and what
    is cheap. Dislikes, 0 to 1, are

    - "local": the electrical distance of the pair (`charges.distances`), of the largest there is;
    - "green": 1 less the renewable share of what the two can make in the hour; 1 where they make
      nothing. `green` is that share of each prosumer's, (N,) or (N, H); by default sun, wind and
      hydro among its generators, and all surplus of `Prosumers.load`;
    - "reputation": 1 less the mean of both sides' scores, `reputation` (N,) from 0 to 1;
    - "social": 1 less the closeness of the two, `social` (N, N) from 0 to 1, the mean of how close
      each says the other is; or a list of pairs that know one another, tuples of two prosumers by
      number or name, closeness 1.

    A reluctance that the market had is replaced, but that of pairs with a pool, which is nobody
    whom one would like or not. Runs on the host. Raises `ValueError` for an
    unknown criterion, for a weight below 0, and for numbers that are missing or not from 0 to 1.
    """
    listed: Sequence[Any] = [weights] if isinstance(weights, Mapping) else weights
    if isinstance(listed, str) or not all(isinstance(each, Mapping) for each in listed):
        raise ValueError(
            f"with_preferences: weights is {weights!r:.60}; give EUR/kWh by criterion, such as "
            "{'local': 0.02}, or several of these."
        )
    if not listed:
        raise ValueError("with_preferences: weights has none; give one mapping, or several.")
    named = {name for each in listed for name in each}
    for name in sorted(named - {*CRITERIA}):
        raise ValueError(
            f"with_preferences: weights has {name!r}; choose from {', '.join(CRITERIA)}."
        )
    given = {"green": green, "reputation": reputation, "social": social}
    for name, value in given.items():
        if value is not None and name not in named:
            raise ValueError(f"with_preferences: {name} has no weight; give one in weights.")
        if value is None and name in named and name in _GIVEN:
            raise ValueError(f"with_preferences: weights has {name!r}; give {name}= as well.")
    for each in listed:
        for name, weight in each.items():
            if not 0 <= weight < np.inf:
                raise ValueError(
                    f"with_preferences: weight {weight!r} of {name!r}; give EUR/kWh, 0 or more."
                )
    found = {name: _dislike(market, name, given.get(name)) for name in sorted(named)}
    none = 0 * sum(found.values(), np.zeros((len(market.trading.buyer), 1)))
    made = [
        _reluctant(market, sum((w * found[name] for name, w in each.items()), none))
        for each in listed
    ]
    return made[0] if isinstance(weights, Mapping) else stack(made)


def _reluctant(market: Market, value: Float[np.ndarray, "E #H"]) -> Market:
    both = np.asarray(pairs_of_parties(market))[:, None]
    made = value if both.all() else np.where(both, value, np.asarray(market.trading.reluctance))
    made = made.astype(market.prosumers.load.dtype)
    return changed(market, trading=changed(market.trading, reluctance=to_device(made)))


def _dislike(market: Market, name: str, given: Any) -> Float[np.ndarray, "E #H"]:
    """How little each pair is liked by one criterion, 0 to 1."""
    pairs = market.trading
    buyer, seller = np.asarray(pairs.buyer), np.asarray(pairs.seller)
    people = len(market.prosumers.bus)
    if name == "local":
        apart = distances(market)[:, None]
        most = np.max(apart[np.asarray(pairs_of_parties(market))], initial=0.0)
        return apart / max(most, np.finfo(float).tiny)
    if name == "reputation":
        score = _shares("reputation", given, (people,))
        return 1 - ((score[buyer] + score[seller]) / 2)[:, None]
    if name == "social":
        close = _closeness(given, market.prosumers.names, people)
        return 1 - ((close[buyer, seller] + close[seller, buyer]) / 2)[:, None]
    renewable, able = _makes(market)
    if given is not None:
        share = np.asarray(given, float)
        shape = (people,) if share.ndim == 1 else (people, able.shape[1])
        share = _shares("green", share, shape)
        renewable = able * (share[:, None] if share.ndim == 1 else share)
    both, total = renewable[buyer] + renewable[seller], able[buyer] + able[seller]
    return 1 - np.where(total > 0, both / np.where(total > 0, total, 1.0), 0.0)


def _makes(market: Market) -> tuple[Float[np.ndarray, "N H"], Float[np.ndarray, "N H"]]:
    """What each prosumer can make that is renewable, and in all, kW."""
    units = market.generators
    surplus = np.maximum(-np.asarray(market.prosumers.load, float), 0.0)
    green, able = surplus.copy(), surplus.copy()
    most = np.maximum(np.asarray(units.power_max, float), 0.0)
    kinds = [KINDS["generator"].index(word) for word in _RENEWABLE]
    clean = np.isin(np.asarray(units.kind), kinds)[:, None]
    np.add.at(able, np.asarray(units.owner), most)
    np.add.at(green, np.asarray(units.owner), np.where(clean, most, 0.0))
    return green, able


def _closeness(given: Any, names: Sequence[str], people: int) -> Float[np.ndarray, "N N"]:
    """That of each two: as given, or 1 for pairs that are listed, by number or name."""
    listed = not isinstance(given, np.ndarray) and all(isinstance(one, tuple) for one in given)
    if listed and all(len(one) == 2 for one in given):
        ends = [one for pair in given for one in pair]
        first, second = np.reshape(
            rows_of("with_preferences: social", "prosumer", ends, names, people), (-1, 2)
        ).T.astype(int)
    else:
        array = np.asarray(given if not listed else np.empty(0), float)
        if array.shape == (people, people):
            return _shares("social", array, (people, people))
        if array.ndim != 2 or array.shape[1] != 2 or not np.all(np.isin(array, np.arange(people))):
            raise ValueError(
                f"with_preferences: social has shape {array.shape}; give closeness "
                f"({people}, {people}) from 0 to 1, or pairs (i, j) of prosumers 0 to "
                f"{people - 1}."
            )
        first, second = array.astype(int).T
    close = np.zeros((people, people))
    close[first, second] = close[second, first] = 1.0
    return close


def _shares(name: str, given: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Numbers from 0 to 1 of this shape; `ValueError` for others."""
    value = np.asarray(given, float)
    if value.shape != shape or not np.all((value >= 0) & (value <= 1)):
        raise ValueError(
            f"with_preferences: {name} has shape {value.shape}, from {np.min(value, initial=1):g} "
            f"to {np.max(value, initial=0):g}; give {shape}, each from 0 to 1."
        )
    return value
