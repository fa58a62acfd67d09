"""Grid models, a final class each; `Grid(model=)` takes the name of one of these, or any other."""

from typing import Literal

from .base import AbstractGridModel
from .copperplate import Copperplate
from .current import ampere, rating
from .lindistflow import LinDistFlow
from .paper import Paper

GridModel = Literal["copperplate", "paper", "lindistflow"]
MODELS: dict[str, AbstractGridModel] = {
    model.name: model for model in (Copperplate(), Paper(), LinDistFlow())
}

__all__ = ["MODELS", "AbstractGridModel", "Copperplate", "GridModel", "LinDistFlow", "Paper"]
__all__ += ["ampere", "rating"]
