"""What a compiled program's kernels read, write and compute, counted in XLA's own text of it.

The rule: a kernel is an instruction that is launched, a fusion or call of a library as one. It
moves its operands and results once. What it slices, gathers or adds to at an index counts as what
is touched, each time, but no more than the whole table where that fits the cache. Loops count as
often as XLA knows them to turn; of conditionals the branch with the fewest kernels counts.
"""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_WIDTHS |= {
    "token": 0,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
    "c64": 8,
    "c128": 16,
}
_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_NOTHING |= {"partition-id", "replica-id", "copy-done", "async-done", "opt-barrier"}
_CHEAP = _NOTHING | {"broadcast", "reshape", "transpose", "copy", "slice", "concatenate", "pad"}
_CHEAP |= {"gather", "scatter", "dynamic-slice", "dynamic-update-slice", "iota", "convert"}
_CHEAP |= {"reverse", "fusion", "call", "bitcast-convert"}
_PICKED = {"slice", "dynamic-slice", "gather"}


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str  # attributes


class Kernel(NamedTuple):
    """What is launched `times` times; bytes and floating point operations are of one launch."""

    name: str
    bytes: float
    narrow: float  # operations in float32
    wide: float  # and in float64
    times: float


class Program:
    """A module's computations, by name; `cache` bytes are not read twice by one kernel."""

    def __init__(self, text: str, cache: float):
        self.cache = cache
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, here = "", []
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line)
            if head:
                here = self.computations[head[2]] = []
                self.entry = head[2] if head[1] else self.entry
            elif found := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)$", line):
                here.append(_instruction(found[1], found[2]))

    def loops(self, within: str | None = None) -> list[tuple[Instruction, float | None]]:
        """Loops that a computation starts itself, the entry by default, and how often they turn."""
        own = self.computations[within or self.entry]
        return [(i, _turns(i)) for i in own if i.operation == "while"]

    def body(self, loop: Instruction) -> str:
        """The computation that a loop repeats."""
        return _called(loop, "body")[0]

    def kernels(
        self, within: str | None = None, but: tuple[str, ...] = (), times: float = 1.0
    ) -> Iterator[Kernel]:
        """What a computation launches, without the loops of the names `but`.

        A loop of which XLA does not know the turns counts as one turn of a name with a `?`.
        """
        own = self.computations[within or self.entry]
        shapes = {i.name: i.shape for i in own}
        for i in own:
            if i.operation in _NOTHING or i.name in but:
                continue
            if i.operation == "while":
                turns = _turns(i)
                for name in (self.body(i), *(() if turns else _called(i, "condition"))):
                    for k in self.kernels(name, but, times * (turns or 1.0)):
                        yield k if turns else k._replace(name=f"?{k.name}")
            elif i.operation == "conditional":
                names = _called(i, "branch_computations|true_computation|false_computation")
                branches = [list(self.kernels(name, but, times)) for name in names]
                yield from min(branches, key=lambda b: sum(k.times for k in b))
            elif i.operation in ("call", "async-start"):
                for name in _called(i, "to_apply|calls"):
                    yield from self.kernels(name, but, times)
            else:
                yield self._kernel(i, shapes, times)

    def _kernel(self, i: Instruction, shapes: dict[str, str], times: float) -> Kernel:
        given = [size(shapes[o]) for o in i.operands]
        if i.operation == "fusion":
            inside = self.computations[_called(i, "calls")[0]]
            read, written = self._fused(inside, given), self._made(inside, size(i.shape))
        elif i.operation == "custom-call":  # its second result is space to work in
            inside, read = [i], sum(given)
            written = size(next(iter(_arrays(i.shape)), ""))
        else:
            inside, read, written = [i], sum(given), size(i.shape)
            if i.operation in _PICKED:
                read = self._touched(size(i.shape), given[0])
        narrow, wide = _work(inside, shapes if inside == [i] else None)
        return Kernel(i.name, read + written, narrow, wide, times)

    def _touched(self, some: float, table: float) -> float:
        return min(some, table) if table <= self.cache else some

    def _fused(self, inside: list[Instruction], given: list[float]) -> float:
        """Bytes that a fusion reads of its operands."""
        total, shapes = 0.0, {i.name: i.shape for i in inside}
        users: dict[str, list[Instruction]] = {}
        for i in inside:
            for o in i.operands:
                users.setdefault(o, []).append(i)
        for i in inside:
            if i.operation != "parameter":
                continue
            table, uses = size(i.shape), _seen(users, i.name)
            some = 0.0
            for use, through in uses:
                first = use.operands[0] == through
                if use.operation in _PICKED and first:
                    some += size(use.shape)
                elif use.operation == "dynamic-update-slice" and first:
                    some += 0.0
                elif use.operation == "scatter" and first:
                    some += size(shapes[use.operands[2]])
                else:
                    some = table
                    break
            total += self._touched(some, table)
        return total

    def _made(self, inside: list[Instruction], result: float) -> float:
        """Bytes that a fusion writes: where it changes a table in place, what it changes."""
        shapes = {i.name: i.shape for i in inside}
        changed = 0.0
        for i in inside:
            if i.operation in ("dynamic-update-slice", "scatter"):
                table, some = (
                    size(i.shape),
                    size(shapes[i.operands[-1 if "sc" in i.operation else 1]]),
                )
                changed += table - self._touched(some, table)
        return max(result - changed, 0.0)


