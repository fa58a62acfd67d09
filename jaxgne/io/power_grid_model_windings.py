"""Transformers as power-grid-model tells them, of two windings or of three."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .network import Branches, Column, per_unit
from .notes import Notebook
from .power_grid_model_tables import Table, ends, places, rated

_PAIRS = ((0, 1), (0, 2), (1, 2))


def transformers(table: Table, index: Mapping[int, int], kv: Column, notes: Notebook) -> Branches:
    """Of two windings; a tap moves the rated voltage of its side, and impedances by its place."""
    joins = ends(table, index)
    place, change = _tap(table)
    at_from = table("tap_side") == 0
    high = table.positive("u1") + np.where(at_from, change, 0)
    low = table.positive("u2") + np.where(at_from, 0, change)
    uk, pk = (_moved(table, place, name) for name in ("uk", "pk"))
    sn = table.positive("sn")
    base = kv[joins["source"]], kv[joins["target"]]
    kva = rated(sn * base[1] / low, table, notes)
    iron = table("p0"), table("i0") * sn
    made = _wound(high, low, sn, uk, pk, iron, base)
    return Branches(**joins, **made, shift=30 * table("clock"), rating=kva)


def three_windings(
    table: Table, index: Mapping[int, int], kv: Column, star: int, notes: Notebook
) -> list[Branches]:
    """Three of two that meet at buses of their own, the first of which is bus `star`.

    Those have the rated voltage of the first winding; short-circuit values of pairs, each on the
    smaller of its two powers, are parted to three on the first one's power, and back to their own.
    Iron is in the first.
    """
    place, change = _tap(table)
    sn = np.stack([table.positive(f"sn_{k}") for k in "123"])
    pair = np.stack([sn[0] / np.minimum(sn[a], sn[b]) for a, b in _PAIRS])
    parts = {}
    for name, power in (("uk", 1), ("pk", 2)):
        told = np.stack([_moved(table, place, f"{name}_{a + 1}{b + 1}") for a, b in _PAIRS])
        ab, ac, bc = told * pair**power
        alone = np.stack([ab + ac - bc, ab + bc - ac, ac + bc - ab]) / 2
        parts[name] = alone * (sn / sn[0]) ** power
    middle = table.positive("u1")
    rows = np.arange(table.rows)
    made = []
    for k, letter in enumerate("123"):
        at = places(index, table, f"node_{letter}")
        own = table.positive(f"u{letter}") + np.where(table("tap_side") == k, change, 0)
        idle = np.zeros(table.rows)
        iron = (table("p0"), table("i0") * sn[0]) if k == 0 else (idle, idle)
        base = kv[at], 1e-3 * middle
        branch = _wound(own, middle, sn[k], parts["uk"][k], parts["pk"][k], iron, base)
        told = [f"{label}, winding {letter}" for label in table.labels]
        turn = -30 * table(f"clock_1{letter}") if k else idle
        made.append(
            Branches(
                told,
                told,
                at,
                star + rows,
                **branch,
                shift=turn,
                rating=1e-3 * sn[k],
                source_on=table(f"status_{letter}") == 1,
            )
        )
    return made


def _wound(
    high: Column,
    low: Column,
    sn: Column,
    uk: Column,
    pk: Column,
    iron: tuple[Column, Column],
    base: tuple[Column, Column],
) -> dict[str, Any]:
    """Ratio, impedance and iron of windings of `high` to `low` volts, between buses of `base` kV.

    `pk` and the two of `iron`, of its loss and of its current, are in W, W and VA.
    """
    real, whole = pk * (low / sn) ** 2, uk * low**2 / sn
    ohm = real + 1j * np.sign(whole) * np.sqrt(np.maximum(whole**2 - real**2, 0))
    watt, va = iron
    drawn = 1e-3 * (watt + 1j * np.sqrt(np.maximum(va**2 - watt**2, 0)))
    half = 0.5 * drawn * (1e3 * base[1] / low) ** 2
    tap = (high / low) / (base[0] / base[1])
    return {"tap": tap, "impedance": per_unit(ohm, base[1]), "near": half, "far": half}


def _tap(table: Table) -> tuple[Column, Column]:
    """Where the tap is, within its ends, and the volts that it adds there."""
    least, most, nominal = table("tap_min"), table("tap_max"), table("tap_nom", 0.0)
    place = table("tap_pos", np.nan)
    place = np.where(np.isnan(place), nominal, place)
    place = np.clip(place, np.minimum(least, most), np.maximum(least, most))
    return place, np.where(most >= least, 1, -1) * (place - nominal) * table("tap_size")


def _moved(table: Table, place: Column, name: str) -> Column:
    """Straight from the value at the nominal tap to those at the ends, where these are given."""
    least, most, nominal = table("tap_min"), table("tap_max"), table("tap_nom", 0.0)
    value = table(name)
    low, high = (table(f"{name}_{end}", np.nan) for end in ("min", "max"))
    low, high = np.where(np.isnan(low), value, low), np.where(np.isnan(high), value, high)
    down = (place < nominal) == (least < most)
    other, end = np.where(down, low, high), np.where(down, least, most)
    span = np.where(end == nominal, 1, end - nominal)
    return value + (other - value) * np.where(end == nominal, 0, (place - nominal) / span)
