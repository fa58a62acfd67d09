"""The study of look-ahead and of forecasts, on a village."""

from pathlib import Path

import numpy as np
import pytest

from jaxgne import studies
from tests.simulated import village


@pytest.mark.slow
def test_looking_ahead_and_knowing_more_is_never_dearer(tmp_path: Path, monkeypatch):
    """Foresight costs least; two runs of each noise are told with their spread; kept runs are."""
    found = studies.horizon(village(1), (4.0, 24.0), seeds=2, days=2, folder=tmp_path)
    rows = found.tables["horizon"]
    assert len(rows) == 1 + 2 + 1 + 6 and found.missed == 0
    assert min(row["more_eur"] for row in rows) >= -1e-3
    seen = [row["more_eur"] for row in rows if row["forecast"] == "perfect"]
    assert seen[1] <= seen[0] + 1e-3
    noisy = [row for row in found.tables["spread"] if row["forecast"] == "noisy"]
    assert [row["runs"] for row in noisy] == [2, 2, 2]
    wrong = [row["imbalance_kwh"] for row in rows if row["forecast"] == "noisy"]
    assert np.mean(wrong[4:]) > np.mean(wrong[:2]) > 0
    assert "foresight" in found.finding and "EUR" in str(found)
    studies.draw(found, tmp_path / "horizon.svg")
    monkeypatch.setattr("jaxgne.studies._horizon._run", None)  # nothing is done again
    again = studies.horizon(village(1), (4.0, 24.0), seeds=2, days=2, folder=tmp_path)
    assert again.tables == found.tables


def test_less_than_what_is_done_is_refused():
    with pytest.raises(ValueError, match="at least the 4"):
        studies.horizon(village(1), (1.0,))
