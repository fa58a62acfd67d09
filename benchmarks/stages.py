"""How long does a day take whose trades and imports are fixed before the branch is known?

    python benchmarks/stages.py [--branches 64] [--prosumers 50]

ieee37 over 24 hours with so many branches, whose loads and sun differ, as one market: cleared once,
with what is compiled, then 400 steps more from there by the programs that are compiled now. One
JSON line in results/stages.jsonl.
"""

import argparse
from functools import partial

import jax
import numpy as np
import record

import jaxgne as jg

MORE = 400  # steps


def main() -> None:
    """One market."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--branches", type=int, default=64)
    parser.add_argument("--prosumers", type=int, default=50)
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    count = asked.branches
    days = jg.scenarios.perturb(
        jg.ieee37(asked.prosumers), jax.random.key(0), count, load=0.15, renewable=0.3
    )
    market = jg.scenarios.committed(days, np.full(count, 1 / count), up=0.5, down=0.02)
    found, seconds = record.timed(partial(jg.clear, market))
    again = partial(jg.clear, market, start=found, tol=1e-11, max_steps=MORE, throw=False)
    more, went = record.timed(again)
    record.write(
        "stages",
        case="ieee37",
        branches=count,
        prosumers=market.prosumers.load.shape[0],
        pairs=market.trading.buyer.shape[0],
        steps_of_time=market.prosumers.load.shape[1],
        steps=int(found.steps),
        clear_s=round(seconds, 1),
        error=float(found.certificate.error),
        step_ms=round(1000 * went / int(more.steps), 1),
    )


if __name__ == "__main__":
    main()
