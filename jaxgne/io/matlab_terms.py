"""Arithmetic as MATLAB writes it, of numbers and tables: parsed and worked out here, nothing run.

What there is: numbers, names, `+ - * / ^`, `.* ./ .^`, parentheses, a few functions of one number,
ranges, matrices in brackets, and places of tables: `mpc.bus(:, [PD QD])`, `mpc.bus(1, 10)`. Rows
and columns count from 1. Anything else is a `ValueError` that quotes it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Table = Float[np.ndarray, "R C"]  # a number is a table of one row and column

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{"sqrt": np.sqrt, "abs": np.abs, "exp": np.exp, "log": np.log, "sin": np.sin, "cos": np.cos},
    **{"tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan},
}
_NUMBERS = {"pi": np.pi, "Inf": np.inf, "inf": np.inf, "NaN": np.nan, "nan": np.nan}
_MOST = 20_000_000  # entries of a table; those of 80,000 buses have a million
_DEEPEST = 40  # parentheses in parentheses

_TOKEN = re.compile(
    r"(?P<space>[ \t\r]+)|(?P<number>(?:\d+(?:\.(?![*/^])\d*)?|\.\d+)(?:[eEdD][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z]\w*(?:\.[A-Za-z]\w*)?)|(?P<op>\.[*/^]|[-+*/^():,;\n\[\]])"
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    before: bool  # whether space comes before it, and after
    after: bool


@dataclass(frozen=True)
class Unread:
    """In place of a value that was not worked out: whoever asks for it is told why."""

    why: str


class Everything:
    """All rows or columns: `:` in a place."""


def worked_out(text: str, values: Mapping[str, Any]) -> Table:
    """The value of an expression, with names from `values`; `ValueError` for what is not read."""
    terms = _Terms(_tokens(text), values)
    found = terms.range(False)
    if terms.now.kind != "end":
        raise ValueError(f"{terms.now.text!r} is not expected there")
    return found


def indices(text: str, values: Mapping[str, Any], shape: tuple[int, int]) -> tuple[Any, Any]:
    """Rows and columns of a place `(rows, columns)`, from 0, both as arrays."""
    terms = _Terms(_tokens(text), values)
    terms.take("(")
    found = terms.place(shape)
    if terms.now.kind != "end":
        raise ValueError(f"{terms.now.text!r} is not expected there")
    return found


def matrix(text: str, values: Mapping[str, Any]) -> Table:
    """A matrix from what stands between its brackets: rows of numbers fast, others as they can."""
    rows: list[Any] = []
    for line in re.split(r"[;\n]", text):
        parts = line.replace(",", " ").split()
        if not parts:
            continue
        try:
            rows.append([float(part) for part in parts])
        except ValueError:
            rows.append(worked_out(f"[{line}]", values))
    if all(type(row) is list for row in rows) and len({len(row) for row in rows}) == 1:
        return np.array(rows, float)
    return _stacked([np.atleast_2d(np.asarray(row, float)) for row in rows])


def _stacked(rows: list[Table]) -> Table:
    rows = [row for row in rows if row.size]
    for k, row in enumerate(rows):
        if row.shape[1] != rows[0].shape[1]:
            raise ValueError(f"row {k + 1} has {row.shape[1]} columns and not {rows[0].shape[1]}")
    _check_size(sum(row.size for row in rows))
    return np.concatenate(rows) if rows else np.zeros((0, 0))


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    spaced, at = False, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at : at + 12]!r} is not read")
        at = match.end()
        if match.lastgroup != "space":
            after = at < len(text) and text[at] in " \t\r"
            found.append(_Token(str(match.lastgroup), match[0], spaced, after))
        spaced = match.lastgroup == "space"
    return [*found, _Token("end", "the end", spaced, False)]


class _Terms:
    """A parser that works out what it reads. In brackets (`inside`) spaces part elements."""

    def __init__(self, tokens: list[_Token], values: Mapping[str, Any]) -> None:
        self.tokens, self.values, self.at, self.depth = tokens, values, 0, 0

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    def take(self, text: str) -> None:
        if self.now.text != text:
            raise ValueError(f"{self.now.text!r} stands where {text!r} should")
        self.at += 1

    def operator(self, among: tuple[str, ...], inside: bool) -> str | None:
        """The next token where it is one of these and joins two terms."""
        now = self.now
        if now.kind != "op" or now.text not in among:
            return None
        if inside and now.text in "+-" and now.before and not now.after:
            return None  # the sign of the next element
        self.at += 1
        return now.text

    def range(self, inside: bool) -> Table:
        ends = [self.sum(inside)]
        while self.operator((":",), inside):
            ends.append(self.sum(inside))
        if len(ends) == 1:
            return ends[0]
        if len(ends) > 3 or any(end.size != 1 for end in ends):
            raise ValueError("a range is from a number to a number")
        start, step, stop = (
            float(e[0, 0]) for e in (ends[0], ends[1] if ends[2:] else ONE, ends[-1])
        )
        if not step or not np.isfinite((stop - start) / step) or (stop - start) / step > _MOST:
            raise ValueError("a range has a step and an end")
        return np.arange(np.floor((stop - start) / step + 1e-9) + 1)[None] * step + start

    def sum(self, inside: bool) -> Table:
        left = self.product(inside)
        while sign := self.operator(("+", "-"), inside):
            right = self.product(inside)
            left = _each(left, right, np.add if sign == "+" else np.subtract)
        return left

    def product(self, inside: bool) -> Table:
        left = self.signed(inside)
        while sign := self.operator(("*", "/", ".*", "./"), inside):
            right = self.signed(inside)
            if (sign == "*" and left.size != 1 != right.size) or (sign == "/" and right.size != 1):
                raise ValueError(f"{sign!r} between two tables is not read; '.{sign}' is")
            left = _each(left, right, np.multiply if "*" in sign else np.divide)
        return left

    def signed(self, inside: bool) -> Table:
        sign = 1.0
        while self.now.kind == "op" and self.now.text in "+-":
            sign *= -1.0 if self.now.text == "-" else 1.0
            self.at += 1
        return sign * self.power(inside)

    def power(self, inside: bool) -> Table:
        left = self.term(inside)
        while sign := self.operator(("^", ".^"), inside):
            minus = self.now.text == "-"
            self.at += minus
            right = self.term(inside)
            if sign == "^" and (left.size != 1 or right.size != 1):
                raise ValueError("'^' of a table is not read; '.^' is")
            left = _each(left, -right if minus else right, np.power)
        return left

    def term(self, inside: bool) -> Table:
        now, self.at, self.depth = self.now, self.at + 1, self.depth + 1
        if self.depth > _DEEPEST:
            raise ValueError("parentheses are too deep")
        found = self._term(now, inside)
        self.depth -= 1
        return found

    def _term(self, now: _Token, inside: bool) -> Table:
        if now.kind == "number":
            return np.array([[float(now.text.replace("d", "e").replace("D", "e"))]])
        if now.text == "(":
            found = self.range(False)
            self.take(")")
            return found
        if now.text == "[":
            return self.matrix()
        if now.kind == "name":
            called = self.now.text == "(" and not (inside and self.now.before)
            return self.named(now.text, called)
        raise ValueError(f"{now.text!r} is not read")

    def named(self, name: str, called: bool) -> Table:
        """A number or table by its name, a place of one, or a function of one."""
        value = self.values.get(name, _NUMBERS.get(name))
        if isinstance(value, Unread):
            raise ValueError(value.why)
        if value is None and name in FUNCTIONS and called:
            self.at += 1
            argument = self.range(False)
            self.take(")")
            with np.errstate(all="ignore"):
                return FUNCTIONS[name](argument)
        if value is None:
            raise ValueError(f"{name!r} is not known here")
        value = np.atleast_2d(np.asarray(value, float))
        if not called:
            return value
        self.at += 1
        rows, columns = self.place((value.shape[0], value.shape[1]))
        _check_size(len(rows) * len(columns))
        return value[np.ix_(rows, columns)]

    def place(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns up to the closing parenthesis."""
        rows = self._along(shape[0])
        if self.now.text != ",":
            raise ValueError("a place needs its row and its column")
        self.take(",")
        columns = self._along(shape[1])
        self.take(")")
        return rows, columns

    def _along(self, size: int) -> np.ndarray:
        if self.now.text == ":" and self.tokens[self.at + 1].text in ",)":
            self.at += 1
            return np.arange(size)
        before = self.values
        self.values = {**before, "end": float(size)}
        wanted = self.range(False).ravel()
        self.values = before
        if np.any(wanted != np.round(wanted)) or np.any(wanted < 1) or np.any(wanted > size):
            raise ValueError(f"a place of row or column {wanted.max():g} is not in 1 to {size}")
        return wanted.astype(np.int64) - 1

    def matrix(self) -> Table:
        rows: list[Table] = []
        row: list[Table] = []
        while self.now.text != "]":
            if self.now.kind == "end":
                raise ValueError("a bracket is not closed")
            if self.now.text in ";\n":
                rows, row = [*rows, *_beside(row)], []
                self.at += 1
            elif self.now.text == ",":
                self.at += 1
            else:
                row.append(self.range(True))
        self.at += 1
        return _stacked([*rows, *_beside(row)])


ONE = np.ones((1, 1))


def _beside(row: list[Table]) -> list[Table]:
    if len({part.shape[0] for part in row}) > 1:
        raise ValueError("tables of unequal rows stand side by side")
    _check_size(sum(part.size for part in row))
    return [np.concatenate(row, axis=1)] if row else []


def _check_size(entries: int) -> None:
    if entries > _MOST:
        raise ValueError(f"a table of {entries} numbers is too large")


def _each(left: Table, right: Table, what: Any) -> Table:
    """Entry by entry, one row, column or number for all."""
    if any(a != b and 1 not in (a, b) for a, b in zip(left.shape, right.shape, strict=True)):
        raise ValueError(f"tables of {left.shape} and {right.shape} do not fit")
    _check_size(max(left.shape[0], right.shape[0]) * max(left.shape[1], right.shape[1]))
    with np.errstate(all="ignore"):
        return what(left, right)
