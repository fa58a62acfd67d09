"""Convex solvers on the potential's program (model.md: Equilibrium), by their own interfaces.

All take the program that `tests/reference.py` builds. With a tree for a grid reactive flows are
known beforehand, so that a line's disc is a box and the program quadratic; the discs of the `paper`
grid stay, and only conic solvers take them.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from jax.experimental.sparse import BCOO
from scipy.sparse.linalg import spsolve

from jaxgne import Market, Plan, Rows, model
from tests import reference

ACCURACIES = (
    1e-4,
    1e-6,
    1e-8,
    1e-10,
    1e-12,
)  # asked of a peer in turn, until it is as good as wanted


@dataclass(frozen=True)
class Box:
    """min 1/2 x'Px + q'x with A x = b, G x <= h, lower <= x <= upper, and discs.

    Each three rows of `discs x + s = radii` have s in a second-order cone.
    """

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    G: Any
    h: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    discs: Any
    radii: np.ndarray


def reactive_given(market: Market) -> bool:
    """Whether reactive flows are data: on a tree without inverters."""
    return market.grid.model.name == "lindistflow" and not np.any(market.grid.compensation_max)


def program(market: Market) -> tuple[reference.Program, reference.Conic, Box]:
    """The market's program, with boxes instead of discs where reactive flows are data."""
    made = reference.build(market)
    if reactive_given(market) and made.ratings is not None:
        family = next(f for f in made.families if f.name == "bus_reactive")
        flows = spsolve(sparse.csc_matrix(family.matrix["reactive"]), -family.constant.ravel())
        room = np.repeat(made.ratings**2, made.hours) - flows**2
        at = list(made.columns).index("active")
        made.upper[at] = np.sqrt(np.maximum(room, 0.0))
        made.lower[at] = -made.upper[at]
        made.ratings = None
    power, price = reference.size(market)
    conic = reference.scale(made, power * price * float(np.mean(market.hour_length)))
    equal = [where for family, _, where in conic.kept if not family.bound]
    below = [where for family, _, where in conic.kept if family.bound]
    rows = sum(where.stop - where.start for where in equal)
    last = rows + sum(where.stop - where.start for where in below)
    table = sparse.csr_matrix(conic.A)
    lower, upper, unit = (np.concatenate(a) for a in (made.lower, made.upper, made.unit))
    radii = 3 * sum(isinstance(cone, reference.clarabel.SecondOrderConeT) for cone in conic.cones)
    discs = int(conic.A.shape[0]) - radii
    box = Box(
        P=conic.P,
        q=conic.q,
        A=sparse.csc_matrix(table[:rows]),
        b=conic.b[:rows],
        G=sparse.csc_matrix(table[rows:last]),
        h=conic.b[rows:last],
        lower=(lower / unit)[conic.free],
        upper=(upper / unit)[conic.free],
        discs=table[discs:],
        radii=conic.b[discs:],
    )
    return made, conic, box


def answer(
    market: Market, made: reference.Program, conic: reference.Conic, x: np.ndarray, y: np.ndarray
) -> tuple[Plan, Rows]:
    """Plan and prices of a solver's scaled answer: `y` are the multipliers of `A x = b`."""
    _, table, prices = reference.read(market, made, conic, x, y)
    plan = reference.unpack(market, table)
    if not reactive_given(market):
        return plan, prices
    # what a box says of a line's active flow its disc also says of the reactive one
    pulled = model.pull(market, prices)
    active, reactive = np.asarray(plan.active), np.asarray(plan.reactive)
    scarce = np.where(active == 0, 0.0, -np.asarray(pulled.active) / np.where(active, active, 1.0))
    full = np.hypot(active, reactive) >= np.asarray(market.grid.rating)[:, None] * (1 - 1e-3)
    wanted = -np.where(full, scarce * reactive, 0.0) / np.asarray(market.hour_length)
    grid = market.grid
    fall = np.asarray(model.falls(grid)["voltage"][1])[:, None]
    wanted = wanted + fall * np.asarray(prices.voltage)
    price = np.zeros((len(grid.passive), active.shape[1]))
    for line, (source, target) in enumerate(zip(grid.source, grid.target, strict=True)):
        price[target] = price[source] - wanted[line]  # lines run from parents to children
    return plan, replace(prices, bus_reactive=jnp.asarray(price))


