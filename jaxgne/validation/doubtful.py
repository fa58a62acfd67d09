"""What a market may mean but seldom does: numbers in another unit, prices that invite reselling."""

import numpy as np
from jaxtyping import Float

from ..clock import in_hour
from ..tables import has_zones
from .tables import Values, number, walk

_VOLTS = 2.0  # pu; nominal voltages are 1
_DROP = 0.3  # pu that no network loses on the way to a load
_PRICE = 5.0  # EUR/kWh; cents begin about here
_TAP = 0.8  # ratio of a transformer at the end of its taps, or 1 over it
_BEYOND = 10.0  # times the rating of all lines at a bus
_LITTLE = 0.05  # kW, of all together
_HEARD = 1e-6  # size, as a share of the largest, from which on the default tolerance speaks for one
_FAR = 1e3  # times all load, from which on a device's power is no limit
_SHOWN = 5  # prosumers that a sentence names
_DEVICES = (
    ("Generators.owner", "Generators.power_max"),
    ("Buffers.owner", "Buffers.charge_max"),
    ("Buffers.owner", "Buffers.discharge_max"),
)


def doubts(v: Values) -> list[str]:
    """What is plausible only in few markets, one sentence each; none of it makes one wrong."""
    with np.errstate(all="ignore"):
        return _resale(v) + _prices(v) + _loads(v) + _network(v) + _unheard(v)


def by_owner(v: Values, owner: str, values: np.ndarray) -> Float[np.ndarray, "N H"]:
    """Sum of `values`, hourly or one a row, over the rows of each prosumer."""
    count = len(v["Prosumers.bus"])
    columns = values.T if values.ndim == 2 else values[None]
    return np.stack([np.bincount(v[owner], column, count) for column in columns], axis=1)


def _resale(v: Values) -> list[str]:
    """Hours in which the main grid may pay at least what it asks, and both ways are open.

    That is where `export` is not below `base + slope sigma` at the least total import there can be:
    passive demand plus what prosumers must buy, one by one or together. Each prosumer's contract
    adds to both.
    """
    least = v["Prosumers.load"].copy()
    least -= by_owner(v, "Generators.owner", v["Generators.power_max"])
    least -= by_owner(v, "Buffers.owner", v["Buffers.discharge_max"])
    trade = sum(by_owner(v, f"Trading.{end}", v["Trading.limit"]) for end in ("buyer", "seller"))
    alone = np.maximum(least - trade, 0)
    least_kw = np.maximum(np.sum(alone, axis=0), np.sum(least, axis=0))
    sigma = np.sum(v["Grid.passive"], axis=0) + least_kw
    base, slope, export = (v[f"Tariff.{name}"] for name in ("base", "slope", "export"))
    apart = has_zones(v.market)
    if apart:  # where what some need beyond their trades is drawn, which others may not sell
        zone, sigma = v["Prosumers.zone"], _in_zones(v, alone)
        more = ((base, "base"), (slope, "slope"), (export, "export"))
        base, slope, export = (own + v[f"Zones.{name}"][zone] for own, name in more)
    price = base + slope * sigma
    able = [v[f"Prosumers.{way}_max"] > 0 for way in ("import", "export")]
    more = [v[f"Prosumers.{way}_adder"] for way in ("import", "export")]
    if apart or np.any(more[0]) or np.any(more[1]):
        asked, paid = price + more[0], export + more[1]
        own = v.beyond(paid, asked, np.abs(base)) | ((slope == 0) & (paid >= asked))
        return v.complain(
            "Prosumers.export_adder",
            own & able[0] & able[1],
            lambda at: (
                f"what it sells pays {number(paid[at], 'EUR/kWh')}, not below the price of what it "
                f"buys, which may be as low as {number(asked[at], 'EUR/kWh')}; its meter then buys "
                "or sells in an hour, never both, which clear() sees to outside of jit; lower it "
                "or raise import_adder if buying to resell should not pay"
            ),
            axes=("N", "H"),
        )
    pays = v.beyond(export, price, np.abs(base)) | ((slope == 0) & (export >= price))
    able = [np.any(each, axis=0) for each in able]
    return v.complain(
        "Tariff.export",
        pays & able[0] & able[1],
        lambda at: (
            f"{v.text('Tariff.export', at)} is not below the purchase price, which may be as low "
            f"as {number(price[at], 'EUR/kWh')}; a meter then buys or sells in an hour, never "
            "both, which clear() sees to outside of jit; lower it or raise base if "
            "buying to resell should not pay"
        ),
    )


