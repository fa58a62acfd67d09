"""Imports point down only, as drawn; the public namespace is documented, light, hides no module."""

import ast
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import jaxgne
from jaxgne.grids import MODELS

PACKAGE = Path(jaxgne.__file__).parent
ROOT = Path(__file__).parent.parent

CORE = {"clock", "each", "tables", "market", "devices", "describe", "validation", "model"}
CORE |= {"radial", "acflow", "caps"}
CORE |= {
    "feasibility",
    "one_way",
    "optimality",
    "matrix",
    "elastic",
    "slack",
    "relaxation",
    "reach",
}
CORE |= {"surplus", "scales"}
SOLVERS = {"admm", "base", "interior_point", "primal_dual", "second_stage", "semidecentralized"}
SOLVERS = {f"solvers.{name}" for name in SOLVERS}  # that others may know; the rest are their parts
RESULT = {*CORE, *SOLVERS, "sensitivity", "certificate", "causes", "reasons", "options"}
RESULT |= {"choosing", "status", "result", "padding", "few_sizes", "size", "names"}
RESULT |= {"ordering", "freed", "solve", "clearing", "curves"}
STUDIES = {
    "batch",
    "selection",
    "settlement",
    "scenarios",
    "placement",
    "tuning",
    "acexact",
}
STUDIES |= {"foresight", "comparison", "standard_form", "tracing", "reliability", "tradeoffs"}
STUDIES |= {"tracking", "risk"}
STUDIES |= {"margins", "robust", "leader", "near_potential"}
STUDIES |= {"objectives", "fitting", "gradients", "history", "mechanisms", "alternatives"}

GROUND = {"arguments", "runner", "fields", "record", "programs"}  # what all modules stand on
GROUND |= {"succession", "commitments"}

# Of what is in a folder, what may import more than the folder's line says; and methods of results
# that open what stands above them, when it is called.
MORE = {
    "solvers.second_stage": {"solvers.interior_point"},
    "result": {"dataset"},
    "simulation": {"hindsight"},
}

