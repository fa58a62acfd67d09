"""Caps in folders: they come back bit by bit, may be edited, and take no table without any."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxgne as jg
from tests.capped import capped_market
from tests.folders import feeder, replace, same, unfinished


def test_a_market_with_caps_and_its_clearing_come_back(tmp_path: Path):
    """All tables, names, units and owners; level, rise, spare and prices of the clearing."""
    market = capped_market()
    found = jg.clear(market)
    jg.save(tmp_path / "day", market, found)
    again, answer = jg.load(tmp_path / "day")
    assert same(market, again) and same(found, answer)
    assert again.caps.names[0] == "carbon" and again.caps.units[0] == "kg"
    assert again.caps.owner.tolist()[:4] == [-1, 1, -1, 2]


def test_without_caps_nothing_of_them_is_written(tmp_path: Path):
    """A folder then has no table of theirs."""
    market = feeder(caps=False)
    jg.save(tmp_path / "day", market, unfinished(market, jg.Status.cleared))
    assert not [
        path for path in (tmp_path / "day").rglob("*.csv") if path.name[:3] in ("cap", "ter")
    ]
    head = json.loads((tmp_path / "day" / "market.json").read_text())
    assert not {"cap", "term"} & head["rows"].keys()
    assert same(market, jg.load(tmp_path / "day")[0])


def test_a_cap_without_terms_is_a_folder_too(tmp_path: Path):
    market = jg.capped(feeder(caps=False), jg.Caps([4.0], hours=2, names=["empty"], units=["kg"]))
    jg.save(tmp_path / "day", market)
    assert same(market, jg.load(tmp_path / "day")[0])


def test_caps_may_be_edited(tmp_path: Path):
    """A limit in its table; names and units left out as a whole."""
    market = feeder()
    jg.save(tmp_path / "day", market)
    replace("cap_hours.csv", "1,1,-inf,9.0", "1,1,-inf,7.5")(tmp_path / "day")
    path = tmp_path / "day" / "caps.csv"
    path.write_text("\n".join(",".join(line.split(",")[:7]) for line in BARE) + "\n")
    caps = jg.load(tmp_path / "day")[0].caps
    assert float(caps.level_max[1, 1]) == 7.5
    assert caps.names == ("cap 0", "cap 1") and caps.units == ("", "")
    assert caps.owner.tolist() == [2, -1] and np.isinf(caps.slack[0])


BARE = [
    "cap,start,carry,slack,price_eur,adds,owner",
    "0,0.0,1.0,inf,0.3,0,2",
    "1,0.0,0.0,0.0,0.0,1,-1",
]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("caps.csv", "1,-1,Straße", "1,-2,Straße", "column 'owner': '-2' is no row number"),
        ("caps.csv", "1,-1,Straße", "-1,-1,Straße", "column 'adds': '-1' is no row number"),
        ("terms.csv", "2,1,4,0", "2,1,4,-1", "column 'row': '-1' is no row number"),
        ("terms.csv", "2,1,4,0\n", "", "term"),
        ("market.json", '"cap": 2,', '"cap": 1,', "cap"),
        ("market.json", '"cap": 2,', "", "there are 0"),
        (
            "market.json",
            '"bus": 3,',
            "",
            "must hold exactly prosumer, .*cap, coupling, site, term, terminal, zone where there",
        ),
    ],
)
def test_broken_caps_are_refused(tmp_path: Path, file: str, old: str, new: str, words: str):
    jg.save(tmp_path / "day", feeder())
    replace(file, old, new)(tmp_path / "day")
    with pytest.raises(ValueError, match=words):
        jg.load(tmp_path / "day")
