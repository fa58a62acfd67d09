"""`benchmarks/gpu.py` on a machine without a GPU: it measures, goes on where it stopped, tells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
ROWS = ("turn", "clear 140 x 12 buses to 1e-04, float32", "gradient, 10")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--folder", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200)


def test_rows_are_measured_once(tmp_path: Path):
    """A clear to its tolerance, a gradient that is the difference of clears."""
    asked = ("--small", "--minutes", "15", "--rows", *ROWS)
    done = run(tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [r["status"] for r in found] == ["ended"] * len(ROWS), found
    turn, clear, gradient = found
    assert 0 < turn["known_turn_s"] < 1e-3
    assert clear["error"] <= 1e-4 and 0 < clear["step_s"] < clear["run_s"]
    assert gradient["derivative"] == pytest.approx(gradient["difference"], rel=1e-3)
    text = (tmp_path / "gpu.md").read_text()
    assert all(r["row"] in text for r in found) and "- cupiqp: not installed." in text

    kept = (tmp_path / "gpu.jsonl").read_text()
    assert run(tmp_path, *asked).returncode == 0
    assert (tmp_path / "gpu.jsonl").read_text() == kept


def test_a_machine_without_a_gpu_is_told(tmp_path: Path):
    done = run(tmp_path)
    assert done.returncode != 0 and "JAX finds no GPU here" in done.stderr
    assert not (tmp_path / "gpu.jsonl").exists()
