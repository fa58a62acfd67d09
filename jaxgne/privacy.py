"""Differential privacy of what prosumers say, round after round: noise, clipping, and the budget.

What a prosumer says in a round is what all knew of it before the first one, plus how far it is from
that now, scaled down to a norm of at most `clip`, plus noise. So two households of any different
data say what differs by at most 2 `clip` before the noise, the sensitivity, whatever was said until
then. What was known before is public: a start that shows today's loads hides nothing of them.
Sources: Dwork, Roth, "The Algorithmic Foundations of Differential Privacy", 2014 (the mechanisms of
Laplace and Gauss); Bun, Steinke, "Concentrated Differential Privacy", TCC 2016 (zCDP: it adds up,
and what it is as epsilon at a delta).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Noise = Literal["gaussian", "laplace"]


def spoken(
    known: Float[Array, "N D"],
    meant: Float[Array, "N D"],
    used: Bool[Array, "N D"],
    noise: Float[Array, ""],
    clip: Float[Array, ""],
    kind: Noise,
    key: Array,
) -> Float[Array, "N D"]:
    """What prosumers say, kW, who mean something else than what was `known` of them.

    `noise` is the standard deviation of a Gaussian, or the scale b of a Laplace distribution, of
    each number that is `used`. The change is kept within `clip` by its Euclidean norm, for Laplace
    noise by the sum of its absolute values; an infinite `clip` keeps it as it is.
    """
    change = meant - known
    if kind == "gaussian":
        size = jnp.sqrt(jnp.sum(change**2, axis=1, keepdims=True))
        draw = jax.random.normal(key, known.shape, known.dtype)
    else:
        size = jnp.sum(jnp.abs(change), axis=1, keepdims=True)
        draw = jax.random.laplace(key, known.shape, known.dtype)
    over = size > clip
    within = known + change * (clip / jnp.where(over, size, 1.0))
    return jnp.where(over, within, meant) + jnp.where(used, noise * draw, 0.0)


def round_cost(noise: Array, clip: Array, kind: Noise) -> Float[Array, ""]:
    """The zCDP cost rho of one round with `noise` of a `kind`, around words that have a `clip`, kW.

    It is infinite without noise or clipping. Of Gaussian noise it is (2 clip)^2 / (2 noise^2). A
    round with Laplace noise is epsilon-private with epsilon = 2 clip / noise, and so
    epsilon^2 / 2 in rho. Costs of rounds add up.
    """
    del kind  # both are half the square of sensitivity over scale
    bounded = jnp.isfinite(clip) & (noise > 0)
    ratio = jnp.where(bounded, 2 * clip, 0.0) / jnp.where(noise > 0, noise, 1.0)
    return jnp.where(bounded, ratio**2 / 2, jnp.inf)


def epsilon(rho: Array, delta: Array | float) -> Float[Array, "..."]:
    """The epsilon at which what costs `rho` in zCDP is (epsilon, delta)-private: Bun, Steinke.

    rho + 2 sqrt(rho log(1 / delta)), for any `delta` in (0, 1).
    """
    return rho + 2 * jnp.sqrt(rho * jnp.log(1 / jnp.asarray(delta)))
