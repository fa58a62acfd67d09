"""jaxgne clears peer-to-peer energy markets on distribution grids.

A market is data; `clear` finds its variational generalized Nash equilibrium; the certificate that
comes with every answer says how good it is, whatever solver found it.
"""

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import clock as clock
from . import devices as devices
from . import one_way as one_way
from .acflow import ac_power_flow
from .cases import european_lv, ieee13, ieee34, ieee37, ieee123, synthetic
from .certificate import certify
from .clearing import clear
from .clock import Clock
from .market import Buffers, Caps, Generators, Grid, Market, Prosumers, Tariff, Trading
from .model import Plan, Rows, aggregate, costs
from .radial import oriented
from .relaxation import relax
from .reliability import trust
from .result import Clearing, NotCleared, Stopped
from .sensitivity.implicit import Implicit, Smoothed
from .settlement import settle
from .solvers.base import AbstractSolver
from .solvers.interior_point import InteriorPoint
from .solvers.primal_dual import PrimalDual
from .status import Status
from .validation import validate

if TYPE_CHECKING:
    from . import auctions as auctions
    from . import balancing as balancing
    from . import caps as caps
    from . import charges as charges
    from . import emissions as emissions
    from . import envelopes as envelopes
    from . import forecasts as forecasts
    from . import mechanisms as mechanisms
    from . import messages as messages
    from . import objectives as objectives
    from . import on_off as on_off
    from . import plots as plots
    from . import pool as pool
    from . import preferences as preferences
    from . import profiles as profiles
    from . import reserve as reserve
    from . import scenarios as scenarios
    from . import studies as studies
    from . import zones as zones
    from .acexact import clear_ac
    from .alternatives import side_by_side
    from .batch import clear_many
    from .calls import with_reserve
    from .caps import capped
    from .comparison import compare
    from .contracts import Contract, with_contracts
    from .equipment import equip
    from .exporting import export
    from .fitting import fit
    from .gradients import sensitivities
    from .household import household_bill
    from .html import report, write_bills
    from .io import (
        from_matpower,
        from_opendss,
        from_pandapower,
        from_power_grid_model,
        from_pypower,
        from_simbench,
        load,
        load_case,
        save,
    )
    from .placement import spread
    from .robust import robustness
    from .selection import least_norm
    from .simulation import simulate
    from .simulations import simulate_many
    from .solvers.admm import ADMM
    from .solvers.semidecentralized import SemiDecentralized
    from .standard_form import convex
    from .tracing import trace
    from .tracking import track
    from .tradeoffs import pareto
    from .tuning import tune

    __version__: str

__all__ = [
    "ADMM",
    "AbstractSolver",
    "Buffers",
    "Caps",
    "Clearing",
    "Clock",
    "Contract",
    "Generators",
    "Grid",
    "Implicit",
    "InteriorPoint",
    "Market",
    "NotCleared",
    "Plan",
    "PrimalDual",
    "Prosumers",
    "Rows",
    "SemiDecentralized",
    "Smoothed",
    "Status",
    "Stopped",
    "Tariff",
    "Trading",
    "ac_power_flow",
    "aggregate",
    "capped",
    "certify",
    "clear",
    "clear_ac",
    "clear_many",
    "compare",
    "convex",
    "costs",
    "equip",
    "european_lv",
    "export",
    "fit",
    "from_matpower",
    "from_opendss",
    "from_pandapower",
    "from_power_grid_model",
    "from_pypower",
    "from_simbench",
    "household_bill",
    "ieee13",
    "ieee34",
    "ieee37",
    "ieee123",
    "least_norm",
    "load",
    "load_case",
    "oriented",
    "pareto",
    "relax",
    "report",
    "robustness",
    "save",
    "sensitivities",
    "settle",
    "side_by_side",
    "simulate",
    "simulate_many",
    "spread",
    "synthetic",
    "trace",
    "track",
    "trust",
    "tune",
    "validate",
    "with_contracts",
    "with_reserve",
    "write_bills",
]

_LATER = {  # imported when first asked for: a first clear needs none of them
    "ADMM": "solvers.admm",
    "Contract": "contracts",
    "SemiDecentralized": "solvers.semidecentralized",
    "capped": "caps",
    "clear_ac": "acexact",
    "clear_many": "batch",
    "compare": "comparison",
    "convex": "standard_form",
    "equip": "equipment",
    "export": "exporting",
    "fit": "fitting",
    "from_matpower": "io",
    "from_opendss": "io",
    "from_pandapower": "io",
    "from_power_grid_model": "io",
    "from_pypower": "io",
    "from_simbench": "io",
    "household_bill": "household",
    "least_norm": "selection",
    "load": "io",
    "load_case": "io",
    "pareto": "tradeoffs",
    "report": "html",
    "robustness": "robust",
    "save": "io",
    "sensitivities": "gradients",
    "side_by_side": "alternatives",
    "simulate": "simulation",
    "simulate_many": "simulations",
    "spread": "placement",
    "trace": "tracing",
    "track": "tracking",
    "tune": "tuning",
    "with_contracts": "contracts",
    "with_reserve": "calls",
    "write_bills": "html",
}
_MODULES = (
    "auctions",
    "balancing",
    "caps",
    "charges",
    "emissions",
    "envelopes",
    "forecasts",
    "mechanisms",
    "messages",
    "objectives",
    "on_off",
    "plots",
    "pool",
    "preferences",
    "profiles",
    "reserve",
    "scenarios",
    "studies",
    "zones",
)


def __getattr__(name: str) -> Any:
    if name in _LATER:
        found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        globals()[name] = found
        return found
    if name == "__version__":
        return metadata.version(__name__)
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_MODULES})
