"""The truth about a plan on the grid: an AC power flow, and what it finds.

In per unit of power 1 kW, the current of a bus that draws s is conj(s / v), a line carries the
currents of all buses behind it, and v falls by z times that along it. Backward and forward sweeps
repeat this, with constant powers at all buses, until v stands still. What a sweep does is the
lines' own: a grid is taken as balanced (one phase stands for three; `acloops`), or it is in three
phases (`acphases`). Feeders are held at `feeder_voltage`.
Of several states of the same powers sweeps come to one that they draw nearer to: on two buses the
upper of two, which is where a load that grows from nothing leads.
Always in float64. Derivatives go through the solution, not the sweeps.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from . import acloops, acphases
from .acloops import MOST_LOOPS as MOST_LOOPS
from .arguments import of_tables
from .each import for_each
from .market import Grid, Market, cast
from .model import Plan, counted, net_load, with_draws
from .programs import program
from .radial import forest, loops
from .record import Record
from .runner import built, concrete, hosted, jnp, lax, wide
from .validation import gate

VOLTAGE_SLACK = 1e-4  # pu beyond a limit that still counts as safe
LOADING_SLACK = 1e-3  # share of a rating beyond it that still does
TIGHT = 0.8  # share of a rating above which a line counts as tight

_TOL = 1e-11  # pu, change of a voltage in one sweep
_SWEEPS = 200


class Flow(Record):
    """The AC state of a grid, hour by hour.

    In three phases, of each and of each conductor. A terminal has the voltage between two phases,
    over sqrt(3), or the mean of three, and its line carries what it draws. What a conductor takes
    in less what it gives may be negative, since others' currents drive voltages along it: only
    their sum over a line is a loss.
    """

    voltage: Float[Array, "B H"]  # pu, magnitude
    angle: Float[Array, "B H"]  # rad; about -2 pi / 3 of phase b, of two phases of their difference
    active: Float[Array, "L H"]  # kW into the line at its source
    reactive: Float[Array, "L H"]  # kvar
    apparent: Float[Array, "L H"]  # kVA, at the end where it is larger
    current: Float[Array, "L H"]  # kVA at 1 pu, behind its transformer: what ratings limit
    losses: Float[Array, "L H"]  # kW
    exchange: Float[Array, "F H"]  # kW from the main grid at each feeder bus
    residual: Float[Array, " H"]  # pu, largest change of a voltage in one more sweep
    ok: Bool[Array, " H"]  # whether that is small, of a grid that can be examined
    examined: Bool[Array, ""]  # whether it can


class Unbalance(Record):
    """How unequal three phases are at most; places are flat indices.

    The voltage unbalance factor is |V2| / |V1| of a bus with three phases. What the phases of a
    line do not carry back for one another, the size of their currents' sum, returns by its neutral
    and the earth, if any line `returns`. In three wires, whose rows are `ab`, `bc` and `ca`, none
    does; that sum then means nothing, and counts as 0.
    """

    factor: Float[Array, ""]
    factor_place: Int[Array, ""]  # phase a of the bus
    neutral: Float[Array, ""]  # kVA at 1 pu, of one phase
    neutral_place: Int[Array, ""]  # the first conductor of the line
    returns: Bool[Array, ""]  # whether there is a neutral, or earth, to any line


class Safety(Record):
    """What an AC power flow finds for a plan; places are flat indices.

    It is one of a balanced equivalent, or in three phases: buses and lines are then phases and
    conductors, but `loss` is the largest of a whole line, at its first conductor.

    `excess` is how far a voltage lies outside its limits at most, `loading` the largest share of a
    line's rating in use, by current: cables are rated in ampere, and x kVA at 0.95 pu take as many
    as x / 0.95 kVA at 1 pu. Where not `examined`, the numbers mean nothing and nobody knows whether
    the plan is safe.
    """

    lowest: Float[Array, ""]  # pu
    lowest_place: Int[Array, ""]
    highest: Float[Array, ""]  # pu
    highest_place: Int[Array, ""]
    excess: Float[Array, ""]  # pu
    excess_place: Int[Array, ""]
    loading: Float[Array, ""]
    loading_place: Int[Array, ""]
    tight: Float[Array, ""]  # h, of all lines, above 80 % of their rating by current
    outside: Float[Array, ""]  # h, of all buses, outside their voltage limits
    losses: Float[Array, ""]  # kWh, of all lines and hours
    loss: Float[Array, ""]  # kW, the largest of one line
    loss_place: Int[Array, ""]
    residual: Float[Array, ""]  # pu
    residual_place: Int[Array, ""]  # the first hour without a solution, if there is one
    converged: Bool[Array, ""]
    examined: Bool[Array, ""]
    unbalance: Unbalance | None = None  # in three phases

    @property
    @built
    def safe(self) -> Bool[Array, ""]:
        """Whether all limits are known to hold, to 1e-4 pu and 0.1 % of ratings."""
        return self.converged & (self.excess <= VOLTAGE_SLACK) & (self.loading <= 1 + LOADING_SLACK)

    @property
    def answer(self) -> bool | None:
        """Is the plan safe: yes, no, or None where it was not examined. Of one plan."""
        return bool(self.safe) if bool(self.examined) else None


@of_tables
def ac_power_flow(market: Market, plan: Plan) -> Flow:
    """The AC state of a market's grid when everyone does what the plan says.

    Traceable, and with JAX in 64-bit mode differentiable in market and plan; of a batch the state
    has its leading axis. Hours whose sweeps do not converge say so in `ok`; their numbers mean
    nothing.

    Balanced grids may have loops. Raises `ValueError` for a market without a grid, and for a grid
    that cannot be examined: a bus without a path to a feeder bus, a loop without impedance, over
    500 loops; in three phases any loop.
    """
    if not market.grid.model.networked:
        raise ValueError("ac_power_flow: copperplate has no grid; build the market with one.")
    gate(market, "ac_power_flow", batch=True)
    if concrete(market.grid):
        good = np.asarray(_examined(market))
        if not good.all():
            k = int(good.argmin())
            grid = jax.tree.map(lambda a: a[k], market.grid) if good.ndim else market.grid
            where = f"scenario {k}: " if good.ndim else ""
            raise ValueError(f"ac_power_flow: {where}{unexamined(grid)}")
    return _ac_power_flow(market, plan)


@for_each
def _examined(market: Market) -> Bool[Array, ""]:
    """Whether `unexamined` has nothing to say."""
    return _lines(market.grid).ok


@for_each
def _ac_power_flow(market: Market, plan: Plan) -> Flow:
    return flow(market.grid, *drawn(market, plan))


@hosted
def unexamined(grid: Grid) -> str:
    """Why the AC state of a grid cannot be examined, in one sentence; empty where it can."""
    if loops(grid) > MOST_LOOPS:
        return (
            f"Grid.source/target: {loops(grid)} lines close loops, the AC power flow takes up to "
            f"{MOST_LOOPS}; open some, or leave lines out."
        )
    tree = forest(grid)
    if not bool(tree.ok):
        return (
            "Grid.source/target: give a grid in which a path leads from a feeder bus to each other "
            "bus."
        )
    if not bool(_lines(grid).ok):
        if grid.model.phased:
            return (
                "Grid.source/target: in three phases the AC power flow takes trees; give a grid in "
                "which one path leads from a feeder bus to each other bus."
            )
        return (
            "Grid.resistance/reactance: lines without impedance close a loop, in which currents "
            "are not determined; open one of them."
        )
    return ""


@program("what buses draw", once=True)
def drawn(market: Market, plan: Plan) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """What each bus draws, kW and kvar."""
    grid, bus = market.grid, market.prosumers.bus
    active, reactive = grid.consumed
    load, net = market.prosumers.load, net_load(market, plan)
    active = with_draws(market, active, plan, load, net)
    return active, (reactive - plan.compensation).at[bus].add(market.prosumers.reactive)


@program("the AC power flow", once=True)
def flow(grid: Grid, active: Float[Array, "B H"], reactive: Float[Array, "B H"]) -> Flow:
    """The AC state of a grid whose buses draw `active` kW and `reactive` kvar."""
    with wide():
        grid, active, reactive = cast((grid, active, reactive), jnp.float64)
        held = acphases.phasors(grid) if grid.model.phased else grid.feeder_voltage
        return _flow(grid, held, active, reactive)


def _flow(grid: Grid, held: Num[Array, "F H"], active: Array, reactive: Array) -> Flow:
    """The same in float64, of feeders that are held at these phasors, pu."""
    with wide():
        wires = _lines(grid)
        power = active + 1j * reactive
        source = jnp.zeros_like(power).at[grid.feeder].set(held)

        def change(pair: Array) -> Array:
            volts = pair[0] + 1j * pair[1]
            after = wires.sweep(source, power, volts)[0] - volts
            return jnp.stack([after.real, after.imag])

        start = wires.tree.ladder.along(source)
        start = jnp.stack([start.real, start.imag])
        pair = lax.custom_root(change, start, _sweep_on, _solve)
        volts = pair[0] + 1j * pair[1]  # referred to the feeders
        left = lax.stop_gradient(change(lax.stop_gradient(pair)))
        residual = jnp.max(jnp.hypot(*left), axis=0, initial=0.0)
        _, current = wires.sweep(source, power, volts)
        found = wires.state(grid, power, volts, current)
        exchange = found.pop("exchange")[grid.feeder]
        ok = (residual <= 100 * _TOL) & wires.ok
        return Flow(**found, exchange=exchange, residual=residual, ok=ok, examined=wires.ok)


def _lines(grid: Grid) -> acloops.Wires | acphases.Conductors:
    return acphases.conductors(grid) if grid.model.phased else acloops.wires(grid)


def check(market: Market, plan: Plan) -> Safety | None:
    """What an AC power flow finds for a plan, in float64; None for a market without a grid.

    Compiled once for a grid and number of hours, however many prosumers there are.
    """
    if not market.grid.model.networked:
        return None
    return _check(market.grid, counted(market), *drawn(market, plan))


@program("the AC power flow", once=True)
def _check(
    grid: Grid,
    hours: Float[Array, " H"],
    active: Float[Array, "B H"],
    reactive: Float[Array, "B H"],
) -> Safety:
    found = flow(grid, active, reactive)
    with wide():
        grid, hours = cast((grid, hours), jnp.float64)
        free = jnp.ones(active.shape[0], bool).at[grid.feeder].set(False)[:, None]
        volts = found.voltage
        outside = jnp.maximum(grid.voltage_min[:, None] - volts, volts - grid.voltage_max[:, None])
        rounding = 1e-6 * jnp.max(jnp.sum(jnp.abs(active), axis=0), initial=0.0)
        used = found.current / grid.rating[:, None]
        used = jnp.where(found.current > rounding, used, 0.0)  # a line rated 0 carries noise
        lowest, lowest_place = _largest(-volts)
        highest, highest_place = _largest(volts)
        outside = jnp.where(free, jnp.maximum(outside, 0.0), 0.0)
        excess, excess_place = _largest(outside)
        loading, loading_place = _largest(used)
        phased = grid.model.phased
        lost = acphases.of_lines(grid, found.losses) if phased else found.losses
        loss, loss_place = _largest(lost)
        return Safety(
            lowest=-lowest,
            lowest_place=lowest_place,
            highest=highest,
            highest_place=highest_place,
            excess=excess,
            excess_place=excess_place,
            loading=loading,
            loading_place=loading_place,
            tight=jnp.sum(hours * (used > TIGHT)),
            outside=jnp.sum(hours * (outside > VOLTAGE_SLACK)),
            losses=jnp.sum(hours * found.losses),
            loss=loss,
            loss_place=loss_place,
            residual=jnp.max(found.residual, initial=0.0),
            residual_place=_largest(jnp.where(found.ok, 0.0, 1.0))[1],
            converged=jnp.all(found.ok),
            examined=found.examined,
            unbalance=_unbalance(grid, found) if phased else None,
        )


def _unbalance(grid: Grid, found: Flow) -> Unbalance:
    power = found.active + 1j * found.reactive
    factor = _largest(acphases.factors(grid, found.voltage, found.angle))
    neutral = _largest(acphases.neutrals(grid, found.voltage, found.angle, power))
    return Unbalance(*factor, *neutral, jnp.any(acphases.returning(grid)))


def _largest(values: Array) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The largest entry and its flat index; 0 where there are none.

    Not argmax: its lowering fails for float64 where the program around it is in float32.
    """
    flat = values.ravel() if values.size else jnp.zeros(1)
    index, top = jnp.arange(flat.size, dtype=jnp.int32), jnp.max(flat)
    return top, jnp.min(jnp.where(flat == top, index, jnp.int32(flat.size - 1)))


def _sweep_on(change: Callable[[Array], Array], start: Array, size: Any = 1.0) -> Array:
    """Adds changes until none is above the tolerance in `size`, or only in hours beyond hope."""

    def going(carry: tuple[Array, Array, Array]) -> Array:
        count, _, step = carry
        moved = jnp.max(jnp.abs(step), axis=(0, 1), initial=0.0)
        return (count < _SWEEPS) & jnp.any((moved > _TOL * size) & jnp.isfinite(moved))

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, at, step = carry
        return count + 1, at + step, change(at + step)

    begun = (jnp.zeros((), jnp.int32), start, change(start))
    return lax.while_loop(going, sweep, begun)[1]


def _solve(linear: Callable[[Array], Array], right: Array) -> Array:
    """x with linear(x) = right, where linear is a contraction less the identity."""

    def repeat(apply: Callable[[Array], Array], right: Array) -> Array:
        size = jnp.max(jnp.abs(right), initial=0.0)
        return _sweep_on(lambda x: apply(x) - right, jnp.zeros_like(right), size)

    return lax.custom_linear_solve(linear, right, solve=repeat, transpose_solve=repeat)
