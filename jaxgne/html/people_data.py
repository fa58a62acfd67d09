"""What a report shows of prosumers: power by kind, what they store, and what they pay.

Of each, up to some hundreds; of more than that, all at one place of the map together.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import frames
from ..comparison import outcome
from ..market import Market
from ..model import counted
from ..names import prosumer_name
from ..result import Clearing
from .baseline import Compared
from .shrunk import short

EACH = 300  # prosumers up to which each has its own power by hour
EVERYBODY = -1

# What is drawn of power, kW: where it comes from (+) and goes to (-).
SOURCES = ("from the main grid", "generated", "discharged", "bought from peers", "surplus")
USES = ("used", "charged", "sold to peers", "to the main grid")


def dispatch(market: Market, clearing: Clearing, at: NDArray[np.integer]) -> dict[str, Any]:
    """Rows of power and storage, whose `who` is a prosumer, all at a place, or everybody.

    Loads are net of own renewables, less what of these is curtailed.
    """
    table = frames.prosumers(market, clearing)
    count, hours = market.prosumers.load.shape

    def column(name: str) -> NDArray[np.float64]:
        return table[name].to_numpy(float).reshape(count, hours)

    load = column("load_kw") + column("curtailed_kw")
    peers = column("bought_kw")
    parts = dict(
        zip(
            (*SOURCES, *USES),
            (
                column("imports_kw"),
                column("generation_kw"),
                column("discharge_kw"),
                np.maximum(peers, 0.0),
                np.maximum(-load, 0.0),
                -np.maximum(load, 0.0),
                -column("charge_kw"),
                -np.maximum(-peers, 0.0),
                -column("exports_kw"),
            ),
            strict=True,
        )
    )
    each = count <= EACH
    group, groups = (np.arange(count), count) if each else (at, int(at.max(initial=-1)) + 1)
    place = at if each else np.arange(groups)
    power = []
    for kind, values in parts.items():
        total = values.sum(axis=0)
        if "peers" not in kind and np.any(np.abs(total) > 5e-4):
            power.append({"who": EVERYBODY, "place": -1, "kind": kind, "kw": short(total)})
        summed = _summed(values, group, groups)
        some = np.flatnonzero(np.max(np.abs(summed), axis=1, initial=0.0) > 5e-4)
        for row, shown in zip(some.tolist(), short(summed[some]), strict=True):
            power.append({"who": row, "place": int(place[row]), "kind": kind, "kw": shown})
    return {"power": power, "stores": _stores(market, clearing, group, groups, place)}


def _summed(values: NDArray, group: NDArray, groups: int) -> NDArray[np.float64]:
    """Rows of one group summed."""
    found = np.zeros((groups, *values.shape[1:]))
    np.add.at(found, group, values)
    return found


def _stores(
    market: Market, clearing: Clearing, group: NDArray, groups: int, place: NDArray
) -> list[dict[str, Any]]:
    """Content at the end of each step and its bounds, kWh."""
    table = market.buffers
    owner = group[np.asarray(table.owner)]
    kept = [np.asarray(clearing.plan.energy), table.energy_min, table.energy_max]
    columns = [_summed(np.asarray(values, float), owner, groups) for values in kept]
    some = np.unique(owner)
    rows = [(EVERYBODY, -1, [values.sum(axis=0) for values in columns])] if some.size else []
    rows += [(int(k), int(place[k]), [values[k] for values in columns]) for k in some]
    return [
        {"who": who, "place": where}
        | dict(zip(("kwh", "low", "high"), short(np.stack(values)), strict=True))
        for who, where, values in rows
    ]


def households(market: Market, clearing: Clearing, other: Compared) -> dict[str, Any]:
    """A table of all prosumers: energy by where from and to, bill, costs, what trading saves."""
    table, ts = frames.prosumers(market, clearing), np.asarray(counted(market), float)
    count, hours = market.prosumers.load.shape

    def energy(power: NDArray) -> NDArray[np.float64]:
        return (ts * power).sum(axis=1)

    def column(name: str) -> NDArray[np.float64]:
        return table[name].to_numpy(float).reshape(count, hours)

    found, peers = outcome(market, clearing), column("bought_kw")
    bus = table["bus"].to_numpy().reshape(count, hours)[:, 0]
    bill, cost = (np.asarray(a, float) for a in (found.bill, found.cost))
    columns = [
        ("bought from the main grid", "kWh", 1, energy(column("imports_kw"))),
        ("sold to the main grid", "kWh", 1, energy(column("exports_kw"))),
        ("bought from peers", "kWh", 1, energy(np.maximum(peers, 0.0))),
        ("sold to peers", "kWh", 1, energy(np.maximum(-peers, 0.0))),
        ("bill", "EUR", 2, bill),
        ("cost of own devices", "EUR", 2, cost - bill),
        ("cost", "EUR", 2, cost),
    ]
    if other.pair is not None:
        alone = np.asarray(outcome(*other.pair).cost, float)
        columns += [
            (f"cost {other.called}", "EUR", 2, alone),
            (other.saved, "EUR", 2, alone - cost),
        ]
    shown = [short(np.round(values, digits), 12) for _, _, digits, values in columns]
    words = [
        [prosumer_name(market.prosumers.names, k) for k in range(count)],
        [str(name) for name in bus],
    ]
    heads = [{"name": "prosumer"}, {"name": "bus"}]
    heads += [{"name": name, "unit": unit, "digits": n} for name, unit, n, _ in columns]
    return {"heads": heads, "rows": [list(row) for row in zip(*words, *shown, strict=True)]}
