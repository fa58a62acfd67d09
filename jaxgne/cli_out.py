"""Where commands write a market: what somebody keeps there is replaced only where that is asked."""

from pathlib import Path
from typing import Annotated

import typer

import jaxgne

from .cli_shared import double
from .io import check_replaceable, load, load_market, written_alike

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what stands there, if jaxgne wrote it.")
]


def check_out(
    out: Path, market: jaxgne.Market | None, overwrite: bool, *, anew: bool = True
) -> None:
    """Raise `ValueError` where a market in `out` would be lost: one that is not `market`.

    So would be its result where none is written `anew`. What `save` would not replace is refused in
    any case; a market that cannot be read, as one that somebody edits, is another one.
    """
    check_replaceable(out)
    if overwrite or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    lost = _lost(out, market, anew)
    if lost:
        raise ValueError(f"{out} holds {lost}; give another name, or --overwrite to replace it.")


def _lost(out: Path, market: jaxgne.Market | None, anew: bool) -> str:
    """What would be lost, in words; nothing if nothing."""
    if market is None:
        return "a market, and --ac and --one-way write another one"
    try:
        held = load_market(out)
    except ValueError:
        return "a market that cannot be read"
    if not written_alike(double(held), double(market)):
        return "another market"
    return "" if anew or not _has_result(out) else "a result of this market"


def _has_result(out: Path) -> bool:
    try:
        return load(out)[1] is not None
    except ValueError:  # of another market, as one that was edited since
        return False
