"""Pages of the site that are written from the package itself: its public names, its commands.

A name's docstring is its text. Below it stand its arguments, each with what `docs/arguments.py`
finds said of it, what is returned, and what is raised by the sentences that say "Raises".
"""

import inspect
import re
import textwrap
from importlib import import_module
from itertools import groupby
from typing import Any

from arguments import meanings
from typer.main import get_command

import jaxgne
from jaxgne.cli import app

GROUPS = {
    "market": (
        "Describing a market",
        "`docs/fields.md` has every field of a market, `docs/model.md` every symbol.",
        "Market Prosumers Generators Buffers Trading Grid Tariff Caps Contract Clock validate "
        "capped with_contracts oriented zones.* devices.* caps.* profiles.*",
    ),
    "cases": (
        "Cases and grids of other programs",
        "Markets that come with the package, customers for a grid of your own, and nets of other "
        "programs (`docs/imports.md`).",
        "ieee37 ieee123 ieee13 ieee34 european_lv synthetic cases.populate equip from_pandapower "
        "from_simbench from_matpower from_pypower from_opendss from_power_grid_model "
        "phases.by_phase grids.balanced grids.rating grids.ampere",
    ),
    "clearing": (
        "Clearing",
        "From a market to plan, prices and certificate. `docs/choosing.md` says what to choose.",
        "clear clear_ac Clearing Plan Rows Status NotCleared Stopped certify ac_power_flow relax "
        "least_norm selection.select InteriorPoint PrimalDual SemiDecentralized ADMM "
        "admm.run admm.beside "
        "AbstractSolver trace track convex one_way.narrowed on_off.units on_off.clear "
        "on_off.OnOff patterns.Units messages.simulate conversation.Conversation "
        "consensus.metropolis consensus.push_shares privacy.epsilon privacy.round_cost",
    ),
    "money": (
        "Money and comparison",
        "Who pays whom, and what a market is worth.",
        "settle costs aggregate household_bill household.household_bills write_bills side_by_side "
        "compare settlement.price_parts "
        "household.income sharing.share sharing.who_gains coalitions.* cooperative.Game "
        "cooperative.Split cooperative.Core losses.loss_shares losses.loss_money "
        "charges.* pool.* preferences.* "
        "comparison.baselines uncontrolled.today robustness margins.margins margins.tightened "
        "with_reserve reserve.schedule reserve.payments "
        "auctions.auctioned auctions.plan_alone auctions.uniform auctions.pay_as_bid "
        "envelopes.* net_limits.net_limits net_limits.reach near_potential.* "
        "reserve.shortage balancing.* emissions.emissions_of emissions.embodied "
        "emissions.allowances",
    ),
    "derivatives": (
        "Derivatives and tuning",
        "What a number of the market does to what comes of it, and the best such number.",
        "sensitivities trust Implicit Smoothed tune pareto fit objectives.* mechanisms.* "
        "leader.lead leader.Leading leader.MarginFloor",
    ),
    "batches": (
        "Batches",
        "Many markets of one shape, on one device or several (`docs/batches.md`).",
        "clear_many spread cluster.each cluster.connected scenarios.* foresight.value "
        "foresight.ahead risk.averse risk.bill_risk "
        "risk.branch_bills risk.branch_costs risk.cvar risk.value_at_risk",
    ),
    "simulation": (
        "Simulation",
        "Days that follow one another, planned with what is known (`docs/simulation.md`).",
        "simulate simulate_many simulation.load simulations.load simulation.Simulation "
        "hindsight.* forecasts.*",
    ),
    "files": (
        "Files, tables, pictures",
        "Folders and workbooks, arrays for other programs, pandas tables, figures.",
        "save load load_case export report frames.* plots.*",
    ),
    "studies": ("Studies", "The studies of the papers, as functions.", "studies.*"),
}


def api_pages() -> dict[str, str]:
    """Text of each page of public names; raises ValueError where one of `__all__` has none."""
    pages, told = {}, set()
    for page, (title, text, names) in GROUPS.items():
        every = [name for given in names.split() for name in expanded(given)]
        told |= set(every)
        parts = [f"# {title}: the functions", text, *map(described, every)]
        pages[f"api/{page}.md"] = "\n\n".join(parts) + "\n"
    missing = sorted(set(jaxgne.__all__) - told)
    if missing:
        raise ValueError(f"GROUPS of docs/reference.py: no page has {', '.join(missing)}.")
    return pages


def expanded(name: str) -> list[str]:
    """A name, or the public functions and classes of a module."""
    if not name.endswith(".*"):
        return [name]
    module = import_module(f"jaxgne.{name[:-2]}")
    public = getattr(module, "__all__", None) or [
        each
        for each, value in vars(module).items()
        if not each.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]
    return [f"{name[:-2]}.{each}" for each in public]


