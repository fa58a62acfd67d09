"""Lines, transformers and switches of a pandapower net, as branches of a network.

By the equations of pandapower's documentation of each element (3.5): pi lines with charging,
transformers in the T model with iron and magnetisation between the two halves of the leakage
impedance, three windings as a star of three transformers.
"""

from typing import Any, Literal

import numpy as np

from .network import Branches, Column, joined, per_unit
from .notes import Notebook
from .pandapower_tables import column, labels, places, words

Taps = Literal["pandapower", "all"]

_SWITCH_X = 0.5  # of r, for switches with an impedance: pandapower's switch_rx_ratio is 2
_NO_RATING = 9999.0  # kA: what stands for no limit in files, mostly 99999
_TURNING = ("Ratio", "Symmetrical")


def branches_of(net: Any, kv: Column, taps: Taps | None, notes: Notebook) -> Branches:
    """All branches of a net in the order of `tables_of`; `kv` has the buses' and the stars'."""
    stars = len(kv) - len(net.trafo3w) + np.arange(len(net.trafo3w))
    parts = [
        _lines(net, kv, notes),
        _transformers(net, kv, taps, notes),
        _three_windings(net, kv, stars, taps, notes),
        _impedances(net),
        _switches(net, kv),
    ]
    return joined(parts)


def tables_of(net: Any) -> dict[str, int]:
    """How many branches each table makes, in their order."""
    counts = {"line": len(net.line), "trafo": len(net.trafo), "trafo3w": 3 * len(net.trafo3w)}
    return counts | {"impedance": len(net.impedance), "switch": len(impedance_switches(net))}


def _rating(ampere: Column, table: Any, told: list[str], notes: Notebook) -> Column:
    """Ratings in kVA with the largest loading allowed, in percent; infinite where none is given."""
    limit = column(table, "max_loading_percent", 100)
    none = np.isnan(ampere) | np.isinf(ampere)
    notes.some("branch.no_rating", [told[k] for k in np.flatnonzero(none).tolist()])
    lower = ~none & (limit != 100)
    notes.some("branch.limit", [told[k] for k in np.flatnonzero(lower).tolist()])
    return np.where(none, np.inf, ampere * limit / 100)


def _ends(net: Any, kind: str, table: Any, ends: tuple[str, ...]) -> tuple[Column, Column]:
    """Buses at the ends of a table's rows, and whether their switches are closed, (ends, rows)."""
    short = {"line": "l", "trafo": "t", "trafo3w": "t3"}.get(kind)
    bus = np.stack([np.asarray(table[end], np.int64) for end in ends])
    closed = np.ones(bus.shape, bool)
    switch = net.switch
    off = (words(switch, "et") == short) & (column(switch, "closed") != 1)
    if np.any(off):
        at = places(table.index, switch.element.to_numpy()[off], "switch")
        meets = bus[:, at] == switch.bus.to_numpy()[off]
        if not np.all(meets.any(axis=0)):
            row = switch.index[off][int(np.argmin(meets.any(axis=0)))]
            raise ValueError(f"switch {row} stands at a bus that is no end of its {kind}.")
        first = meets.argmax(axis=0)
        if kind == "line":  # at a line from a bus to itself, the far end
            first = np.where(meets[1], 1, 0)
        closed[first, at] = False
    return np.stack([places(net.bus.index, b, kind) for b in bus]), closed


