"""Clear many scenarios of a case on all devices of a Slurm job; `cluster.sbatch` starts it.

srun python docs/cluster.py ieee37 4096 runs/ieee37
"""

import json
import sys
from pathlib import Path

import jax
from jax.experimental.multihost_utils import process_allgather

import jaxgne as jg
from jaxgne.batch_report import batch_summary


def main(case: str, count: int, folder: str) -> None:
    """Every process runs this, on its own share of the scenarios."""
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize()  # Slurm tells where the other processes are
    first = jax.process_index() == 0

    def tell(now: jg.batch.BatchProgress) -> None:
        if first:
            print(f"{now.done} of {now.total} scenarios after {now.seconds:.0f} s", flush=True)

    market = jg.load_case(case)
    scenarios = jg.scenarios.perturb(market, jax.random.key(0), count, load=0.05, price=0.1)
    clearing = jg.clear_many(jg.spread(scenarios), folder=folder, progress=tell)
    whole = process_allgather(clearing, tiled=True)
    if first:
        Path(folder, "summary.json").write_text(
            json.dumps(batch_summary(scenarios, whole), indent=2)
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
