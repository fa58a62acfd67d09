"""The command `jaxgne export`: a saved result as netCDF, Zarr, Excel or Parquet."""

from pathlib import Path
from typing import Annotated

import jax
import typer

import jaxgne

from .cli_shared import Json, Quiet, Result, wrote
from .cli_show import cleared


def export(
    result: Result,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File or folder to write, complete or not at all: .nc is netCDF, .zarr Zarr, "
            ".xlsx a workbook, no ending a folder of Parquet.",
        ),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write RESULT for other programs: what everyone does and pays, with units and names.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    jax.config.update("jax_enable_x64", True)
    jaxgne.export(out, *cleared(result))
    wrote({"written": str(out)}, f"written to {out}", as_json, quiet)
