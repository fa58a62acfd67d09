"""The equilibrium of least norm, against a quadratic program over all equilibria."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import sparse

import jaxgne as jg
from tests.markets import HAND_MADE, random_market
from tests.reference import best, build, clarabel, scale, size, solve

CHOSEN = ("trades", "charge", "discharge")


def least(market: jg.Market) -> np.ndarray:
    """Trades and storage powers of least norm among all minimizers of the potential, kW.

    What has a strictly convex cost is the same at all of them, so the linear costs of the rest
    are too.
    """
    program, (power, price) = build(market), size(market)
    conic = scale(program, power * price * float(market.hour_length))
    _, answer = best(conic, 1e-10)
    assert answer is not None
    curved = np.flatnonzero(conic.P.diagonal() > 0)
    flat = np.where(conic.P.diagonal() > 0, 0.0, conic.q)
    every = sparse.csr_matrix(sparse.eye(len(conic.q)))
    rows = [sparse.csr_matrix(flat), every[curved], -every[curved]]
    kept = answer.x[curved]
    sides = [[flat @ answer.x + 1e-8], kept + 1e-7, -kept + 1e-7]
    columns = np.concatenate([np.arange(len(conic.unit))[program.columns[c]] for c in CHOSEN])
    weight = np.isin(conic.free, columns).astype(float)
    second = replace(
        conic,
        P=sparse.csc_matrix(sparse.diags(weight)),
        q=np.zeros_like(conic.q),
        A=sparse.csc_matrix(sparse.vstack([conic.A, *rows])),
        b=np.concatenate([conic.b, *sides]),
        cones=[*conic.cones, clarabel.NonnegativeConeT(1 + 2 * len(curved))],
    )
    _, answer = best(second, 1e-9)
    assert answer is not None
    full = conic.fixed.copy()
    full[conic.free] = answer.x
    return (full * conic.unit)[columns]


def chosen(plan: jg.Plan) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(plan, name)).ravel() for name in CHOSEN])


SHORT = ("one importer", "unequal fees")
ALL = [
    pytest.param(kind, marks=() if kind in SHORT else pytest.mark.slow)
    for kind in [*HAND_MADE, *range(12)]
]


@pytest.mark.parametrize("kind", ALL)
def test_least_norm_is_that_of_the_quadratic_program(kind):
    market = HAND_MADE[kind]() if isinstance(kind, str) else random_market(kind)
    if solve(market).status != "solved":
        pytest.skip("infeasible")
    found = jg.least_norm(market)
    assert float(jg.certify(market, found.plan, found.prices).error) <= 1e-6
    wanted = least(market)
    assert np.allclose(chosen(found.plan), wanted, atol=5e-3 * np.abs(wanted).max(initial=1.0))
    plain = jg.clear(market)
    assert np.linalg.norm(chosen(found.plan)) <= np.linalg.norm(chosen(plain.plan)) * (1 + 1e-4)


@pytest.mark.slow
def test_the_start_does_not_matter():
    """Whatever it starts from, it ends at the same trades."""
    market = HAND_MADE["feeder"]()
    first = jg.least_norm(market)
    other = jg.clear(market, jg.SemiDecentralized(), tol=1e-4)
    again = jg.least_norm(market, start=other)
    assert np.allclose(chosen(first.plan), chosen(again.plan), atol=1e-3)


def test_not_under_jit():
    market = HAND_MADE["feeder"]()
    with pytest.raises(TypeError, match="host"):
        jax.jit(lambda m: jg.least_norm(m).costs)(market)


def test_an_infeasible_market_is_said_to_be_so():
    market = HAND_MADE["feeder"]()
    people = replace(market.prosumers, import_max=np.zeros_like(market.prosumers.import_max))
    with pytest.raises(jg.NotCleared, match="infeasible"):
        jg.least_norm(replace(market, prosumers=people))
