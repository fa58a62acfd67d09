"""What commands print as JSON, held to the schema that `docs/json.md` says."""

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "json.md").read_text("utf-8")


def judged(document: str) -> dict[str, Any]:
    """A document that has all that `docs/json.md` says, and nothing else."""
    facts = json.loads(document, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    schema = strict()
    (kind,) = [
        each for each in schema["oneOf"] if each["properties"]["kind"]["const"] == facts["kind"]
    ]
    jsonschema.validate(facts, kind | {"$defs": schema["$defs"]})
    return facts


def strict() -> dict[str, Any]:
    made: Any = runpy.run_path(str(DOCS / "json_schema.py"))
    return made["schema"](PAGE, strict=True)