def _instruction(name: str, text: str) -> Instruction:
    end = _closed(text, 0) if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].strip()
    operation, _, _ = rest.partition("(")
    close = _closed(rest, len(operation))
    operands = re.findall(r"%([\w.\-]+)", rest[len(operation) : close])
    return Instruction(name, shape, operation, tuple(operands), rest[close:])


def _closed(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at + 1
    raise ValueError(f"no bracket closes {text[start : start + 80]!r}")


def _called(i: Instruction, words: str) -> list[str]:
    found = re.findall(rf"\b(?:{words})=(\{{[^}}]*\}}|%[\w.\-]+)", i.rest)
    return re.findall(r"%([\w.\-]+)", " ".join(found))


def _turns(loop: Instruction) -> float | None:
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    return float(found[1]) if found else None


def _seen(users: dict[str, list[Instruction]], name: str) -> list[tuple[Instruction, str]]:
    """Who uses a value, through what does not change it."""
    found = []
    for use in users.get(name, []):
        if use.operation in ("bitcast", "copy", "reshape"):
            found += _seen(users, use.name)
        else:
            found.append((use, name))
    return found


def _arrays(shape: str) -> list[str]:
    return re.findall(r"\b[a-z]+\d*\[[\d,]*\]", shape)


def _numbers(array: str) -> int:
    return prod(int(n) for n in re.findall(r"\d+", array.partition("[")[2]))


def size(shape: str) -> float:
    """Bytes of an array, or of all arrays of a tuple."""
    return sum(_numbers(a) * _WIDTHS[a.partition("[")[0]] for a in _arrays(shape))


def _work(inside: list[Instruction], outside: dict[str, str] | None) -> tuple[float, float]:
    """Operations in float32 and float64: one for each number that is made, two for a product's."""
    shapes = {i.name: i.shape for i in inside} if outside is None else outside
    counts = {"f32": 0.0, "f64": 0.0}
    for i in inside:
        arrays = _arrays(i.shape)
        kind = arrays[0].partition("[")[0] if arrays else ""
        if i.operation in _CHEAP or kind not in counts:
            continue
        work = float(_numbers(arrays[0]))
        if i.operation == "dot":
            sizes = re.findall(r"\d+", _arrays(shapes[i.operands[0]])[0].partition("[")[2])
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)
            summed = re.findall(r"\d+", axes[1]) if axes else []
            work *= 2 * prod(int(sizes[int(axis)]) for axis in summed)
        elif i.operation in ("reduce", "reduce-window"):
            work = float(_numbers(_arrays(shapes[i.operands[0]])[0]))
        counts[kind] += work
    return counts["f32"], counts["f64"]
