"""Which limit makes a market infeasible, in words, read off the prices that prove it."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Array

from .clock import in_hours
from .each import for_one
from .feasibility import infeasibility_proof, proof_terms
from .market import Market, bus_name, cast, line_name
from .model import Plan, Rows, pull
from .names import owners
from .optimality import pin
from .programs import program
from .runner import hosted, jnp, vmap, wide
from .scales import cap_sizes

# each with all rows of those before, but the buffers' own, which see no other row; the first only
# with the prosumers' rows that the ray weighs most
_CAUSES = (
    "prosumer",
    "prosumer",
    "buffer",
    "stored",
    "aggregate",
    "cap",
    "line",
    "reactive",
    "voltage",
)
_HEARD = 0.1  # share of the ray's largest entry from which on a row or an hour is named


@for_one("take one of them, jg.scenarios.lane((markets, clearings), k)")
def explain_infeasible(market: Market, prices: Rows) -> str:
    """The limit that makes a market infeasible, in one sentence, read off the proof in `prices`.

    The simplest part of the ray that still is a proof tells: private rows alone, with the limit on
    the total exchange, with caps, with lines, with reactive power, with voltages. Raises
    `ValueError` when `prices` prove nothing.
    """
    with wide():
        found = _evidence(*cast((market, prices), jnp.float64))
    ray, proofs, terms, gradients, timeless = found
    proven = np.flatnonzero(np.asarray(proofs) > 0)
    if not proven.size:
        raise ValueError("explain_infeasible: these prices do not prove the market infeasible.")
    cause = _CAUSES[proven[0]]
    by_row, gradient = jax.tree.map(lambda a: np.asarray(a[proven[0]]), (terms, gradients))
    if cause == "cap":
        return _cap_sentence(market, gradient)
    grid = market.grid
    rated = np.isfinite(np.asarray(grid.rating))[:, None]
    fed = np.isin(np.arange(grid.passive.shape[0]), np.asarray(grid.feeder))[:, None]
    where = {
        "prosumer": by_row.balance,
        "buffer": gradient.energy,  # where a bound on the content is what the ray pushes against
        "stored": by_row.balance,
        "aggregate": np.asarray(ray.aggregate)[None],
        "line": np.where(rated, gradient.active, 0.0),
        "reactive": np.where(rated, np.hypot(gradient.active, gradient.reactive), 0.0),
        "voltage": np.where(fed, 0.0, gradient.voltage),
    }[cause]
    row, hour = divmod(int(np.abs(where).argmax()), market.prosumers.load.shape[-1])
    hours = [hour]
    if not np.asarray(timeless)[proven[0]] > 0 and cause != "buffer":  # energy over hours
        share = np.abs(where[row]) / np.abs(where[row]).max()
        hours = np.flatnonzero(share > _HEARD).tolist()
    return _sentence(market, prices, cause, row, hours)


@program("the proof of infeasibility", once=True)
def _evidence(market: Market, prices: Rows) -> tuple[Rows, Array, Rows, Plan, Array]:
    """The ray, and for each cause, with only its rows: the proof, its terms and its gradient.

    And the proof without the rows of contents, which is one where hours do not matter together.
    """
    ray = pin(market, prices)
    nothing = jax.tree.map(jnp.zeros_like, ray)
    own, stores = replace(nothing, balance=ray.balance), replace(nothing, energy=ray.energy)
    weight = jnp.abs(ray.balance)  # what a ray has little of may be what is left of other prices
    loud = weight > _HEARD * jnp.max(weight)
    heard = replace(nothing, balance=jnp.where(loud, ray.balance, 0.0))
    private = replace(stores, balance=ray.balance)
    total = replace(private, aggregate=ray.aggregate)
    caps = replace(total, cap=ray.cap, level=ray.level)
    lines = replace(caps, bus=ray.bus)
    reactive = replace(lines, bus_reactive=ray.bus_reactive)
    parts = (heard, own, stores, private, total, caps, lines, reactive, ray)
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *parts)
    timeless = replace(stacked, energy=jnp.zeros_like(stacked.energy))

    def evidence(part: Rows) -> tuple[Array, Rows, Plan]:
        terms, _ = proof_terms(market, part)
        return infeasibility_proof(market, part), terms, pull(market, part)

    without = vmap(lambda part: infeasibility_proof(market, part))(timeless)
    return ray, *vmap(evidence)(stacked), without


def _cap_sentence(market: Market, gradient: Plan) -> str:
    """The bound of a cap that a proof pushes against most, in words."""
    caps, (step, level) = market.caps, hosted(cap_sizes)(market)
    found = {name: np.asarray(getattr(gradient, name)) for name in ("level", "rise")}
    pushed = {name: np.abs(a) * (level if name == "level" else step) for name, a in found.items()}
    ends = {name: (getattr(caps, f"{name}_min"), getattr(caps, f"{name}_max")) for name in found}
    for name, (low, high) in ends.items():  # a bound that there is not holds nothing
        bound = np.where(found[name] > 0, low, high)
        pushed[name] = np.where(np.isfinite(bound), pushed[name], 0.0)
    name = max(pushed, key=lambda name: float(pushed[name].max()))
    row, hour = divmod(int(pushed[name].argmax()), pushed[name].shape[1])
    hours = np.flatnonzero(pushed[name][row] > _HEARD * pushed[name][row, hour]).tolist()
    below = bool(found[name][row, hour] > 0)
    limit = float(ends[name][0 if below else 1][row, hour])
    amount = f"{limit:.6g} {caps.units[row]}".strip()
    return (
        f"cap {caps.names[row]!r} {in_hours(market, hours)}: {amount} is out of reach of what it "
        f"counts; {'lower' if below else 'raise'} Caps.{name}_{'min' if below else 'max'}."
    )


def _sentence(market: Market, prices: Rows, cause: str, row: int, hours: list[int]) -> str:
    """One cause of infeasibility in words."""
    grid, tariff, when, hour = market.grid, market.tariff, in_hours(market, hours), hours[0]

    bus = partial(bus_name, grid)
    if cause == "aggregate":
        above = float(prices.aggregate[hour]) > 0
        name, limit = ("total_max", tariff.total_max) if above else ("total_min", tariff.total_min)
        return (
            f"Tariff.{name} {when}: {float(limit[hour]):.6g} kW is out of reach of all "
            f"devices together; {'raise' if above else 'lower'} it."
        )
    if cause in ("line", "reactive"):
        more = " or Grid.compensation_max behind it" if cause == "reactive" else ""
        ends = f"{bus(int(grid.source[row]))}-{bus(int(grid.target[row]))}"
        return (
            f"Grid.rating of line {line_name(grid, row)} ({ends}) {when}: "
            f"{float(grid.rating[row]):.6g} kVA cannot carry what lies behind it; raise it{more}."
        )
    if cause == "voltage":
        span = f"{float(grid.voltage_min[row]):.4g} to {float(grid.voltage_max[row]):.4g} pu"
        return (
            f"Grid.voltage_min/voltage_max of bus {bus(row)} {when}: {span} is out of reach; "
            "widen them."
        )
    if cause == "buffer":
        return (
            f"Buffers row {row} ({owners(market).whose('buffer', row)}) {when}: its "
            "content cannot stay between energy_min (its floor, or what is due) and energy_max; "
            "widen them, check energy_start, drain and charge_max, or let jg.devices.recover lower "
            "floors to what can be reached."
        )
    short = float(prices.balance[row, hour]) > 0
    need = (
        "its load exceeds what it may import, make, store and buy; raise import_max or trade limits"
        if short
        else "it cannot get rid of its surplus; raise curtail_max, export_max or trade limits"
    )
    if cause == "stored":
        need = need.replace("its load exceeds", "its load and what its buffers must hold exceed")
    name = f" ({market.prosumers.names[row]})" if market.prosumers.names else ""
    return f"Prosumers row {row}{name} {when}: {need}."