def _lines(net: Any, kv: Column, notes: Notebook) -> Branches:
    table = net.line
    told, names = labels(table, "line")
    bus, closed = _ends(net, "line", table, ("from_bus", "to_bus"))
    base, far = kv[bus]
    length, parallel = column(table, "length_km"), column(table, "parallel", 1)
    ohm = column(table, "r_ohm_per_km") + 1j * column(table, "x_ohm_per_km")
    siemens = 1e-6 * column(table, "g_us_per_km", 0) + 2e-9j * np.pi * net.f_hz * column(
        table, "c_nf_per_km", 0
    )
    charging = 1e3 * np.conj(siemens) * length * parallel * base**2
    uneven = np.abs(far / base - 1) > 1e-6
    notes.some("line.voltages", [told[k] for k in np.flatnonzero(uneven).tolist()])
    ampere = column(table, "max_i_ka")
    ampere = np.where(ampere >= _NO_RATING, np.nan, ampere)
    kva = np.sqrt(3) * 1e3 * ampere * base * column(table, "df", 1) * parallel
    return Branches(
        told, names, bus[0], bus[1], per_unit(ohm * length / parallel, base), near=charging / 2,
        far=charging / 2, rating=_rating(kva, table, told, notes),
        source_on=closed[0], target_on=closed[1], on=column(table, "in_service") == 1,
    )  # fmt: skip


def _transformers(net: Any, kv: Column, taps: Taps | None, notes: Notebook) -> Branches:
    table = net.trafo
    told, names = labels(table, "trafo")
    bus, closed = _ends(net, "trafo", table, ("hv_bus", "lv_bus"))
    sn, parallel = column(table, "sn_mva"), column(table, "parallel", 1)
    high, low, turn = _tapped(
        table, told, taps, notes, column(table, "vn_hv_kv"), column(table, "vn_lv_kv"), ("hv", "lv")
    )
    vk, vkr = column(table, "vk_percent") / 100 / sn, column(table, "vkr_percent") / 100 / sn
    share = [column(table, f"leakage_{k}_ratio_hv", 0.5) for k in ("resistance", "reactance")]
    return _wound(
        told, names, bus, kv, high, low, vkr + 1j * np.sign(vk) * np.sqrt(vk**2 - vkr**2),
        _iron(table, sn), parallel, share,
        turn=turn + column(table, "shift_degree", 0), on=_in_service(net, table, bus),
        closed=closed, rated=(column(table, "vn_hv_kv"), column(table, "vn_lv_kv")),
        kva=_rating(1e3 * sn * parallel * column(table, "df", 1), table, told, notes),
    )  # fmt: skip


def _iron(table: Any, sn: Column) -> Column:
    """What iron and magnetisation draw of one transformer at rated voltage, kW + j kvar."""
    kw, kva = column(table, "pfe_kw", 0), 10 * column(table, "i0_percent", 0) * sn
    return kw + 1j * np.sqrt(np.maximum(kva**2 - kw**2, 0))


def _in_service(net: Any, table: Any, bus: Column) -> Column:
    """As in pandapower, what is at a bus out of service is out of service, lines aside."""
    alive = np.append(column(net.bus, "in_service") == 1, np.ones(len(net.trafo3w), bool))
    return (column(table, "in_service", 1) == 1) & np.all(alive[bus], axis=0)


def _wound(
    told: list[str],
    names: list[str],
    bus: Column,
    kv: Column,
    high: Column,
    low: Column,
    leakage: Column,
    iron: Column,
    parallel: Column,
    share: list[Column],
    *,
    turn: Column,
    on: Column,
    closed: Column,
    rated: tuple[Column, Column],
    kva: Column,
) -> Branches:
    """Transformers of `high` to `low` kV at their taps, `leakage` in pu per MVA of the low side.

    A T of half leakages and the iron between them, told as the pi with the same two ports. Rated
    current of either side counts, whichever is reached first.
    """
    base = kv[bus]
    impedance = 1e-3 * leakage * (low / base[1]) ** 2 / parallel
    drawn = iron * (base[1] / low) ** 2 * parallel
    at_high = share[0] * impedance.real + 1j * share[1] * impedance.imag
    at_low, across = impedance - at_high, np.conj(drawn)
    through = impedance + at_high * at_low * across
    safe = np.where(through == 0, 1, through)
    current = np.maximum(rated[1], low * rated[0] / high)
    return Branches(
        told, names, bus[0], bus[1], through, tap=high / low * base[1] / base[0], shift=turn,
        near=np.conj(at_low * across / safe), far=np.conj(at_high * across / safe),
        rating=kva * base[1] / current, source_on=closed[0], target_on=closed[1], on=on,
    )  # fmt: skip


