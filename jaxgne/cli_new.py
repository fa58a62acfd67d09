"""The command `jaxgne new`: a small market in tables, or contracts in a file, to fill in."""

from pathlib import Path
from typing import Annotated

import jax
import typer

from .cases import street
from .cli_import import Format, named, tables_of
from .cli_out import Overwrite
from .cli_shared import BAD_INPUT, Json, Quiet, fail, wrote
from .contracts import TEMPLATE
from .files import whole
from .io import save_template


def new(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder or workbook (.xlsx) to write; .toml: a tariff instead."
        ),
    ],
    form: Format = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a small street as tables to fill in, every column explained; or a tariff, as .toml.

    It clears as it is. What stands there already is replaced with --overwrite only.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    jax.config.update("jax_enable_x64", True)
    target = named(out, form)
    if target.exists() and not overwrite:
        raise fail(
            f"{target} is there already; give another name, or --overwrite to replace it.",
            BAD_INPUT,
        )
    if target.suffix == ".toml":
        if form is not None:
            raise typer.BadParameter(f"{target} is a tariff; leave --format {form} out.")
        with whole(target) as file:
            file.write_text(TEMPLATE, encoding="utf-8")
        then = f"jaxgne clear CASE --tariff {target}"
    else:
        save_template(target, street(), **tables_of(form))
        then = f"jaxgne validate {target}, jaxgne clear {target}"
    words = f"written to {target}: change it, then {then}"
    wrote({"written": str(target)}, words, as_json, quiet)
