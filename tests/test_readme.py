"""The README's Python examples run, in order, and what their comments promise holds."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything the blocks define, all run in one namespace as a reader would."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    assert len(blocks) >= 4
    names: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("reader")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
    return {**names, "printed": printed.getvalue()}


def test_the_examples_print_what_they_say(session: dict[str, Any]):
    """C sells its whole surplus of 5 kW in hour 1: 1.78 to A and 3.22 to B."""
    trades = np.asarray(session["clearing"].plan.trades)
    np.testing.assert_allclose(trades, [[0, 1.78, 0], [0, 3.22, 0]], atol=0.006)
    prices = session["jg"].model.energy_prices(session["market"], session["clearing"].prices)
    np.testing.assert_allclose(prices[:, 1], [0.1837, 0.1837, 0.1637], atol=6e-5)
    np.testing.assert_allclose(session["totals"], [4.25, 4.90, 5.56, 6.24, 6.94], atol=0.006)
    assert session["cleared"].all()
    said = re.findall(r"^infeasible: .*$", README.read_text("utf-8"), re.M)
    assert len(said) == 1
    assert said[0] in session["printed"]
