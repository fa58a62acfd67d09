"""Convex solvers on many programs of one shape: set up once, then updated and started warm.

Each takes the programs of `convex.py` and an accuracy, and returns columns and multipliers of
A x = b per program, and the seconds for all of them together, set-up included.
"""

from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse as sparse

from benchmarks.convex import Box, stacked

Answers = list[tuple[np.ndarray, np.ndarray]]


def piqp(boxes: list[Box], eps: float) -> tuple[Answers, float]:
    """Proximal interior point; its symbolic factorization is kept."""
    module: Any = import_module("piqp")

    solver = module.SparseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = eps
    solver.settings.eps_duality_gap_abs = solver.settings.eps_duality_gap_rel = eps
    solver.settings.max_iter = 500
    found: Answers = []
    begun = perf_counter()
    for box in boxes:
        data = (sparse.csc_matrix(box.P), box.q, box.A, box.b, box.G)
        put = solver.update if found else solver.setup
        put(*data, np.full(len(box.h), -np.inf), box.h, box.lower, box.upper)
        solver.solve()
        found.append((np.array(solver.result.x), np.array(solver.result.y)))
    return found, perf_counter() - begun


def osqp(boxes: list[Box], eps: float) -> tuple[Answers, float]:
    """Operator splitting with polishing, each started at the answer before."""
    module: Any = import_module("osqp")

    eye = sparse.eye(len(boxes[0].q))
    ready = []
    for box in boxes:
        table = sparse.csc_matrix(sparse.vstack([box.A, box.G, eye]))
        low = np.concatenate([box.b, np.full(len(box.h), -np.inf), box.lower])
        high = np.concatenate([box.b, box.h, box.upper])
        ready.append((sparse.triu(box.P, format="csc"), box.q, table, low, high))
    found: Answers = []
    solver = module.OSQP()
    begun = perf_counter()
    for P, q, A, low, high in ready:
        if found:
            solver.update(q=q, l=low, u=high, Px=P.data, Ax=A.data)
        else:
            options = {"eps_abs": eps, "eps_rel": eps, "max_iter": 10_000_000, "polishing": True}
            solver.setup(P, q, A, low, high, **options, verbose=False)
        result = solver.solve()
        found.append((np.array(result.x), np.array(result.y[: len(boxes[0].b)])))
    return found, perf_counter() - begun


def clarabel(boxes: list[Box], eps: float) -> tuple[Answers, float]:
    """Interior point, conic."""
    module: Any = import_module("clarabel")

    ready = [stacked(box) for box in boxes]
    options = module.DefaultSettings()
    options.verbose, options.max_iter, options.presolve_enable = False, 500, False
    options.tol_feas = options.tol_gap_abs = options.tol_gap_rel = eps
    _, _, zeros, others = ready[0]
    cones = [module.ZeroConeT(zeros), module.NonnegativeConeT(others)]
    found: Answers = []
    solver: Any = None
    begun = perf_counter()
    for box, (A, b, _, _) in zip(boxes, ready, strict=True):
        P = sparse.triu(box.P, format="csc")
        if solver is None:
            solver = module.DefaultSolver(P, box.q, A, b, cones, options)
        else:
            solver.update(P=P, q=box.q, A=A, b=b)
        result = solver.solve()
        found.append((np.array(result.x), np.array(result.z)[:zeros]))
    return found, perf_counter() - begun


def moreau(boxes: list[Box], eps: float) -> tuple[Answers, float]:
    """Interior point, conic: all programs in one call, on the CPU."""
    module: Any = import_module("moreau")

    ready = [stacked(box) for box in boxes]
    P = [sparse.csr_array(box.P) for box in boxes]
    A = [sparse.csr_array(table) for table, _, _, _ in ready]
    _, side, zeros, others = ready[0]
    inner = module.IPMSettings(tol_feas=eps, tol_gap_abs=eps, tol_gap_rel=eps)
    settings = module.Settings(
        solver="ipm", device="cpu", batch_size=len(boxes), ipm_settings=inner
    )
    begun = perf_counter()
    solver = module.CompiledSolver(
        n=len(boxes[0].q),
        m=len(side),
        P_row_offsets=P[0].indptr,
        P_col_indices=P[0].indices,
        A_row_offsets=A[0].indptr,
        A_col_indices=A[0].indices,
        cones=module.Cones(num_zero_cones=zeros, num_nonneg_cones=others),
        settings=settings,
    )
    solver.setup(np.stack([p.data for p in P]), np.stack([a.data for a in A]))
    result = solver.solve(np.stack([box.q for box in boxes]), np.stack([b for _, b, _, _ in ready]))
    seconds = perf_counter() - begun
    return [
        (np.array(x), np.array(z)[:zeros]) for x, z in zip(result.x, result.z, strict=True)
    ], seconds


PEERS = {"piqp": piqp, "osqp": osqp, "clarabel": clarabel, "moreau": moreau}
