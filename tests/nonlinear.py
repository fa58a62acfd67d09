"""An independent local optimum of a market on AC equations: SciPy's SLSQP and sweeps with loops.

The linear half (devices, trades, balances, the main grid) is the columns and rows of
`tests/reference.py` without a network; losses and voltages come from `tests/phased.py`'s `sweep`,
their slopes from differences. Nothing of the package is used but its containers of arrays.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import minimize

import jaxgne as jg
from tests import reference
from tests.phased import Tree, sweep

_STEP = 1e-4  # kW, of differences


class Local(NamedTuple):
    """A local optimum: the potential, EUR, and tables of decisions by name."""

    potential: float
    decided: dict[str, np.ndarray]
    losses: np.ndarray  # (H,) kW
    lowest: float  # pu


def local_optimum(market: jg.Market, tree: Tree, low: float) -> Local:
    """The market on the feeder `tree`, no phase of which may fall below `low` pu but the source."""
    plain = replace(market, grid=replace(market.grid, model=jg.grids.Copperplate()))
    program = reference.build(plain)
    places = program.columns
    size = sum(where.stop - where.start for where in places.values())
    lower, upper, linear, quadratic, unit = (
        np.concatenate([np.ravel(a) for a in getattr(program, name)])
        for name in ("lower", "upper", "linear", "quadratic", "unit")
    )
    equal, bounds = [], []
    for family in program.families:
        matrix = program.matrix(family) @ sparse.diags(unit) / family.unit
        told = (matrix, np.ravel(family.constant) / family.unit)
        (bounds if family.bound else equal).append((family.name, *told))
    people = market.prosumers
    bus, hours = np.asarray(people.bus), market.prosumers.load.shape[1]
    nodes = int(tree.phases.sum())
    rows = nodes + len(tree.spans)
    owners = {
        "generation": (-1, np.asarray(market.generators.owner)),
        "charge": (1, np.asarray(market.buffers.owner)),
        "discharge": (-1, np.asarray(market.buffers.owner)),
        "curtailed": (1, np.arange(len(bus))),
    }
    draws = sparse.lil_matrix((rows * hours, size))
    for name, (sign, owner) in owners.items():
        where = places[name]
        for k, one in enumerate(bus[owner]):
            for h in range(hours):
                draws[one * hours + h, where.start + k * hours + h] = sign
    draws = draws.tocsr() @ sparse.diags(unit)
    fixed = np.concatenate([tree.wye[tree.phases], tree.spanned])
    np.add.at(fixed, bus, np.asarray(people.load) + 1j * np.asarray(people.reactive))

    def state(drawn: Any) -> tuple[np.ndarray, np.ndarray]:
        """Losses by hour and squared voltages of phases, when rows draw so much."""
        wye = np.zeros(tree.wye.shape, complex)
        wye[tree.phases] = drawn[:nodes]
        volts, current = sweep(replace(tree, wye=wye, spanned=drawn[nodes:]))
        sent = np.sum(volts[0] * np.conj(current[0]), axis=0).real
        return sent - drawn.real.sum(axis=0), np.abs(volts[tree.phases]) ** 2

    memory: dict[bytes, Any] = {}

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Losses and squared voltages, and their slopes by what each row draws in that hour."""
        key = x.tobytes()
        if key not in memory:
            drawn = fixed + (draws @ x).reshape(rows, hours)
            slopes = []
            for row in range(rows):
                ahead, behind = drawn.copy(), drawn.copy()
                ahead[row] += _STEP
                behind[row] -= _STEP
                one, other = state(ahead), state(behind)
                slopes.append([(a - b) / (2 * _STEP) for a, b in zip(one, other, strict=True)])
            memory.clear()
            memory[key] = (*state(drawn), np.array([s[0] for s in slopes]),
                           np.array([s[1] for s in slopes]))  # fmt: skip
        return memory[key]

    def chained(by_row: np.ndarray) -> np.ndarray:
        """Slopes (rows, H) of a number an hour as slopes of it by all columns, (H, size)."""
        spread = np.zeros((hours, rows, hours))
        spread[np.arange(hours), :, np.arange(hours)] = by_row.T
        return np.asarray(spread.reshape(hours, -1) @ draws)

    free = np.arange(int(tree.phases[0].sum()), nodes)
    scale = {name: family.unit for name, family in
             ((family.name, family) for family in program.families)}["sigma"]  # fmt: skip

    def equations(x: np.ndarray) -> np.ndarray:
        told = []
        for name, matrix, constant in equal:
            value = matrix @ x + constant
            told.append(value + at(x)[0] / scale if name == "sigma" else value)
        return np.concatenate(told)

    def equation_slopes(x: np.ndarray) -> np.ndarray:
        told = []
        for name, matrix, _ in equal:
            slope = matrix.toarray()
            told.append(slope + chained(at(x)[2]) / scale if name == "sigma" else slope)
        return np.concatenate(told)

    def room(x: np.ndarray) -> np.ndarray:
        told = [-(matrix @ x + constant) for _, matrix, constant in bounds]
        return np.concatenate([*told, 100 * (at(x)[1][free] - low**2).ravel()])

    def room_slopes(x: np.ndarray) -> np.ndarray:
        told = [-matrix.toarray() for _, matrix, _ in bounds]
        slope = at(x)[3]  # (rows, nodes, H)
        return np.concatenate([*told, *(100 * chained(slope[:, node]) for node in free)])

    def cost(x: np.ndarray) -> float:
        u = unit * x
        return float(linear @ u + quadratic @ u**2)

    begun = np.clip(np.zeros(size), lower / unit, upper / unit)
    with np.errstate(all="ignore"):
        found: Any = minimize(
            cost, begun, jac=lambda x: unit * (linear + 2 * quadratic * unit * x),
            bounds=list(zip(lower / unit, upper / unit, strict=True)), method="SLSQP",
            constraints=[
                {"type": "eq", "fun": equations, "jac": equation_slopes},
                {"type": "ineq", "fun": room, "jac": room_slopes},
            ],
            options={"maxiter": 300, "ftol": 1e-12},
        )  # fmt: skip
    if not found.success:
        raise RuntimeError(f"SLSQP: {found.message}")
    u, (losses, square, *_) = unit * found.x, at(found.x)
    decided = {name: u[where].reshape(-1, hours) for name, where in places.items()}
    return Local(cost(found.x), decided, losses, float(np.sqrt(square[free].min())))
