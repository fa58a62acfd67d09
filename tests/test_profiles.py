"""Series on a market's steps: energy stays, times are right, what is wrong is told by its row."""

import contextlib
import datetime as dt
import io
import re
import sys
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import jaxgne as jg
from jaxgne.profiles import Profiles, series

BERLIN = "Europe/Berlin"
WINTER = jg.Clock("2025-01-06", BERLIN)


def table(values: Any, start: str = "2025-01-06", minutes: int = 15, **columns: Any) -> Any:
    """Rows from a start on, naive, in one column `a`, and more."""
    index = pd.date_range(start, periods=len(values), freq=f"{minutes}min")
    return pd.DataFrame({"a": np.asarray(values, float), **columns}, index=index)


def wall_clock(start: dt.datetime, minutes: int, count: int, zone: str = BERLIN) -> Any:
    """0, 1, 2, ... at what clocks in a zone show from a moment on, without pandas' time zones."""
    moments = [start + dt.timedelta(minutes=minutes * k) for k in range(count)]
    shown = [at.astimezone(zoneinfo.ZoneInfo(zone)).replace(tzinfo=None) for at in moments]
    return pd.Series(np.arange(float(count)), index=pd.DatetimeIndex(shown))


def test_a_longer_step_has_the_mean_of_its_intervals():
    """1, 2, 3, 4 kW for quarter hours are 2.5 kW for an hour; as kWh they are 10 kWh, 10 kW."""
    means: Any = {"kW": 2.5, "W": 0.0025, "MW": 2500, "kWh": 10, "MWh": 10_000}
    for unit, mean in means.items():
        found = series(table([1, 2, 3, 4]), unit=unit, zone=BERLIN, clock=WINTER, steps=1,
                       hour_length=1)  # fmt: skip
        np.testing.assert_allclose(found.values, [[mean]], rtol=1e-14)
        assert found.unit == "kW"
        np.testing.assert_allclose(found.energy(), [mean], rtol=1e-14)


def test_a_shorter_step_holds_what_its_interval_has():
    """To the last bit, where resolutions are equal as well."""
    given = table([0.1, 0.7], minutes=60)
    for length, repeat in ((1.0, 1), (0.25, 4), (1 / 3, 3)):
        found = series(given, unit="kW", zone="+01:00", clock=WINTER, steps=2 * repeat,
                       hour_length=length)  # fmt: skip
        assert found.values.tolist() == [[0.1] * repeat + [0.7] * repeat]


def test_steps_may_differ_in_length():
    """Half hours of 1, 2, 3, 4 kW: two quarters hold 1, then 2 for a half, then a mean."""
    lengths = [0.25, 0.25, 0.5, 1.0]
    found = series(table([1, 2, 3, 4], minutes=30), unit="kW", zone=BERLIN, clock=WINTER, steps=4,
                   hour_length=lengths)  # fmt: skip
    assert found.values.tolist() == [[1, 1, 2, 3.5]]
    assert found.energy()[0] == 0.5 * (1 + 2 + 3 + 4)


def test_prices_and_temperatures_come_in_the_units_of_a_market():
    factors: Any = {"EUR/MWh": 1e-3, "ct/kWh": 1e-2, "EUR/kWh": 1, "degC": 1}
    for unit, factor in factors.items():
        found = series(table([-50, 80]), unit=unit, zone=BERLIN)
        np.testing.assert_allclose(found.values, [[-50 * factor, 80 * factor]])
        with pytest.raises(ValueError, match="not in kW"):
            found.energy()


def test_stamps_may_end_intervals():
    """A meter's row of 00:15 is what was used since midnight."""
    given = table([1, 2, 3, 4], start="2025-01-06 00:15")
    found = series(given, unit="kW", zone=BERLIN, clock=WINTER, steps=4, hour_length=0.25,
                   stamps="end")  # fmt: skip
    assert found.values.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(("day", "hours"), [("2025-03-30", 23), ("2025-10-26", 25)])
def test_days_on_which_clocks_change_have_their_hours(day: str, hours: int):
    """Wall-clock times without offsets: row k is the k-th quarter hour that passes."""
    clock = jg.Clock(day, BERLIN)
    start = dt.datetime.fromtimestamp(int(clock.start) * 60, dt.UTC)
    rows = wall_clock(start - dt.timedelta(hours=5), 15, 200)
    found = series(rows, unit="kW", zone=BERLIN, clock=clock, steps=4 * hours, hour_length=0.25)
    assert found.values.tolist() == [list(range(20, 20 + 4 * hours))]
    assert clock.after(hours).isoformat()[11:16] == "00:00"
    in_utc = rows.copy()
    in_utc.index = pd.date_range(start - dt.timedelta(hours=5), periods=200, freq="15min")
    assert series(in_utc, unit="kW").values.tolist() == [list(range(200))]


