"""Numbers as JSON that is no longer than what is shown: rounded by the largest, null for NaN."""

import json
from typing import Any

import numpy as np

DIGITS = 5


def short(values: Any, digits: int = DIGITS) -> list[Any]:
    """Numbers as lists, rounded to so many digits of the largest; None where not finite."""
    array = np.asarray(values, float)
    finite = np.abs(array[np.isfinite(array)])
    largest = float(finite.max(initial=0.0))
    places = digits - 1 - int(np.floor(np.log10(largest))) if largest > 0 else 0
    kept = np.round(array, max(places, 0)) + 0.0  # no -0.0
    if np.all(np.isfinite(array)):
        return _whole(kept) if places <= 0 else kept.tolist()
    boxed = kept.astype(object)
    boxed[~np.isfinite(array)] = None
    return boxed.tolist()


def _whole(kept: np.ndarray) -> list[Any]:
    return kept.astype(np.int64).tolist() if np.all(np.abs(kept) < 2**53) else kept.tolist()


def text_of(data: Any) -> str:
    """JSON that may stand inside of a script element, whatever names hold: no `<`, no `&`."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
