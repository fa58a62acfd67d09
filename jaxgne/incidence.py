"""What lines take from buses and bring to them, and what their flows take of states on the way.

A line leaves its `source` for its `target`; one to a terminal leaves two or three phases at once,
with complex shares of what it carries. Conductors of one line take of one another's voltages.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, Int

from .market import Grid
from .radial import Ladder
from .record import Record
from .runner import jnp, remembered

Falls = Mapping[str, tuple[Float[Array, " L"], Float[Array, " L"]]]

TURN = 1 / (2 * math.sqrt(3))  # imaginary part of a share between two phases


class Shares(Record):
    """Of what lines to terminals carry, P + jQ: real + j imaginary times it leaves each phase.

    Between two phases exp(-j 30 deg) / sqrt(3) leaves the first and exp(j 30 deg) / sqrt(3) the
    next, as a constant power does at voltages 120 degrees apart; of three a third leaves each.
    """

    real: Float[Array, " V"]  # of each phase
    turn: Float[Array, " V"]  # imaginary, of the next phase; the first has its negative
    last: Float[Array, " V"]  # real, of the phase after that
    third: Int[Array, " V"]  # where that is; where there is none, any


@remembered
def shares(grid: Grid) -> Shares:
    two = grid.third < 0
    real = jnp.where(two, 1 / 2, 1 / 3).astype(grid.resistance.dtype)
    turn = jnp.where(two, TURN, 0.0).astype(real.dtype)
    return Shares(real, turn, jnp.where(two, 0.0, real), jnp.maximum(grid.third, 0))


def has_terminals(grid: Grid) -> bool:
    """Whether a grid, or each of a batch, has any."""
    return grid.terminal.shape[-1] > 0


@remembered
def falls(grid: Grid) -> Falls:
    """What a kW and a kvar on each line take of each state of its source (model.md: Grid)."""
    return grid.model.falls(grid.resistance, grid.reactance)


@remembered
def beside(grid: Grid) -> tuple[Falls, Falls]:
    """The same by mutual impedances: `coupled` lines by `following` ones, and the other way."""
    return grid.model.beside(grid.mutual_resistance, grid.mutual_reactance)


@remembered
def ratios(grid: Grid) -> Mapping[str, Float[Array, " L"]]:
    """What divides each state of a line's source in its row: 1 without a transformer."""
    return grid.model.ratios(grid.tap)


def all_falls(grid: Grid) -> list[Falls]:
    """All that flows take of states: along their own lines, and by mutual impedances."""
    return [falls(grid), *(found for _, found in _couplings(grid))]


def fallen(
    grid: Grid, state: str, active: Float[Array, "L H"], reactive: Float[Array, "L H"]
) -> Float[Array, "L H"]:
    """What flows take of a state along each line."""
    by_active, by_reactive = falls(grid)[state]
    fall = by_active[:, None] * active + by_reactive[:, None] * reactive
    for line, _, of in _neighbors(grid):
        a, b = of[state]
        fall = fall + a[:, None] * _lookup(active, line) + b[:, None] * _lookup(reactive, line)
    return fall


def pulled_back(
    grid: Grid, state: str, price: Float[Array, "L H"]
) -> tuple[Float[Array, "L H"], Float[Array, "L H"]]:
    """The transpose: what a price of the state's fall makes a kW and a kvar on lines cost."""
    by_active, by_reactive = falls(grid)[state]
    active, reactive = by_active[:, None] * price, by_reactive[:, None] * price
    for _, line, of in _neighbors(grid):
        felt, (a, b) = _lookup(price, line), (_lookup(part, line) for part in of[state])
        active, reactive = active + a[:, None] * felt, reactive + b[:, None] * felt
    return active, reactive


