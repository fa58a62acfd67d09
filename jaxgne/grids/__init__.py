"""Grid models, a final class each; `Grid(model=)` takes the name of one of these, or any other."""

from typing import Literal

from .base import AbstractGridModel
from .copperplate import Copperplate
from .current import ampere, rating
from .equivalent import balanced
from .lindist3flow import LinDist3Flow
from .lindistflow import LinDistFlow
from .paper import Paper

GridModel = Literal["copperplate", "paper", "lindistflow", "lindist3flow"]
MODELS: dict[str, AbstractGridModel] = {
    model.name: model for model in (Copperplate(), Paper(), LinDistFlow(), LinDist3Flow())
}

__all__ = ["MODELS", "AbstractGridModel", "Copperplate", "GridModel", "LinDist3Flow"]
__all__ += ["LinDistFlow", "Paper", "ampere", "balanced", "rating"]