def _in_zones(v: Values, each: Float[np.ndarray, "N H"]) -> Float[np.ndarray, "N H"]:
    """What is drawn in the zone of each prosumer, where these draw `each`, kW."""
    zones = v.rows("Zones.base")
    total = np.zeros((zones, each.shape[1]))
    np.add.at(total, v["Prosumers.zone"], each)
    np.add.at(total, v["Grid.zone"], v["Grid.passive"])
    return total[v["Prosumers.zone"]]


def _prices(v: Values) -> list[str]:
    """Prices in cents, or of loads in W: what is asked, and would be if all load were bought."""
    load = np.sum(_drawn(v), axis=0)
    base, slope = (np.max(v[f"Zones.{name}"], axis=0, initial=0.0) for name in ("base", "slope"))
    price = v["Tariff.base"] + base + (v["Tariff.slope"] + slope) * load
    found = v.complain(
        "Tariff.base",
        np.abs(v["Tariff.base"]) > _PRICE,
        lambda at: f"{v.text('Tariff.base', at)} is no usual price; give EUR, not cents or per MWh",
    )
    found = found or v.complain(
        "Tariff.slope",
        price > _PRICE,
        lambda at: (
            f"all load together, {number(load[at], 'kW')}, would pay "
            f"{number(price[at], 'EUR/kWh')}; give loads in kW, not W, and slope in EUR/kWh per kW"
        ),
    )
    own = ("Prosumers.import_adder", "Prosumers.export_adder")
    for name in ("Tariff.export", "Trading.toll", "Trading.reluctance", *own):
        found += v.complain(
            name,
            np.abs(v[name]) > _PRICE,
            lambda at, name=name: (
                f"{v.text(name, at)} is no usual price; give EUR, not cents or per MWh"
            ),
        )
    return found


def _loads(v: Values) -> list[str]:
    """Loads in MW: hardly any at all, of everybody together."""
    load, passive = np.abs(v["Prosumers.load"]), np.abs(v["Grid.passive"])
    most = np.max(np.sum(load, axis=0) + np.sum(passive, axis=0), initial=0.0)
    if not 0 < most < _LITTLE:
        return []
    return [
        f"Prosumers.load: the highest of all together is {number(most, 'kW')}; give kW, not MW."
    ]


def _network(v: Values) -> list[str]:
    """Voltages in volts, taps of kV, impedances in ohms, ratings in MVA, loads in W."""
    found = v.complain(
        "Grid.voltage_max",
        v["Grid.voltage_max"] > _VOLTS,
        lambda at: (
            f"{v.text('Grid.voltage_max', at)} limits nothing; give a number per unit, like 1.05, "
            "not volts or kV"
        ),
    )
    tap = v["Grid.tap"]
    found += v.complain(
        "Grid.tap",
        np.minimum(tap, 1 / tap) < _TAP,
        lambda at: (
            f"{v.text('Grid.tap', at)} is further from 1 than transformers go; give the ratio per "
            "unit of both sides' nominal voltages, which is 1 at a nominal tap, not kV over kV"
        ),
    )
    grid = v.market.grid
    if not grid.model.networked or not len(v["Grid.source"]):
        return found
    fall, drawn = _falls(v)
    for table, power in (("Generators", "power_max"), ("Buffers", "discharge_max")):
        own, home = v[f"{table}.bus"], v["Prosumers.bus"][v[f"{table}.owner"]]
        np.subtract.at(drawn, np.where(own < 0, home, own), v[f"{table}.{power}"])
    room = np.zeros(v.rows("Grid.passive"))
    for end in ("source", "target"):
        np.add.at(room, v[f"Grid.{end}"], v["Grid.rating"])
    room[v["Grid.feeder"]] = np.inf
    times = np.where(room[:, None] > 0, drawn / room[:, None], 0.0)
    if np.max(fall) > _DROP:
        bus, hour = np.unravel_index(np.argmax(fall), fall.shape)
        found.append(
            f"Grid.resistance: with the loads given the voltage falls by "
            f"{number(fall[bus, hour], 'pu')} on the way to {v.bus(bus)} "
            f"{in_hour(v.market, int(hour))}; give impedances in pu/kW, ohms divided by "
            "1000 kV^2, and loads in kW."
        )
    if np.max(times) > _BEYOND:
        bus, hour = np.unravel_index(np.argmax(times), times.shape)
        found.append(
            f"Grid.rating: {number(drawn[bus, hour], 'kW')} are drawn at {v.bus(bus)} "
            f"{in_hour(v.market, int(hour))}, whose lines carry {number(room[bus], 'kVA')}; "
            "give ratings in kVA, not MVA, and loads in kW, not W."
        )
    return found