@remembered
def _neighbors(grid: Grid) -> list[tuple[Int[Array, " L"], Int[Array, " L"], Falls]]:
    """By line: the conductor that acts on it, the one that it acts on, and what the first takes.

    Twice: by the next phase, and by the one before; beyond the last line where there is none.
    Gathered like this, as adding at places is slow.
    """
    if not grid.coupled.shape[-1]:
        return []
    count = grid.source.shape[0]
    none = jnp.full(count, count, grid.coupled.dtype)
    after, before = (
        none.at[grid.coupled].set(grid.following),
        none.at[grid.following].set(grid.coupled),
    )
    nothing = jnp.zeros_like(grid.resistance)
    told = []
    for (line, other), row, found in zip(
        ((after, before), (before, after)),
        (grid.coupled, grid.following),
        beside(grid),
        strict=True,
    ):
        spread = {
            state: (nothing.at[row].set(a), nothing.at[row].set(b))
            for state, (a, b) in found.items()
        }
        told.append((line, other, spread))
    return told


def _lookup(values: Array, index: Int[Array, " L"]) -> Array:
    """The values at an index, 0 where it is beyond the last."""
    return values.at[index].get(mode="fill", fill_value=0)


def _couplings(grid: Grid) -> list[tuple[tuple[Array, Array], Falls]]:
    """Lines whose states fall, by which others, and how much."""
    if not grid.coupled.shape[-1]:
        return []
    first, second = beside(grid)
    return [((grid.coupled, grid.following), first), ((grid.following, grid.coupled), second)]


def left(
    grid: Grid, active: Float[Array, "L H"], reactive: Float[Array, "L H"]
) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """What leaves each bus on lines, net: kW, and kvar where these are balanced (else 0)."""
    ends = jnp.concatenate([grid.source, grid.target])
    zero = jnp.zeros((grid.voltage_min.shape[0], active.shape[1]), active.dtype)
    if not has_terminals(grid):
        drawn = zero.at[ends].add(jnp.concatenate([active, -active]))
        if not grid.reactive_balance:
            return drawn, zero
        return drawn, zero.at[ends].add(jnp.concatenate([reactive, -reactive]))
    (p, q), share, at = (active, reactive), shares(grid), grid.terminal
    real, turn, last = (part[:, None] for part in (share.real, share.turn, share.last))
    drawn = []
    for own, other in ((p, turn * q[at]), (q, -turn * p[at])):
        taken = own.at[at].set(real * own[at] + other)
        found = zero.at[ends].add(jnp.concatenate([taken, -own]))
        found = found.at[grid.second].add(real * own[at] - other)
        drawn.append(found.at[share.third].add(last * own[at]))
    return drawn[0], drawn[1]


def across(
    grid: Grid, active: Float[Array, "B H"], reactive: Float[Array, "B H"]
) -> tuple[Float[Array, "L H"], Float[Array, "L H"]]:
    """The transpose: prices of both powers where each line begins, less those where it ends.

    Without reactive balances only those of active power.
    """
    ends = jnp.concatenate([grid.source, grid.target])

    def along(price: Array) -> Array:
        near, far = jnp.split(price[ends], 2)
        return near - far

    if not has_terminals(grid):
        by_active = along(active)
        return by_active, along(reactive) if grid.reactive_balance else jnp.zeros_like(by_active)
    share, at = shares(grid), grid.terminal
    real, turn, last = (part[:, None] for part in (share.real, share.turn, share.last))
    first = grid.source[at]
    prices = []
    for own, other, sign in ((active, reactive, -1), (reactive, active, 1)):
        near = real * (own[first] + own[grid.second]) + last * own[share.third]
        near = near + sign * turn * (other[first] - other[grid.second])
        prices.append(along(own).at[at].set(near - own[grid.target[at]]))
    return prices[0], prices[1]


