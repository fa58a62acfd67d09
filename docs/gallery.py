"""Draws the pictures of the gallery and writes its page: .venv/bin/python docs/gallery.py"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

DOCS = Path(__file__).parent

# The names that the lines below use, each with what the page says of it.
SETUP = """\
import equinox as eqx
import jax
import numpy as np

import jaxgne as jg
from jaxgne import plots

jax.config.update("jax_enable_x64", True)

market = jg.ieee37(stress=True)
clearing = jg.clear(market)

district = jg.synthetic(prosumers=150, buses=200, hours=24)
evening = jg.clear(district)

variants = {
    name: (market, jg.clear(variant)) for name, variant in jg.comparison.baselines(market).items()
}
compared = jg.compare(variants)

small = jg.ieee37(prosumers=10, hours=6)
solvers = {
    "interior point": jg.InteriorPoint(),
    "primal-dual": jg.PrimalDual(),
    "the paper's mechanism": jg.SemiDecentralized(),
}
traces = {name: jg.trace(small, solver) for name, solver in solvers.items()}

turn = 1 + 0.1 * np.sin(2 * np.pi * np.arange(1, 49) / 24)[:, None, None]
moving = jg.scenarios.sweep(small, lambda m: m.prosumers.load, turn * small.prosumers.load)
begun, settled = jg.clear(small), jg.clear_many(moving, tol=1e-9)
mechanism, known = jg.SemiDecentralized(), {"start": begun, "equilibria": settled}
offers = jg.balancing.curve(small, begun, np.linspace(-40, 40, 17), [0, 5])
tracked = {f"{k} rounds": jg.track(moving, mechanism, rounds=k, **known) for k in (3, 10, 30)}

ways = {
    "all arrive": {},
    "a fifth is lost": {"loss": 0.2, "seeds": 5},
    "up to 3 rounds late": {"delay": 3, "step": 0.4, "seeds": 5},
}
talk = {
    name: jg.messages.simulate(small, rounds=2000, exact=begun, **way) for name, way in ways.items()
}

days = jg.scenarios.perturb(jg.ieee37(), jax.random.key(0), 40, load=0.1, renewable=0.3, price=0.1)
many = jg.clear_many(days)

unequal = jg.ieee13()
phases = jg.clear(unequal)

charged = jg.capped(market, jg.caps.total_demand_charge(market, 0.2))
levelled = jg.clear(charged)

worth = jg.mechanisms.reinforcement(market)["value_eur_per_kva"]

held = eqx.tree_at(lambda m: m.grid.voltage_min, jg.ieee37(), np.full(36, 0.962))
limits = jg.envelopes.joint(held)

aims = jg.pareto(
    small,
    [jg.objectives.total_cost, lambda market, clearing: clearing.aggregate.var()],
    where=lambda market: market.tariff.slope,
    bounds=(1e-5, 2e-4),
    points=8,
    starts=1,
)

