"""What does a chunk cost beyond its work, when a Dask cluster clears it?

    python benchmarks/cluster.py [--workers 1 3] [--tasks 40] [--seconds 0.5]

Workers on this machine sleep for so long, which busy cores do not change, and take and give what a
chunk of `clear_many` does: markets of 50 prosumers over 24 hours, and their clearings. What the
whole takes beyond the sleep, by task and worker, is the cost of pickling, sending and scheduling.
One JSON line a run in results/cluster.jsonl.
"""

import argparse
import pickle
import time
from collections import deque
from typing import Any

import distributed
import equinox as eqx
import jax
import numpy as np
import record

import jaxgne as jg
from jaxgne import batch, clearing, cluster, scenarios


def main() -> None:
    """Every number of scenarios in a chunk and of workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--scenarios", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.5, help="that a task sleeps")
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    market = jg.ieee37(50)
    for workers in asked.workers:
        local = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0"
        )
        with local, distributed.Client(local) as client:
            client.wait_for_workers(workers)
            for count in asked.scenarios:
                chunk = chunk_of(market, count)
                warm = [(k, 0.0, *chunk) for k in range(4 * workers)]
                deque(cluster.each(client, work, warm), maxlen=0)
                items = [(k, asked.seconds, *chunk) for k in range(asked.tasks)]
                begun = time.perf_counter()
                deque(cluster.each(client, work, items), maxlen=0)
                took = time.perf_counter() - begun
                ideal = asked.seconds * -(-asked.tasks // workers)
                record.write(
                    "cluster",
                    workers=workers,
                    scenarios=count,
                    tasks=asked.tasks,
                    sleep_s=asked.seconds,
                    sent_mb=round(len(pickle.dumps(chunk)) / 1e6, 2),
                    back_mb=round(len(pickle.dumps(work((0, 0.0, *chunk)))) / 1e6, 2),
                    seconds=round(took, 3),
                    beyond_s=round((took - ideal) * workers / asked.tasks, 4),
                )


def chunk_of(market: jg.Market, count: int) -> tuple[jg.Market, Any]:
    """Markets of so many scenarios as they are sent, and the shapes of their clearings."""
    markets = scenarios.perturb(market, jax.random.key(0), count, load=0.1)
    one = eqx.filter_eval_shape(lambda m: clearing.blank(m, None), market)
    found = jax.tree.map(lambda a: ((count, *a.shape), a.dtype.str), one)
    return batch._once(jax.tree.map(np.asarray, markets)), found


def work(item: tuple[int, float, jg.Market, Any]) -> Any:
    """Gives what a chunk's clearings are: numbers of their own in each."""
    number, seconds, _, shapes = item
    time.sleep(seconds)
    return jax.tree.map(lambda a: np.full(a[0], number, a[1]), shapes, is_leaf=_is_shape)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, tuple) and len(leaf) == 2 and isinstance(leaf[1], str)


if __name__ == "__main__":
    main()
