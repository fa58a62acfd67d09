"""What each argument of a public name means, read off where it is said already.

A field of a record says it where it is declared, a function in the sentences of its docstring that
name the argument in backticks. A word that means the same wherever it stands is told once, here.
"""

import dataclasses
import inspect
import re
from typing import Any

COMMON = {
    "market": "The market.",
    "clearing": "What `jg.clear` returned for this market.",
    "plan": "What everyone does, a `jg.Plan`.",
    "prices": "The multipliers of the market's rows, a `jg.Rows`.",
    "solver": "Who clears, as `jg.InteriorPoint()`; None chooses by size (docs/choosing.md).",
    "tol": "The relative KKT error to reach; None is 1e-6 in float64, 1e-4 in float32.",
    "max_steps": "The most steps of the solver.",
    "start": "A clearing from which the solver goes on.",
    "throw": "Whether `jg.NotCleared` is raised where it does not clear.",
    "progress": "A function that is called with how far the work is; None for silence.",
    "folder": "Where what is done is kept, and taken up by the same call (docs/folders.md).",
    "client": "A `distributed.Client` whose workers do the work, or None (docs/cluster.md).",
    "hours": "How many steps.",
    "hour_length": "Hours in a step; one number, or one for each step.",
    "clock": "When the first step begins, a `jg.Clock`.",
    "owner": "The prosumer, by row; several for as many devices.",
    "ax": "The axes of Matplotlib to draw on; new ones where None.",
    "prosumers": "How many prosumers.",
    "behavior": "`nash`, or `wardrop` for prosumers who take prices as given.",
    "reactive_balance": "Whether the grid model `paper` balances reactive power too.",
    "stress": "Whether limits of the grid are set so that they bind.",
    "degree": "How many trading partners each has, on average.",
    "connectivity": "In place of `degree`: the share of all pairs that trade.",
    "name": "What tables and messages call it.",
    "model": "The grid model: `lindistflow`, `lindist3flow`, `paper` or `copperplate`.",
    "steps": "How many steps there are.",
}


def meanings(thing: Any) -> dict[str, str]:
    """The meaning of each argument of a function or class, by name; "" where none is told."""
    doc = inspect.getdoc(thing) or ""
    said: dict[str, str] = {}
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
        fields = {each.name: each.metadata.get("says") for each in dataclasses.fields(thing)}
        said = of_comments(thing)
        said |= {name: of_field(each) for name, each in fields.items() if each}
    return {
        name: said.get(name) or sentences(name, doc) or COMMON.get(name, "")
        for name in inspect.signature(thing).parameters
    }


def of_field(field: Any) -> str:
    """What the declaration of a field says: its meaning, unit and range."""
    facts = [field.unit, field.within if field.unit else ""]
    facts = ", ".join(each for each in facts if each and each != "(-inf, inf)")
    return f"{field.means[:1].upper()}{field.means[1:]}{f' ({facts})' if facts else ''}."


def of_comments(kind: type) -> dict[str, str]:
    """What comments behind the fields of a result say of them."""
    return dict(
        re.findall(r"^    (\w+):[^#\n]*  # (?!type:|noqa|fmt:)(.*)$", inspect.getsource(kind), re.M)
    )


def sentences(name: str, doc: str) -> str:
    """The sentences of a docstring that name an argument in backticks, "Raises" aside."""
    prose = [part for part in doc.split("\n\n") if not part.startswith("    ")]
    every = re.split(r"(?<=\.)\s+(?=[A-Z`])", " ".join(" ".join(prose).split()))
    return " ".join(
        each for each in every if re.search(rf"`{name}\b", each) and not each.startswith("Raises")
    )
