"""Markets that make sense, of every grid, to be spoiled or described."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgne as jg

HOURS = 4


def good(model: jg.market.GridModel = "lindistflow", **changes: Any) -> jg.Market:
    """Four prosumers on four buses in a row: two generators, a battery, three pairs.

    Prosumer 3 has a surplus of 2 kW and may sell or curtail it.
    """
    load = np.tile([[5.0], [4.0], [3.0], [-2.0]], HOURS)
    grid: dict[str, Any] = {
        "passive": np.full((4, HOURS), 1.0),
        "source": [0, 1, 2],
        "target": [1, 2, 3],
        "resistance": 1e-5,
        "reactance": 1e-5,
        "rating": 100.0,
        "names": ("799", "701", "702", "703"),
    }
    tariff: dict[str, Any] = {"slope": 0.01, "base": 0.1, "export": 0.05}
    trading: dict[str, Any] = {"buyer": [0, 1, 2], "seller": [1, 2, 3], "toll": 0.01}
    return jg.Market(
        jg.Prosumers(
            [1, 2, 3, 3], load, 1.0,
            export_max=[[0], [0], [0], [3.0]], curtail_max=[[0], [0], [0], [1]],
        ),
        jg.Grid(**(grid | changes.get("grid", {})), model=model),
        jg.Tariff(**(tariff | changes.get("tariff", {})), hours=HOURS),
        jg.Generators([0, 1], 3.0, hours=HOURS, quadratic=0.01, linear=0.1),
        jg.Buffers(
            [2], 2.0, 2.0, 8.0, 4.0, hours=HOURS, energy_min=1.0,
            charge_efficiency=0.9, discharge_efficiency=0.9,
        ),
        jg.Trading(**(trading | {"limit": 5.0} | changes.get("trading", {}))),
    )  # fmt: skip


def mesh(**changes: Any) -> jg.Market:
    """The paper's grid, with a loop."""
    loop = {"source": [0, 1, 2, 3], "target": [1, 2, 3, 0]}
    return good("paper", grid=loop | changes)


def bare() -> jg.Market:
    """One prosumer, one hour, one bus, nothing else."""
    return jg.Market(
        jg.Prosumers([0], [[1.0]]), jg.Grid([[0.0]], model="copperplate"), jg.Tariff(0.1, hours=1)
    )


GOOD: dict[str, Callable[[], jg.Market]] = {
    "lindistflow": good,
    "paper": mesh,
    "copperplate": lambda: good("copperplate"),
    "two feeders": lambda: good(grid={"source": [0, 2], "target": [1, 3], "feeder": [0, 2],
                                      "rating": np.inf}),
    "bare": bare,
}  # fmt: skip


def batch(size: int) -> jg.Market:
    return jax.tree.map(lambda a: jnp.stack([a] * size), good())