# Who may import what, lowest layer first; a folder's name stands for all its modules.
LAYERS: dict[str, set[str]] = {
    "threads": set(),
    "freed": set(),
    "runner": {"threads"},
    "fields": set(),
    "record": set(),
    "succession": {"runner"},
    "commitments": {"runner"},
    "clock": {"arrays"},
    "describe": {"kinds"},
    "arrays": set(),
    "arguments": set(),
    "each": set(),
    "fingerprint": set(),
    "store": {"files"},
    "waiting": set(),
    "programs": {"fingerprint", "freed", "runner", "store", "threads", "waiting"},
    "grids": {"grids"},
    "curves": {"curves"},
    "kinds": {"arrays"},
    "names": {"kinds", "market"},
    "tables": {"arrays", "clock", "curves", "kinds"},
    "pricing": {"arrays"},
    # describe: to print itself
    "tangent": set(),
    "market": {"arrays", "clock", "curves", "describe", "grids", "pricing", "tables", "tangent"},
    "caps": {"arrays", "each", "market", "names", "tables", "unbalance"},
    "calls": {"arrays", "caps", "each", "market", "tables"},
    "contracts": {"caps", "clock", "devices", "each", "market", "names", "tables"},
    "zones": {"arrays", "caps", "each", "market", "model", "names", "result", "tables"},
    "size": {"market"},
    "padding": {"each", "market", "tables"},
    "devices": {"arrays", "clock", "curves", "each", "market", "names", "devices"},
    "profiles": {"arrays", "clock", "devices", "profiles"},
    "validation": {"clock", "curves", "each", "kinds", "names", "tables", "market", "validation"},
    "plan": {"each", "tables", "market"},
    "payoffs": {"curves", "each", "tables", "market", "plan"},
    "model": {"curves", "each", "incidence", "market", "payoffs", "plan", "tables"},
    "radial": {"each", "market"},
    "incidence": {"market", "radial"},
    "phases": {"market", "names"},
    "acloops": {"market", "model", "radial"},
    "acphases": {"incidence", "market", "model", "radial"},
    "acflow": {"acloops", "acphases", "each", "market", "model", "radial", "validation"},
    "linear_flow": {"acflow", "incidence", "market", "radial"},
    "unbalance": {
        *("arrays", "each", "incidence", "linear_flow", "market", "names", "radial", "tables"),
    },
    "tight": {"acflow", "each", "market", "model", "radial"},
    "unmet": {"names", "each", "market", "model"},
    "reach": {"incidence", "tables", "market", "model"},
    "scales": {"tables", "market", "model", "reach"},
    "feasibility": {"tables", "incidence", "market", "model", "reach"},
    "surplus": {"linear_flow", "market", "model"},
    "one_way": {"each", "market", "model", "surplus"},
    "optimality": {"curves", "tables", "market", "model", "feasibility", "scales"},
    "matrix": {"market", "model"},
    "elastic": {"tables", "market", "model", "feasibility", "matrix", "scales"},
    "slack": {"tables", "market", "model", "elastic"},
    "relaxation": {"names", "clock", "each", "market", "model", "validation", "elastic", "slack"},
    "solvers": {
        "tables",
        "curves",
        "market",
        "model",
        "feasibility",
        "optimality",
        "scales",
        "incidence",
        "radial",
        "reach",
        *(f"solvers.{part}" for part in ("base", "network", "polishing", "preconditioner")),
        *(
            f"solvers.{part}"
            for part in ("blocks", "cap_rows", "dual", "local", "projection", "sweeps")
        ),
        *(f"solvers.{part}" for part in ("boxed_qp", "laggards")),
        *(f"solvers.{part}" for part in ("columns", "linearized", "newton", "preference")),
        *(f"solvers.{part}" for part in ("contraction", "groups", "setting", "start", "tree")),
    },
    "sensitivity": {
        *("market", "model", "radial", "feasibility", "optimality", "scales", "sensitivity"),
        *("curves", "incidence", "size", "tables", "tangent"),
        *(f"solvers.{part}" for part in ("groups", "newton", "sweeps", "tree")),
    },
    "certificate": {
        "names",
        *("clock", "each", "market", "validation", "model", "acflow", "optimality"),
        "one_way",
        "tables",
        "scales",
    },
    "causes": {"names", "clock", "each", "market", "model", "feasibility", "optimality", "scales"},
    "reasons": {"names", "clock", "market", "model", "causes", "elastic", "relaxation"},
    "options": {"market", "model", "sensitivity", "solvers.base"},
    "choosing": {"market", "padding", "size", *SOLVERS},
    "status": set(),
    "result": {"market", "model", "certificate", "reasons", "choosing", "status"},
    "few_sizes": {"market", "model", "padding", "choosing", "result"},
    "ordering": {"market", "model", "result", "tables"},
    "solve": RESULT - {"clearing", "solve"},
    "clearing": RESULT - {"clearing"},
    **dict.fromkeys(STUDIES, RESULT),
    "cap_money": {"market", "model"},
    "settlement": {*RESULT, "cap_money", "incidence"},
    "scenarios": {
        *("clock", "each", "market", "names", "padding", "scenarios", "size", "tables"),
        "validation",
    },
    "comparison": {"each", "tables", "market", "model", "result", "settlement", "status", "unmet"},
    "uncontrolled": {
        *("acflow", "certificate", "curves", "each", "kinds", "linear_flow", "market", "model"),
        *("result", "status", "tables", "validation"),
    },
    "emissions": {*RESULT, "cap_money", "settlement"},
    "household": {
        "emissions",
        "contracts",
        "each",
        "market",
        "model",
        "names",
        "result",
        "settlement",
    },
    "sharing": {"comparison", "each", "market", "model", "result", "settlement", "tables"},
    "cooperative": {"names"},
    "coalitions": {
        *({*RESULT, "batch", "comparison", "cooperative", "scenarios", "sharing"} - {"solve"}),
    },
    "alternatives": {*RESULT, "batch", "comparison", "uncontrolled"},
    "auctions": {*RESULT, "linear_flow", "uncontrolled"},
    "placement": {"each", "market", "scenarios"},
    "standard_form": {"curves", "each", "market", "matrix", "model", "validation"},
    "files": set(),
    "checkpoint": {"files", "fingerprint"},
    "history": set(),
    "stationary": set(),
    "front": {"market", "result"},
    "coordinates": {"market"},
    "lanes": {*RESULT, "placement"},
    "cluster": {"fingerprint", "waiting"},
    "batch": {*RESULT - {"solve"}, "cluster", "lanes", "placement", "fingerprint", "io.batches"},
    "reserve": {*RESULT, "calls", "settlement"},
    "balancing": {*RESULT, "arrays", "batch", "scenarios", "settlement", "tables"},
    "patterns": {"arrays", "each", "market", "names"},
    "best_response": {"curves", "feasibility", "market", "matrix", "model", "patterns"},
    "on_off": {*RESULT, "best_response", "patterns"},
    "tracking": {*RESULT, "batch", "linear_flow", "scenarios"},
    "channels": set(),
    "consensus": {"channels"},
    "privacy": set(),
    "keepers": {
        *("channels", "consensus", "market", "model"),
        *("solvers.semidecentralized", "solvers.setting"),
    },
    "dialogue": {
        *("channels", "consensus", "keepers", "market", "model", "privacy", "solvers.local"),
        *("solvers.semidecentralized", "solvers.setting"),
    },
    "conversation": {"model", "result"},
    "messages": {
        *({*RESULT, "channels", "consensus", "conversation", "dialogue", "privacy"} - {"solve"}),
        "tracking",
    },
    "windows": {"clock", "commitments", "market", "radial", "scenarios", "tables"},
    "imbalance": {"acflow", "each", "linear_flow", "market", "model", "tables", "uncontrolled"},
    "forecasts": {"clock", "market", "scenarios"},
    "receding": {*RESULT, "forecasts", "imbalance", "windows"},
    "journal": {
        *("checkpoint", "fingerprint", "imbalance", "io", "market", "model", "receding"),
        "windows",
    },
    "simulation": {
        *({*RESULT, "arrays"} - {"solve"}),
        *("forecasts", "journal", "receding", "settlement", "windows"),
    },
    "simulations": {"cluster", "journal", "market", "simulation"},
    "hindsight": {*RESULT, "simulation", "simulations", "windows"},
    "risk": {*RESULT, "settlement"},
    "foresight": {*RESULT, "risk", "scenarios"},
    "margins": {*RESULT, "linear_flow", "scenarios"},
    "robust": {
        *(*RESULT, "batch", "gradients", "linear_flow", "margins", "scenarios", "settlement"),
    },
    "net_limits": {"linear_flow", "market", "model"},
    "box_rules": {"net_limits"},
    "corners": {"acflow", "clock", "market", "net_limits"},
    "envelopes": {*RESULT, "box_rules", "comparison", "corners", "net_limits", "uncontrolled"},
    "aclinear": {*RESULT, "incidence", "linear_flow", "payoffs", "plan", "tangent"},
    "acexact": {*RESULT, "aclinear", "settlement"},
    "losses": {*RESULT, "acexact", "acphases", "incidence"},
    "charges": {
        *("acflow", "arrays", "contracts", "each"),
        *("losses", "market", "model", "result", "tables"),
    },
    "admm": {*({*RESULT, "conversation", "messages", "tracking"} - {"solve"})},
    "pool": {
        *({*RESULT, "arrays", "comparison", "scenarios", "selection", "settlement"} - {"solve"})
    },
    "preferences": {"charges", "each", "kinds", "market", "model", "names", "scenarios"},
    "objectives": {*RESULT, "settlement", "comparison"},
    "reliability": {*RESULT, "gradients"},
    "descent": {*RESULT, "batch", "checkpoint", "coordinates", "fingerprint", "history"},
    "tuning": {*RESULT, "coordinates", "descent", "history"},
    "epsilon": {*RESULT, "cluster", "descent", "history", "tuning"},
    "tradeoffs": {
        *(
            {*RESULT, "cluster", "coordinates", "descent", "epsilon", "front", "history"}
            - {"solve"}
        ),
        *("stationary", "tuning"),
    },
    "fitting": {*RESULT, "coordinates", "descent", "history"},
    "mechanisms": {
        *RESULT,
        *("settlement", "objectives", "coordinates", "descent", "history", "tuning"),
        "linear_flow",
    },
    "leader": {
        *RESULT,
        *("cluster", "objectives", "coordinates", "descent", "history", "tuning"),
    },
    "near_potential": {*RESULT, "batch", "devices"},
    "equipment": {"clock", "each", "market", "devices", "profiles", "validation"},
    "cases": {
        *("acphases", "cases", "clock", "devices", "grids", "incidence", "linear_flow", "market"),
        *("phases", "radial", "tables", "validation"),
    },
    "io": {
        *RESULT,
        *("grids", "io", "cases", "comparison", "files", "fingerprint", "checkpoint", "profiles"),
        *("kinds", "phases", "tangent"),
    },
    "indicators": {*RESULT - SOLVERS, "comparison"},
    "printed": {*RESULT - SOLVERS, "indicators"},
    "checking": {*RESULT - SOLVERS, "indicators"},
    "batch_report": {*RESULT - SOLVERS, "comparison"},
    "plots": {
        *RESULT - SOLVERS,
        *STUDIES,
        *(f"plots.{part}" for part in ("arcs", "layout", "maps", "state", "strokes", "style")),
        *("balancing", "conversation", "envelopes", "front", "incidence"),
    },
    "families": {
        *("acflow", "clock", "fields", "grids", "kinds", "market", "model", "names", "radial"),
        *("families", "result", "settlement", "status", "tables"),
    },
    "dataset": {"families", "market", "phases", "result"},
    "frames": {
        *("clock", "comparison", "families", "front", "market", "result", "tight", "tracking"),
    },
    "exporting": {"dataset", "families", "files", "frames", "io", "market", "result"},
    "html": {
        "simulation",
        *({*RESULT, *STUDIES} - SOLVERS),
        *(
            "batch_report",
            "contracts",
            "emissions",
            "files",
            "frames",
            "household",
            "html",
            "indicators",
        ),
        *("io.swap", "plots"),
    },
    "cli_shared": {"jaxgne", "cluster", "files"},  # public names only; so all commands
    "cli_source": {"jaxgne", "cases", "cli_shared", "contracts", "io"},
    "cli_validate": {"checking", "cli_shared", "cli_source"},
    "cli_out": {"jaxgne", "cli_shared", "io"},
    "cli_import": {"cli_out", "cli_shared", "cli_source", "io"},
    "cli_new": {"cases", "cli_import", "cli_out", "cli_shared", "contracts", "files", "io"},
    "cli_compare": {"jaxgne", "cli_shared", "cli_source", "files", "io", "live"},
    "cli_plot": {"cli_shared", "cli_show", "files", "plots"},
    "studies": {
        *RESULT,
        *STUDIES,
        *("cap_money", "cases", "cluster", "files", "fingerprint", "io.tables", "plots.style"),
        "studies",
        *("grids.equivalent", "linear_flow"),
        *("forecasts", "hindsight", "simulation"),
    },
    "live": {"batch", "history", "simulation", "solve", "waiting"},
    "cli_study": {"jaxgne", "cases", "cli_shared", "cli_source", "live"},
    "cli_tables": {"cli_shared", "files", "io", "market", "names"},
    "cli_tune": {
        *("jaxgne", "cli_shared", "cli_source", "cli_tables", "files", "io", "live", "plots"),
    },
    "cli_messages": {
        *("jaxgne", "cli_shared", "cli_source", "cli_tables", "files", "plots"),
    },
    "cli_envelopes": {
        *("jaxgne", "cli_shared", "cli_source", "cli_tables", "envelopes", "files", "plots"),
    },
    "cli_pareto": {
        *("jaxgne", "batch", "cli_shared", "cli_source", "cli_tables", "cli_tune", "files", "io"),
        *("live", "plots"),
    },
    "cli_clear": {
        *("jaxgne", "cli_out", "cli_shared", "cli_show", "cli_source", "indicators", "io", "live"),
        "printed",
    },
    "cli_batch": {"jaxgne", "batch_report", "cli_shared", "cli_source", "live"},
    "cli_show": {
        *("jaxgne", "batch_report", "cli_shared", "cli_tables", "indicators", "io", "printed"),
        *("cli_simulate", "hindsight", "journal", "runner", "simulation", "simulations"),
    },
    "cli_simulate": {"jaxgne", "cli_shared", "cli_source", "live", "simulation"},
    "cli_report": {"jaxgne", "cli_shared", "cli_show", "hindsight"},
    "cli_bills": {"jaxgne", "cli_shared", "cli_show", "contracts", "emissions"},
    "cli_export": {"jaxgne", "cli_shared", "cli_show"},
    "cli": {
        *("cases", "cli_bills", "cli_export", "cli_report"),
        *("cli_batch", "cli_clear", "cli_compare", "cli_import", "cli_new", "cli_plot"),
        *("cli_shared", "cli_show", "cli_source", "cli_study", "cli_tune", "cli_validate"),
        *("cli_envelopes", "cli_messages", "cli_pareto", "cli_simulate"),
    },
    "__main__": {"cli"},
    "__init__": {
        *RESULT,
        *STUDIES,
        "auctions",
        "envelopes",
        "forecasts",
        "balancing",
        "on_off",
        "simulation",
        "simulations",
        "cases",
        "charges",
        "contracts",
        "emissions",
        "equipment",
        "exporting",
        "household",
        "html",
        "io",
        "messages",
        "plots",
        "pool",
        "preferences",
        "printed",
        "calls",
        "profiles",
        "reserve",
        "studies",
        "zones",
    },
}


