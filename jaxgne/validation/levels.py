"""Caps that limit nobody, and levels that cannot be kept whatever members do."""

import numpy as np

from ..succession import parents
from .tables import Values, number


def out_of_reach(v: Values) -> list[str]:
    """Caps without terms that count, and those whose own numbers contradict one another.

    The levels that a cap can have at the end of a step form an interval, found step by step from
    `start` by the least and the most change; what members can do is for the solver to find.
    """
    caps = v.market.caps
    counts = np.zeros(len(caps.names), bool)
    counts[v["Caps.cap"][np.any(v["Caps.weight"] != 0, axis=1)]] = True
    low, high = v["Caps.level_min"], v["Caps.level_max"]
    bottoms, tops = {-1: v["Caps.start"]}, {-1: v["Caps.start"]}  # by step, and at the start
    least, most = np.empty_like(low), np.empty_like(high)
    for h, parent in enumerate(parents(v.market.before, low.shape[1])):
        least[:, h] = _left(v, bottoms[parent]) + v["Caps.rise_min"][:, h]
        most[:, h] = _left(v, tops[parent]) + v["Caps.rise_max"][:, h]
        bottoms[h] = np.clip(least[:, h], low[:, h], high[:, h])
        tops[h] = np.clip(most[:, h], low[:, h], high[:, h])
    size = np.where(np.isfinite(low), np.abs(low), 0) + np.where(np.isfinite(high), np.abs(high), 0)

    def reached(name: str, end: np.ndarray, verb: str) -> list[str]:
        least_rises = name == "level_max"
        bad = v.beyond(end, high, size) if least_rises else v.beyond(low, end, size)
        return v.complain(
            f"Caps.{name}",
            bad,
            lambda at: (
                f"{number(v[f'Caps.{name}'][at], caps.units[at[0]])} is out of reach from a start "
                f"of {number(v['Caps.start'][at[0]], caps.units[at[0]])}: rises within rise_min "
                f"and rise_max lead to {number(end[at], caps.units[at[0]])} at the "
                f"{'least' if least_rises else 'most'}; {verb} it, or move start or the rises"
            ),
        )

    return [
        *v.complain(
            "Caps.cap",
            ~counts,
            lambda at: (
                f"no term of {caps.names[at[0]]!r} counts anything, so its limits hold nobody; "
                "give it terms with a weight, or leave it out"
            ),
            axes="M",
        ),
        *reached("level_max", least, "raise"),
        *reached("level_min", most, "lower"),
    ]


def _left(v: Values, level: np.ndarray) -> np.ndarray:
    """What a step leaves of a level, which may be without bounds."""
    kept = v["Caps.carry"]
    return np.where(kept > 0, np.where(kept > 0, kept, 1.0) * level, 0.0)
