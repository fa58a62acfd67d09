"""The least measure of risk of a tree's market by one convex program, its epigraph written out."""

from dataclasses import replace
from typing import Any

import clarabel
import numpy as np
from scipy import sparse

import jaxgne as jg
from tests.reference import (
    ancestors,
    best,
    build,
    held_at_first,
    lengths,
    often,
    scale,
    size,
)


def last_steps(market: jg.Market) -> np.ndarray:
    """Steps that are before none."""
    return np.setdiff1d(np.arange(len(lengths(market))), ancestors(market))


def branches(market: jg.Market) -> np.ndarray:
    """1 in the row of each last step at all steps that lead to it."""
    parent, ends = ancestors(market), last_steps(market)
    along = np.zeros((len(ends), len(parent)))
    for row, end in zip(along, ends, strict=True):
        while end >= 0:
            row[end], end = 1.0, parent[end]
    return along


def least_risk(market: jg.Market, weight: float, level: float) -> float:
    """min (1 - weight) E[t] + weight (eta + E[z] / (1 - level)) over t_s >= phi_s, z >= t - eta, 0.

    Each t_s >= phi_s is a second-order cone (Rockafellar, Uryasev, J. Risk 2, 2000). NaN where
    there is no plan.
    """
    cone: Any = clarabel
    program = build(market)
    power, price = size(market)
    made: Any = scale(program, power * price * float(lengths(market).mean()))
    along, hours = branches(market), program.hours
    count, columns = len(along), made.P.shape[0]
    share = often(market)[last_steps(market)]
    step = np.concatenate([np.arange(where.stop - where.start) % hours
                           for where in program.columns.values()])  # fmt: skip
    part = along[:, step] / often(market)[step]  # of the expected cost, by branch and column
    bend, slope = made.P.diagonal() / 2, made.q
    fixed = made.fixed
    linear = np.concatenate(program.linear) * made.unit / made.euros
    square = np.concatenate(program.quadratic) * made.unit**2 / made.euros
    held = part @ (linear * fixed + square * fixed**2)
    part = part[:, made.free]
    more = 2 * count + 1  # t, z, eta
    empty = sparse.csc_matrix((made.A.shape[0], more))
    blocks, sides = [sparse.hstack([made.A, empty])], [made.b]
    own, one = sparse.eye(count), np.ones((count, 1))
    none = sparse.csc_matrix((count, columns))
    blocks += [sparse.hstack([none, own, -own, -one]),  # t - z - eta <= 0
               sparse.hstack([none, 0 * own, -own, 0 * one])]  # fmt: skip
    sides.append(np.zeros(2 * count))
    cones = [*made.cones, cone.NonnegativeConeT(2 * count)]
    for s in range(count):  # |(2 sqrt(D) x, 1 - r)| <= 1 + r with r = t - c x
        curved = np.flatnonzero(part[s] * bend > 0)
        line = np.concatenate([-part[s] * slope, np.zeros(more)])
        line[columns + s] = 1.0
        roots = sparse.csc_matrix(
            (2 * np.sqrt(part[s] * bend)[curved], (np.arange(len(curved)), curved)),
            shape=(len(curved), columns + more),
        )
        blocks.append(-sparse.vstack([line, roots, -line]))
        sides.append(np.concatenate([[1.0], np.zeros(len(curved)), [1.0]])
                     - held[s] * np.r_[1.0, np.zeros(len(curved)), -1.0])  # fmt: skip
        cones.append(cone.SecondOrderConeT(len(curved) + 2))
    cost = np.concatenate(
        [np.zeros(columns), (1 - weight) * share, weight * share / (1 - level), [weight]]
    )
    rows: Any = sparse.csc_matrix(sparse.vstack(blocks))
    made = replace(
        made, P=sparse.csc_matrix((columns + more,) * 2), q=cost, A=rows,
        b=np.concatenate(sides), cones=cones, constant=0.0,
    )  # fmt: skip
    status, answer = best(made, 1e-9)
    if answer is None or status != "solved":
        return float("nan")
    return float(cost @ answer.x) * made.euros + held_at_first(market)
