"""Columns of pandapower's tables as numbers, and what their rows draw or send."""

from typing import Any

import numpy as np

from .network import Column


def column(table: Any, name: str, default: float = np.nan) -> Column:
    """Numbers of a column, the default where it is not there, and in place of what is missing."""
    if name not in table:
        return np.full(len(table), default)
    values = table[name].to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isnan(values), default, values)


def words(table: Any, name: str) -> Column:
    """Texts of a column, empty where there is none."""
    if name not in table:
        return np.full(len(table), "", object)
    missing = table[name].isna().to_numpy()
    return np.where(missing, "", table[name].astype(object).to_numpy())


def labels(table: Any, kind: str) -> tuple[list[str], list[str]]:
    """What messages call the rows of a table, and their names."""
    names = [str(name) for name in words(table, "name")]
    rows = table.index.tolist()
    told = [f"{kind} {k} ({n})" if n else f"{kind} {k}" for k, n in zip(rows, names, strict=True)]
    return told, names


def places(index: Any, wanted: Any, who: str) -> Column:
    """Where the rows `wanted` are in an index; `ValueError` for one that is not."""
    found = index.get_indexer(np.asarray(wanted, np.int64))
    if np.any(found < 0):
        k = int(np.argmax(found < 0))
        raise ValueError(f"{who} row {k} points to {wanted[k]}, which is not in the net.")
    return found


def rated(table: Any) -> Column:
    """What rows say times their scaling, kW + j kvar."""
    power = column(table, "p_mw", 0) + 1j * column(table, "q_mvar", 0)
    return 1e3 * power * column(table, "scaling", 1)


def shares(table: Any) -> list[tuple[Column, Column]]:
    """The parts of active and reactive loads that go with the voltage, and with its square."""
    found = []
    for power in "pq":
        told = (column(table, f"const_{k}_{power}_percent") for k in "iz")
        old = (column(table, f"const_{k}_percent", 0) for k in "iz")  # of files before 3.0
        i, z = (np.where(np.isnan(a), b, a) / 100 for a, b in zip(told, old, strict=True))
        found.append((i, z))
    return found


def motors(table: Any) -> Column:
    """Electric power of motors from their mechanical one, at their efficiency and power factor."""
    share = column(table, "loading_percent", 100) / 100 * column(table, "scaling", 1)
    kw = (
        1e3 * share * column(table, "pn_mech_mw") / (column(table, "efficiency_percent", 100) / 100)
    )
    factor = column(table, "cos_phi", 1)
    return kw + 1j * np.abs(kw) * np.sqrt(1 - factor**2) / factor


def by_phase(table: Any) -> Column:
    """Power of each phase, (rows, 3)."""
    each = [column(table, f"p_{k}_mw", 0) + 1j * column(table, f"q_{k}_mvar", 0) for k in "abc"]
    return 1e3 * np.stack(each, axis=1) * column(table, "scaling", 1)[:, None]
