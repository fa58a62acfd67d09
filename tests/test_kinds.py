"""What kind a device is: said by who makes it, kept by whatever joins it, and nothing to a plan."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import devices
from jaxgne.kinds import KINDS
from jaxgne.padding import pad
from jaxgne.record import changed
from tests.folders import feeder, same


def words(table: jg.Generators | jg.Buffers) -> list[str]:
    one = "generator" if isinstance(table, jg.Generators) else "buffer"
    return [KINDS[one][k] for k in np.asarray(table.kind).tolist()]


def relabelled(market: jg.Market, kind: int = KINDS["buffer"].index("vehicle")) -> jg.Market:
    """The market whose buffers are all of a kind, cars."""
    stores = market.buffers
    return changed(market, buffers=changed(stores, kind=jnp.full_like(stores.kind, kind)))


def test_devices_say_what_they_are():
    day: Any = {"hours": 24}
    stores = devices.join(
        devices.battery(0, power=5, capacity=10, **day),
        devices.vehicle(1, power=11, capacity=60, arrival=18, departure=7, **day),
        devices.heat_pump(2, power=3, cop=3, outdoor=4, resistance=6, capacity=4, **day),
        devices.shiftable(0, energy=3, power=2, earliest=9, latest=17, **day),
        devices.electrolyser(0, power=50, tank=400, demand=15, **day),
        jg.Buffers([0], 1.0, 1.0, 2.0, 1.0, **day),
    )
    made = devices.join(
        devices.generator([0, 1], power=4, linear=0.1, kind=["chp", "wind"], **day),
        devices.elastic(2, power=3, worth=0.4, slope=0.1, **day),
        devices.elastic(2, power=3, utility=jg.curves.Isoelastic(0.3, 1.2, 0.4), least=0.2, **day),
        devices.generator(0, power=4, linear=0.1, **day),
    )
    assert words(stores) == [*KINDS["buffer"][1:], "buffer"]
    assert words(made) == ["chp", "wind", "elastic load", "elastic load", "generator"]


def test_markets_keep_the_kinds_of_their_devices():
    """Batteries of a case, cars that are added, rows that are padded: each stays what it is."""
    market = jg.ieee37(4, hours=24)
    more = jg.equip(market, vehicle=0.5)
    assert words(more.buffers) == ["battery"] * 2 + ["vehicle"] * 2
    wide = pad(more, buffers=6, generators=3)
    assert words(wide.buffers) == ["battery"] * 2 + ["vehicle"] * 2 + ["buffer"] * 2
    both = jg.scenarios.stack([market, more])
    assert np.asarray(both.buffers.kind).tolist() == [[1, 1, 0, 0], [1, 1, 2, 2]]


def test_kinds_change_no_number_and_no_program():
    market = feeder()
    other = relabelled(market)
    assert jax.tree.structure(market) == jax.tree.structure(other)
    one, two = jg.clear(market), jg.clear(other)
    assert same((one.plan, one.prices, one.costs), (two.plan, two.prices, two.costs))


@pytest.mark.parametrize("kind", ["car", ["battery", "car"]])
def test_an_unknown_kind_is_told_beside_those_there_are(kind: str | list[str]):
    with pytest.raises(ValueError, match=r"Buffers.kind: 'car' is none of buffer, battery, veh"):
        jg.Buffers([0, 1], 1.0, 1.0, 2.0, 1.0, hours=2, kind=kind)


def test_kinds_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Generators.kind: shape \(2,\) does not fit; give one"):
        jg.Generators([0], 1.0, hours=2, kind=["wind", "chp"])
    wrong = feeder()
    wrong = changed(wrong, buffers=changed(wrong.buffers, kind=np.array([9], np.int32)))
    with pytest.raises(ValueError, match=r"Buffers.kind row 0: 9 is none of 0 to 5 \(buffer, bat"):
        jg.validate(wrong)


def test_files_say_kinds_by_words(tmp_path: Path):
    """A column that is there where a device is of any kind, and read back; else there is none."""
    market = relabelled(feeder())
    jg.save(tmp_path / "cars", market)
    assert "kind" in (tmp_path / "cars" / "buffers.csv").read_text().splitlines()[0].split(",")
    assert same(jg.io.load_market(tmp_path / "cars"), market)
    market = relabelled(feeder(), 0)
    jg.save(tmp_path / "plain", market)
    assert "kind" not in (tmp_path / "plain" / "buffers.csv").read_text()
    assert same(jg.io.load_market(tmp_path / "plain"), market)


def test_a_word_in_a_file_that_is_no_kind_is_told_with_its_line(tmp_path: Path):
    jg.save(tmp_path / "cars", relabelled(feeder()))
    file = tmp_path / "cars" / "buffers.csv"
    file.write_text(file.read_text().replace("vehicle", "car"))
    with pytest.raises(ValueError, match=r"line 2, column 'kind': 'car' is none of buffer, batte"):
        jg.io.load_market(tmp_path / "cars")


def test_frames_show_kinds_by_words():
    pytest.importorskip("pandas")
    market = relabelled(feeder())
    table = jg.frames.buffers(market, jg.clear(market))
    assert set(table["kind"]) == {"vehicle"}