@pytest.mark.parametrize("first", range(9))
def test_a_series_may_begin_in_an_hour_that_comes_twice(first: int):
    """From 00:00 UTC on clocks in Berlin show 2 o'clock twice; its second hour begins at 01:00."""
    start = dt.datetime(2025, 10, 26, tzinfo=dt.UTC) + dt.timedelta(minutes=15 * first)
    found = series(wall_clock(start, 15, 24), unit="kW", zone=BERLIN)
    assert int(found.clock.start) == start.timestamp() / 60
    if first >= 4:
        alone = wall_clock(dt.datetime(2025, 10, 26, 1, tzinfo=dt.UTC), 15, 4)
        with pytest.raises(ValueError, match=r"row 0 .*comes twice in Europe/Berlin, and nothing"):
            series(alone, unit="kW", zone=BERLIN)


def test_simbench_years_are_wall_clock_time():
    """A leap year of 35,136 rows whose stamps jump at row 8264 and go back at 29,096."""
    rows = wall_clock(dt.datetime(2015, 12, 31, 23, tzinfo=dt.UTC), 15, 35_136)
    passed = np.diff(rows.index.as_unit("s").asi8) / 900
    assert (np.flatnonzero(passed != 1) + 1).tolist() == [8264, 29_096]
    found = series(rows, unit="kW", zone=BERLIN)
    assert str(found.clock) == "2016-01-01 00:00 Europe/Berlin"
    assert np.array_equal(found.values[0], np.arange(35_136))
    week = series(rows, unit="kW", zone=BERLIN, clock=jg.Clock("2016-10-24", BERLIN), steps=672,
                  hour_length=0.25)  # fmt: skip
    assert week.values[0, 0] == (31 + 29 + 31 + 30 + 31 + 30 + 31 + 31 + 30 + 23) * 96 - 4
    with pytest.raises(ValueError, match=r"row 8264 .*03:00.* 75 min after .*01:45, others 15 min"):
        series(rows, unit="kW", zone="+01:00")


