"""A balanced grid's lines for the sweeps of an AC power flow: its trees, and what closes loops.

Where lines close loops, the sweeps are those of a tree, and the currents of the lines beside it
follow from the voltages that it leaves between their ends (Shirmohammadi, Hong, Semlyen, Luo, IEEE
Trans. Power Systems 3, 1988). All is referred to the feeders (`Ladder.base`), so that sweeps see no
transformers; one that does not fit the others of its loop drives a current round it.
"""

from jaxtyping import Array, Bool, Complex, Float

from .market import Grid, cast
from .model import length
from .programs import program
from .radial import Forest, forest
from .record import Record
from .runner import jnp, wide

MOST_LOOPS = 500  # of a grid whose AC state is looked for


class Wires(Record):
    """A grid's lines for sweeps: its trees, and what a current round each loop does to them.

    All is referred to the feeders.
    """

    tree: Forest
    impedance: Complex[Array, "L 1"]  # pu/kW
    taken: Float[Array, "2 C 1"]  # of the voltages at the near and far end, what a chord's row sees
    carried: Complex[Array, "T C"]  # by the lines of the trees, per current in each chord
    fall: Complex[Array, "B C"]  # pu per kVA at 1 pu
    admittance: Complex[Array, "C C"]  # of the loops
    ok: Bool[Array, ""]  # whether the grid can be examined

    @property
    def meshed(self) -> bool:
        return self.admittance.size > 0

    def across(self, volts: Complex[Array, "B H"]) -> tuple[Array, Array]:
        """Voltages at the near and far end of each chord, as its impedance sees them."""
        near, far = self.taken
        return near * volts[self.tree.near[self.tree.chord]], far * volts[
            self.tree.far[self.tree.chord]
        ]

    def sweep(
        self, source: Array, power: Array, volts: Complex[Array, "B H"]
    ) -> tuple[Complex[Array, "B H"], Complex[Array, "L H"]]:
        """Voltages after one backward and forward sweep, and the lines' currents (kVA at 1 pu)."""
        tree, impedance, meshed = self.tree, self.impedance, self.meshed
        far, along = (
            (tree.far, impedance) if not meshed else (tree.far[tree.branch], impedance[tree.branch])
        )
        current = tree.ladder.behind(jnp.conj(power / volts))[far]
        after = tree.ladder.along(source.astype(volts.dtype).at[far].set(-along * current))
        if not meshed:
            return after, current
        at_near, at_far = self.across(after)
        round_ = self.admittance @ (at_near - at_far)
        current = current + self.carried @ round_
        whole = jnp.zeros((impedance.shape[0], current.shape[1]), current.dtype)
        whole = whole.at[tree.branch].set(current).at[tree.chord].set(round_)
        return after - self.fall @ round_, whole

    def state(
        self,
        grid: Grid,
        power: Complex[Array, "B H"],
        volts: Complex[Array, "B H"],
        current: Complex[Array, "L H"],
    ) -> dict[str, Array]:
        """Fields of `acflow.Flow` by name, at what a sweep ends with; of all buses the exchange."""
        tree, base = self.tree, self.tree.ladder.base[:, None]
        ends = [volts[tree.near], volts[tree.far]]
        if self.meshed:
            chords = self.across(volts)
            ends = [a.at[tree.chord].set(b) for a, b in zip(ends, chords, strict=True)]
        sent, got = (end * jnp.conj(current) for end in ends)
        at_source = jnp.where(tree.outward[:, None], sent, -got)
        leaving = jnp.zeros_like(power).at[tree.near].add(sent)
        leaving = leaving.at[tree.far].add(-got)  # of lines that end at a feeder, too
        return {
            "voltage": base * jnp.abs(volts),
            "angle": jnp.angle(volts),
            "active": at_source.real,
            "reactive": at_source.imag,
            "apparent": jnp.maximum(jnp.abs(sent), jnp.abs(got)),
            "current": length(current.real, current.imag) / base[grid.target],
            "losses": self.impedance.real * (current.real**2 + current.imag**2),
            "exchange": (power + leaving).real,
        }


@program("the lines of the grid", once=True)
def wires(grid: Grid) -> Wires:
    """The lines of a grid for sweeps, in float64."""
    with wide():
        grid, tree = cast(grid, jnp.float64), forest(grid)
        base, tap = tree.ladder.base[:, None], grid.tap[:, None]
        impedance = (grid.resistance + 1j * grid.reactance)[:, None] / base[grid.target] ** 2
        count, buses = tree.chord.shape[0], grid.passive.shape[0]
        if not 0 < count <= MOST_LOOPS:
            none = jnp.zeros((2, 0, 1), base.dtype)
            empty = [jnp.zeros((n, 0), impedance.dtype) for n in (tree.branch.size, buses, 0)]
            return Wires(tree, impedance, none, *empty, ok=tree.ok & (count == 0))
        near, far, each = tree.near[tree.chord], tree.far[tree.chord], jnp.arange(count)
        at_source = jnp.stack([tree.outward, ~tree.outward])[..., None]  # of the two, which end is
        taken = jnp.stack([base[tree.near], base[tree.far]]) / base[grid.target]
        taken = jnp.where(at_source, taken / tap, taken)[:, tree.chord]
        ends = jnp.zeros((buses, count), impedance.dtype)
        ends = ends.at[near, each].add(taken[0, :, 0]).at[far, each].add(-taken[1, :, 0])
        carried = tree.ladder.behind(ends)[tree.far[tree.branch]]
        fall = jnp.zeros_like(ends).at[tree.far[tree.branch]].set(impedance[tree.branch] * carried)
        fall = tree.ladder.along(fall)
        around = taken[0] * fall[near] - taken[1] * fall[far]
        around = around + jnp.diag(impedance[tree.chord, 0])
        admittance = jnp.linalg.inv(around)
        ok = tree.ok & jnp.all(jnp.isfinite(admittance))
        return Wires(tree, impedance, taken, carried, fall, admittance, ok)
