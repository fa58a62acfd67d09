"""Writes the pages of the site to build/pages, and builds it: .venv/bin/python docs/pages.py

Pages are those of this folder, and what is made from the rest of the repository: the README,
notebooks, results of benchmarks, public names and commands. A path of the repository, in a link or
as `docs/ac.md`, becomes a link to its page, or to its file where it has none; `(model.md: Caps)`
one to that section. Where one leads nowhere, or a page is missing from `mkdocs.yml`, this ends with
a sentence; so does the build, where a warning counts as an error.
"""

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from reference import api_pages, command_line

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "pages"
REPOSITORY = "https://github.com/jaxgne/jaxgne/blob/main"
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "benchmarks/NOTES.md": "benchmarks/notes.md",
}
PLACES = (("docs/", ""), ("benchmarks/results/", "benchmarks/"), ("notebooks/", "notebooks/"))
KINDS = (".md", ".png", ".ipynb", ".sbatch", ".css")  # what of these folders is on the site


def placed(path: str) -> str | None:
    """Where on the site a file of the repository is, if it is there."""
    for folder, place in PLACES:
        if path.startswith(folder) and path.endswith(KINDS):
            return re.sub(r"\.ipynb$", ".md", place + path.removeprefix(folder))
    return MOVED.get(path)


def gathered() -> dict[str, str]:
    """All files that are on the site, by their path in the repository: where they are there."""
    paths = [*MOVED]
    for folder, _ in PLACES:
        paths += sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.*"))
    return {path: place for path in paths if (place := placed(path))}


def notebook(path: Path) -> str:
    """A notebook as a page, with what its cells print; its pictures are written beside it."""
    cells, pictures = [], 0
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                pictures += 1
                name = f"{path.stem}-{pictures}.png"
                (OUT / "notebooks" / name).write_bytes(b64decode("".join(data["image/png"])))
                cells.append(f"![What the lines above draw]({name})")
            else:
                cells.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(cells) + "\n"


def page(path: str) -> str:
    """The text of a page of the repository; results of benchmarks begin with their question."""
    text = (ROOT / path).read_text("utf-8")
    if text.startswith("# ") or not path.startswith("benchmarks/results/"):
        return text
    name = Path(path).stem
    scripts = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    asked = re.search(rf"^\| `{name}\.py` \| (.*) \|$", scripts, re.M)
    if not asked:
        raise ValueError(f"benchmarks/README.md: no row of its table asks what {path} answers.")
    return f"# Benchmark: {name}\n\nMeasured: {asked[1]}.\n\n{text}"


def title(path: str, text: str) -> str:
    """The heading that a page begins with."""
    found = re.match(r"# (.+)\n", text)
    if not found:
        raise ValueError(f"{path}: a page begins with its title, as in '# Time'.")
    return found[1]


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def linked(source: str, place: str, text: str, titles: dict[str, str]) -> str:
    """The text of a page whose links lead to pages, or to files of the repository.

    `source` is where it is in the repository, `place` on the site; `titles` has those of all
    pages by place. Raises `ValueError` where a path is no file.
    """

    def target(path: str) -> str:
        there = placed(path)
        if there and (there in titles or (OUT / there).is_file()):
            return relpath(there, dirname(place) or ".")
        if not (ROOT / path).exists():
            raise ValueError(f"{source}: {path} is no file of the repository.")
        return f"{REPOSITORY}/{path}"

    def link(found: re.Match[str]) -> str:
        path = normpath(join(dirname(source), found[1]))
        return f"]({target(path)}{found[2] or ''})"

    def name(found: re.Match[str]) -> str:
        path = found[1] or found[2]
        if "NAME" in path:
            return found[0]
        return f"[{titles.get(placed(path) or '', f'`{path}`')}]({target(path)})"

    def section(found: re.Match[str]) -> str:
        model = target("docs/model.md")
        names = [f"[{each}]({model}#{slug(each)})" for each in found[1].split(", ")]
        return f"(model: {', '.join(names)})"

    folders = "docs|notebooks|benchmarks|tests|jaxgne"
    named = rf"(?<!\[)`((?:{folders})/[\w./-]+\.\w+)`|(?<![\w/`\[(])(docs/[\w/-]+\.md)\b(?!`)"
    parts = re.split(r"(^```.*?^```$|^    .*$)", text, flags=re.M | re.S)
    for k in range(0, len(parts), 2):
        part = re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, parts[k])
        part = re.sub(r"\(model\.md: ([A-Z][^()]*)\)", section, part)
        parts[k] = re.sub(
            named, lambda found: found[0] if "NAME" in found[0] else name(found), part
        )
    return "".join(parts)


def write() -> None:
    """All pages and pictures, below `OUT`."""
    shutil.rmtree(OUT, ignore_errors=True)
    texts = {("docs/cli.md", "cli.md"): command_line()}
    texts |= {(f"docs/{place}", place): text for place, text in api_pages().items()}
    for path, place in gathered().items():
        (OUT / place).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".ipynb"):
            texts[path, place] = notebook(ROOT / path)
        elif path.endswith(".md"):
            texts[path, place] = page(path)
        else:
            shutil.copyfile(ROOT / path, OUT / place)
    titles = {place: title(path, text) for (path, place), text in texts.items()}
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", menu, re.M))
    if listed != set(titles):
        raise ValueError(f"mkdocs.yml: its menu and the pages differ by {listed ^ set(titles)}.")
    for (source, place), text in texts.items():
        (OUT / place).parent.mkdir(parents=True, exist_ok=True)
        (OUT / place).write_text(linked(source, place, text, titles), "utf-8")


if __name__ == "__main__":
    write()
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)
