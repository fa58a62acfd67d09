"""Conductors of grids in three phases, for the sweeps of an AC power flow; how unequal they are.

A row of buses is a phase of a bus, a line a conductor; v falls by z_pq i_q of all conductors q of a
line. What stands at a terminal draws constant power at the voltages that it sees: between two
phases it takes conj(S / (v_first - v_second)) from one to the other, of three a third of S from
each. All is referred to the feeders by the ratios of each phase (`Ladder.base`), z_pq divided by
those of both.
"""

import math

import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, Num

from .incidence import where
from .market import Grid, cast
from .model import length
from .programs import program
from .radial import Forest, forest
from .record import Record
from .runner import jnp, wide

_TURN = np.exp(-2j * np.pi / 3 * np.arange(3))  # phases a, b, c at 0, -120, +120 degrees
_NONE = 1e-4  # share of the conductors' impedance, of what is none but for rounding


class Conductors(Record):
    """A grid's conductors for sweeps, and what stands at its terminals; referred to the feeders."""

    tree: Forest
    impedance: Complex[Array, "L 1"]  # pu/kW, of each by itself
    beside: Int[Array, "2 J"]  # conductors that act on one another
    mutual: Complex[Array, "J 1"]  # pu/kW
    end: Int[Array, " V"]  # the row of buses of a terminal
    of: Int[Array, "3 V"]  # those that it draws from; the third of two is any
    two: Bool[Array, "V 1"]  # whether it draws between two
    ok: Bool[Array, ""]  # whether the grid can be examined

    def drawn(
        self, power: Complex[Array, "B H"], volts: Complex[Array, "B H"]
    ) -> Complex[Array, "B H"]:
        """The currents that rows draw, those of terminals from their phases (kVA at 1 pu)."""
        if not self.end.shape[-1]:
            return jnp.conj(power / volts)
        base, total = self.tree.ladder.base[self.of][..., None], power[self.end]
        own = jnp.conj(power.at[self.end].set(0.0) / volts)
        first, second, third = base * volts[self.of]
        between = jnp.conj(total / (first - second))
        each = [jnp.conj(total / 3 / v) for v in (first, second, third)]
        taken = jnp.stack([
            jnp.where(self.two, between, each[0]),
            jnp.where(self.two, -between, each[1]),
            jnp.where(self.two, 0.0, each[2]),
        ])  # fmt: skip
        return own.at[self.of].add(base * taken)

    def sweep(
        self, source: Array, power: Array, volts: Complex[Array, "B H"]
    ) -> tuple[Complex[Array, "B H"], Complex[Array, "L H"]]:
        """Voltages after one backward and forward sweep, and the conductors' currents."""
        ladder, far = self.tree.ladder, self.tree.far
        current = ladder.behind(self.drawn(power, volts))[far]
        fall, (one, other) = self.impedance * current, self.beside
        fall = fall.at[one].add(self.mutual * current[other])
        fall = fall.at[other].add(self.mutual * current[one])
        return ladder.along(source.at[far].set(-fall)), current

    def state(
        self,
        grid: Grid,
        power: Complex[Array, "B H"],
        volts: Complex[Array, "B H"],
        current: Complex[Array, "L H"],
    ) -> dict[str, Array]:
        """Fields of `acflow.Flow` by name, at what a sweep ends with; of all buses the exchange."""
        tree, base, at = self.tree, self.tree.ladder.base[:, None], grid.terminal
        sent, got = volts[tree.near] * jnp.conj(current), volts[tree.far] * jnp.conj(current)
        leaving = jnp.zeros_like(power).at[tree.near].add(sent)
        exchange = leaving + volts * jnp.conj(self.drawn(power, volts))
        actual, total = base * volts, power[self.end]
        amount, angle = jnp.abs(actual), jnp.angle(actual)
        first, second, third = self.of
        between = actual[first] - actual[second]
        mean = (amount[first] + amount[second] + amount[third]) / 3
        seen = jnp.where(self.two, jnp.abs(between) / math.sqrt(3), mean)
        angle = angle.at[self.end].set(jnp.where(self.two, jnp.angle(between), angle[first]))
        lost, carried = (sent - got).real, length(current.real, current.imag) / base[grid.target]
        sent, got = (found.at[at].set(total) for found in (sent, got))
        at_source = jnp.where(tree.outward[:, None], sent, -got)
        return {
            "voltage": amount.at[self.end].set(seen),
            "angle": angle,
            "active": at_source.real,
            "reactive": at_source.imag,
            "apparent": jnp.maximum(jnp.abs(sent), jnp.abs(got)),
            "current": carried.at[at].set(jnp.abs(total) / seen),
            "losses": lost,
            "exchange": exchange.real,
        }


