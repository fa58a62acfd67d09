"""What functions of markets, clearings, plans and prices were given in the place of these.

A function decorated with `of_tables` says it in one sentence, by the annotations of its arguments,
before it computes anything. So do those of `for_each` and `for_one`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar, Union, get_args, get_origin

from .record import Record

P = ParamSpec("P")
T = TypeVar("T")

_SUCH = {  # where one gets it, by the name of a class
    "Market": "jaxgne.load_case(...)",
    "Clearing": "jaxgne.clear(market)",
    "Plan": "clearing.plan",
    "Rows": "clearing.prices",
}
_DEFAULT = object()  # stands for what was not given


def of_tables(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, which refuses with `ValueError` what is not of an argument's annotated class.

    Arguments are looked at whose annotation is a `Record`, several of them, or one or None.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def run(*given: P.args, **options: P.kwargs) -> T:
        check_tables(function, bound(function, signature, given, options).arguments)
        return function(*given, **options)

    return run


def bound(
    function: Callable[..., Any],
    signature: inspect.Signature,
    given: tuple[Any, ...],
    options: Mapping[str, Any],
) -> inspect.BoundArguments:
    """The arguments by name; a `TypeError` says whose they are."""
    try:
        return signature.bind(*given, **options)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise TypeError(f"{function.__name__}: {error}; it takes {takes}.") from None


def check_tables(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise `ValueError` for the first of the arguments that is not of its annotated class.

    Also for what is to be a function, and cannot be called.
    """
    caller, kinds = function.__name__.lstrip("_"), _kinds(function)
    for name, kind in kinds.items():
        value = arguments.get(name, _DEFAULT)
        if value is _DEFAULT or isinstance(value, kind.classes):
            continue
        if kind.several is None:
            for other, theirs in kinds.items():
                its = arguments.get(other)
                if isinstance(value, theirs.classes) and isinstance(its, kind.classes):
                    raise ValueError(
                        f"{caller}: {name} is {named(value)}, and {other} {named(its)}; the order "
                        f"is {caller}({', '.join(kinds)})."
                    )
            refuse(caller, name, value, kind.classes[0])
        if isinstance(value, str | Record) or not isinstance(value, Iterable):
            raise ValueError(
                f"{caller}: {name} is {named(value)}; give several jaxgne.{kind.several.__name__}, "
                "[one, another]."
            )
        for k, each in enumerate(value if isinstance(value, Sequence) else ()):
            if not isinstance(each, kind.several):
                refuse(caller, f"{name}[{k}]", each, kind.several)
    for name, words in _functions(function).items():
        if name in arguments and not callable(arguments[name]):
            value = named(arguments[name])
            raise ValueError(f"{caller}: {name} is {value}; give a function{words}.")


def refuse(caller: str, name: str, value: Any, kind: type) -> NoReturn:
    """Raise `ValueError` that says that `value` is no `kind`, and what to give in its place."""
    such = _SUCH.get(kind.__name__)
    if isinstance(value, list | tuple) and value and all(isinstance(one, kind) for one in value):
        such = "jaxgne.scenarios.stack(...) of them" if kind.__name__ == "Market" else such
    more = f", such as {such}" if such else ""
    raise ValueError(f"{caller}: {name} is {named(value)}; give a jaxgne.{kind.__name__}{more}.")


def check_cleared(caller: str, cleared: Any, market: type, clearing: type) -> None:
    """Raise `ValueError` where something is no mapping of names to markets and clearings."""
    if not isinstance(cleared, Mapping):
        raise ValueError(
            f'{caller}: {named(cleared)} was given; give {{"a name": (market, clearing), ...}}.'
        )
    for name, both in cleared.items():
        pair = isinstance(both, tuple | list) and len(both) == 2
        if not (pair and isinstance(both[0], market) and isinstance(both[1], clearing)):
            found = " and ".join(map(named, both)) if pair else named(both)
            raise ValueError(f"{caller}: {name!r} is {found}; give (market, clearing).")


def named(value: Any) -> str:
    """What was given, in few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


class _Kind(NamedTuple):
    """The classes that an argument may be of, and that of the members of a sequence."""

    classes: tuple[type, ...]
    several: type | None


@cache
def _functions(function: Callable[..., Any]) -> dict[str, str]:
    """The arguments that are to be functions, with words for what these take."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(parameter.annotation) is Callable:
            takes = get_args(parameter.annotation)[0]
            known = isinstance(takes, list) and all(isinstance(one, type) for one in takes)
            words = " and ".join(one.__name__.lower() for one in takes) if known else ""
            found[name] = f" of {words}" if words else ""
    return found


@cache
def _kinds(function: Callable[..., Any]) -> dict[str, _Kind]:
    """What arguments are to be, by name; of those that are records, or sequences of them."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = parameter.annotation
        each = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        lists = [get_args(one)[0] for one in each if get_origin(one) is Sequence]
        plain = [one for one in each if get_origin(one) is not Sequence]
        records = [one for one in (*plain, *lists) if isinstance(one, type)]
        known = all(issubclass(one, Record | NoneType) for one in records)
        if not (known and len(records) == len(each) and {*records} - {NoneType}):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            plain, lists = [], plain
        found[name] = _Kind(tuple(plain), lists[0] if lists else None)
    return found
