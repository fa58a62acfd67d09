"""Writes the reference of a market's fields, from the package: .venv/bin/python docs/fields.py

That is `docs/fields.md`, the tables of a market in `docs/files.md`, those of a clearing in
`docs/tables.md`.
"""

from collections.abc import Iterator
from dataclasses import fields
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Any

from jaxgne import families, market
from jaxgne.curves import FAMILIES
from jaxgne.fields import ROWS, Field, described
from jaxgne.io.schema import ADDED, KIND_OF, MARKET, WITHOUT, ordered
from jaxgne.market import FIELDS

DOCS = Path(__file__).parent
KINDS = (
    *("Prosumers", "Generators", "Buffers", "Trading", "Grid", "Tariff", "Zones", "Caps"),
    "Market",
)
_AXIS = {row: axis for axis, row in ROWS.items() if axis != "#H"}
_TEXT = {"name": "each its own", "unit": "of the level, as people write it"}
_WHOLE = {
    "switch": "0, 1",
    "payer": "[-1, N)",
    "bus or none": "[-1, B)",
    "phase": "0, 1, 2",
    "quantity": "[0, 8)",
    "member": "[0, N, G, K or E)",
}

HEAD = f"""\
# The fields of a market

`docs/fields.py` writes this page from the classes, where each field says what it is; checks, files,
plots and relaxed limits read the same. A number out of its range is refused wherever a market is
used, by a sentence that names field and place; `jg.validate` tells of all at once.

Shapes: {", ".join(f"`{axis}` {row}" for axis, row in ROWS.items() if axis != "#H")};
`#H` is one number for all hours, or one an hour where it is given so.
Numbers may be given for all, by row, by hour or both. Fields without a default must be given. Units
are fixed; 1 is a share or a factor. Where a range ends in `inf]`, `inf` means no limit. In files
(`docs/files.md`) the unit follows the name. `docs/model.md` has the symbols of the mathematics.
"""

COLUMNS = """\

What the numbers may be, and are by default, says `docs/fields.md`; `docs/fields.py` writes both.

"""


def page() -> str:
    """The text of `docs/fields.md`."""
    return "\n".join([HEAD, *(_section(getattr(market, kind)) for kind in KINDS)])


def with_tables(text: str) -> str:
    """The text of `docs/files.md` with the tables of a market as they are."""
    begin, end = "## Tables of the market\n", "## clearing/\n"
    before, rest = text.split(begin)
    return before + begin + COLUMNS + "".join(map(_file, MARKET)) + end + rest.split(end)[1]


def with_families(text: str) -> str:
    """The text of `docs/tables.md` with the columns of a clearing's tables as they are."""
    begin = "## What there is\n"
    shown = [_family(family) for family in families.FAMILIES]
    return text.split(begin)[0] + begin + "".join(shown)


def _family(family: families.Family) -> str:
    """One family: its table, its axes, and what its columns are called in both."""
    table = "bills" if family is families.PASSIVE_BILLS else family.name
    every = [f"`{family.row}`"] * bool(family.row) + ["`step`"] * family.columns[-1].hourly
    lines = [f"\n`{table}`: {' and '.join(every) or 'one row'}\n"]
    lines += ["| column | variable | unit | what |", "|---|---|---|---|"]
    for column in family.columns:
        told = column.unit is not None or family.prefix == family.row
        variable = f"`{family.variable(column)}`" if told else ""
        unit = "" if column.unit is None else column.unit or "1"
        lines.append(f"| `{column.column}` | {variable} | {unit} | {column.means} |")
    return "\n".join([*lines, ""])


def _section(kind: Any) -> str:
    """What a class is, and its fields but those that are tables themselves."""
    lines = [f"## {kind.__name__}\n", cleandoc(kind.__doc__), ""]
    lines += ["| field | shape | unit | range | default | what |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _rows(kind)]
    return "\n".join([*lines, ""]).replace("^2", "²")


def _rows(kind: Any) -> Iterator[tuple[str, ...]]:
    given = signature(kind).parameters
    for one in fields(kind):
        if "says" in one.metadata:
            name, default = f"`{one.name}`", _default(given[one.name])
            field = FIELDS.get(f"{kind.__name__}.{one.name}")
            if field is None:
                yield name, "", "", "", default, one.metadata["says"].means
            else:
                shape = " ".join(field.axes)
                yield name, shape, _unit(field), _range(field), default, _meaning(field)


def _unit(field: Field) -> str:
    return "index" if field.of else field.symbol


def _meaning(field: Field) -> str:
    of = f", a {field.of}" * (field.of in _AXIS)
    return (field.means + of).replace("^2", "²")


def _range(field: Field) -> str:
    """Its interval; of a least also the most that it must not exceed."""
    least, most = field.name.split(".")[1], f"{field.name.removesuffix('_min')}_max"
    above = f", up to `{most.split('.')[1]}`" * (least.endswith("_min") and most in FIELDS)
    whole = f"[0, {_AXIS[field.of]})" if field.of in _AXIS else _WHOLE.get(field.of)
    whole = f"[0, {len(KIND_OF[field.dotted])})" if field.dotted in KIND_OF else whole
    return (whole or field.within) + above


def _default(given: Parameter) -> str:
    if given.default is Parameter.empty:
        return ""
    return f"{given.default:.6g}" if isinstance(given.default, float) else f"`{given.default!r}`"


def _file(table: Any) -> str:
    """One file of a market: what its lines count, and its columns."""
    dotted = {field.dotted: field for field in FIELDS.values()}
    lines = [f"`{table.file}`: `{table.row}`{', `hour`' * table.hourly}\n"]
    lines += ["| column | unit | what |", "|---|---|---|"]
    for column, name in ordered(table).items():
        field, added = dotted[name], ADDED.get(name)
        more = f"; since version {added.version}, {added.value:g} before" if added else ""
        if column in table.either:
            more = "; where it is by hour" if table.hourly else "; where it is not by hour"
            more += "; may be left out" * (name in WITHOUT)
        lines.append(f"| `{column}` | {_unit(field)} | {_meaning(field)}{more} |")
    lines += [
        f"| `{column}` | {_unit(dotted[name])} | {_meaning(dotted[name])}; may be left out |"
        for column, name in table.spare.items()
        if name in dotted
    ]
    if "before" in table.spare:
        lines.append(
            "| `before` | step | the step that each begins from, -1 the start, in a tree of steps; "
            "may be left out |"
        )
        lines.append(
            "| `moment` | step | which moment of the first stage it is one of, -1 none, where "
            "imports or trades are committed; may be left out |"
        )
    families = described(*FAMILIES.values())
    for column, name in table.curves.items():
        family, number = name.split(".")
        field = families[f"{FAMILIES[family].__name__}.{number}"]
        curve = f"of curves `{FAMILIES[family].__name__}`, 0 for none"
        lines.append(
            f"| `{column}` | {_unit(field)} | {_meaning(field)}; {curve}; may be left out |"
        )
    for column, name in table.names.items():
        what = _TEXT.get(column, "") + "; may be left out as a whole"
        if name in KIND_OF:
            what = f"one of {', '.join(KIND_OF[name])}; the first of all where left out"
        lines.append(f"| `{column}` | text | {what} |")
    return "\n".join([*lines, "\n"])


if __name__ == "__main__":
    (DOCS / "fields.md").write_text(page(), encoding="utf-8")
    files = DOCS / "files.md"
    files.write_text(with_tables(files.read_text(encoding="utf-8")), encoding="utf-8")
    tables = DOCS / "tables.md"
    tables.write_text(with_families(tables.read_text(encoding="utf-8")), encoding="utf-8")