def seen(grid: Grid, state: Float[Array, "B H"]) -> tuple[Float[Array, "L H"], Float[Array, "L H"]]:
    """A state where each line begins, the mean of its phases, and where it ends."""
    near, far = jnp.split(state[jnp.concatenate([grid.source, grid.target])], 2)
    if not has_terminals(grid):
        return near, far
    share, at = shares(grid), grid.terminal
    real, last = share.real[:, None], share.last[:, None]
    mean = real * (near[at] + state[grid.second]) + last * state[share.third]
    return near.at[at].set(mean), far


def handed_back(
    grid: Grid, near: Float[Array, "L H"], far: Float[Array, "L H"]
) -> Float[Array, "B H"]:
    """The transpose: what is at both ends of lines, by bus."""
    ends = jnp.concatenate([grid.source, grid.target])
    zero = jnp.zeros((grid.voltage_min.shape[0], near.shape[1]), near.dtype)
    if not has_terminals(grid):
        return zero.at[ends].add(jnp.concatenate([near, far]))
    share, at = shares(grid), grid.terminal
    real, last = share.real[:, None], share.last[:, None]
    own = near[at]
    found = zero.at[ends].add(jnp.concatenate([near.at[at].set(real * own), far]))
    return found.at[grid.second].add(real * own).at[share.third].add(last * own)


def gathered(
    grid: Grid, ladder: Ladder, active: Float[Array, "B H"], reactive: Float[Array, "B H"]
) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """What buses of a tree draw, made so that sums of all behind a line are what it carries.

    What is drawn at and behind terminals counts at their phases by its shares.
    """
    if not has_terminals(grid):
        return active, reactive
    share, at = shares(grid), grid.terminal
    real, turn, last = (part[:, None] for part in (share.real, share.turn, share.last))
    p, q = (ladder.behind(drawn)[grid.target[at]] for drawn in (active, reactive))
    found = []
    for drawn, own, other in ((active, p, turn * q), (reactive, q, -turn * p)):
        drawn = drawn.at[grid.source[at]].add((real - 1) * own + other)
        drawn = drawn.at[grid.second].add(real * own - other)
        found.append(drawn.at[share.third].add(last * own))
    return found[0], found[1]


def levelled(
    grid: Grid, ladder: Ladder, base: Float[Array, "B 1"], state: Float[Array, "B H"]
) -> Float[Array, "B H"]:
    """A state of a tree with terminals, and all behind them, at the mean of their phases.

    As found along the tree they are at their first phase's; `base` is what ratios make of it.
    """
    if not has_terminals(grid):
        return state
    at, none = grid.terminal, jnp.zeros_like(state)
    apart = seen(grid, state)[0][at] - state[grid.source[at]]
    bus = grid.target[at]
    return state + base * ladder.along(none.at[bus].set(apart / base[bus]))


class Entries(Record):
    """The rows that each line's flows enter beside its own, with how much, slot by slot.

    Flows leave `bus` with `real` and `imaginary` shares and take `active` and `reactive` of the
    state of line `row`; a slot that a line does not need has zeros.
    """

    bus: Int[Array, "S L"]
    real: Float[Array, "S L"]
    imaginary: Float[Array, "S L"]
    row: Int[Array, "T L"]
    active: dict[str, Float[Array, "T L"]]
    reactive: dict[str, Float[Array, "T L"]]


def entries(grid: Grid) -> Entries:
    """Both ends of lines and what their flows take, as columns of the network's matrix."""
    line = jnp.arange(grid.source.shape[0])
    one, none = jnp.ones_like(grid.resistance), jnp.zeros_like(grid.resistance)
    where = [grid.source, grid.target]
    real, imaginary = [one, -one], [none, none]
    if has_terminals(grid):
        share, at = shares(grid), grid.terminal
        real[0], imaginary[0] = one.at[at].set(share.real), none.at[at].set(-share.turn)
        nought = jnp.zeros_like(grid.source)
        where += [nought.at[at].set(grid.second), nought.at[at].set(share.third)]
        real += [none.at[at].set(share.real), none.at[at].set(share.last)]
        imaginary += [none.at[at].set(share.turn), none]
    rows = [line]
    taken = {state: ([a], [b]) for state, (a, b) in falls(grid).items()}
    for (row, column), found in _couplings(grid):
        rows.append(jnp.zeros_like(line).at[column].set(row))
        for state, (a, b) in found.items():
            taken[state][0].append(none.at[column].set(a))
            taken[state][1].append(none.at[column].set(b))
    return Entries(
        bus=jnp.stack(where),
        real=jnp.stack(real),
        imaginary=jnp.stack(imaginary),
        row=jnp.stack(rows),
        active={state: jnp.stack(a) for state, (a, _) in taken.items()},
        reactive={state: jnp.stack(b) for state, (_, b) in taken.items()},
    )