def imported(source: str, place: tuple[str, ...]) -> set[str]:
    """Modules of the package that the text of module `place` imports, lazy imports included.

    Dotted names below the package: `solvers.base`; the public namespace itself is `jaxgne`.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            absolute = [name.name.split(".") for name in node.names]
            paths = [path[1:] for path in absolute if path[0] == "jaxgne"]
        elif isinstance(node, ast.ImportFrom):
            path = node.module.split(".") if node.module else []
            if not node.level and path[0] != "jaxgne":
                continue
            base = [*place[: -node.level], *path] if node.level else path[1:]
            paths = [[*base, name.name] for name in node.names]
        else:
            continue
        for path in paths:  # the last part may be a name inside a module
            at = PACKAGE.joinpath(*path)
            inside = path and not (at.is_dir() or at.with_suffix(".py").is_file())
            found.add(".".join(path[:-1] if inside else path) or "jaxgne")
    return found


def upward(source: str, place: tuple[str, ...]) -> list[str]:
    """The imports of module `place` that its line in `LAYERS` does not allow."""
    name = place[0]
    assert name in LAYERS, (
        f"jaxgne/{name} has no layer: add {name!r} and the modules it may import to LAYERS in "
        "tests/test_layers.py."
    )
    allowed = LAYERS[name] | GROUND | MORE.get(".".join(place), set())
    if place[-1] == "__init__":  # a folder gathers its own modules
        allowed = {*allowed, name}
    return sorted(m for m in imported(source, place) if not {m, m.split(".")[0]} & allowed)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path: Path):
    """No module imports one above it, nor a sibling of its own layer, at the top or lazily."""
    place = path.relative_to(PACKAGE).with_suffix("").parts
    assert upward(path.read_text(encoding="utf-8"), place) == []


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.py")), ids=lambda p: p.name)
def test_tests_share_no_fixtures_but_through_modules_of_their_own(path: Path):
    """No file imports a file of tests, not in the text of a script either."""
    shared = r"^\s*(from (tests)?\.test_|from \.+ import test_|import tests\.test_)"
    assert re.findall(shared, path.read_text(encoding="utf-8"), re.MULTILINE) == []


@pytest.mark.parametrize(
    ("place", "line", "module"),
    [
        (("model",), "from .clearing import clear", "clearing"),
        (("model",), "from . import clearing", "clearing"),
        (("market",), "import jaxgne.model", "model"),
        (("optimality",), "from jaxgne import clear", "jaxgne"),
        (("solvers", "local"), "from .primal_dual import PrimalDual", "solvers.primal_dual"),
        (("solvers", "base"), "from .. import clearing", "clearing"),
        (("cases", "feeders"), "from ..solvers.base import AbstractSolver", "solvers.base"),
        (("cli",), "from .clearing import clear", "clearing"),
    ],
)
def test_upward_import_is_found(place: tuple[str, ...], line: str, module: str):
    """The walk sees an upward import in any spelling, inside a function too."""
    lazy = f"def later():\n    {line}\n"
    assert upward(lazy, place) == [module]


def test_module_without_a_layer_is_refused():
    """A new module is told where to say what it may import."""
    with pytest.raises(AssertionError, match=r"newcomer.* to LAYERS in"):
        upward("", ("newcomer",))


def told_modules() -> dict[str, tuple[int, str]]:
    """Each module in the tables of layers, by path: how high its layer is, and its line."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    layers = page[: page.index("## The path of a number")].split("\n### ")[1:]
    lines = [(k, line) for k, layer in enumerate(layers) for line in layer.splitlines()]
    found = [(k, re.fullmatch(r"\| `(jaxgne/\S+)` \| (.*) \|", line)) for k, line in lines]
    return {match[1]: (k, match[2]) for k, match in found if match}


