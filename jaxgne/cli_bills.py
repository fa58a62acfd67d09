"""The command `jaxgne bills`: a page and a CSV for each household of a saved result."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import jaxgne

from .cli_shared import Baseline, Json, NoBaseline, Quiet, Result, wrote
from .cli_show import baseline_of, cleared
from .contracts import read_contracts
from .emissions import allowances as handed_out


def bills(
    result: Result,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("bills"),
    tariff: Annotated[
        Path | None,
        typer.Option(
            help="File of the contracts that RESULT was cleared with (docs/tariffs.md): lines net, "
            "with fixed fees and VAT."
        ),
    ] = None,
    allowances: Annotated[
        str | None,
        typer.Option(
            help="Hand out allowances for a limit on carbon, 'equal' or by 'load' (docs/carbon.md)."
        ),
    ] = None,
    baseline: Baseline = None,
    no_baseline: NoBaseline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a bill for each household of RESULT: one page to print and one CSV, in whole cents.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    jax.config.update("jax_enable_x64", True)
    against = baseline_of(baseline, no_baseline)
    market, clearing = cleared(result)
    contracts = None if tariff is None else read_contracts(tariff)
    rule: Any = allowances
    handed = None if rule is None else handed_out(market, clearing, rule)
    pages = jaxgne.write_bills(
        market, clearing, contracts=contracts, baseline=against, allowances=handed, out=out
    )
    words = f"{len(pages)} bills and bills.csv written to {out}"
    wrote({"written": [str(page) for page in pages]}, words, as_json, quiet)