def _tapped(
    table: Any,
    told: list[str],
    taps: Taps | None,
    notes: Notebook,
    high: Column,
    low: Column,
    sides: tuple[str, str],
) -> tuple[Column, Column, Column]:
    """Rated voltages at the taps' positions, and the turn of the phase that these make (degree).

    `sides` are the names of the two windings in the table. Raises `ValueError` where a tap is off
    its neutral position without a type and `taps` does not say what that means.
    """
    high, low, turn = high.copy(), low.copy(), np.zeros(len(table))
    for number in ("", "2"):
        if f"tap{number}_pos" not in table:
            continue
        kind = words(table, f"tap{number}_changer_type")
        step = column(table, f"tap{number}_step_percent", 0) / 100
        degree = column(table, f"tap{number}_step_degree", 0)
        away = column(table, f"tap{number}_pos") - column(table, f"tap{number}_neutral")
        away = np.where(np.isnan(away), 0, away)
        side = words(table, f"tap{number}_side")
        moved = (away != 0) & ((step != 0) | (degree != 0)) & np.isin(side, sides)
        moved &= column(table, "in_service") == 1
        ignored = moved & ~np.isin(kind, (*_TURNING, "Ideal", "Tabular"))
        counts = moved & np.isin(kind, _TURNING)
        if np.any(ignored):
            counts |= _asked(ignored, told, away * step, taps, notes)
        ideal = moved & (kind == "Ideal")
        for name, voltage, sign in ((sides[0], high, 1), (sides[1], low, -1)):
            here = counts & (side == name)
            factor = 1 + away * step * np.exp(1j * np.deg2rad(degree))
            voltage[here] *= np.abs(factor[here])
            turn[here] += sign * np.rad2deg(np.angle(factor[here]))
            here = ideal & (side == name)
            angle = np.where(degree != 0, away * degree, 2 * np.rad2deg(np.arcsin(away * step / 2)))
            turn[here] += sign * angle[here]
    return high, low, turn


def _asked(
    ignored: Column, told: list[str], change: Column, taps: Taps | None, notes: Notebook
) -> Column:
    """Which taps without a type count, by what the caller says."""
    rows = np.flatnonzero(ignored).tolist()
    if taps is None:
        k = rows[0]
        raise ValueError(
            f"{told[k]} has a tap {100 * change[k]:+g} % off neutral and no tap_changer_type"
            f"{f', and {len(rows) - 1} more' if len(rows) > 1 else ''}: pandapower's runpp ignores "
            "it, other programs count it. Give taps='pandapower' or taps='all'."
        )
    code = "tap.counted" if taps == "all" else "tap.ignored"
    notes.add(code, [told[k] for k in rows], 100 * float(change[rows[0]]))
    return ignored & (taps == "all")


