"""The command `jaxgne`: clear and study markets from the shell, list the built-in cases.

Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible, 130 stopped.
"""

import importlib.metadata
import inspect
import platform
from collections.abc import Callable
from typing import Annotated, Any

import jax
import typer

from .cases import CASES
from .cli_batch import batch
from .cli_bills import bills
from .cli_clear import clear
from .cli_compare import compare
from .cli_envelopes import envelopes
from .cli_export import export
from .cli_import import import_
from .cli_messages import messages
from .cli_new import new
from .cli_pareto import pareto
from .cli_plot import plot
from .cli_report import report
from .cli_shared import Commands, Json, document
from .cli_show import show
from .cli_simulate import simulate
from .cli_source import options_of
from .cli_study import study
from .cli_tune import tune
from .cli_validate import validate

app = typer.Typer(
    cls=Commands,
    help="Clear peer-to-peer energy markets on distribution grids.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the command `jaxgne` and of `python -m jaxgne`."""
    app(prog_name="jaxgne")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"jaxgne {importlib.metadata.version('jaxgne')}")
        raise typer.Exit


@app.callback()
def jaxgne_(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Tell jaxgne's version."),
    ] = False,
) -> None:
    """Clear peer-to-peer energy markets on distribution grids."""


def cases(as_json: Json = False) -> None:
    """List the built-in cases and their options, with what they are unless given."""
    told = {name: _case(name, builder) for name, builder in CASES.items()}
    if as_json:
        document("cases", {"cases": told})
        return
    for name, case in told.items():
        typer.echo(f"{name}: {case['about']}")
        options = [
            option if case["options"][option] is None else f"{option} {case['options'][option]}"
            for option in case["options"]
        ]
        typer.echo(f"    options: {', '.join(options)}")


def _case(name: str, builder: Callable[..., Any]) -> dict[str, Any]:
    about = (inspect.getdoc(builder) or "").split("\n", 1)[0]
    usual = {"--step" if k == "hour_length" else f"--{k.replace('_', '-')}": p.default
             for k, p in inspect.signature(builder).parameters.items()}  # fmt: skip
    return {"about": about, "options": {word: usual.get(word) for word in options_of(name)}}


def version(as_json: Json = False) -> None:
    """Tell the versions of jaxgne, JAX and Python, and the device."""
    device = jax.devices()[0]
    facts = {
        "jaxgne": importlib.metadata.version("jaxgne"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform} ({device.device_kind})",
    }
    if as_json:
        document("version", facts)
    else:
        typer.echo("\n".join(f"{name} {word}" for name, word in facts.items()))


# Commands with examples of what `--help` tells, in an order in which each can be run.
_COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    new: ("jaxgne new village", "jaxgne new tariff.toml"),
    validate: ("jaxgne validate village", "jaxgne validate ieee37 --hours 4 --no-clear"),
    import_: (
        "jaxgne import net.m --hours 24 --out street",
        "jaxgne import village --out village.xlsx",
    ),
    clear: (
        "jaxgne clear ieee37 --prosumers 6 --hours 6 --out day",
        "jaxgne clear village --tariff tariff.toml --json",
    ),
    show: ("jaxgne show day", "jaxgne show day --json"),
    compare: ("jaxgne compare village --reference today",),
    envelopes: (
        "jaxgne envelopes ieee37 --prosumers 6 --hours 6 --rule most --out limits.csv",
        "jaxgne envelopes village --beside",
    ),
    plot: ("jaxgne plot day --kind prices --out day.svg",),
    report: ("jaxgne report day --out day.html",),
    bills: ("jaxgne bills day --out bills",),
    export: ("jaxgne export day --out day.nc", "jaxgne export day --out tables"),
    batch: (
        "jaxgne batch ieee37 --prosumers 4 --hours 4 --scenarios 4 --load-noise 0.05 --out runs",
        "jaxgne show runs",
    ),
    simulate: (
        "jaxgne simulate village --days 2 --window 12 --every 6 --forecast noisy --out week",
        "jaxgne report week --out week.html --no-baseline",
    ),
    messages: ("jaxgne messages village --loss 0.2 --delay 2 --share 0.4 --rounds 400 --runs 3",),
    tune: ("jaxgne tune envelope day --out room",),
    pareto: (
        "jaxgne pareto trading-tariff village --first revenue --points 3 --steps 5 --out front",
        "jaxgne show front",
    ),
    study: ("jaxgne study tariff village --values 0.001,0.01",),
    cases: ("jaxgne cases",),
    version: ("jaxgne version --json",),
}
for _command, _examples in _COMMANDS.items():
    app.command(name=_command.__name__.rstrip("_"), epilog="\n\n".join(["Examples:", *_examples]))(
        _command
    )
