"""Days as one long market, whose buffers keep their content from one to the next."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..arguments import of_tables
from ..clock import Clock
from ..each import for_one, leading
from ..market import FIELDS, Market, replaced
from ..record import changed
from .calendar import filled, hours_of, read


@for_one()
def series(
    market: Market,
    load: Any,
    *,
    times: Any = None,
    generation: Any = None,
    reactive: Any = None,
    import_max: Any = None,
    export_max: Any = None,
    curtail_max: Any = None,
    passive: Any = None,
    passive_reactive: Any = None,
    base: Any = None,
    export: Any = None,
) -> Market:
    """One market of many days: `load` (N, steps) kW after the market of a day.

    What `days` takes is read alike: `times` when the steps are, with `generation` a gross load and
    the sun, `reactive`, `import_max`, `export_max` and `curtail_max` by prosumer, `passive` and
    `passive_reactive` by bus, `base` and `export` prices; what is not given is taken from that hour
    of the market's day. Days are whole, of 23 or 25 hours where clocks change. But here one follows
    the other: buffers and caps start once, as the market says, and are carried on, what contents
    must be at the end of the market's day they must be at the end of each, and
    `Buffers.final_value` counts after the last. `jaxgne.simulate` takes such markets. Arrays are
    NumPy's.

    Raises `ValueError` where `days` does.
    """
    fields = {
        "generation": generation,
        "reactive": reactive,
        "import_max": import_max,
        "export_max": export_max,
        "curtail_max": curtail_max,
        "passive": passive,
        "passive_reactive": passive_reactive,
        "base": base,
        "export": export,
    }
    cut, given = read("series", market, load, times, fields)
    known, each = {}, []
    for first, steps in zip(cut.first, cut.steps, strict=True):
        column = cut.column[first : first + steps]
        key = column.tobytes()
        if key not in known:
            known[key] = hours_of(market, column)
        each.append(known[key])
    whole = chain(each)
    batch = filled("series", whole, {name: table[None] for name, table in given.items()})
    found = jax.tree.map(lambda a: np.asarray(a)[0], batch)
    if cut.clock is None:
        return found
    return changed(found, clock=Clock(np.asarray(cut.clock.start, np.int32), cut.clock.zone))


_STARTS = ("Buffers.energy_start", "Caps.start")  # of the first market


@of_tables
def chain(markets: Sequence[Market] | Market) -> Market:
    """Markets that follow one another as one long market, as the days of a week.

    `markets` is a list, or a batch as `perturb` or `days` make it. Buffers and caps start as the
    first says and are carried on. Arrays are NumPy's. Raises `ValueError` where markets differ in
    what they do not have by hour, or are trees of steps.
    """
    if isinstance(markets, Market):
        if leading(markets) == {()}:
            raise ValueError("chain: this is one market; give several, or a batch of them.")
        count = np.shape(markets.prosumers.load)[0]
        markets = [jax.tree.map(lambda a, k=k: np.asarray(a)[k], markets) for k in range(count)]
    each = list(markets)
    if not each:
        raise ValueError("chain: no markets; give at least one.")
    first, long = jax.tree.map(np.asarray, each[0]), {}
    for k, market in enumerate(each):
        if market.before is not None:
            raise ValueError(f"chain: market {k} is a tree of steps; give markets with a path.")
        if jax.tree.structure(market) != jax.tree.structure(first):
            raise ValueError(
                f"chain: market {k} has another grid model, names or time zone than market 0; give "
                "markets of one form."
            )
    for name, field in FIELDS.items():
        tables = [np.asarray(field.find(market)) for market in each]
        if field.either and any(field.timed(market) for market in each):
            tables = [
                np.broadcast_to(table, (*table.shape[:-1], market.prosumers.load.shape[1]))
                for table, market in zip(tables, each, strict=True)
            ]
        elif not field.hourly:
            other = [k for k, a in enumerate(tables) if not np.array_equal(a, tables[0])]
            if other and name not in _STARTS:
                raise ValueError(
                    f"chain: {name} of market {other[0]} is not that of market 0; markets may "
                    "differ in what they have by hour."
                )
            continue
        long[field.dotted] = np.concatenate(tables, axis=-1)
    return replaced(first, long)