def found(name: str) -> Any:
    """What a public name stands for."""
    thing: Any = jaxgne
    for part in name.split("."):
        thing = getattr(thing, part, None) or import_module(f"{thing.__name__}.{part}")
    return thing


def described(name: str) -> str:
    """Signature, docstring, arguments, what is returned and raised, of one public name."""
    thing = found(name)
    text = inspect.getdoc(thing) or ""
    raised = re.findall(r"(?:(?<=\. )|(?<=\.\n)|(?<=\n\n))Raises (.*?\.(?=\s|$))", text, re.S)
    for each in raised:
        text = text.replace(f"Raises {each}", "").rstrip().replace("\n\n ", "\n\n", 1)
    heading = f"## jg.{name}"
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return f"{heading}\n\n{text}"
    call = f"{name.split('.')[-1]}({', '.join(shortened(signature))})"
    lines = textwrap.fill(call, 90, subsequent_indent="    ", break_long_words=False)
    parts = [heading, f"```text\n{lines}\n```", text]
    if signature.parameters:
        parts += ["**Arguments**", "\n".join(arguments(thing, signature))]
    if inspect.isfunction(thing) and signature.return_annotation is not inspect.Signature.empty:
        said = re.findall(r"(?:^|(?<=\. )|(?<=\n))Returns (.*?\.)(?=\s|$)", text, re.S)
        words = " ".join([typed(signature.return_annotation), *said])
        parts.append(f"**Returns** {' '.join(words.split())}")
    if raised:
        parts.append(f"**Raises** {' '.join(' '.join(raised).split())}")
    if inspect.isclass(thing):
        parts += methods(thing)
    return "\n\n".join(parts)


def shortened(signature: inspect.Signature) -> list[str]:
    """Names of arguments, those by keyword only after a star, those with a default with `=`."""
    names, starred = [], False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not starred:
            names, starred = [*names, "*"], True
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        starred = starred or mark == "*"
        names.append(f"{mark}{each.name}" + ("" if each.default is each.empty else "=..."))
    return names


def arguments(thing: Any, signature: inspect.Signature) -> list[str]:
    """A line for each argument, or several of one meaning: type, default, and what it means."""
    told = meanings(thing)
    lines = []
    for meaning, same in groupby(signature.parameters.values(), lambda each: told[each.name]):
        names = []
        for each in same:
            facts = [fact for fact in (typed(each.annotation), default(each)) if fact]
            names.append(f"`{each.name}`" + (f" ({', '.join(facts)})" if facts else ""))
        lines.append(f"- {', '.join(names)}: {meaning}")
    return lines


def typed(annotation: Any) -> str:
    """An annotation as the source writes it."""
    if annotation is inspect.Signature.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("NoneType", "None")
    return f"`{text}`"


def default(parameter: inspect.Parameter) -> str:
    """What an argument is unless given."""
    if parameter.default is parameter.empty:
        return ""
    text = repr(parameter.default)
    return f"by default `{text}`" if len(text) < 40 and " at 0x" not in text else "optional"


def methods(kind: type) -> list[str]:
    """What public methods and properties of a class say of themselves, a line each."""
    lines = []
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else value
        if name.startswith("_") or not (callable(function) and inspect.getdoc(function)):
            continue
        first = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        lines.append(f"- `.{name}{'' if isinstance(value, property) else '()'}`: {first}")
    return ["\n".join(lines)] if lines else []


def command_line() -> str:
    """The page of the command line, from the commands themselves."""
    page = ["# Command line", str(app.info.help), inspect.getdoc(import_module("jaxgne.cli")) or ""]
    page[2] = page[2].split("\n\n", 1)[1]
    for name, command in commands(get_command(app), "jaxgne"):
        rows = ["| argument | default | what it is |", "|---|---|---|"]
        for each in command.params:
            if each.name == "help" or getattr(each, "hidden", False):
                continue
            option = each.param_type_name == "option"
            names = [*each.opts, *each.secondary_opts] if option else [each.name.upper()]
            shown = ", ".join(f"`{each}`" for each in names)
            known = "" if each.default in (None, False, ...) else f"`{each.default}`"
            rows.append(f"| {shown} | {known} | {(each.help or '').replace('|', chr(92) + '|')} |")
        page += [f"## {name}", inspect.cleandoc(command.help or ""), "\n".join(rows)]
    return "\n\n".join(page) + "\n"


def commands(group: Any, above: str) -> list[tuple[str, Any]]:
    """All commands with their full names, those of groups in their place."""
    every = []
    for name, command in group.commands.items():
        full = f"{above} {name}"
        every += commands(command, full) if hasattr(command, "commands") else [(full, command)]
    return every
