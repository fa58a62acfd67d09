"""Makes a JSON Schema of the tables in `docs/json.md`: .venv/bin/python docs/json_schema.py

It writes `docs/schema-1.json`, of which each document that `--json` prints is an instance.
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
_PLAIN = {"text": "string", "number": "number", "integer": "integer", "boolean": "boolean"}
_PLAIN |= {"null": "null"}
_ROW = re.compile(r"\| (?:`([^`]+)`(\?)?|\.\.\.) \| ([^|]+) \| (.*)\|")


def tables(page: str) -> dict[str, list[tuple[str, bool, str, str]]]:
    """Rows of each table by its heading: key, is it optional, type, what it is."""
    found = {}
    for section in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]:
        name, _, text = section.partition("\n")
        rows = [row.groups(default="") for row in _ROW.finditer(text)]
        found[name] = [(key, bool(mark), kind, what.strip()) for key, mark, kind, what in rows]
    return found


def schema(page: str, strict: bool = False) -> dict[str, Any]:
    """The JSON Schema of all documents; a `strict` one allows no other keys than the page's."""
    told = tables(page)

    def rows(name: str) -> list[tuple[str, bool, str, str]]:
        made = []
        for row in told[name]:
            made += [row] if row[0] else rows(row[2])
        return made

    def table(entries: list[tuple[str, bool, str, str]], **fixed: Any) -> dict[str, Any]:
        keys = {key: typed(kind) for key, _, kind, _ in entries}
        for key, _, _, what in entries:
            if what and "$ref" not in keys[key]:
                keys[key]["description"] = what
        required = [key for key, optional, _, _ in entries if not optional]
        return {
            "type": "object",
            "properties": keys | fixed,
            "required": required,
            "additionalProperties": not strict,
        }

    def typed(kind: str) -> dict[str, Any]:
        if kind.startswith("map of "):
            return {"type": "object", "additionalProperties": typed(kind[7:])}
        if kind.startswith("list of "):
            return {"type": "array", "items": typed(kind[8:])}
        if " or " in kind:
            return {"anyOf": [typed(each) for each in kind.split(" or ", 1)]}
        if kind == "value":
            return {"type": ["number", "string", "boolean", "null"]}
        return {"type": _PLAIN[kind]} if kind in _PLAIN else {"$ref": f"#/$defs/{kind}"}

    every = told.pop("Every document")
    kinds = [name for name in told if name.startswith("`")]
    documents = [
        table(every + rows(name), schema={"const": 1}, kind={"const": name.strip("`")})
        for name in kinds
    ]
    parts = {name: table(rows(name)) for name in told if name not in kinds}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What jaxgne --json prints",
        "oneOf": documents,
        "$defs": parts,
    }


def written() -> str:
    """The text of `docs/schema-1.json`."""
    return json.dumps(schema((DOCS / "json.md").read_text("utf-8")), indent=1) + "\n"


if __name__ == "__main__":
    (DOCS / "schema-1.json").write_text(written(), encoding="utf-8")
