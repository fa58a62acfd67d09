"""Pages of the mathematics and of the modules name what the code has, and all of it."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import jaxgne as jg
from jaxgne import optimality, settlement

from .pages import blocks

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "model.md").read_text("utf-8")
NO_SYMBOL = {
    "Prosumers.names",
    "Generators.bus",
    "Generators.kind",
    "Generators.names",
    "Buffers.bus",
    "Buffers.kind",
    "Buffers.names",
    "Buffers.made",
    "Grid.names",
    "Grid.line_names",
    "Caps.units",
}  # what no equation knows


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of all sources and pages that may point to a section."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in ("jaxgne", "tests", "benchmarks", "docs"):
        paths += sorted((ROOT / folder).rglob("*.py")) + sorted((ROOT / folder).rglob("*.md"))
    for path in paths:
        yield str(path.relative_to(ROOT)), path.read_text("utf-8")


def test_references_to_the_model_lead_to_its_sections():
    """All have one form, on one line, none goes by a number, and every title is a heading."""
    titles, found = set(re.findall(r"^## (.+)$", PAGE, re.M)), []
    for name, text in texts():
        assert not re.search(r"MODEL (sections? )?\d", text), name
        assert not re.search(r"\(model\.md:(?! [A-Z][^()\n]*\))", text), name
        here = re.findall(r"\(model\.md: ([A-Z][^()\n]*)\)", text)
        assert {title for each in here for title in each.split(", ")} <= titles, name
        found += here
    assert len(found) >= 20


def named(owner: str) -> Any:
    """What the page calls so: the package, one of its classes or one of its modules."""
    if owner == "jg":
        return jg
    places = [place for place in (jg, optimality, settlement) if hasattr(place, owner)]
    return getattr(places[0], owner) if places else import_module(f"jaxgne.{owner}")


def field_names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_names_on_the_page_exist():
    """Every `Record.field` is a field, and every `module.function` is in that module."""
    names = re.findall(r"`([A-Za-z_]+)\.(\w+)", PAGE)
    for owner, name in names:
        kind = named(owner)
        known = name in field_names(kind) if is_dataclass(kind) else hasattr(kind, name)
        assert known, f"{owner}.{name}"
    assert len(names) > 80


def test_all_data_decisions_and_rows_are_on_the_page():
    """Every field of a market's tables, of `Plan` and of `Rows` has its symbol there."""
    tables = (jg.Prosumers, jg.Generators, jg.Buffers, jg.Trading, jg.Grid, jg.Tariff, jg.Caps)
    kinds = (*tables, jg.Plan, jg.Rows)
    every = {f"{kind.__name__}.{field}" for kind in kinds for field in field_names(kind)}
    assert {name for name in every - NO_SYMBOL if f"`{name}`" not in PAGE} == set()


HOUSE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_paths_in_the_architecture_exist():
    """Modules, folders, tests and pages; `_NAME.py` stands for one that is to be written."""
    paths = set(re.findall(r"`((?:jaxgne|tests|docs)/[^\s`]+)`", HOUSE))
    missing = {path for path in paths if "NAME" not in path and not (ROOT / path).exists()}
    assert missing == set() and len(paths) > 100


def test_every_argument_of_a_public_name_is_told_a_meaning(monkeypatch: pytest.MonkeyPatch):
    """By its docstring, its field, or words that are the same everywhere; so on the page."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    reference: Any = import_module("reference")
    meanings = import_module("arguments").meanings
    names = [name for group in reference.GROUPS.values() for name in group[2].split()]
    names = [each for name in names for each in reference.expanded(name)]
    told, mute = 0, []
    for name in names:
        thing = reference.found(name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            page = reference.described(name)
            for argument, meaning in meanings(thing).items():
                told += 1
                if not meaning or meaning not in page or f"`{argument}`" not in page:
                    mute.append(f"{name}: {argument}")
    assert mute == [] and told > 900


def test_a_meaning_is_the_sentences_that_name_an_argument(monkeypatch: pytest.MonkeyPatch):
    def made(owner: int, power: float, tol: float, other: int) -> None:
        """A device of `owner`. It has `power` kW,

        of which much is lost. Raises `ValueError` for another `owner`.
        """

    monkeypatch.syspath_prepend(ROOT / "docs")
    arguments: Any = import_module("arguments")
    assert arguments.meanings(made) == {
        "owner": "A device of `owner`.",
        "power": "It has `power` kW, of which much is lost.",
        "tol": arguments.COMMON["tol"],
        "other": "",
    }


def test_a_capacity_comes_from_its_file_to_the_sentence_on_the_page(tmp_path: Path):
    """A battery that fills to 5.1 kWh of 6 breaks a limit of 4 by 1.1 kWh, in hour 1."""
    example = next(b for b in blocks("docs/learn/first.md") if "market = jg.Market(" in b)
    names: dict[str, Any] = {}
    exec(example, names)
    jg.save(tmp_path / "day", names["market"])
    table = tmp_path / "day" / "buffer_hours.csv"
    assert table.read_text().count(",6.0,") == 3
    table.write_text(table.read_text().replace(",6.0,", ",4.0,"))
    found = names["clearing"]
    worst = jg.certify(jg.load_case(tmp_path / "day"), found.plan, found.prices).worst()
    assert worst.startswith("1.1e+00 kWh, bounds on the content of battery 0") and worst in HOUSE