def source(path: str) -> Path:
    return ROOT / path / "__init__.py" if path.endswith("/") else ROOT / path


def test_all_modules_are_in_the_architecture():
    """By the first lines of their docstrings: all at the top, and the mathematics' own folders."""
    files = [*PACKAGE.glob("*.py"), *(PACKAGE / "solvers").glob("[!_]*.py")]
    files += (PACKAGE / "sensitivity").glob("[!_]*.py")
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    paths = {str(path.relative_to(ROOT)) for path in files}
    told = told_modules()
    assert told.keys() == paths | {f"{path.relative_to(ROOT)}/" for path in folders}
    for path, (_, line) in told.items():
        docstring = ast.get_docstring(ast.parse(source(path).read_text("utf-8"))) or ""
        assert line == " ".join(docstring.split("\n\n")[0].split()), path


def test_layers_in_the_architecture_are_those_of_the_tests():
    """No module may import one of a layer that the page draws above its own."""
    at = {
        Path(path).stem: layer for path, (layer, _) in told_modules().items() if path.count("/") < 2
    }
    at |= {Path(path).name: layer for path, (layer, _) in told_modules().items() if path[-1] == "/"}
    assert at.keys() == LAYERS.keys()
    for name, allowed in LAYERS.items():
        below = {each.split(".")[0] for each in allowed} - {"jaxgne"}  # the public names
        assert {each for each in below if at[each] > at[name]} == set(), name


