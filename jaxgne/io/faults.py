"""All that is wrong with a folder, gathered so that one answer tells it."""

from collections import Counter
from typing import Any

_EACH = 5  # sentences about one file
_ALL = 50
_LONG = 40  # characters of a cell that are shown


class Faults:
    """What is wrong, one sentence a fault that names file and place; of sheets, lines are rows."""

    def __init__(self, *, sheets: bool = False):
        self._sheets = sheets
        self._sentences: list[str] = []
        self._found: Counter[str] = Counter()

    def add(self, file: Any, sentence: str) -> None:
        """Note a fault of `file`; the first few are told, all are counted."""
        if self._sheets:
            sentence = sentence.replace(", line ", ", row ", 1)
        self._found[str(file)] += 1
        if self._found[str(file)] <= _EACH and len(self._sentences) < _ALL:
            self._sentences.append(f"{file}{sentence}")

    def __bool__(self) -> bool:
        return bool(self._found)

    def check(self) -> None:
        """Raise `ValueError` with all sentences, one a line, if there are any."""
        if not self:
            return
        more = self._found.total() - len(self._sentences)
        rest = [f"... and {more} more faults of these kinds."] if more else []
        raise ValueError("\n".join([*self._sentences, *rest]))


def shown(value: Any) -> str:
    """A cell or an entry in quotes, cut where it is long."""
    words = repr(value)
    return words if len(words) <= _LONG else f"{words[:_LONG]}... ({len(words)} characters)"
