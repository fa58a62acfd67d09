"""How far are voltages, loadings and imports of each linear grid model from an AC power flow?

    python benchmarks/grids.py

Spot load and 2,000 random states of the built-in feeders (each bus between feeding back all of its
spot load and 1.3 times of it), balanced, against `jaxgne.acflow`, in float64. Writes
results/grids.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import record

import jaxgne as jg
from jaxgne import acflow
from jaxgne.cases.feeders import Feeder, flows, ieee37_feeder, ieee123_feeder, squared_voltages

STATES = 2000
FEEDERS: dict[str, Callable[[], Feeder]] = {"ieee37": ieee37_feeder, "ieee123": ieee123_feeder}


def main() -> None:
    """Every feeder and model."""
    jax.config.update("jax_enable_x64", True)
    head = ["feeder", "states", "model", "largest error, pu", "optimistic by, pu"]
    head += ["largest error of a line's kVA, share of the largest load"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, build in FEEDERS.items():
        feeder = build()
        rng = np.random.default_rng(0)
        spot = feeder.load[:, None], feeder.reactive[:, None]
        factor = rng.uniform(-1, 1.3, (len(feeder.load), STATES)) * rng.uniform(0, 1, STATES)
        for states, (load, reactive) in {
            "spot load": spot,
            f"{STATES} random": (spot[0] * factor, spot[1] * np.abs(factor)),
        }.items():
            text += rows(name, states, feeder, load, reactive)
    (record.RESULTS / "grids.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def rows(
    name: str, states: str, feeder: Feeder, load: np.ndarray, reactive: np.ndarray
) -> list[str]:
    """The table's rows for some states of a feeder, those in which AC stays above 0.9 pu."""
    lines = (feeder.source, feeder.target, feeder.resistance, feeder.reactance)
    truth = acflow.flow(jg.Grid(load, *lines), jnp.asarray(load), jnp.asarray(reactive))
    volts, keep = np.asarray(truth.voltage), np.asarray(truth.ok & (truth.voltage.min(0) > 0.9))
    kva = np.hypot(flows(feeder, load), flows(feeder, reactive))
    squared = squared_voltages(feeder, load, reactive)
    models = {
        "lindistflow": np.sqrt(squared),
        "paper, reactive balance": 1 - (1 - squared) / 2,  # v falls by r p + x q
        "paper, flat voltages": np.ones_like(volts),
    }
    made = []
    for model, found in models.items():
        wrong = (found - volts)[:, keep]
        flow = np.abs(kva - np.asarray(truth.apparent))[:, keep].max() / kva[:, keep].max()
        made.append(
            f"| {name} | {states} | {model} | {np.abs(wrong).max():.5f} | "
            f"{max(wrong.max(), 0.0):.5f} | {100 * flow:.2f} % |"
        )
        record.write(
            "grids",
            case=name,
            states=states,
            model=model,
            error_pu=float(np.abs(wrong).max()),
            optimistic_pu=float(wrong.max()),
            kva_share=float(flow),
            lowest_pu=float(volts[:, keep].min()),
        )
    return made


if __name__ == "__main__":
    main()
