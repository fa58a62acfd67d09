"""What all commands share: exit codes, and the one place where errors become sentences."""

import traceback
import warnings
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import jaxgne

BAD_INPUT, NOT_CLEARED, INFEASIBLE, STOPPED = 1, 3, 4, 130
MOST_STEPS = 2**31 - 1
MOST_SEED = 2**63 - 1
MOST_PROSUMERS = 1_000_000

# Arguments and options that several commands take.
Case = Annotated[
    str, typer.Argument(metavar="CASE", help="A built-in case, or a folder that jaxgne wrote.")
]
Prosumers = Annotated[
    int | None, typer.Option(min=1, max=MOST_PROSUMERS, help="How many prosumers.")
]
Stress = Annotated[
    bool | None, typer.Option("--stress/--no-stress", help="Let the limits of the grid bind.")
]
Tol = Annotated[float, typer.Option(help="Relative KKT error to reach.")]
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


def double(tree: Any) -> Any:
    """`tree` in float64: a market may have been saved in float32."""
    return jax.tree.map(
        lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


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
        return fail(" ".join(error.format_message().split()), error.exit_code)
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
