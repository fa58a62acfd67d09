"""What is public: names, parameters and public attributes, so that nothing becomes so by accident.

python -m tests.test_api    # writes tests/data/public.txt anew, where a change is meant
"""

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxgne

FILE = Path(__file__).parent / "data" / "public.txt"
_SIGNS = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}


def parameters(of: Any) -> str:
    """Names of what a function takes, those with a default with "=", keywords behind "*"."""
    told, keywords = [], False
    for one in inspect.signature(of).parameters.values():
        if one.kind is one.KEYWORD_ONLY and not keywords:
            told, keywords = [*told, "*"], True
        keywords = keywords or one.kind is one.VAR_POSITIONAL
        optional = "=" if one.default is not one.empty else ""
        told.append(_SIGNS.get(one.kind.name, "") + one.name + optional)
    return f"({', '.join(told)})"


def public() -> list[str]:
    """A line for each public name, and for each public attribute of classes and modules."""
    lines = []
    for name in sorted({*jaxgne.__all__, "plots", "studies"}):
        value = getattr(jaxgne, name)
        if isinstance(value, ModuleType):
            inside = getattr(value, "__all__", None) or [
                own
                for own, found in vars(value).items()
                if getattr(found, "__module__", None) == value.__name__
            ]
            lines += [f"{name}.{own}" for own in sorted(inside) if not own.startswith("_")]
        elif inspect.isclass(value):
            lines.append(f"{name}{parameters(value)}")
            fields = {*vars(value), *getattr(value, "__dataclass_fields__", ())}
            lines += [f"{name}.{own}" for own in sorted(fields) if not own.startswith("_")]
        else:
            lines.append(name + (parameters(value) if callable(value) else ""))
    return lines


def test_what_is_public_is_meant_to_be():
    """A name, a parameter or an attribute more or less is seen, and agreed to by writing it."""
    known, found = FILE.read_text(encoding="utf-8").splitlines(), public()
    changed = [f"+ {line}" for line in found if line not in known]
    changed += [f"- {line}" for line in known if line not in found]
    assert not changed, "\n".join(changed) + "\nIf that is meant: python -m tests.test_api"


if __name__ == "__main__":
    FILE.write_text("\n".join(public()) + "\n", encoding="utf-8")
