"""Whether phases, couplings and terminals make a grid: whose they are, and in which order."""

import numpy as np
from jaxtyping import Bool, Int

from .tables import Values

_LETTERS = "abc"


def in_phases(v: Values) -> list[str]:
    """What of them fits no bus or line; all of it is of grids in three phases only."""
    grid = v.market.grid
    if not grid.model.phased:
        name, count = next(
            ((n, v.rows(f"Grid.{n}")) for n in ("coupled", "terminal") if v.rows(f"Grid.{n}")),
            ("", 0),
        )
        if not count:
            return []
        return [
            f"Grid.{name}: {count} rows, but {grid.model.name} has one phase; leave them out, or "
            'give model="lindist3flow".'
        ]
    phase = v["Grid.phase"]
    wrong = v.complain(
        "Grid.phase",
        (phase < 0) | (phase > 2),
        lambda at: f"{phase[at]} is no phase; give 0, 1 or 2 for a, b or c",
    )
    return wrong or _twice(v) + _couplings(v) + _terminals(v)


def _again(*keys: np.ndarray) -> Bool[np.ndarray, " R"]:
    """Rows whose keys an earlier row has."""
    _, first = np.unique(np.stack(keys), axis=1, return_index=True)
    again = np.ones(len(keys[0]), bool)
    again[first] = False
    return again


def _twice(v: Values) -> list[str]:
    """Phases of a bus that are there twice; terminals are none."""
    own = np.ones(v.rows("Grid.passive"), bool)
    own[v["Grid.target"][v["Grid.terminal"]]] = False
    bus, phase = v["Grid.bus"], v["Grid.phase"]
    rows = np.flatnonzero(own)
    bad = np.zeros(len(own), bool)
    bad[rows] = _again(bus[rows], phase[rows])
    return v.complain(
        "Grid.phase",
        bad,
        lambda at: (
            f"bus {bus[at]} has a row for phase {_LETTERS[phase[at]]} already; keep one row a phase"
        ),
    )


def _couplings(v: Values) -> list[str]:
    """Couplings of what is no two conductors of one line, one phase after the other."""
    one, other = v["Grid.coupled"], v["Grid.following"]
    source, target = v["Grid.source"], v["Grid.target"]
    bus, phase = v["Grid.bus"], v["Grid.phase"]
    apart = (bus[source[one]] != bus[source[other]]) | (bus[target[one]] != bus[target[other]])
    order = phase[target[other]] != (phase[target[one]] + 1) % 3
    return (
        v.complain(
            "Grid.coupled",
            apart,
            lambda at: (
                f"lines {one[at]} and {other[at]} join different buses; couple conductors of one "
                "line"
            ),
        )
        + v.complain(
            "Grid.following",
            order & ~apart,
            lambda at: (
                f"line {other[at]} of phase {_LETTERS[phase[target[other[at]]]]} does not come "
                f"after line {one[at]} of phase {_LETTERS[phase[target[one[at]]]]}; swap them: b "
                "follows a, c follows b, a follows c"
            ),
        )
        + v.complain(
            "Grid.coupled",
            _again(one) & ~apart,
            lambda at: f"line {one[at]} is coupled to a following one already; keep one row",
        )
    )


def _terminals(v: Values) -> list[str]:
    """Terminals that are no leaf, or stand between phases of different buses or in wrong order."""
    line, second, third = v["Grid.terminal"], v["Grid.second"], v["Grid.third"]
    source, target = v["Grid.source"], v["Grid.target"]
    bus, phase = v["Grid.bus"], v["Grid.phase"]
    first, end = source[line], target[line]
    wrong = v.complain(
        "Grid.third",
        (third < -1) | (third >= len(bus)),
        lambda at: f"bus {third[at]} does not exist; there are 0 to {len(bus) - 1}, or -1",
    )
    if wrong:
        return wrong
    impedance = (v["Grid.resistance"] != 0) | (v["Grid.reactance"] != 0) | (v["Grid.tap"] != 1)

    def misplaced(other: Int[np.ndarray, " V"], after: int) -> Bool[np.ndarray, " V"]:
        return (bus[other] != bus[first]) | (phase[other] != (phase[first] + after) % 3)

    behind = np.isin(source, end) & impedance
    open_ = third < 0
    return (
        v.complain(
            "Grid.terminal",
            _again(line),
            lambda at: f"line {line[at]} leads to a terminal already; keep one row",
        )
        + v.complain(
            "Grid.terminal",
            impedance[line],
            lambda at: (
                f"line {line[at]} has an impedance or a tap, but a terminal stands at its bus; "
                "give it 0, 0 and 1"
            ),
        )
        + v.complain(
            "Grid.resistance",
            behind,
            lambda at: (
                f"line {at[0]} begins at the terminal {v.bus(source[at])}, which is no phase of a "
                "bus; give it resistance and reactance 0 and tap 1"
            ),
        )
        + v.complain(
            "Grid.second",
            misplaced(second, 1),
            lambda at: (
                f"{v.bus(second[at])} is not the next phase of the bus of {v.bus(first[at])}; give "
                "that"
            ),
        )
        + v.complain(
            "Grid.third",
            ~open_ & misplaced(np.where(open_, first, third), 2),
            lambda at: (
                f"{v.bus(third[at])} is not the last phase of the bus of {v.bus(first[at])}; give "
                "that, or -1"
            ),
        )
    )
