"""Markets with caps of every kind that bind, or nearly so: tightened from what they do without."""

from typing import Any

import numpy as np

import jaxgne as jg
from jaxgne.record import changed
from tests.markets import random_market


def capped_market(seed: int = 0, *, tight: float = 0.95, **fixed: Any) -> jg.Market:
    """Carbon, a group that prosumer 1 answers for, a ramp, demand charges, a budget of charging."""
    base = random_market(seed, **fixed)
    free = jg.clear(base, jg.InteriorPoint(), runner="numpy")
    plan: Any = free.plan
    imports, exports = np.asarray(plan.imports), np.asarray(plan.exports)
    bought, made = (a.sum(axis=0) for a in (imports, np.asarray(plan.generation)))
    bought = bought + np.asarray(base.grid.passive).sum(axis=0)
    length = np.asarray(base.hour_length)
    kg = length @ (0.4 * bought + 0.3 * made)
    charged = length @ np.asarray(plan.charge).sum(axis=0)
    net = np.asarray(free.aggregate) - exports.sum(axis=0)
    steps = np.abs(np.diff(net)).max(initial=0.1)
    answered = jg.caps.group(base, 0.8 * imports[1:].sum(axis=0).max() + 0.01, members=[1, 2])
    return jg.capped(
        base,
        jg.caps.carbon(base, tight * kg, grid=0.4, generators=0.3),
        changed(answered, owner=np.array([1], np.int32)),
        jg.caps.ramp(base, tight * steps),
        jg.caps.demand_charge(base, 0.3, prosumers=[2, 0], free=1.0),
        jg.caps.total_demand_charge(base, 0.2, free=0.5 * net.max(), name="peak"),
        jg.caps.budget(base, tight * charged + 0.1, of="charge"),
    )
