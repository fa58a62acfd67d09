"""Whether phases, couplings and terminals make a grid: whose they are, and in which order."""

import numpy as np
from jaxtyping import Bool, Int

from .tables import Values

_LETTERS = "abc"


def in_phases(v: Values) -> list[str]:
    """What of them fits no bus or line; all of it is of grids in three phases only."""
    grid, away = v.market.grid, _devices(v)
    if not grid.model.phased:
        name, count = next(
            ((n, v.rows(f"Grid.{n}")) for n in ("coupled", "terminal") if v.rows(f"Grid.{n}")),
            ("", 0),
        )
        if not count:
            return away
        return [
            f"Grid.{name}: {count} rows, but {grid.model.name} has one phase; leave them out, or "
            'give model="lindist3flow".'
        ]
    wrong = _rows(v) + away
    return wrong or _crossed(v) + _couplings(v) + _terminals(v) or _strays(v)


def _devices(v: Values) -> list[str]:
    """Devices at buses that do not exist; and, where there is one phase, away from their owner."""
    model, count, wrong = v.market.grid.model, v.rows("Grid.passive"), []
    for table in ("Generators", "Buffers"):
        bus, home = v[f"{table}.bus"], v["Prosumers.bus"][v[f"{table}.owner"]]
        there = (bus >= -1) & (bus < count)
        wrong += v.complain(
            f"{table}.bus",
            ~there,
            lambda at, bus=bus: (
                f"bus {bus[at]} does not exist; the grid has buses 0 to {count - 1}, or -1: where "
                "the owner is"
            ),
        )
        wrong += v.complain(
            f"{table}.bus",
            there & (bus >= 0) & (bus != home) & (not model.phased),
            lambda at, bus=bus, home=home: (
                f"{v.bus(bus[at])} is not its owner's {v.bus(home[at])}, but {model.name} has one "
                'phase; give -1, or a grid of model="lindist3flow"'
            ),
        )
    return wrong


def _again(key: np.ndarray) -> Bool[np.ndarray, " R"]:
    """Rows whose key an earlier row has."""
    again = np.ones(len(key), bool)
    again[np.unique(key, return_index=True)[1]] = False
    return again


def _rows(v: Values) -> list[str]:
    """Rows of phases that do not exist, that two buses have, or that are terminals."""
    count, wrong = v.rows("Grid.passive"), []
    used = np.zeros(count, bool)
    used[v["Grid.target"][v["Grid.terminal"]]] = True
    for letter in _LETTERS:
        name = f"Grid.phase_{letter}"
        row = v[name]
        there = (row >= 0) & (row < count)
        wrong += v.complain(
            name,
            ~there & (row != -1),
            lambda at, row=row: (
                f"bus {row[at]} does not exist; the grid has buses 0 to {count - 1}, or -1"
            ),
        )
        twice = np.zeros(len(row), bool)
        twice[there] = used[row[there]] | _again(row[there])
        wrong += v.complain(
            name,
            twice,
            lambda at, row=row: (
                f"{v.bus(row[at])} is a phase of another bus already, or a terminal; give each "
                "phase a row of its own"
            ),
        )
        used[row[there]] = True
    return wrong


def _strays(v: Values) -> list[str]:
    """Rows of buses that no bus has as a phase, and that are no terminals."""
    known = _where(v)[0] >= 0
    known[v["Grid.target"][v["Grid.terminal"]]] = True
    return v.complain(
        "Grid.phase_a",
        ~known,
        lambda at: f"{v.bus(at[0])} is no phase of a bus, nor a terminal; list it with its phase",
        axes="B",
    )


def _where(v: Values) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Bus and phase of each row, -1 where it is none."""
    bus, phase = (np.full(v.rows("Grid.passive"), -1) for _ in range(2))
    for k, letter in enumerate(_LETTERS):
        row = v[f"Grid.phase_{letter}"]
        there = row >= 0
        bus[row[there]], phase[row[there]] = np.flatnonzero(there), k
    return bus, phase


def _crossed(v: Values) -> list[str]:
    """Conductors from one phase to another; what leads to terminals, or begins there, is none."""
    _, phase = _where(v)
    near, far = phase[v["Grid.source"]], phase[v["Grid.target"]]
    return v.complain(
        "Grid.target",
        (near != far) & (near >= 0) & (far >= 0),
        lambda at: (
            f"the line leads from phase {_LETTERS[near[at]]} to phase {_LETTERS[far[at]]}; join "
            "rows of one phase"
        ),
    )


def _couplings(v: Values) -> list[str]:
    """Couplings of what is no two conductors of one line, one phase after the other."""
    one, other = v["Grid.coupled"], v["Grid.following"]
    source, target = v["Grid.source"], v["Grid.target"]
    bus, phase = _where(v)
    apart = (bus[source[one]] != bus[source[other]]) | (bus[target[one]] != bus[target[other]])
    apart |= (bus[source[one]] < 0) | (bus[target[one]] < 0)
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
    bus, phase = _where(v)
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
                f"{v.bus(second[at])} is not the phase after {v.bus(first[at])} at its bus; give "
                "that"
            ),
        )
        + v.complain(
            "Grid.third",
            ~open_ & misplaced(np.where(open_, first, third), 2),
            lambda at: (
                f"{v.bus(third[at])} is not the phase before {v.bus(first[at])} at its bus; give "
                "that, or -1"
            ),
        )
    )
