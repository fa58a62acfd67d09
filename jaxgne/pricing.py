"""What may be bought and sold, at which prices: pairs that trade, and the main grid's tariff."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from .arrays import Reader, floats, step_count, whole
from .fields import amount, index, naming
from .record import Record, words


class Trading(Record):
    """Pairs that may trade, each once: a trade is positive when `buyer` buys from `seller`.

    `fee_buyer` and `fee_seller` are what each side reckons with (c_tr), `toll` is the network's
    tariff for the trade, paid by both sides (c_ta). `reluctance` is what the two together reckon
    with for each kWh that they trade, whichever way, and nobody is paid: whom one would rather not
    deal with. `quadratic` is a cost `quadratic t^2` per hour to each side; 0 in the paper, as
    reluctance is (model.md: Costs). A plain list is by pair, an array of shape (1, hours) or
    (pairs, hours) by hour.
    """

    buyer: Int[Array, " E"] = index("prosumer", "who buys where the trade is positive")
    seller: Int[Array, " E"] = index("prosumer", "who sells there")
    limit: Float[Array, "E #H"] = amount("kW", "most power, either way", "[0, inf)")
    fee_buyer: Float[Array, "E #H"] = amount("EUR/kWh", "what the buyer reckons with")
    fee_seller: Float[Array, "E #H"] = amount("EUR/kWh", "what the seller reckons with")
    toll: Float[Array, "E #H"] = amount("EUR/kWh", "the network's tariff, paid by both", "[0, inf)")
    reluctance: Float[Array, "E #H"] = amount(
        "EUR/kWh", "what both together reckon with, either way, and nobody is paid", "[0, inf)"
    )
    quadratic: Float[Array, " E"] = amount(
        "EUR/kW^2h", "cost of power squared, to each side", "[0, inf)"
    )

    def __init__(
        self,
        buyer: Any,
        seller: Any,
        limit: Any,
        *,
        fee_buyer: Any = 0.0,
        fee_seller: Any = 0.0,
        toll: Any = 0.0,
        reluctance: Any = 0.0,
        quadratic: Any = 0.0,
    ):
        self.buyer = whole("Trading.buyer", buyer)
        self.seller = whole("Trading.seller", seller)
        read = Reader(
            *("Trading.", "pair", len(self.buyer), 1),
            *(limit, fee_buyer, fee_seller, toll, reluctance, quadratic),
        )
        self.limit = read.either("limit", limit)
        self.fee_buyer = read.either("fee_buyer", fee_buyer)
        self.fee_seller = read.either("fee_seller", fee_seller)
        self.toll = read.either("toll", toll)
        self.reluctance = read.either("reluctance", reluctance)
        self.quadratic = read.row("quadratic", quadratic)


class Tariff(Record):
    """What the main grid charges: `base + slope * sigma` per kWh, sigma the total gross import.

    `total_min`, `total_max` bound the net exchange s = sigma - exports. `anticipation` (kappa) is
    1 when prosumers see their own effect on the price (Nash), 0 when they take it (Wardrop).
    """

    base: Float[Array, " H"] = amount("EUR/kWh", "price at no import")
    slope: Float[Array, " H"] = amount("EUR/kWh per kW", "price rise with total import", "[0, inf)")
    export: Float[Array, " H"] = amount("EUR/kWh", "paid for exports")
    total_min: Float[Array, " H"] = amount("kW", "least exchange with the main grid", "[-inf, inf)")
    total_max: Float[Array, " H"] = amount("kW", "most exchange with the main grid", "(-inf, inf]")
    anticipation: Float[Array, ""] = amount(
        "",
        "1: prosumers see their effect on the price (Nash), 0: they take it (Wardrop)",
        "[0, 1]",
        "is not between 0 and 1; give 1 for Nash, 0 for price takers",
    )

    def __init__(
        self,
        slope: Any,
        *,
        hours: int,
        base: Any = 0.0,
        export: Any = 0.0,
        total_min: Any = -np.inf,
        total_max: Any = np.inf,
        anticipation: Any = 1.0,
    ):
        given = (slope, base, export, total_min, total_max)
        read = Reader("Tariff.", "hour", step_count("Tariff: hours", hours), 1, *given)
        self.slope = read.row("slope", slope)
        self.base = read.row("base", base)
        self.export = read.row("export", export)
        self.total_min = read.row("total_min", total_min)
        self.total_max = read.row("total_max", total_max)
        self.anticipation = floats("Tariff.anticipation", anticipation, read.dtype)


class Zones(Record):
    """Price zones, one row each: what buying and selling there costs more than by `Tariff`.

    Whoever is in zone z (`Prosumers.zone`, `Grid.zone`) pays the main grid
    `Tariff.base + base + (Tariff.slope + slope) * sigma_z` per kWh, sigma_z being the gross import
    of that zone alone, and is paid `Tariff.export + export` (model.md: Zones). Numbers may be
    negative as long as the sum of both slopes is not. A market without rows has one zone, in which
    all is as `Tariff` says; `jaxgne.zones.with_zones` makes the rows of tariffs by zone. A plain
    list is by zone, an array of shape (1, hours) or (zones, hours) by hour.
    """

    base: Float[Array, "Z #H"] = amount("EUR/kWh", "more than `Tariff.base`, at no import")
    slope: Float[Array, "Z #H"] = amount(
        "EUR/kWh per kW", "more than `Tariff.slope`, with the zone's import"
    )
    export: Float[Array, "Z #H"] = amount("EUR/kWh", "more than `Tariff.export`, for exports")
    names: tuple[str, ...] = naming("name of each zone")

    def __init__(
        self,
        base: Any,
        slope: Any = 0.0,
        *,
        export: Any = 0.0,
        names: Sequence[str] = (),
    ):
        count = len(base)
        read = Reader("Zones.", "zone", count, 1, base, slope, export)
        self.base = read.either("base", base)
        self.slope = read.either("slope", slope)
        self.export = read.either("export", export)
        self.names = words(names) or tuple(f"zone {k}" for k in range(count))
