"""What the entries of a JSON file may be: each function converts one, or says what it must be."""

import math
import re
from collections.abc import Callable, Set
from typing import Any

_WORDS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has no numbers for these
_MOST = 2**31


class Refused(ValueError):
    """What something must be, as the end of a sentence; it may be known by a token in the file."""

    def __init__(self, words: str, token: str = "", at: int | None = None):
        super().__init__(words)
        self.token, self.at = token, at


def number(value: Any) -> float:
    """A number or one of the words inf and -inf."""
    found = amount(value)
    if math.isnan(found):
        raise Refused("must be a number; nan is none")
    return found


def amount(value: Any) -> float:
    """A number or one of the words inf, -inf and nan."""
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused('must be a number such as 0.25, or the word "inf" or "-inf"')
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if math.isinf(found):
        raise Refused('is too large for a number; write "inf" for no limit')
    return found


def whole(value: Any) -> int:
    """A whole number from 0 below 2^31."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise Refused(f"must be a whole number from 0 to {_MOST - 1}")
    return value


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise Refused("must be true or false")
    return value


def text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise Refused("must be a text in quotation marks")
    return value


def indices(value: Any) -> list[int]:
    """A list of whole numbers."""
    if not isinstance(value, list):
        raise Refused("must be a list of whole numbers such as [0]")
    return [_inside("every number of the list", whole, one) for one in value]


def one_of(*choices: Any) -> Callable[[Any], Any]:
    """One of `choices`."""

    def convert(value: Any) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise Refused(f"must be {' or '.join(map(repr, choices))}")

    return convert


def sizes(*names: str, optional: Set[str]) -> Callable[[Any], dict[str, int]]:
    """An object with a whole number for each of `names`, but that it may lack `optional` ones."""

    def convert(value: Any) -> dict[str, int]:
        if not isinstance(value, dict) or not {*names} - optional <= value.keys() <= {*names}:
            least = ", ".join(name for name in names if name not in optional)
            raise Refused(
                f"must hold exactly {least} (and {', '.join(sorted(optional))} where there are "
                "any), each with a whole number"
            )
        return {name: _inside(name, whole, value[name]) for name in names if name in value}

    return convert


def amounts(value: Any) -> dict[str, float]:
    """An object of numbers, nan among them."""
    if not isinstance(value, dict):
        raise Refused("must be an object of numbers")
    return {name: _inside(name, amount, one) for name, one in value.items()}


def digests(value: Any) -> dict[str, str]:
    """An object of SHA-256 fingerprints."""
    if not isinstance(value, dict) or not all(
        isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) for one in value.values()
    ):
        raise Refused("must be an object of fingerprints of 64 hexadecimal digits")
    return value


def _inside(name: str, convert: Callable[[Any], Any], value: Any) -> Any:
    """`value` converted; a complaint says which part of the entry it is about."""
    try:
        return convert(value)
    except Refused as error:
        raise Refused(f"{name} {error}") from error
