"""The command `jaxgne messages`: the mechanism where messages get lost, come late or hide."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer

import jaxgne

from . import plots
from .cli_shared import Json, Quiet, document, fail
from .cli_source import Source, made, of_source
from .cli_tables import written
from .files import whole

_MOST = 1_000_000  # rounds


@of_source
def messages(
    source: Source,
    asked: Any = None,
    rounds: Annotated[int, typer.Option(min=1, max=_MOST, help="Rounds of the mechanism.")] = 2000,
    loss: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Probability that a message is lost.")
    ] = 0.0,
    delay: Annotated[int, typer.Option(min=0, max=100, help="Rounds it is late at most.")] = 0,
    participation: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Probability that one acts in a round.")
    ] = 1.0,
    share: Annotated[
        float,
        typer.Option(min=1e-6, max=1.0, help="Of the way to their answers that all go in a round."),
    ] = 1.0,
    links: Annotated[
        Literal["operator", "complete", "ring", "one-way"],
        typer.Option(
            help="To an operator, or without one: of all, in a ring both ways, or one way."
        ),
    ] = "operator",
    noise: Annotated[
        float, typer.Option(min=0.0, help="Gaussian noise on what prosumers say, kW.")
    ] = 0.0,
    clip: Annotated[
        float | None, typer.Option(min=1e-9, help="How far words may be from the start, kW.")
    ] = None,
    delta: Annotated[
        float, typer.Option(min=1e-300, max=0.999, help="Delta of differential privacy.")
    ] = 1e-5,
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Runs at random.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV file of rounds and bytes to each error.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="PNG or SVG file of errors by round.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Play the paper's mechanism on SOURCE by messages that get lost, come late or hide something.

    It tells rounds and bytes to relative KKT errors of 1e-2, 1e-3 and 1e-4, and how far the last
    answer is from the clearing. Where messages are late, take a smaller --share (docs/messages.md).

    Exit codes: 0 done, 1 bad input, 2 wrong usage, 3 the market did not clear, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise fail('no plot without matplotlib: pip install "jaxgne[plot]"', 1)
    market = made(source, asked, quiet)
    found = jaxgne.messages.simulate(
        market, rounds=rounds, loss=loss, delay=delay, participation=participation, step=share,
        graph=_graph(links, market.prosumers.load.shape[0]), noise=noise, delta=delta, seeds=runs,
        clip=np.inf if clip is None else clip,
    )  # fmt: skip
    table, lines = found.table(), [str(found)]
    if out is not None:
        written(out, table)
        lines.append(f"written to {out}")
    if picture is not None:
        os.environ.setdefault("MPLBACKEND", "Agg")  # no window, also where there is a display
        figure: Any = plots.conversation({links: found}).figure
        with whole(picture) as fresh:
            figure.savefig(fresh, dpi=150)
        lines.append(f"written to {picture}")
    if as_json:
        last = {name: getattr(found, name)[:, -1] for name in ("error", "price", "regret")}
        last |= {"sent": found.sent[:, -1], "epsilon": found.epsilon[:, -1]}
        facts = {"told": found.told, "rounds": rounds, "delta": delta}
        document("messages", facts | last | {"table": table})
    elif not quiet:
        typer.echo("\n".join(lines))


def _graph(word: str, count: int) -> np.ndarray | None:
    """Who hears whom, by its word; None for an operator."""
    one = np.roll(np.eye(count), 1, axis=0)
    graphs = {"complete": np.ones((count, count)), "one-way": one, "ring": np.maximum(one, one.T)}
    return graphs.get(word)