@pytest.mark.parametrize(
    ("zone", "minutes"),
    [
        ("Europe/Dublin", 60),
        ("America/Sao_Paulo", 60),
        ("Australia/Lord_Howe", 30),
        ("Africa/Casablanca", 15),
        ("Asia/Kolkata", 60),
        ("Europe/Berlin", 5),
    ],
)
def test_years_of_other_zones_are_read_as_they_passed(zone: str, minutes: int):
    """Summer time that is negative, changes at midnight, by half an hour, or pauses; 5 minutes."""
    rows = wall_clock(dt.datetime(2018, 1, 1, tzinfo=dt.UTC), minutes, 525_600 // minutes, zone)
    found = series(rows, unit="kW", zone=zone)
    assert int(found.clock.start) == dt.datetime(2018, 1, 1, tzinfo=dt.UTC).timestamp() / 60
    assert np.array_equal(found.values[0], rows.to_numpy())


def without(row: int, count: int = 20) -> Any:
    return table(np.arange(count)).drop(table(np.arange(count)).index[row])


def with_time(row: int, stamp: str) -> Any:
    """Twenty quarter hours of which one has another time."""
    given = table(np.arange(20))
    times = given.index.to_series()
    times.iloc[row] = pd.Timestamp(stamp)
    return given.set_index(pd.DatetimeIndex(times.to_numpy()))


def number(row: int, value: Any) -> Any:
    given = table(np.arange(20), b=1.0)
    given.iloc[row, 1] = value
    return given


AUTUMN = pd.date_range("2025-10-26 00:00", periods=20, freq="15min")  # standard time all day
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (without(7), {}, r"row 7 \(2025-01-06 02:00\) is 30 min after .*01:30, .*: 1 rows are missing"),
    (with_time(5, "2025-01-06 01:00"), {}, r"row 5 \(2025-01-06 01:00\) is there twice; keep one"),
    (with_time(5, "2025-01-05"), {}, r"row 5 .*comes after 2025-01-06 01:00; put the rows in"),
    (with_time(5, "2025-01-06 01:20"), {}, r"row 5 .* is 20 min after .*15 min: rows are uneven"),
    (with_time(5, "NaT"), {}, r"row 5 has no time"),
    (table([1, 2]), {"zone": None}, r"row 0 \(2025-01-06 00:00\) has no zone; give zone="),
    (table([1, 2]), {"zone": "Europe/Bärlin"}, r"zone 'Europe/Bärlin' is not known"),
    (table(range(20), start="2025-03-30"), {}, r"row 8 \(2025-03-30 02:00\) does not exist in"),
    (pd.Series(1.0, AUTUMN), {}, r"row 12 \(.*03:00\) is 75 min .*clocks of Europe/Berlin change"),
    (number(3, np.nan), {}, r"row 3 \(2025-01-06 00:45:00\), column 'b': no number; fill it in"),
    (number(3, -np.inf), {}, r"row 3 .*column 'b': -inf"),
    (table([1]), {}, "has 1 rows"),
    (table([1, 2], b=["x", "y"]), {}, r"row 0, column 'b': 'x' is no number"),
    (table([1, 2]), {"columns": ["c"]}, r"no column 'c'; give some of 'a'"),
    (table([1, 2]), {"unit": "kw"}, r"unit='kw': give one of W, kW"),
    (table([1, 2]), {"stamps": "middle"}, "stamps='middle'"),
    (table([1, 2]).reset_index(drop=True), {}, "no time index; give time="),
    (table([1, 2]).tz_localize("UTC"), {}, "know their offset; leave zone= out"),
    (table([1, 2], minutes=10), {"steps": 1, "hour_length": 0.25}, "cuts an interval of the"),
    (table([1, 2, 3], minutes=10), {"steps": 2, "hour_length": 0.25}, "00:00 to 2025-01-06 00:15 "),
    (table([1, 2]), {"steps": 3, "hour_length": 0.25}, "has 2025-01-06 00:00 to 2025-01-06 00:30"),
    (table([1, 2]), {"clock": jg.Clock("2025-01-05", BERLIN)}, "give a longer series"),
    (table([1, 2]), {"annual_kwh": 3000}, "the series is no whole year 2025"),
    (table([1, 2]), {"unit": "degC", "annual_kwh": 3000}, "not for degC"),
    ([1.0, 2.0], {}, "list is no series; give a file"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "options", "words"), WRONG)
def test_what_is_wrong_is_told_by_its_row(given: Any, options: dict[str, Any], words: str):
    """In one sentence, none of it filled in or shifted in silence."""
    with pytest.raises(ValueError, match=words) as told:
        series(given, **{"unit": "kW", "zone": BERLIN, **options})
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_a_csv_a_parquet_and_xarray_are_read_alike(tmp_path: Path):
    """Two columns of a day on which clocks change, to the last bit."""
    given = wall_clock(dt.datetime(2025, 10, 25, 22, tzinfo=dt.UTC), 15, 100).to_frame("a")
    given["b"] = np.random.default_rng(0).normal(size=100)
    given.index.name = "time"
    given.to_csv(tmp_path / "a.csv", sep=";")
    given.to_parquet(tmp_path / "a.parquet")
    aware = given.copy()
    aware.index = pd.date_range("2025-10-26", periods=100, freq="15min", tz=BERLIN)
    aware.to_csv(tmp_path / "offset.csv")
    array = xr.DataArray(
        given.to_numpy().T, {"meter": ["a", "b"], "time": given.index.to_numpy()}, ["meter", "time"]
    )
    naive: dict[str, Any] = {"zone": BERLIN, "unit": "kW"}
    found = [
        series(given, **naive),
        series(tmp_path / "a.csv", **naive),
        series(str(tmp_path / "a.parquet"), **naive),
        series(given.reset_index(), **naive),
        series(given.reset_index(), time="time", **naive),
        series(array, **naive),
        series(aware, unit="kW"),
        series(tmp_path / "offset.csv", unit="kW"),
    ]
    for each in found:
        assert np.array_equal(each.values, given.to_numpy().T) and each.names == ("a", "b")
        assert (
            int(each.clock.start) == dt.datetime(2025, 10, 25, 22, tzinfo=dt.UTC).timestamp() / 60
        )
    assert series(array.sel(meter="b"), **naive).values.tolist() == [given["b"].tolist()]
    assert series(given, columns=["b"], **naive).names == ("b",)
    with pytest.raises(ValueError, match="not a Dataset"):
        series(array.to_dataset(name="load"), **naive)
    with pytest.raises(ValueError, match="give a DataArray with one of times"):
        series(array.assign_coords(time=np.arange(100)), **naive)


