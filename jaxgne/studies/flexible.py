"""Loads that follow prices: a part of each prosumer's load, of constant elasticity."""

from typing import Any

import numpy as np

from ..curves import Isoelastic
from ..devices import elastic, join
from ..market import Market
from ..record import changed

_LEAST, _MOST = 0.05, 4.0  # of what is used at the price: within these, consumption follows it


def flexible(market: Market, price: Any, share: float, elasticity: Any) -> Market:
    """The market where a `share` of what each prosumer draws on average follows the price.

    At `price` (EUR/kWh, one number or by prosumer) it is used as before, and one percent dearer
    `elasticity` percent less (one number or by prosumer), between a twentieth and four times that.
    Prosumers whose load is nowhere above 0 stay as they are. Raises `ValueError` for a share
    outside of 0 to 1, and what `devices.elastic` raises.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: give a share of the load, above 0 and at most 1.")
    load = np.asarray(market.prosumers.load)
    power = share * np.maximum(load, 0.0).mean(axis=1)
    who = np.flatnonzero(power > 0)
    price, bent = (np.broadcast_to(a, power.shape)[who] for a in (price, elasticity))
    own = power[who][:, None]
    units = elastic(
        who, power=_MOST * own, least=_LEAST * own, hours=load.shape[1],
        utility=Isoelastic(price=price, power=power[who], elasticity=bent),
    )  # fmt: skip
    people = changed(market.prosumers, load=market.prosumers.load - power[:, None])
    return changed(market, prosumers=people, generators=join(market.generators, units))
