"""One way to get a market by name: a built-in case, a folder or workbook, another program's net."""

import inspect
from pathlib import Path
from typing import Any

from ..cases import CASES
from ..market import Market
from ..validation import validate
from .batches import refuse_batch
from .loading import load_market
from .notes import ImportReport
from .sheets import is_book
from .sources import Customers, kind_of, read_source


def load_case(case: str | Path, **options: Any) -> Market:
    """The market called `case`; `options` are those of `read_case`, which reports as well."""
    return read_case(case, **options)[0]


def read_case(case: str | Path, **options: Any) -> tuple[Market, ImportReport | None]:
    """The market called `case`, and the report of a net that was imported.

    A built-in case is made with `options`; a folder or workbook that `save` wrote takes none. A net
    is that of a pandapower or power-grid-model JSON, a MATPOWER `.m`, the master file `.dss` of
    OpenDSS, or the code of a SimBench net; its options are those of `sources.Customers`:

        market, report = read_case("net.json", populate=40, vehicle=0.6, start="2026-01-20")

    Without `populate` the net's own loads are the customers, at 0.30 EUR/kWh, and 0.08 for exports,
    who trade for a toll of 0.01 to each side. Raises `ValueError` for an unknown case or option,
    naming those that exist, and for a market that makes no sense, naming all that is wrong with it.
    """
    if str(case) in CASES:
        return _built_in(str(case), options), None
    kind = kind_of(case)
    if kind:
        _check_options(str(case), options, Customers._fields)
        market, report = read_source(case, Customers(**options))
        return validate(market), report
    if not (Path(case).is_dir() or is_book(case)):
        raise ValueError(
            f"no case or folder {str(case)!r}; the built-in cases are {', '.join(CASES)}, or give "
            "a folder or workbook that jaxgne.save wrote, a net (.json of pandapower or "
            "power-grid-model, .m, .dss), or a SimBench code."
        )
    if options:
        raise ValueError(
            f"{case} is a saved market, which takes no options (got {', '.join(options)}); they "
            f"are for the built-in cases {', '.join(CASES)} and for nets."
        )
    refuse_batch(case)
    return validate(load_market(case)), None


def _check_options(case: str, options: dict[str, Any], known: Any) -> None:
    for option in options:
        if option not in known:
            raise ValueError(f"{case} has no option {option!r}; it takes {', '.join(known)}.")


def _built_in(case: str, options: dict[str, Any]) -> Market:
    builder = CASES[case]
    known = inspect.signature(builder).parameters
    _check_options(case, options, known)
    for name, option in known.items():
        if name not in options and option.default is inspect.Parameter.empty:
            raise ValueError(f"{case} needs the option {name!r}; give a value.")
    return builder(**options)
