"""What all commands share: exit codes, and the one place where errors become sentences."""

import json
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.exceptions import TyperException

import jaxgne

from .cluster import connected
from .files import whole

BAD_INPUT, NOT_CLEARED, INFEASIBLE, STOPPED = 1, 3, 4, 130
SCHEMA = 1  # of the JSON that commands print: a new number where a key is gone or means another
MOST_STEPS = 2**31 - 1
MOST_SEED = 2**63 - 1
MOST_PROSUMERS = 1_000_000

SUMMARY = "summary.json"  # of what tune, pareto and study wrote: what `--json` prints
WIDTH = 100  # columns, where the terminal has them

# Arguments and options that several commands take.
Tol = Annotated[float, typer.Option(help="Relative KKT error to reach.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing where all goes well, no progress.")
]
Result = Annotated[
    Path, typer.Argument(metavar="RESULT", help="What jaxgne clear, batch or tune --out wrote.")
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULT",
        help="A result of the same households that bills are compared with; by default the "
        "market without trades, which is cleared.",
    ),
]
NoBaseline = Annotated[
    bool, typer.Option("--no-baseline", help="Compare bills with nothing; clears nothing.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Dask scheduler whose workers do the work, as tcp://node1:8786."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

# What a person may mend: numbers and words, files and folders, packages that lack.
_TOLD = (ValueError, OSError, ImportError)
_TOO_LARGE = (MemoryError, OverflowError)
_ISSUES = "https://github.com/jaxgne/jaxgne/issues"
_SHORT = 300  # letters of a message that was not written for people


def fail(sentence: str, code: int) -> typer.Exit:
    """Say what is wrong on stderr; the exit to raise."""
    typer.echo(f"jaxgne: {sentence}", err=True)
    return typer.Exit(code)


def document(kind: str, facts: dict[str, Any], *, to: Path | None = None) -> None:
    """Print a command's answer as JSON, or write it; `docs/json.md` has the keys of each kind."""
    facts = {"schema": SCHEMA, "kind": kind} | plain(facts)
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    if to is None:
        typer.echo(text)
        return
    with whole(to) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def wrote(facts: dict[str, Any], words: str, as_json: bool, quiet: bool) -> None:
    """Print what a command has written, as JSON or in words, unless it is to be quiet."""
    if as_json:
        document("written", facts)
    elif not quiet:
        typer.echo(words)


def plain(value: Any) -> Any:
    """What JSON can hold of numbers, arrays and what has them: null of what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | jax.Array):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def shown(tables: Any) -> Console:
    """Print tables, as wide as the terminal but at most `WIDTH`."""
    console = Console()
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.print(tables, highlight=False)
    return console


def double(tree: Any) -> Any:
    """`tree` in float64: a market may have been saved in float32."""
    return jax.tree.map(
        lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def check_missed(missed: int, of: str = "markets") -> None:
    """Exit where not all that were to be cleared did."""
    if missed:
        raise fail(f"{missed} {of} did not clear.", NOT_CLEARED)


def workers(scheduler: str | None) -> AbstractContextManager[Any]:
    """A client of the Dask scheduler at an address; None where there is no address."""
    return nullcontext() if scheduler is None else connected(scheduler)


@contextmanager
def kept(out: Path | None) -> Iterator[None]:
    """Where somebody stops what runs here, say what is kept in the folder `out`."""
    try:
        yield
    except KeyboardInterrupt as stop:
        words = str(stop) or "stopped"
        if out is not None:
            words += f"; what is done is in {out}, and the same call goes on after it"
        raise KeyboardInterrupt(words) from None


class Commands(TyperGroup):
    """The commands, which end in a sentence and an exit code whatever happens in them."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with warnings.catch_warnings(), _Sentences():
            warnings.showwarning = _warn
            return super().invoke(ctx)


class _Sentences:
    """Turns every exception of its block into a sentence on stderr and an exit code."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: object) -> None:
        meant = (typer.Exit, typer.Abort, SystemExit, GeneratorExit, BrokenPipeError)
        if error is None or isinstance(error, meant):
            return
        raise _ended(error) from error


def _ended(error: BaseException) -> typer.Exit:
    if isinstance(error, TyperException):
        words = " ".join(error.format_message().split()).replace(" Value error, ", " ")
        return fail(words, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return fail(str(error) or "stopped", STOPPED)
    if isinstance(error, jaxgne.NotCleared):
        name = jaxgne.status.status_name(error.clearing.status)
        return fail(str(error), INFEASIBLE if name == "infeasible" else NOT_CLEARED)
    said = " ".join(str(error).split())
    if isinstance(error, _TOO_LARGE) or "RESOURCE_EXHAUSTED" in said:
        return fail(f"this is too large for this machine: {_short(said) or 'no memory'}", BAD_INPUT)
    if isinstance(error, OSError) and error.filename is not None:
        return fail(f"{_short(str(error.filename))}: {error.strerror}.", BAD_INPUT)
    if isinstance(error, OSError) and error.strerror is not None:
        return fail(f"{error.strerror}.", BAD_INPUT)  # without the number before it
    if isinstance(error, _TOLD):
        return fail(str(error), BAD_INPUT)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return fail(
        f"unexpected {type(error).__name__}: {_short(said)} ({where.filename}, line "
        f"{where.lineno}). Please report it, with what you typed, at {_ISSUES}.",
        BAD_INPUT,
    )


def _short(words: str) -> str:
    return words if len(words) <= _SHORT else f"{words[:_SHORT]} ..."


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"jaxgne: {message}", err=True)
