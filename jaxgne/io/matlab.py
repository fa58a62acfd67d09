"""Case files in MATLAB's language as values: statements are read one by one, nothing is run.

A case file is a function that fills tables and then may change them, such as from kW to MW. What
assigns numbers is worked out by `matlab_terms`; any other statement is refused with its line.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .matlab_terms import Unread, indices, matrix, worked_out

_BUS = "PQ PV REF NONE BUS_I BUS_TYPE PD QD GS BS BUS_AREA VM VA BASE_KV ZONE VMAX VMIN LAM_P LAM_Q"
_BRANCH = "F_BUS T_BUS BR_R BR_X BR_B RATE_A RATE_B RATE_C TAP SHIFT BR_STATUS PF QF PT QT MU_SF"
_GEN = "GEN_BUS PG QG QMAX QMIN VG MBASE GEN_STATUS PMAX PMIN MU_PMAX MU_PMIN MU_QMAX MU_QMIN"
_CAPABILITY = "PC1 PC2 QC1MIN QC1MAX QC2MIN QC2MAX RAMP_AGC RAMP_10 RAMP_30 RAMP_Q APF"


def _numbered(names: str, numbers: Any) -> dict[str, float]:
    return {name: float(k) for name, k in zip(names.split(), numbers, strict=True)}


# What MATPOWER's functions of constants return, in their order.
CONSTANTS = {
    "idx_bus": _numbered(f"{_BUS} MU_VMAX MU_VMIN", (*range(1, 5), *range(1, 18))),
    "idx_brch": _numbered(
        f"{_BRANCH} MU_ST ANGMIN ANGMAX MU_ANGMIN MU_ANGMAX",
        (*range(1, 12), *range(14, 20), 12, 13, 20, 21),
    ),
    "idx_gen": _numbered(f"{_GEN} {_CAPABILITY}", (*range(1, 11), *range(22, 26), *range(11, 22))),
    "idx_cost": _numbered(
        "PW_LINEAR POLYNOMIAL MODEL STARTUP SHUTDOWN NCOST COST", (1, 2, *range(1, 6))
    ),
}

_COMMENT = re.compile(r"('(?:[^'\n]|'')*'|\"[^\"\n]*\")|[%#].*")
_QUOTED = re.compile(r"'((?:[^'\n]|'')*)'|\"([^\"\n]*)\"")
_MARKS = re.compile(r"[\[\](){}'\";,]")
_HEAD = re.compile(r"function\s+(?:(\w+)\s*=|\[[^\]]*\]\s*=)?\s*(\w+)")
_SEVERAL = re.compile(r"\[([\w\s,~]*)\]\s*=\s*(\w+)")
_ASSIGN = re.compile(r"([A-Za-z]\w*(?:\.[A-Za-z]\w*)?)\s*(\(.*?\))?\s*=(?!=)\s*(.*)", re.DOTALL)
_SHOWN = 60  # letters of a statement that are quoted


@dataclass
class Workspace:
    """What a case file leaves behind: tables and numbers, by the names in the file."""

    struct: str = "mpc"  # what its tables are fields of; nothing where they are apart
    name: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)  # of each name's statements
    changes: list[str] = field(default_factory=list)  # lines that changed a table
    unread: list[str] = field(default_factory=list)  # fields that nobody asked for


def read(text: str, tables: tuple[str, ...]) -> Workspace:
    """The values of a case file; `tables` are the fields that are wanted, others are left unread.

    Raises `ValueError` with line and statement for what is not plain arithmetic on tables.
    """
    space = Workspace()
    for line, statement in statements(text):
        head = _HEAD.match(statement)
        if head and not space.name:
            space.struct, space.name = head[1] or "", head[2]
            continue
        if head or re.fullmatch(r"end|endfunction|return", statement):
            break  # what follows are other functions
        try:
            _do(space, line, statement, tables)
        except ValueError as error:
            words = " ".join(statement.split())
            words = words[:_SHOWN] + (" ..." if len(words) > _SHOWN else "")
            raise ValueError(f"line {line}: {words!r}: {error}.") from None
    return space


def _do(space: Workspace, line: int, statement: str, tables: tuple[str, ...]) -> None:
    several, assign = _SEVERAL.fullmatch(statement), _ASSIGN.fullmatch(statement)
    if statement == "define_constants":
        for constants in CONSTANTS.values():
            space.values |= constants
    elif several and several[2] in CONSTANTS:
        names = several[1].replace(",", " ").split()
        space.values |= dict(zip(names, CONSTANTS[several[2]].values(), strict=False))
    elif assign:
        _assign(space, line, assign, tables)
    else:
        raise ValueError(
            "only arithmetic on tables is read, nothing is run; save the case from MATPOWER "
            "(savecase) or give the tables' final numbers"
        )


def _assign(space: Workspace, line: int, assign: re.Match[str], tables: tuple[str, ...]) -> None:
    name, place, right = assign[1], assign[2], assign[3].strip()
    owner, _, own = name.rpartition(".")
    wanted = owner == space.struct and own in tables
    if name == space.struct:
        raise ValueError(f"{name!r} as a whole is not read, only its tables are")
    if owner and owner != space.struct:
        raise ValueError(f"{owner!r} is not what the file returns")
    space.texts.setdefault(name, []).append(right)
    if owner and not wanted:
        space.values[name] = Unread(f"{name!r} is not read")
        space.unread += [name] * (name not in space.unread)
        return
    known = name in space.values
    try:
        if place is None:
            space.values[name] = _value(right, space.values)
        else:
            table = np.array(_known(space, name))
            at = np.ix_(*indices(place, space.values, (table.shape[0], table.shape[1])))
            value = worked_out(right, space.values)
            if value.shape not in (table[at].shape, (1, 1)):
                raise ValueError(f"{value.shape} numbers do not fit {table[at].shape} places")
            table[at] = value
            space.values[name] = table
    except ValueError as error:
        if wanted:
            raise
        space.values[name] = Unread(f"{name!r} (line {line}) is not known: {error}")
    if wanted and (known or place):
        space.changes.append(f"line {line}")


def _known(space: Workspace, name: str) -> Any:
    value = space.values.get(name, Unread(f"{name!r} has no table yet"))
    if isinstance(value, Unread) or not isinstance(value, np.ndarray):
        raise ValueError(value.why if isinstance(value, Unread) else f"{name!r} is no table")
    return value


def _value(right: str, values: dict[str, Any]) -> Any:
    """A table, a number, a text, or the texts of a cell array."""
    if right.startswith("{") and right.endswith("}"):
        return tuple((a or b).replace("''", "'") for a, b in _QUOTED.findall(right))
    quoted = _QUOTED.fullmatch(right)
    if quoted:
        return (quoted[1] or quoted[2] or "").replace("''", "'")
    if right.startswith("[") and right.find("]") == len(right) - 1 and "[" not in right[1:]:
        return matrix(right[1:-1], values)
    return worked_out(right, values)


def statements(text: str) -> list[tuple[int, str]]:
    """Statements without comments, each with the line that it begins at, from 1."""
    found: list[tuple[int, str]] = []
    held: list[str] = []
    depth, start, blocks = 0, 0, 0

    def close() -> None:
        statement = "".join(held).strip()
        if statement:
            found.append((start, statement))
        held.clear()

    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        blocks += bare in ("%{", "#{")
        if blocks:
            blocks -= bare in ("%}", "#}")
            continue
        line = _COMMENT.sub(lambda match: match[1] or "", line)
        line, dots, _ = line.partition("...")
        if not "".join(held).strip() if not depth else False:
            start = number
        at = 0
        for mark in _marks(line):
            depth += (line[mark] in "[({") - (line[mark] in "])}")
            if depth <= 0 and line[mark] in ";,":
                held.append(line[at:mark])
                close()
                at, start, depth = mark + 1, number, 0
        held.append(line[at:])
        if depth <= 0 and not dots:
            close()
        else:
            held.append(" " if dots else "\n")
    close()
    return found


def _marks(line: str) -> list[int]:
    """Where brackets, semicolons and commas stand that are in no text."""
    if "'" in line or '"' in line:
        line = _QUOTED.sub(lambda match: " " * len(match[0]), line)
    return [match.start() for match in _MARKS.finditer(line)]