@program("the conductors of the grid", once=True)
def conductors(grid: Grid) -> Conductors:
    """The conductors of a grid for sweeps, in float64."""
    with wide():
        grid, tree = cast(grid, jnp.float64), forest(grid)
        base = tree.ladder.base[grid.target][:, None]
        mutual = (grid.mutual_resistance + 1j * grid.mutual_reactance)[:, None]
        return Conductors(
            tree=tree,
            impedance=(grid.resistance + 1j * grid.reactance)[:, None] / base**2,
            beside=jnp.stack([grid.coupled, grid.following]),
            mutual=mutual / (base[grid.coupled] * base[grid.following]),
            end=grid.target[grid.terminal],
            of=jnp.stack([grid.source[grid.terminal], grid.second, jnp.maximum(grid.third, 0)]),
            two=grid.third[:, None] < 0,
            ok=tree.radial,
        )


def phasors(grid: Grid) -> Complex[Array, "F H"]:
    """What the main grid holds feeders at: their phases 120 degrees apart, a, b, c in sequence."""
    return grid.feeder_voltage * jnp.asarray(_TURN)[where(grid).phase[grid.feeder]][:, None]


def factors(
    grid: Grid, voltage: Float[Array, "B H"], angle: Float[Array, "B H"]
) -> Float[Array, "B H"]:
    """|V2| / |V1| of each bus with three phases, at the row of its phase a; elsewhere 0."""
    rows, turn = grid.phases, jnp.conj(jnp.asarray(_TURN))[:, None]
    volts = (voltage * jnp.exp(1j * angle))[jnp.maximum(rows, 0)]
    positive, negative = (jnp.abs(jnp.sum(volts * turn**k, axis=1)) for k in (1, 2))
    ratio = jnp.where(jnp.all(rows >= 0, axis=1)[:, None], negative / positive, 0.0)
    return jnp.zeros_like(voltage).at[jnp.maximum(rows[:, 0], 0)].max(ratio)


def neutrals(
    grid: Grid,
    voltage: Float[Array, "B H"],
    angle: Float[Array, "B H"],
    power: Complex[Array, "L H"],
) -> Float[Array, "L H"]:
    """What returns by neutral and earth, of each line at all its conductors, kVA at 1 pu.

    Of `power` into conductors at their source; 0 where nothing may return (`returning`).
    """
    volts = (voltage * jnp.exp(1j * angle))[grid.source] / grid.tap[:, None]
    found = jnp.abs(of_lines(grid, jnp.conj(power / volts)))
    return jnp.where(returning(grid)[:, None], found, 0.0)


def returning(grid: Grid) -> Bool[Array, " L"]:
    """Whether a line's currents may return by a neutral or the earth; never those to terminals.

    Where ab, bc and ca stand for phases, as in three wires, impedances are D z D^T / 3, and a
    current that is the same in all three falls by nothing: no wire carries it. So a line of three
    conductors without zero-sequence impedance has no return, nor has one of fewer behind only such.
    """
    own = grid.resistance + 1j * grid.reactance
    mutual = grid.mutual_resistance + 1j * grid.mutual_reactance
    each = jnp.stack(
        [own.at[grid.coupled].add(2 * mutual), jnp.abs(own), jnp.ones_like(own)], axis=1
    )
    total, size, count = of_lines(grid, each).T
    three = (count.real > 2.5) & (size.real > 0)
    met = jnp.abs(total) > _NONE * size.real
    tree, rows = forest(grid), jnp.zeros((grid.passive.shape[0], 2), own.real.dtype)
    told = jnp.stack([three & met, three & ~met], axis=1)
    passed, without = tree.ladder.along(rows.at[tree.far].set(told))[tree.far].T
    found = jnp.where(three, met, (passed > 0) | (without == 0))
    return found.at[grid.terminal].set(False)


def of_lines(grid: Grid, values: Num[Array, "L H"]) -> Num[Array, "L H"]:
    """The sum over the conductors of a line, at each of them; 0 at terminals.

    A line to what is no phase of a bus, as a house's own, is one conductor.
    """
    bus, count = where(grid).bus[grid.target], grid.phase_a.shape[0]
    values = values.at[grid.terminal].set(0.0)
    total = jnp.zeros((count + 1, values.shape[1]), values.dtype)
    total = total.at[jnp.where(bus < 0, count, bus)].add(values)
    return jnp.where(bus[:, None] < 0, values, total[bus]).at[grid.terminal].set(0.0)
