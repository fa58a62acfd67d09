"""Memory that was freed goes back to the system."""

import sys
from pathlib import Path

import numpy as np
import pytest

from jaxgne.freed import give_back


@pytest.mark.skipif(sys.platform != "linux", reason="how much a process holds is read as on Linux")
def test_what_lies_free_between_what_is_in_use_goes_back():
    def held() -> float:  # MB
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    arrays = [np.ones(12_000) for _ in range(2_000)]  # 96 kB each, too small for a map of its own
    del arrays[::2]
    before = held()
    give_back()
    give_back()
    assert held() < before - 50
    assert all(np.all(a == 1.0) for a in arrays)
