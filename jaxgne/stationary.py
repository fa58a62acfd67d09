"""Whether two objectives can improve at once: the weights by which their slopes hold each other."""

import numpy as np
from jaxtyping import Float

_EDGE = 1e-6  # of the range between bounds: nearer than this a number is at one


def compromise(
    rows: Float[np.ndarray, "C n"], shares: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " C"], float]:
    """Weights >= 0 of slopes whose sum is least, and its norm: 0 where nothing improves both.

    The first two rows are objectives', whose weights sum to 1, the others those of constraints that
    hold; bounds that hold at shares of 0 and 1 push as well. Of all weighted means of objectives'
    slopes the shortest is 0 at a Pareto point (Desideri, C. R. Acad. Sci. Paris 350, 2012).
    """
    held = np.diag((shares >= 1 - _EDGE) * 1.0 - (shares <= _EDGE))
    columns = np.concatenate([rows, held]).T
    size = np.linalg.norm(columns, axis=0)
    ones = (np.arange(columns.shape[1]) < 2) * 1.0
    scale = max(size[:2].max(), np.finfo(float).tiny)
    matrix = np.vstack([columns / scale, ones])
    weights = nonnegative(matrix, np.append(np.zeros(len(columns)), 1.0))
    weights = weights / max(weights[:2].sum(), np.finfo(float).tiny)
    return weights[: len(rows)], float(np.linalg.norm(columns @ weights))


def nonnegative(
    matrix: Float[np.ndarray, "m n"], target: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """x >= 0 of least |matrix x - target| (Lawson, Hanson, Solving Least Squares)."""
    x, free = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1], bool)
    near = 1e-12 * np.abs(matrix.T @ target).max(initial=0.0)
    for _ in range(3 * len(x)):
        push = np.where(free, -np.inf, matrix.T @ (target - matrix @ x))
        if push.max(initial=-np.inf) <= near:
            break
        free[push.argmax()] = True
        while True:
            best = np.zeros_like(x)
            best[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                break
            share = np.min(x[below] / (x[below] - best[below]))
            x = x + share * (best - x)
            free &= x > near
            x = np.where(free, x, 0.0)
        x = best
    return x
