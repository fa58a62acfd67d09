"""How good rounds of messages make an answer, and at what cost."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..conversation import Conversation
from .style import CYCLE, DASHES, begin, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

By = Literal["rounds", "bytes"]
Told = Literal["error", "distance", "price", "regret"]

_LABELS = {
    "rounds": "rounds (number)",
    "bytes": "sent by all (kB)",
    "error": "relative KKT error (1)",
    "distance": "distance to the clearing (1)",
    "price": "error of the value of energy (EUR/kWh)",
    "regret": "regret of all prosumers (EUR)",
}


def conversation(
    found: Mapping[str, Conversation],
    quantity: Told = "error",
    by: By = "rounds",
    ax: "Axes | None" = None,
) -> "Axes":
    """One `quantity` of `found`, `{"all arrive": messages.simulate(market), ...}`, logarithmic.

    Lines are medians over seeds and bands go from the best to the worst, `by` rounds or by bytes
    that all sent until then, their median.

    Raises `ValueError` for nothing to draw, and for words that are none of these.
    """
    if not found:
        raise ValueError("plots.conversation: nothing to draw; give at least one, by name.")
    for word, words in ((quantity, get_args(Told)), (by, get_args(By))):
        if word not in words:
            raise ValueError(f"plots.conversation: {word!r} is none of {', '.join(words)}.")
    ax = begin(ax, "Rounds of messages", _LABELS[by], _LABELS[quantity])
    for k, (name, one) in enumerate(found.items()):
        color, values = CYCLE[k % len(CYCLE)], np.asarray(getattr(one, quantity))
        x = np.asarray(one.rounds) if by == "rounds" else np.median(one.sent, axis=0) / 1e3
        low, middle, high = values.min(axis=0), np.median(values, axis=0), values.max(axis=0)
        ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        dashes = DASHES[k % len(DASHES)]
        ax.plot(x, middle, color=color, linestyle=dashes, linewidth=1.8, label=name)
    ax.set_yscale("log")
    ax.grid(color="0.9")
    legend(ax)
    return ax