def flow_matrix(grid: Grid) -> Float[Array, "R 2*L"]:
    """What active, then reactive flows do to the rows of the network, as a dense matrix.

    Balances of active and of reactive power bus by bus, then each state of the model line by line.
    """
    found, (buses, lines) = entries(grid), (grid.voltage_min.shape[0], grid.source.shape[0])
    line = jnp.arange(lines)
    none = jnp.zeros((buses, lines), grid.resistance.dtype)
    real, imaginary = (none.at[found.bus, line].add(a) for a in (found.real, found.imaginary))
    parts = [[real, -imaginary], [imaginary, real]]
    square = jnp.zeros((lines, lines), grid.resistance.dtype)
    parts += [
        [-square.at[found.row, line].add(each[state]) for each in (found.active, found.reactive)]
        for state in found.active
    ]
    return jnp.block(parts)


def ends_of(grid: Grid, ratio: Float[Array, " L"]) -> Float[Array, "L B"]:
    """What each line's row of a state takes of the states of buses, as a matrix."""
    line = jnp.arange(grid.source.shape[0])
    none = jnp.zeros((line.shape[0], grid.voltage_min.shape[0]), ratio.dtype)
    far = none.at[line, grid.target].add(-1.0)
    if not has_terminals(grid):
        return far.at[line, grid.source].add(1 / ratio)
    share, at = shares(grid), grid.terminal
    near = (1 / ratio).at[at].set(share.real)
    ends = far.at[line, grid.source].add(near).at[at, grid.second].add(share.real)
    return ends.at[at, share.third].add(share.last)


class Where(Record):
    """Of each row of buses: the bus that it is a phase of, and which (0, 1, 2 for a, b, c).

    Terminals are where their first phase is; all other rows that are no phase have -1.
    """

    bus: Int[Array, " B"]
    phase: Int[Array, " B"]


@remembered
def where(grid: Grid) -> Where:
    rows, count = grid.phases, grid.voltage_min.shape[0]
    at = jnp.where(rows < 0, count, rows)  # what a bus lacks is beyond the last row
    none = jnp.full(count + 1, -1, rows.dtype)
    bus = none.at[at].set(jnp.arange(rows.shape[0], dtype=rows.dtype)[:, None])[:count]
    phase = none.at[at].set(jnp.arange(3, dtype=rows.dtype))[:count]
    first, end = grid.source[grid.terminal], grid.target[grid.terminal]
    return Where(bus.at[end].set(bus[first]), phase.at[end].set(phase[first]))


def most_turned(grid: Grid, active: Array, reactive: Array) -> tuple[Array, Array]:
    """The most that lines can carry of what is drawn at most in all: shares turn one in the other.

    What stands between two phases draws up to 1 / (2 sqrt 3) of its reactive power as active power
    of a phase, and the other way round.
    """
    if not has_terminals(grid):
        return active, reactive
    turn = jnp.max(shares(grid).turn, initial=0.0)
    return active + turn * reactive, reactive + turn * active


def without_terminals(grid: Grid) -> np.ndarray:
    """Which lines lead to buses that are no terminals."""
    return np.isin(np.arange(grid.source.shape[-1]), np.asarray(grid.terminal), invert=True)