LINES: list[tuple[str, dict[str, Any], str]] = [
    ("2025-01-06 00:00,1\n\n2025-01-06 00:30,2", {}, "line 3 has nothing as its time"),
    ("2025-01-06 00:00,1\n2025-01-06 00:15,", {}, "line 3 .*column 'load': no number"),
    ("2025-01-06 00:00,1\n2025-01-06 00:15,x", {}, "line 3, column 'load': 'x' is no number"),
    ("06.01.2025 00:00,1\n06.01.2025 00:15,2", {}, "line 2 has '06.01.2025 00:00' as its time"),
    ("2025-01-06T00:00Z,1\n2025-01-06T00:15,2", {}, "line 3 .*differ in having an offset"),
    ("2025-01-06 00:00,1\n2025-01-06 00:15,1\n2025-01-06 01:00,2", {}, "line 4 .* is 45 min"),
]


@pytest.mark.parametrize(("lines", "options", "words"), LINES)
def test_a_file_is_told_by_its_line(
    tmp_path: Path, lines: str, options: dict[str, Any], words: str
):
    path = tmp_path / "meter.csv"
    path.write_text(f"time,load\n{lines}\n")
    with pytest.raises(ValueError, match=f"^series: meter.csv, {words}"):
        series(path, unit="kW", zone=BERLIN, **options)


def test_a_german_file_is_read_by_its_form(tmp_path: Path):
    """A byte order mark, semicolons, 06.01.2025, and empty lines at the end."""
    path = tmp_path / "meter.csv"
    path.write_text("﻿Zeit;Last\n06.01.2025 00:00;1.5\n06.01.2025 00:15;2\n\n\n", "utf-8")
    found = series(path, unit="kW", zone=BERLIN, form="%d.%m.%Y %H:%M")
    assert found.values.tolist() == [[1.5, 2]] and found.names == ("Last",)
    with pytest.raises(ValueError, match="no \\.csv and no \\.parquet"):
        series(tmp_path / "meter.xls", unit="kW")


def test_a_year_is_made_the_energy_that_was_asked_for():
    """0.5 kW all year are 4380 kWh; 3000 and 0 of them are factors 3000/4380 and 0."""
    index = pd.date_range("2025-01-01", "2026-01-02", freq="1h", tz=BERLIN)
    given = pd.DataFrame({"a": 0.5, "b": 1.0}, index=index)
    clock = jg.Clock("2025-07-01", BERLIN)
    found = series(given, unit="kW", clock=clock, steps=24, annual_kwh=[3000, 0])
    np.testing.assert_allclose(found.factor, [3000 / 4380, 0], rtol=1e-12)
    np.testing.assert_allclose(found.values[0], 3000 / 8760, rtol=1e-12)
    assert "times 0.684932" in str(found)
    with pytest.raises(ValueError, match=r"row 0 .* has 0 kWh in 2025, which no factor"):
        series(0 * given, unit="kW", clock=clock, steps=24, annual_kwh=3000)


def test_profiles_go_where_arrays_go():
    """As the load of prosumers, by rows chosen by name or number."""
    found = series(table([1, 2, 3, 4], b=[5.0, 6, 7, 8]), unit="kW", zone=BERLIN)
    taken = found.take(["b", 0, "b"])
    assert taken.names == ("b", "a", "b") and taken.values[:, 0].tolist() == [5, 1, 5]
    people = jg.Prosumers([1, 1, 2], taken)
    assert np.array_equal(people.load, taken.values)
    with pytest.raises(ValueError, match="there is no row 'c'; give a name, such as 'a'"):
        found.take(["c"])
    assert isinstance(found, Profiles) and str(found).count("\n") == 3


def test_the_page_prints_what_it_says():
    """Every comment behind a print on the page of profiles."""
    page = (Path(__file__).parent.parent / "docs" / "profiles.md").read_text("utf-8")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
            exec(compile(block, "profiles.md", "exec"), names)
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", page, re.M)
    assert printed.getvalue().splitlines() == promised and len(promised) >= 6


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_missing_library_is_named_with_its_extra(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table([1, 2]).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, library, None)
    extra = {"pandas": "tables", "pyarrow": "profiles"}[library]
    words = re.escape(f"series: this needs {library}; pip install 'jaxgne[{extra}]'.")
    with pytest.raises(ImportError, match=words):
        series(tmp_path / "a.parquet", unit="kW", zone=BERLIN)
