"""The command `jaxgne import`: a net of another program as a folder of tables, or a workbook."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import typer

from .cli_out import Overwrite, check_out
from .cli_shared import Json, Quiet, document
from .cli_source import Source, is_saved, market_of, of_source, told
from .io import ImportReport, check_replaceable, is_book, load, save

Format = Annotated[
    Literal["csv", "parquet", "xlsx"] | None,
    typer.Option("--format", help="Of the tables; by default CSV, or what --out ends in."),
]


@of_source
def import_(
    source: Source,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder, or workbook (.xlsx), to write the market to."),
    ],
    form: Format = None,
    asked: Any = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write SOURCE as a folder of tables, to look at, change, validate and clear.

    Of a net, what was lost, assumed and merged is told. A folder or workbook of jaxgne's is written
    anew, in another format, and keeps its result.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    jax.config.update("jax_enable_x64", True)
    target = named(out, form)
    check_replaceable(target)
    clearing, report = None, None
    if is_saved(source) and not asked:
        market, clearing = load(source)
    else:
        market, report = market_of(source, asked)
    check_out(target, market, overwrite, anew=clearing is not None)
    save(target, market, clearing, **tables_of(form))
    if as_json:
        document("import", {"written": str(target), "report": _facts(report)})
    if as_json or quiet:
        return
    if report is not None:
        typer.echo(told(report))
    typer.echo(f"written to {target}: jaxgne validate {target} looks at it, jaxgne clear clears it")


def _facts(report: ImportReport | None) -> dict[str, Any] | None:
    """A report as JSON; None of a market that was no net."""
    if report is None:
        return None
    totals = {name: asdict(total) for name, total in report.totals.items()}
    notes = [asdict(note) for note in report.notes]
    return {"source": report.source, "totals": totals, "notes": notes}


def named(out: Path, form: str | None) -> Path:
    """The target with the ending of a workbook where one is asked for."""
    if form != "xlsx" and is_book(out) and form is not None:
        raise typer.BadParameter(f"--out {out} is a workbook; leave --format {form} out.")
    return out.with_name(f"{out.name}.xlsx") if form == "xlsx" and not is_book(out) else out


def tables_of(form: str | None) -> dict[str, Any]:
    """What `save` is asked for."""
    return {"tables": "parquet"} if form == "parquet" else {}
