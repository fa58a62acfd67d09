"""jaxgne clears peer-to-peer energy markets on distribution grids.

A market is data; `clear` finds its variational generalized Nash equilibrium; the certificate that
comes with every answer says how good it is, whatever solver found it.
"""

from . import clock as clock
from . import devices as devices
from . import mechanisms as mechanisms
from . import objectives as objectives
from . import one_way as one_way
from . import plots as plots
from . import scenarios as scenarios
from . import studies as studies
from .acflow import ac_power_flow
from .acsafe import clear_ac_safe
from .batch import clear_many
from .cases import ieee37, ieee123, synthetic
from .certificate import certify
from .clearing import Clearing, NotCleared, Status, clear
from .clock import Clock
from .comparison import compare
from .fitting import fit
from .io import load, load_case, save
from .market import Buffers, Generators, Grid, Market, Prosumers, Tariff, Trading
from .model import Plan, Rows, aggregate, costs
from .placement import spread
from .relax import relax
from .selection import least_norm
from .sensitivity.implicit import Implicit, Smoothed
from .settlement import settle
from .solvers.base import AbstractSolver
from .solvers.interior_point import InteriorPoint
from .solvers.primal_dual import PrimalDual
from .solvers.semidecentralized import SemiDecentralized
from .tracing import trace
from .trust import trust
from .tuning import tune
from .validate import validate

__all__ = [
    "AbstractSolver",
    "Buffers",
    "Clearing",
    "Clock",
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
    "Tariff",
    "Trading",
    "ac_power_flow",
    "aggregate",
    "certify",
    "clear",
    "clear_ac_safe",
    "clear_many",
    "compare",
    "costs",
    "fit",
    "ieee37",
    "ieee123",
    "least_norm",
    "load",
    "load_case",
    "relax",
    "save",
    "settle",
    "spread",
    "synthetic",
    "trace",
    "trust",
    "tune",
    "validate",
]