def clarabel(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Interior point, conic."""
    module: Any = import_module("clarabel")

    A, b, zeros, others = stacked(box)
    discs = [module.SecondOrderConeT(3)] * (len(box.radii) // 3)
    options = module.DefaultSettings()
    options.verbose, options.max_iter = False, 500
    options.tol_feas = options.tol_gap_abs = options.tol_gap_rel = eps
    cones = [module.ZeroConeT(zeros), module.NonnegativeConeT(others), *discs]
    begun = perf_counter()
    found = module.DefaultSolver(
        sparse.triu(box.P, format="csc"), box.q, A, b, cones, options
    ).solve()
    return np.array(found.x), np.array(found.z)[:zeros], perf_counter() - begun


def moreau(box: Box, eps: float, device: str = "cpu") -> tuple[np.ndarray, np.ndarray, float]:
    """Interior point, conic."""
    module: Any = import_module("moreau")

    A, b, zeros, others = stacked(box)
    inner = module.IPMSettings(tol_feas=eps, tol_gap_abs=eps, tol_gap_rel=eps)
    begun = perf_counter()
    found = module.Solver(
        sparse.csr_array(box.P),
        box.q,
        sparse.csr_array(A),
        b,
        module.Cones(
            num_zero_cones=zeros,
            num_nonneg_cones=others,
            so_cone_dims=[3] * (len(box.radii) // 3),
        ),
        module.Settings(solver="ipm", device=device, ipm_settings=inner),
    ).solve()
    return np.asarray(found.x), np.asarray(found.z)[:zeros], perf_counter() - begun


def scs(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Operator splitting, conic."""
    module: Any = import_module("scs")

    A, b, zeros, others = stacked(box)
    data = {"P": sparse.triu(box.P, format="csc"), "A": A, "b": b, "c": box.q}
    begun = perf_counter()
    found = module.SCS(
        data,
        {"z": zeros, "l": others, "q": [3] * (len(box.radii) // 3)},
        eps_abs=eps,
        eps_rel=eps,
        max_iters=10_000_000,
        verbose=False,
    ).solve()
    return found["x"], found["y"][:zeros], perf_counter() - begun


def osqp(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Operator splitting with polishing."""
    module: Any = import_module("osqp")

    refuse_discs(box)
    eye = sparse.eye(len(box.q))
    table = sparse.csc_matrix(sparse.vstack([box.A, box.G, eye]))
    low = np.concatenate([box.b, np.full(len(box.h), -np.inf), box.lower])
    high = np.concatenate([box.b, box.h, box.upper])
    begun = perf_counter()
    solver = module.OSQP()
    solver.setup(
        sparse.triu(box.P, format="csc"),
        box.q,
        table,
        low,
        high,
        eps_abs=eps,
        eps_rel=eps,
        max_iter=10_000_000,
        polishing=True,
        verbose=False,
    )
    found = solver.solve()
    return found.x, found.y[: len(box.b)], perf_counter() - begun


def piqp(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Proximal interior point."""
    module: Any = import_module("piqp")

    refuse_discs(box)
    solver = module.SparseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = eps
    solver.settings.eps_duality_gap_abs = solver.settings.eps_duality_gap_rel = eps
    solver.settings.max_iter = 500
    begun = perf_counter()
    solver.setup(
        sparse.csc_matrix(box.P),
        box.q,
        box.A,
        box.b,
        box.G,
        np.full(len(box.h), -np.inf),
        box.h,
        box.lower,
        box.upper,
    )
    solver.solve()
    return np.array(solver.result.x), np.array(solver.result.y), perf_counter() - begun


def highs(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Active set."""
    module: Any = import_module("highspy")

    refuse_discs(box)
    lp, table = module.HighsLp(), sparse.csc_matrix(sparse.vstack([box.A, box.G]))
    lp.num_col_, lp.num_row_ = len(box.q), len(box.b) + len(box.h)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = box.q, box.lower, box.upper
    lp.row_lower_ = np.concatenate([box.b, np.full(len(box.h), -np.inf)])
    lp.row_upper_ = np.concatenate([box.b, box.h])
    lp.a_matrix_.format_ = module.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = table.indptr, table.indices
    lp.a_matrix_.value_ = table.data
    hessian, lower = module.HighsHessian(), sparse.csc_matrix(sparse.tril(box.P))
    hessian.dim_, hessian.format_ = len(box.q), module.HessianFormat.kTriangular
    hessian.start_, hessian.index_, hessian.value_ = lower.indptr, lower.indices, lower.data
    both = module.HighsModel()
    both.lp_, both.hessian_ = lp, hessian
    solver = module.Highs()
    solver.setOptionValue("output_flag", False)
    for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
        solver.setOptionValue(name, max(eps, 1e-10))
    begun = perf_counter()
    solver.passModel(both)
    if solver.run() != module.HighsStatus.kOk:
        raise RuntimeError("its active set method takes the Hessian, of low rank, for non-convex")
    found = solver.getSolution()
    seconds = perf_counter() - begun
    return np.array(found.col_value), -np.array(found.row_dual)[: len(box.b)], seconds


def mpax(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Restarted primal-dual hybrid gradient; of two runs the second, compiled one counts."""
    module: Any = import_module("mpax")

    refuse_discs(box)
    jax.config.update("jax_enable_x64", True)

    def sparse_(matrix: Any) -> Any:
        return BCOO.from_scipy_sparse(sparse.coo_matrix(matrix))

    problem = module.create_qp(
        sparse_(box.P),
        box.q,
        sparse_(box.A),
        box.b,
        sparse_(-box.G),
        -box.h,
        box.lower,
        box.upper,
    )
    solver = module.raPDHG(eps_abs=eps, eps_rel=eps, verbose=False)
    run = jax.jit(solver.optimize)
    jax.block_until_ready(run(problem))
    begun = perf_counter()
    found = jax.block_until_ready(run(problem))
    seconds = perf_counter() - begun
    return (
        np.asarray(found.primal_solution),
        -np.asarray(found.dual_solution)[: len(box.b)],
        seconds,
    )


def nashopt(box: Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Two players with the potential as both's cost: its way to a variational equilibrium.

    Its matrices are dense, one a player, so that not every prosumer can be one.
    """
    module: Any = import_module("nashopt")

    refuse_discs(box)
    size, half = len(box.q), len(box.q) // 2
    dense = box.P.toarray()
    begun = perf_counter()
    game = module.GNEP_LQ(
        [half, size - half],
        [dense, dense],
        [box.q, box.q],
        lb=box.lower,
        ub=box.upper,
        A=box.G.toarray() if len(box.h) else None,
        b=box.h if len(box.h) else None,
        Aeq=box.A.toarray(),
        beq=box.b,
        variational=True,
        solver="qp_gnep",
    )
    found = game.solve(solver_options={"tol": eps, "reduced": False})
    seconds = perf_counter() - begun
    return np.asarray(found.x), np.asarray(found.mu).reshape(-1)[: len(box.b)], seconds


def refuse_discs(box: Box) -> None:
    """For solvers of quadratic programs."""
    if len(box.radii):
        raise ValueError("the discs of this grid need a conic solver")


def stacked(box: Box) -> tuple[Any, np.ndarray, int, int]:
    """A x + s = b with s zero in the first rows, at least 0 in the next, in cones in the last."""
    eye = sparse.csc_matrix(sparse.eye(len(box.q)))
    above, below = np.isfinite(box.upper), np.isfinite(box.lower)
    table = sparse.vstack([box.A, box.G, eye[above], -eye[below], box.discs])
    side = np.concatenate([box.b, box.h, box.upper[above], -box.lower[below], box.radii])
    return sparse.csc_matrix(table), side, len(box.b), len(side) - len(box.b) - len(box.radii)


# each returns the columns, the multipliers of A x = b and the seconds it took
PEERS = {
    "nashopt": nashopt,
    "clarabel": clarabel,
    "moreau": moreau,
    "piqp": piqp,
    "osqp": osqp,
    "scs": scs,
    "highs": highs,
    "mpax": mpax,
}
