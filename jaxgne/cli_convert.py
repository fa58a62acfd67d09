"""The command `jaxgne convert`: any market or net as a folder of tables, or as a workbook."""

from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import typer

from .cli_shared import MOST_SEED
from .cli_source import Source, market_of, of_source, told
from .io import check_replaceable, is_book, load, save

Format = Annotated[
    Literal["csv", "parquet", "xlsx"] | None,
    typer.Option("--format", help="Of the tables; by default CSV, or what --out ends in."),
]


@of_source
def convert(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder, or workbook (.xlsx), to write the market to.")],
    form: Format = None,
    asked: Any = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MOST_SEED, help="Seed of everything drawn by chance.")
    ] = None,
) -> None:
    """Write SOURCE as a folder of tables, to look at, change, check and clear.

    A folder or workbook of jaxgne's keeps its result. Of a net, what was lost, assumed and merged
    is told.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    jax.config.update("jax_enable_x64", True)
    target = named(out, form)
    check_replaceable(target)
    clearing, report = None, None
    if not (seed or any(asked.values())) and (
        is_book(source) or Path(source, "market.json").exists()
    ):
        market, clearing = load(source)
    else:
        market, report = market_of(source, {"seed": seed}, asked)
    save(target, market, clearing, **tables_of(form))
    if report is not None:
        typer.echo(told(report))
    typer.echo(f"written to {target}: jaxgne check {target} looks at it, jaxgne clear clears it")


def named(out: Path, form: str | None) -> Path:
    """The target with the ending of a workbook where one is asked for."""
    if form != "xlsx" and is_book(out) and form is not None:
        raise typer.BadParameter(f"--out {out} is a workbook; leave --format {form} out.")
    return out.with_name(f"{out.name}.xlsx") if form == "xlsx" and not is_book(out) else out


def tables_of(form: str | None) -> dict[str, Any]:
    """What `save` is asked for."""
    return {"tables": "parquet"} if form == "parquet" else {}