def _three_windings(
    net: Any, kv: Column, stars: Column, taps: Taps | None, notes: Notebook
) -> Branches:
    """Three transformers that meet at a bus of the high side's voltage, the iron at the first."""
    table, sides = net.trafo3w, ("hv", "mv", "lv")
    told, names = labels(table, "trafo3w")
    if len(table) and np.any(column(table, "tap_at_star_point", 0) != 0):
        k = int(np.argmax(column(table, "tap_at_star_point", 0) != 0))
        raise ValueError(f"{told[k]} has its tap at the star point, which is not read.")
    bus, closed = _ends(net, "trafo3w", table, ("hv_bus", "mv_bus", "lv_bus"))
    on = _in_service(net, table, bus)
    sn = np.stack([column(table, f"sn_{side}_mva") for side in sides])
    pair = np.stack([np.minimum(sn[a], sn[b]) for a, b in ((0, 1), (1, 2), (0, 2))])
    vk, vkr = (
        np.stack([column(table, f"{k}_{side}_percent") for side in sides]) / 100 / pair
        for k in ("vk", "vkr")
    )
    between = vkr + 1j * np.sqrt(vk**2 - vkr**2)
    rated = np.stack([column(table, f"vn_{side}_kv") for side in sides])
    half, one, shut = np.full(len(table), 0.5), np.ones(len(table)), np.ones(len(table), bool)
    parts = []
    for k, side in enumerate(sides):
        legs = [f"{label}, {side}" for label in told]
        leakage = (between[k] + between[k - 1] - between[(k + 1) % 3]) / 2
        first, last = (rated[0], rated[0]) if k == 0 else (rated[0], rated[k])
        own = ("hv", "-") if k == 0 else ("-", side)
        high, low, turn = _tapped(table, legs, taps, notes, first, last, own)
        if k:
            turn = turn + column(table, f"shift_{side}_degree", 0)
        ends = (bus[0], stars) if k == 0 else (stars, bus[k])
        iron = _iron(table, sn[0]) if k == 0 else 0 * leakage
        leg = _wound(
            told=legs, names=names, bus=np.stack(ends), kv=kv, high=high, low=low, leakage=leakage,
            iron=iron, parallel=one, share=[half, half], turn=turn, on=on,
            closed=np.stack([closed[0], shut] if k == 0 else [shut, closed[k]]),
            rated=(first, last), kva=_rating(1e3 * sn[k], table, legs, notes),
        )  # fmt: skip
        parts.append(leg)
    return joined(parts)


def _impedances(net: Any) -> Branches:
    table = net.impedance
    told, names = labels(table, "impedance")
    bus = np.stack(
        [places(net.bus.index, table[e].to_numpy(), "impedance") for e in ("from_bus", "to_bus")]
    )
    sn = 1e3 * column(table, "sn_mva")
    there, back = (column(table, f"r{d}_pu") + 1j * column(table, f"x{d}_pu") for d in ("ft", "tf"))
    on = _in_service(net, table, bus)
    uneven = on & (there != back)
    if np.any(uneven):
        raise ValueError(
            f"{told[int(np.argmax(uneven))]} has another impedance from each end, which no line "
            "has; give both ends the same."
        )
    near, far = (
        sn * (column(table, f"g{end}_pu", 0) - 1j * column(table, f"b{end}_pu", 0)) for end in "ft"
    )
    return Branches(told, names, bus[0], bus[1], there / sn, near=near, far=far, on=on)


def impedance_switches(net: Any) -> Any:
    """The closed switches between two buses that have an impedance."""
    table = net.switch
    closed = (words(table, "et") == "b") & (column(table, "closed") == 1)
    return table[closed & (column(table, "z_ohm", 0) > 0)]


def _switches(net: Any, kv: Column) -> Branches:
    table = impedance_switches(net)
    told, names = labels(table, "switch")
    ends = [places(net.bus.index, table[e].to_numpy(), "switch") for e in ("bus", "element")]
    bus = np.stack(ends)
    base = kv[bus[0]]
    impedance = column(table, "z_ohm") * (1 + 1j * _SWITCH_X) / np.hypot(1, _SWITCH_X)
    kva = np.sqrt(3) * 1e3 * column(table, "in_ka", np.inf) * base
    on = _in_service(net, table, bus)
    return Branches(told, names, bus[0], bus[1], per_unit(impedance, base), rating=kva, on=on)


def ties_of(net: Any) -> Column:
    """Pairs of buses that closed switches without impedance join."""
    table = net.switch
    joins = (words(table, "et") == "b") & (column(table, "closed") == 1)
    joins &= column(table, "z_ohm", 0) <= 0
    ends = [table[name].to_numpy()[joins] for name in ("bus", "element")]
    return np.stack([places(net.bus.index, end, "switch") for end in ends], axis=1)
