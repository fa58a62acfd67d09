"""Markets and clearings with something in every table, and edits of folders they are saved in."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgne as jg


def feeder(
    model: jg.market.GridModel = "lindistflow", hours: int = 2, *, caps: bool = True, **tariff
) -> jg.Market:
    """Three prosumers on a line of three buses, a generator, a battery, two pairs, two caps."""
    load = np.array([3.0, 2.0, -1.0])[:, None] + np.linspace(0.0, 0.1, hours) / 3
    impedance = 1e-4 if model != "copperplate" else 0.0
    names = ("799", 'bus, "two"', "Straße") if model != "copperplate" else ()
    grid = jg.Grid(
        np.full((3, hours), 0.1),
        *(((0, 1), (1, 2), impedance, impedance) if model != "copperplate" else ()),
        rating=(20.0, np.inf) if model != "copperplate" else np.inf,
        passive_reactive=0.05,
        model=model,
        names=names,
        line_names=("main, old", "side") if names else (),
    )
    shared = jg.Caps(
        [[np.inf], [9.0]], hours=hours, rise_min=0.1, slack=(np.inf, 0.0), carry=(1.0, 0.0),
        price=(0.3, 0.0), adds=(0, 1), owner=(2, -1), cap=(0, 1, 1), quantity=(0, 2, 4),
        row=(2, 0, 0), weight=1 / 3, names=("peak, own", "Straße"), units=("kW", "kg"),
    )  # fmt: skip
    return jg.Market(
        jg.Prosumers((0, 1, 2), load, 0.3, export_max=(0.0, 0.0, 5.0), curtail_max=0.2),
        grid,
        jg.Tariff(1 / 30, hours=hours, base=0.1, export=0.02, **tariff),
        jg.Generators((1,), 2.0, hours=hours, quadratic=0.01, linear=0.12),
        jg.Buffers(
            (0,), 1.0, 1.0, 4.0, 2.0, hours=hours, charge_efficiency=0.9, quadratic=1e-3,
            kind="battery",
        ),
        jg.Trading((0, 1), (1, 2), 2.0, toll=1e-3),
        hour_length=0.25,
        caps=shared if caps else None,
    )  # fmt: skip


def bare() -> jg.Market:
    """One prosumer, one hour, nothing else: every other table is empty."""
    return jg.Market(
        jg.Prosumers((0,), [[1.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.1, hours=1),
    )


def same(a, b) -> bool:
    """Equal structure, dtypes and bits."""
    leaves = [list(map(np.asarray, jax.tree.leaves(tree))) for tree in (a, b)]
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(*leaves, strict=True)
    )


def unfinished(market: jg.Market, status: jg.Status) -> jg.Clearing:
    """A clearing of random numbers, with what no solver leaves behind: inf and nan."""
    rng = np.random.default_rng(0)
    plan, prices = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape)),
        (jg.model.zeros(market), jg.model.rows_like(market)),
    )
    prices = eqx.tree_at(lambda p: p.aggregate, prices, prices.aggregate.at[0].set(np.nan))
    return jg.Clearing(
        plan=plan,
        prices=prices,
        costs=jg.costs(market, plan),
        aggregate=jg.aggregate(market, plan),
        certificate=eqx.filter_jit(jg.certify)(market, plan, prices),
        steps=jnp.asarray(7, jnp.int32),
        status=status,
        run=jg.result.Run("InteriorPoint()", jnp.asarray(1e-6), jnp.asarray(True)),
    )


def replace(name: str, old: str, new: str):
    def edit(folder: Path):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return edit
