"""What a market may mean but seldom does: numbers in another unit, prices that invite reselling."""

import numpy as np
from jaxtyping import Float

from .tables import Values, number


def doubts(v: Values) -> list[str]:
    """What is plausible only in few markets, one sentence each; none of it makes one wrong."""
    with np.errstate(all="ignore"):
        return _resale(v)


def by_owner(v: Values, owner: str, values: np.ndarray) -> Float[np.ndarray, "N H"]:
    """Sum of `values`, hourly or one a row, over the rows of each prosumer."""
    count = len(v["Prosumers.bus"])
    columns = values.T if values.ndim == 2 else values[None]
    return np.stack([np.bincount(v[owner], column, count) for column in columns], axis=1)


def _resale(v: Values) -> list[str]:
    """Hours in which the main grid may pay at least what it asks, and both ways are open.

    That is where `export` is not below `base + slope sigma` at the least total import there can be:
    passive demand plus what prosumers must buy, one by one or together.
    """
    least = v["Prosumers.load"].copy()
    least -= by_owner(v, "Generators.owner", v["Generators.power_max"])
    least -= by_owner(v, "Buffers.owner", v["Buffers.discharge_max"])
    trade = sum(by_owner(v, f"Trading.{end}", v["Trading.limit"]) for end in ("buyer", "seller"))
    alone = np.sum(np.maximum(least - trade, 0), axis=0)
    sigma = np.sum(v["Grid.passive"], axis=0) + np.maximum(alone, np.sum(least, axis=0))
    base, slope, export = (v[f"Tariff.{name}"] for name in ("base", "slope", "export"))
    price = base + slope * sigma
    pays = v.beyond(export, price, np.abs(base)) | ((slope == 0) & (export >= price))
    able = [np.any(v[f"Prosumers.{way}_max"] > 0, axis=0) for way in ("import", "export")]
    return v.complain(
        "Tariff.export",
        pays & able[0] & able[1],
        lambda at: (
            f"{v.text('Tariff.export', at)} is not below the purchase price, which may be as low "
            f"as {number(price[at], 'EUR/kWh')}; a meter then buys or sells in an hour, never "
            "both, which clear() sees to, but jit and batches do not; lower it or raise base if "
            "buying to resell should not pay"
        ),
    )
