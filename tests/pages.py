"""Pages as a reader runs them: blocks of Python in order, and what the page says they print."""

import ast
import contextlib
import io
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*[a-z])")
_TINY = re.compile(r"-?\d(?:\.\d+)?e-\d+")  # errors, which differ by machine


def blocks(page: str, language: str = "python") -> list[str]:
    """The fenced blocks of one language on a page, each below as many empty lines as precede it."""
    text = (ROOT / page).read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return ["\n" * text.count("\n", 0, each.start(1)) + each[1] for each in found]


def read(page: str, names: dict[str, Any], folder: Path) -> str:
    """Runs a page's Python in `folder`, with `names` and into them; all that it prints.

    Numbers, True and False in the comment behind a print, up to a colon, are among those that it
    prints, rounded as in the comment; lines of a block of text behind Python are printed lines.
    """
    printed = ""
    with contextlib.chdir(folder):
        for block in blocks(page):
            for node in ast.parse(block).body:
                with contextlib.redirect_stdout(io.StringIO()) as said:
                    exec(compile(ast.Module([node], []), page, "exec"), names)
                _hold(page, _comment(block, node), said.getvalue())
                printed += said.getvalue()
    text = (ROOT / page).read_text("utf-8")
    lines = {_plain(line) for line in printed.splitlines()}
    for promised in re.findall(r"^```python\n[^`]*?^```\n\n```text\n(.*?)^```$", text, re.M | re.S):
        missing = [line for line in map(_plain, promised.splitlines()) if line not in lines | {""}]
        assert missing == [], f"{page}: it does not print {missing}, but {printed}"
    return printed


def _comment(block: str, node: ast.stmt) -> str:
    """The comment behind a print, or on the lines after it."""
    if not (isinstance(node, ast.Expr) and "print(" in ast.unparse(node)):
        return ""
    first, *after = block.splitlines()[(node.end_lineno or 0) - 1 :]
    behind = first[node.end_col_offset :].strip()
    for line in after:
        if behind or not line.startswith("# "):
            break
        return line
    return behind


def _hold(page: str, comment: str, printed: str) -> None:
    """Raises AssertionError where a comment says a number that is not printed."""
    comment = re.split(r": ", comment.lstrip("# ") + " ")[0]
    numbers = [float(each) for each in _NUMBER.findall(printed.replace(",", " "))]
    for word in _NUMBER.findall(comment.replace(",", " ")):
        digits = len(word.partition(".")[2])
        near = [abs(float(word) - each) <= 0.6 * 10.0**-digits for each in numbers]
        assert any(near), f"{page}: '{comment}' says {word}, printed is {printed}"
    for word in re.findall(r"\b(?:True|False)\b", comment):
        assert word in printed, f"{page}: '{comment}', but printed is {printed}"


def _plain(line: str) -> str:
    return _TINY.sub("~", line.strip())
