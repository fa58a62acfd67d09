"""How many rounds the authors of the mechanism needed, to be shown beside ours.

Counted from the runs saved in the folder `sim_res` of the public repository that goes with
W. Ananduta, S. Grammatico, Games 13(5):66, 2022: rounds until the largest of the residuals of
reciprocity, bus balance, exchange and step is at most 1e-2 kW, mean, least and most of 29 or 30
runs. That is another test than our relative KKT error, on other loads, prices and devices: what
compares is how counts grow, and what the variants gain.
"""

from typing import Any

_SAVED = {  # feeder, buses, hours, connectivity, runs: prosumers, then counts by variant
    ("IEEE 37", 36, 24, 0.6, 29): (
        (40, 50, 60, 70, 80),
        {
            "basic": (
                (5721.0, 6312.1, 6743.3, 7656.2, 7809.6),
                (4713, 4887, 5520, 6074, 6721),
                (7904, 7576, 7910, 8680, 9543),
            ),
            "inertia 0.3": (
                (4511.4, 4697.4, 4900.4, 5442.5, 5504.2),
                (3464, 4006, 3820, 4238, 4496),
                (7909, 5877, 5618, 7414, 6998),
            ),
            "relaxation 1.8": (
                (3826.6, 3980.4, 4191.4, 4537.8, 4583.4),
                (2749, 3182, 3226, 3638, 3637),
                (6276, 4991, 4951, 6063, 6232),
            ),
        },
    ),
    ("IEEE 123", 118, 6, 0.4, 30): (
        (80, 98, 115, 133, 150),
        {
            "basic": (
                (10889.6, 13142.1, 16277.4, 18183.0, 19047.0),
                (8506, 9337, 14491, 15411, 15607),
                (12759, 15811, 18160, 20373, 21014),
            ),
            "inertia 0.3": (
                (7601.9, 9169.4, 11341.2, 12789.8, 13305.8),
                (5783, 6485, 10048, 11584, 10916),
                (10483, 10960, 12757, 14285, 14691),
            ),
            "relaxation 1.8": (
                (6295.6, 7395.8, 9056.6, 10203.8, 10554.1),
                (4764, 5644, 8000, 9207, 8666),
                (9150, 8836, 10227, 12638, 11660),
            ),
        },
    ),
}


def published() -> list[dict[str, Any]]:
    """The authors' counts as a tidy table: one line a feeder, number of prosumers and variant."""
    return [
        {
            "feeder": feeder, "buses": buses, "hours": hours, "connectivity": connectivity,
            "runs": runs, "prosumers": count, "solver": solver,
            "rounds_mean": mean, "rounds_min": least, "rounds_max": most,
        }
        for (feeder, buses, hours, connectivity, runs), (sizes, counts) in _SAVED.items()
        for solver, columns in counts.items()
        for count, mean, least, most in zip(sizes, *columns, strict=True)
    ]  # fmt: skip