LATER = {"optax", "scipy", "matplotlib", "pandas", "typer", "IPython"}
LATER |= {"pvlib", "demandlib", "xarray", "pyarrow", "jaxgne.profiles"}
LATER |= {"jaxgne.batch", "jaxgne.io", "jaxgne.plots", "jaxgne.scenarios", "jaxgne.studies"}
LATER |= {"jaxgne.fitting", "jaxgne.mechanisms", "jaxgne.tuning", "jaxgne.selection"}
LATER |= {"jaxgne.messages", "jaxgne.robust", "jaxgne.tracking", "jaxgne.tradeoffs"}


def test_a_first_answer_imports_and_compiles_what_it_needs():
    """Importing leaves JAX's precision alone; a small clear needs neither the rest nor XLA."""
    script = """
import json, sys
import jax
from jax import monitoring
before = jax.config.jax_enable_x64
import jaxgne
from jaxgne.grids import MODELS
told = {"precision_kept": before == jax.config.jax_enable_x64, "imported": sorted(sys.modules)}
jax.config.update("jax_enable_x64", True)
programs = []
monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: programs.append(event) if "backend_compile" in event else None
)
market = jaxgne.ieee37()
clearing = jaxgne.clear(market)
words = str(clearing)
told |= {"cleared": sorted(sys.modules), "programs": programs, "runner": clearing.runner}
print(json.dumps(told))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told = json.loads(run.stdout)
    assert told["precision_kept"] and told["runner"] == "numpy" and told["programs"] == []
    assert LATER & set(told["imported"]) == set()
    assert LATER & set(told["cleared"]) == set()


def test_the_command_compiles_nothing():
    """`jaxgne clear ieee37`, report and all."""
    script = """