def _drawn(v: Values, reactive: bool = False) -> Float[np.ndarray, "B H"]:
    """What all loads at each bus draw, without what may be made there."""
    fields = ("Grid.passive_reactive", "Prosumers.reactive") if reactive else (
        "Grid.passive", "Prosumers.load")  # fmt: skip
    passive, own = (np.maximum(v[name], 0.0) for name in fields)
    np.add.at(passive, v["Prosumers.bus"], own)
    return passive


def _falls(v: Values) -> tuple[Float[np.ndarray, "B H"], Float[np.ndarray, "B H"]]:
    """How far the voltage of each bus falls below its feeder's, pu, if loads alone drew power.

    Along the tree of shortest ways from the feeders; and what is drawn at each bus, kW. In three
    phases what stands on some draws an even share of each, and conductors act on themselves alone.
    """
    _, depth, needed = walk(v)
    source, target = v["Grid.source"], v["Grid.target"]
    outward = depth[source] < depth[target]
    near, far = np.where(outward, source, target), np.where(outward, target, source)
    order = [line for line in np.argsort(depth[far], kind="stable").tolist() if needed[line]]
    active, reactive = _drawn(v), _drawn(v, reactive=True)
    drawn, fall = active.copy(), np.zeros_like(active)
    also = {  # what else than its first phase a terminal draws on
        line: [second, third] if third >= 0 else [second]
        for line, second, third in zip(
            *(v[f"Grid.{name}"].tolist() for name in ("terminal", "second", "third")), strict=True
        )
    }
    for line in reversed(order):
        buses = [near[line], *also.get(line, ())]
        for power in (active, reactive):
            power[buses] += power[far[line]] / len(buses)
    for line in order:
        lost = v["Grid.resistance"][line] * active[far[line]]
        lost = lost + v["Grid.reactance"][line] * reactive[far[line]]
        fall[far[line]] = fall[near[line]] + lost
    return fall, drawn


def _unheard(v: Values) -> list[str]:
    """Prosumers so small beside the largest that the default tolerance says nothing of them."""
    load = np.abs(v["Prosumers.load"])
    totals = np.sum(load, axis=0) + np.sum(np.abs(v["Grid.passive"]), axis=0)
    size, total = np.max(load, axis=1, initial=0.0), np.max(totals, initial=0.0)
    largest = max(np.max(size, initial=0.0), 1e-2 * total)
    for owner, name in _DEVICES:
        power = np.max(np.abs(v[name]), axis=1, initial=0.0)
        np.maximum.at(size, v[owner], power)
        near = power[power <= _FAR * total] if total > 0 else power  # beyond is "no limit"
        largest = max(largest, 1e-2 * np.max(near, initial=0.0))
    least = _HEARD * largest
    rows = np.flatnonzero((size > 0) & (size < least))
    if not rows.size:
        return []
    shown = ", ".join(f"{v.person(i)} ({number(size[i], 'kW')})" for i in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    where = "" if v.market.prosumers.names else "row " if len(rows) == 1 else "rows "
    return [
        f"Prosumers {where}{shown}{more}: smaller than "
        f"{number(least, 'kW')}, a millionth of the largest, for whom the default tol promises no "
        "price and no balance; clear them apart, or with a smaller tol."
    ]
