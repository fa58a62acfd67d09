"""JSON as strictly as people can be told about: one sentence for what is not plain."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .entries import Refused
from .faults import Faults, shown
from .schema import Entry

LARGEST = 2**24  # bytes of a file
_DEEPEST = 4  # levels of lists and objects
_DIGITS = 100  # characters of a number
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


class Document(NamedTuple):
    """A JSON object and the text that it stands in."""

    path: str
    text: str
    content: dict[str, Any]


def parse(data: bytes, path: str, faults: Faults) -> Document | None:
    """The object in a file; None and a fault where there is none.

    Depth, digits and size are bounded before anything is built; an entry given twice is a fault.
    """
    text = ""
    try:
        text = data.decode("utf-8-sig")
        _check_depth(text)
        content = json.loads(
            text,
            parse_int=_whole,
            parse_float=_float,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError:
        faults.add(path, ": no text in UTF-8; save it as UTF-8.")
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}, column {error.colno}"
        faults.add(path, f"{place}: no valid JSON ({error.msg}); mend it, or save again.")
    except Refused as error:
        at = text.rfind(error.token) if error.at is None else error.at
        faults.add(path, f"{_place(text, at)}: {error}.")
    else:
        if isinstance(content, dict):
            return Document(path, text, content)
        faults.add(path, ": expected a JSON object; save again.")
    return None


def convert(
    document: Document, entries: Mapping[str, Entry], version: int, faults: Faults
) -> dict[str, Any] | None:
    """The entries that are there, converted; None and faults where any is wrong.

    Unknown entries are faults, and so are missing ones, but those that a folder of `version` did
    not have yet.
    """
    path, text, content = document
    sound, found = True, {}
    for name in content:
        if name not in entries:
            known, sound = ", ".join(entries), False
            faults.add(
                path, f"{place_of(text, name)}: unknown entry {shown(name)}; known: {known}."
            )
    for name, entry in entries.items():
        if name not in content:
            if entry.since is not None and version >= entry.since:
                sound = False
                faults.add(path, f": entry {name!r} is missing; add it, or save again.")
            continue
        try:
            found[name] = entry.convert(content[name])
        except Refused as error:
            sound, value = False, shown(content[name])
            faults.add(path, f"{place_of(text, name)}: entry {name!r} is {value}, but {error}.")
    return found if sound else None


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEEPEST:
            words = f"lists nested more than {_DEEPEST} levels deep; flatten them"
            raise Refused(words, at=token.start())


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise Refused(f"a number of {len(digits)} digits; write at most {_DIGITS}", digits)
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > _DIGITS:
        raise Refused(f"a number of {len(digits)} characters; write at most {_DIGITS}", digits)
    found = float(digits)
    if math.isinf(found):
        raise Refused(f'{digits} is too large; write "inf" for no limit', digits)
    return found


def _constant(word: str) -> float:
    raise Refused(f'{word} is no JSON; write "inf" or "-inf", quoted, for no limit', word)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refused(f"entry {shown(name)} is given twice; remove one", _quoted(name))
        found[name] = value
    return found


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def place_of(text: str, name: str) -> str:
    """Where an entry stands, for a sentence; nothing where its name is written with escapes."""
    found = re.search(re.escape(_quoted(name)) + r"\s*:", text)
    return _place(text, found.start()) if found else ""


def _place(text: str, at: int) -> str:
    return f", line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