# What a number of the market does to what energy costs all together, at the equilibrium.
gradient = eqx.filter_grad(lambda m: jg.objectives.social_cost(m, jg.clear(m)))(market)
"""

FIGURES = {
    "feeder": (
        "The grid in the hour of the highest loading: voltages, loadings and the largest trades",
        "plots.feeder(market, clearing)",
    ),
    "feeder-district": (
        "The same of 200 buses, at eight in the evening",
        "plots.feeder(district, evening, hour=20)",
    ),
    "feeder-phases": (
        "In three phases: conductors side by side, buses in sectors, each by its own voltage",
        "plots.feeder(unequal, phases)",
    ),
    "grid-map": (
        "What one more kVA of each line is worth",
        'plots.grid_map(market, worth, "worth of one more kVA (EUR)")',
    ),
    "envelope-map": (
        "How much all at a bus may draw, if everyone has the same limit",
        "plots.envelope_map(held, limits)",
    ),
    "prices": ("Prices of prosumers and of the main grid", "plots.prices(market, clearing)"),
    "bus-prices": ("Prices by bus and hour", "plots.bus_prices(market, clearing)"),
    "voltages": ("Voltages of all buses, and limits", "plots.voltages(district, evening)"),
    "voltages-room": (
        "How far voltages are from limits that differ by bus",
        "plots.voltages(market, clearing)",
    ),
    "duration": (
        "How many hours the fullest lines are at least how full",
        "plots.duration(market, clearing)",
    ),
    "energy": ("Dispatch of all prosumers", "plots.energy(market, clearing)"),
    "energy-passive": (
        "The same with passive consumers",
        "plots.energy(market, clearing, passive=True)",
    ),
    "energy-one": ("Dispatch of one prosumer", "plots.energy(market, clearing, prosumer=13)"),
    "storage": ("Content of all storage", "plots.storage(market, clearing)"),
    "level": (
        "The level of a cap: the highest import of the day, which has a price",
        "plots.level(charged, levelled)",
    ),
    "sigma": ("Total import of a market and its variants", "plots.sigma(variants)"),
    "transformer": (
        "Power at the transformer: less what is exported",
        "plots.transformer(variants)",
    ),
    "costs": ("What each prosumer pays, and for what", "plots.costs(market, clearing)"),
    "benefits": ("What trading is worth to each prosumer", "plots.benefits(compared)"),
    "convergence": ("Convergence of solvers", "plots.convergence(traces)"),
    "merit-order": (
        "What a deviation of the total costs, as the operator asks for less or more",
        "plots.merit_order(offers)",
    ),
    "front": (
        "What two aims cost one another, as the slopes of the price by hour move",
        'plots.front(aims, labels=("cost of all (EUR)", "variance of the import (kW²)"))',
    ),
    "sensitivities": (
        "Largest derivatives of an output, one of each field",
        'plots.sensitivities(gradient, output="social cost (EUR)")',
    ),
    "sensitivities-percent": (
        "What one percent of a field does: this can be compared",
        'plots.sensitivities(gradient, market=market, percent=True, output="social cost (EUR)")',
    ),
    "sensitivities-hours": (
        "Derivatives with respect to one field, by hour",
        'plots.sensitivities(gradient, field="tariff.base", output="social cost (EUR)")',
    ),
    "tracking": (
        "How near so many rounds of a solver stay to an equilibrium that moves",
        "plots.tracking(tracked)",
    ),
    "tracking-error": (
        "The relative KKT error of what they stand for",
        'plots.tracking(tracked, "error")',
    ),
    "conversation": (
        "How good the paper's mechanism is after so many bytes, where messages are lost and late",
        'plots.conversation(talk, by="bytes")',
    ),
    "fan": ("How the total import of many scenarios spreads", "plots.fan(days, many)"),
    "fan-voltage": ("And their lowest voltage", 'plots.fan(days, many, "voltage")'),
}

PANELS = """\
figure, axes = plt.subplots(1, 3, figsize=(7, 2.3), layout="constrained")
plots.energy(market, clearing, axes[0])
plots.duration(market, clearing, axes[1])
plots.feeder(market, clearing, axes[2])
"""

JOURNAL = f"""\
## Panels of a journal

Axes less than 3 inches wide have small words, few ticks, and their legend below. The figure makes
room for legends by `layout="constrained"`; `ax.get_legend().set_loc("upper left")` moves one,
`ax.get_legend().remove()` leaves it out.

```python
import matplotlib.pyplot as plt

{PANELS}```

![Three panels in 7 x 2.3 inches](gallery/journal.png)
"""


def _save(figure: Any, name: str) -> None:
    picture = DOCS / "gallery" / name
    figure.savefig(picture, dpi=150 if name == "journal.png" else 90)
    with Image.open(picture) as full:  # a palette takes a third of the space
        small = full.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def _journal(names: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt

    exec(PANELS, names | {"plt": plt})
    return plt.gcf()


def draw() -> None:
    """Write every picture, and the page that shows it with its line of code."""
    names: dict[str, Any] = {}
    exec(SETUP, names)
    parts = [
        "# Gallery\n\nEvery function of `jaxgne.plots`, in one line with its defaults. All draw on "
        "`ax=` where that is given, and return the axes. `jaxgne plot RESULT --kind prices` draws "
        "what `jaxgne clear CASE --out RESULT` wrote. Colors are those of Okabe and Ito, and "
        "cividis. `python docs/gallery.py` makes this page from\n\n"
        f"```python\n{SETUP}```\n"
    ]
    for name, (what, line) in FIGURES.items():
        axes = eval(line, names)
        _save(axes.figure, f"{name}.png")
        parts.append(f"## {what}\n\n```python\n{line}\n```\n\n![{what}](gallery/{name}.png)\n")
    _save(_journal(names), "journal.png")
    parts.append(JOURNAL)
    (DOCS / "gallery.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    mpl.use("Agg")
    draw()
