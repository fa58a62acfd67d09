"""Many simulations that do not know of one another: other days, forecasts or settings for each."""

import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from .arguments import of_tables
from .cluster import check, each, shared, within
from .journal import is_simulation
from .market import Market
from .simulation import Simulation, SimulationProgress, asked, simulate
from .simulation import load as load_one

Watch = Callable[[SimulationProgress], None] | None


@of_tables
def simulate_many(
    truth: Market,
    runs: Mapping[str, Mapping[str, Any]],
    *,
    out: str | Path | None = None,
    client: Any = None,
    progress: Watch = None,
    **options: Any,
) -> dict[str, Simulation]:
    """Simulations by name, each with `options` of `simulate` and with its own of `runs` besides.

        guesses = {f"{k}": {"forecast": jg.forecasts.noisy(0.1, 0.3, seed=k)} for k in range(8)}
        found = jg.simulate_many(truth, guesses, window=24, step=1)

    Where a run has a `truth` among its own, that takes the place of `truth`. One that ends before
    its time says so in `why`, as of `simulate`; the others go on. `progress` tells of the windows
    of all.

    With `out` each is kept in a folder of its own in that, by its name with dashes for spaces, and
    a later call with the same arguments goes on there. With a `client`, a `distributed.Client`, the
    workers of a Dask cluster take one simulation at a time, and come to the same numbers; where one
    dies another goes on in its folder, which must then be on a disk that all of them see
    (`docs/cluster.md`).

    Raises `ValueError`, before anything runs, for what `simulate` refuses, naming the run, for a
    name that is none of a folder, and for a `client` that is none; `TypeError` for an option that
    there is not.
    """
    if client is not None:
        check(client)
    plans = {name: {"truth": truth, **options, **own} for name, own in runs.items()}
    folders = [str(name).replace(" ", "-") for name in plans]
    for folder in folders:
        if Path(folder).name != folder or folders.count(folder) > 1:
            raise ValueError(
                f"simulate_many: the run {folder!r}: give runs names that differ, and that folders "
                "may have."
            )
    windows = [_windows(name, plan) for name, plan in plans.items()]
    begun, total, done = time.perf_counter(), sum(windows), 0

    def tell(more: int = 0) -> None:
        if progress is not None:
            progress(SimulationProgress(done + more, total, time.perf_counter() - begun))

    here = None if client is not None else lambda now: tell(now.done)
    own = [(folder, name, dict(runs[name])) for folder, name in zip(folders, plans, strict=True)]
    found: dict[int, Simulation] = {}
    with closing(each(client, partial(_run, truth, options, shared(out), here), own)) as made:
        for at, simulation in made:
            found[at] = simulation
            done += windows[at]
            if client is not None or not simulation.ok:
                tell()
    return {name: found[at] for at, name in enumerate(plans)}


def load(folder: str | Path) -> dict[str, Simulation]:
    """What `simulate_many(out=folder)` has done so far, by the names of its folders.

    Raises `ValueError` for a folder in which there is no simulation, and what `simulation.load`
    raises of one.
    """
    inside = sorted(path for path in Path(folder).glob("*") if is_simulation(path))
    if not inside:
        raise ValueError(f"{folder} holds no simulations; give the out= of simulate_many.")
    inside.sort(key=lambda path: len(path.name))  # 2 before 10
    return {path.name: load_one(path) for path in inside}


def _run(
    truth: Market,
    options: dict[str, Any],
    out: Path | None,
    progress: Watch,
    item: tuple[str, str, dict[str, Any]],
) -> Simulation:
    """One simulation; what it raises names the run."""
    folder, name, own = item
    plan = {"truth": truth, **options, **own}
    try:
        return simulate(out=within(out, folder), progress=progress, **plan)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _windows(name: str, plan: dict[str, Any]) -> int:
    """How many windows a run has, after its options are looked at."""
    known = inspect.signature(asked).parameters
    strange = [option for option in plan if option not in known]
    if strange:
        raise TypeError(
            f"simulate_many: the run {name!r} has {strange[0]!r}; each takes {', '.join(known)}."
        )
    try:
        setting = asked(**plan)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return -(-setting.horizon // setting.step)
