"""Messages under way: lost, late and stale ones; a receiver goes by the newest that has arrived."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .record import Record

T = TypeVar("T")

_NEVER = 2**30  # rounds that a lost message is under way


class Medium(Record):
    """How messages fare: `loss` of them never arrive, the others after 0 to `delay` rounds.

    Each message is lost, and late, independently of the others, and all delays are equally likely.
    """

    loss: Float[Array, ""]
    delay: Int[Array, ""]


class Channel(Record):
    """`M` links, on each of which one sender tells one receiver something, round after round.

    What is said is any tree of arrays with a leading axis of links. Of messages that overtake one
    another the newest holds.
    """

    held: Any  # what receivers go by, leading axis M
    since: Int[Array, " M"]  # the round in which that was sent
    sent: Any  # the last messages, newest first: leading axes D, M
    under_way: Int[Array, "D M"]  # rounds that each of these takes


def opened(value: Any, depth: int) -> Channel:
    """Links whose receivers know the `value`; `depth` is more than the longest delay."""
    links = jax.tree.leaves(value)[0].shape[0]
    blank = jax.tree.map(lambda a: jnp.zeros((depth, *a.shape), a.dtype), value)
    never = jnp.full((depth, links), _NEVER, jnp.int32)
    return Channel(value, jnp.full(links, -1, jnp.int32), blank, never)


def told(
    channel: Channel,
    value: Any,
    speaks: Bool[Array, " M"],
    medium: Medium,
    now: Int[Array, ""],
    key: Array,
) -> Channel:
    """The channel after round `now`, in which the senders that speak have sent their `value`."""
    loses, waits = jax.random.split(key)
    lost = jax.random.uniform(loses, speaks.shape) < medium.loss
    wait = jax.random.randint(waits, speaks.shape, 0, medium.delay + 1, jnp.int32)
    wait = jnp.where(speaks & ~lost, wait, _NEVER)
    sent = jax.tree.map(lambda new, old: jnp.roll(old, 1, 0).at[0].set(new), value, channel.sent)
    under_way = jnp.roll(channel.under_way, 1, 0).at[0].set(wait)
    arrived = under_way <= jnp.arange(under_way.shape[0])[:, None]
    age, link = jnp.argmax(arrived, axis=0), jnp.arange(speaks.shape[0])
    newer = jnp.any(arrived, axis=0) & (now - age > channel.since)
    held = either(newer, jax.tree.map(lambda a: a[age, link], sent), channel.held)
    since = jnp.where(newer, now - age, channel.since)
    return Channel(held, since.astype(jnp.int32), sent, under_way)


def either(flags: Bool[Array, " M"], new: T, old: T) -> T:
    """Rows of one tree where flags are set, of another elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(along(flags, a), a, b), new, old)


def along(flags: Array, array: Array) -> Array:
    """One flag or number for each row, as many axes as the array has."""
    return flags.reshape(flags.shape + (1,) * (array.ndim - flags.ndim))