import sys
from jax import monitoring
monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: print(event, file=sys.stderr) if "backend_compile" in event else None
)
sys.argv = ["jaxgne", "clear", "ieee37"]
from jaxgne.cli import main
main()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "AC-safe" in run.stdout and "backend_compile" not in run.stderr


def test_what_is_imported_later_is_there():
    """All public names and modules are found, listed, and refused by name where there are none."""
    assert {*jaxgne.__all__, "plots", "studies"} <= set(dir(jaxgne))
    assert all(getattr(jaxgne, name) is not None for name in jaxgne.__all__)
    assert jaxgne.tuning.tune is jaxgne.tune
    with pytest.raises(AttributeError, match="no attribute 'clere'"):
        _ = jaxgne.clere  # type: ignore[attr-defined]


def test_public_namespace_is_documented():
    """Each name has a docstring of its own (a dataclass makes up its signature)."""
    names = jaxgne.__all__
    assert len(set(names)) == len(names)
    docs = {name: inspect.getdoc(getattr(jaxgne, name)) or "" for name in names}
    assert [name for name, doc in docs.items() if not doc or doc.startswith(f"{name}(")] == []


FOLDERS = ["jaxgne", *(f"jaxgne.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_hides_a_module(folder: str):
    """`jaxgne.selection` is the module, once all are imported, and so is any other."""
    package = import_module(folder)
    names = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"__main__"}
    assert names & set(getattr(package, "__all__", ())) == set()
    modules = {name: import_module(f"{folder}.{name}") for name in names}
    assert {name: getattr(package, name) for name in names} == modules


def by_name(source: str) -> list[int]:
    """Lines on which a text compares something with a grid model's name; rules have names too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare | ast.MatchValue):
            parts = list(ast.walk(node))
            words = {part.value for part in parts if isinstance(part, ast.Constant)}
            asked = {part.id for part in parts if isinstance(part, ast.Name)} != {"rule"}
            named = any(ast.unparse(part).endswith("model.name") for part in parts)
            if (words & {*MODELS} and asked) or named:
                found.append(node.lineno if isinstance(node, ast.Compare) else node.value.lineno)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_asks_which_grid_model(path: Path):
    """Only what a model says of itself counts: a new one is one class, in `grids` or anywhere."""
    assert path.parent.name == "grids" or by_name(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        'if market.grid.model == "paper": pass',
        'radial = model.name not in ("copperplate", "paper")',
        "same = grid.model.name == other",
        'match name:\n    case "lindistflow": pass',
    ],
)
def test_a_comparison_with_a_grid_model_is_found(line: str):
    """In any spelling; a mechanism's rule of step sizes is called after the paper as well."""
    assert len(by_name(line)) == 1 and by_name('rule == "paper"') == []
