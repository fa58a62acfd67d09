"""Random scenarios that agree in their first steps, for tests of markets with branches."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne.record import changed
from tests.infeasible import SMALL
from tests.markets import random_market

SHARE = (0.5, 0.3, 0.2)
SPLIT = 2


def drawn(seed: int, count: int = 3, **options) -> list[jg.Market]:
    """A random market, and others whose loads and prices are more or less from step 2 on."""
    first, rng = random_market(seed, shape=SMALL, **options), np.random.default_rng([seed, 3])
    length = jnp.asarray([0.5, 1.0, 0.25, 2.0])
    kept = changed(first.buffers, retention=first.buffers.retention * 0.98**length)
    first = changed(first, hour_length=length, buffers=kept)
    made = [first]
    for _ in range(count - 1):
        later = np.ones(4)
        later[SPLIT:] = rng.uniform(0.8, 1.1, 2)
        made.append(
            eqx.tree_at(
                lambda m: (m.prosumers.load, m.tariff.base, m.buffers.retention),
                first,
                (
                    first.prosumers.load * later,
                    first.tariff.base * later[::-1].mean() * later,
                    first.buffers.retention * np.where(later < 1, 0.97, 1.0),
                ),
            )
        )
        base = made[-1].tariff.base.at[:SPLIT].set(first.tariff.base[:SPLIT])
        made[-1] = eqx.tree_at(lambda m: m.tariff.base, made[-1], base)
    return made
