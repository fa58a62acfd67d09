"""Markets from SimBench: its nets, customers and yearly profiles on a true clock.

The data come with the package `simbench`; nothing is downloaded. docs/imports.md says what is read
how.
"""

import datetime as dt
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from ..acflow import MOST_LOOPS, flow
from ..clock import Clock
from ..grids import GridModel
from ..market import Grid, Market, Tariff, Trading
from ..profiles import series
from ..radial import loops
from ..runner import by_numpy, to_host
from .notes import ImportReport, Notebook, Total
from .pandapower import from_pandapower
from .pandapower_branches import Taps
from .pandapower_tables import column, labels

_ZONE = "Europe/Berlin"  # whose clocks the time stamps are read off
_FORM = "%d.%m.%Y %H:%M"
BASE, EXPORT = 0.30, 0.08  # EUR/kWh, where no tariff is given
_PROFILES = ("load", "renewables", "powerplants")  # tables; that of storages is not read
_SUFFIX = {("load", "p_mw"): "_pload", ("load", "q_mvar"): "_qload", ("sgen", "p_mw"): ""}
_DEVICES = ("Air", "Soil", "HLS", "APLS")  # how profiles of heat pumps and of charging begin
_ROUNDS = 2  # of power flows; each leaves a thousandth of the error of the one before

Powers = dict[tuple[str, str], Any]  # MW or Mvar by step, a column for each row of a table


def from_simbench(
    code: Any,
    day: Any = None,
    *,
    days: int = 1,
    case: str | None = None,
    hour_length: float = 0.25,
    tariff: Tariff | None = None,
    trading: Trading | None = None,
    toll: float = 0.01,
    connection_max: Any = None,
    model: GridModel = "lindistflow",
    taps: Taps = "pandapower",
    data: str | None = None,
) -> tuple[Market, ImportReport]:
    """The market of a SimBench net's customers on one of its days, or in a study case; a report.

    `code` is a SimBench code, or the pandapower net that `simbench.get_simbench_net` makes of it,
    with its profiles. `day` is a local date of 2016, `days` how many from there on: steps of
    `hour_length` h from midnight to midnight, so that the days on which clocks change have 92 and
    100 quarter hours. Or `case` is a study case ("hL", "n1", "hPV", "hW", "lPV", "lW"): one step
    of an hour with its factors of load and generation and its voltage of the main grid.

        market, report = jg.from_simbench("1-LV-semiurb4--1-sw", "2016-01-20")

    Who is a customer, and owns what, is as in `from_pandapower`. Storages are batteries of their
    energy and power, their profiles are not read. `tariff` is by default 0.30 EUR/kWh, and 0.08
    for exports; `trading` that of all with all for a `toll` in EUR/kWh to each side;
    `connection_max` as there. No transformer
    of SimBench has a type of tap, so `runpp` counts none: `taps` as there. `data` is the folder of
    CSV tables to read in place of the package's own.

    Raises `ValueError` for a day that the profiles do not have, a case that there is not, both or
    none of them, rows whose profile is missing, and whatever `from_pandapower` refuses.
    """
    if (day is None) == (case is None):
        raise ValueError('from_simbench: give day="2016-01-20", or a study case such as case="hL".')
    name = code if isinstance(code, str) else getattr(code, "name", None) or "a net"
    net = copy(_read(code, data) if isinstance(code, str) else code)
    notes = Notebook()
    if case is None:
        clock, steps = _steps(day, days, hour_length)
        powers = _profiles(net, clock, steps, hour_length, notes)
        told = f"{clock}, {steps} steps of {hour_length:g} h"
    else:
        clock, steps, hour_length = None, 1, 1.0
        powers = _case(net, case, notes)
        told = f"study case {case}"
    _to_means(net, powers)
    _say_devices(net, notes)
    if tariff is None:
        tariff = Tariff(0.0, hours=steps, base=BASE, export=EXPORT)
        notes.add("tariff.default", number=BASE)
    market, report = from_pandapower(
        net, tariff=tariff, profiles=powers, hours=steps, toll=toll if trading is None else None,
        clock=clock, hour_length=hour_length, model=model, taps=taps,
        connection_max=connection_max,
    )  # fmt: skip
    totals = {k: v for k, v in report.totals.items() if not k.startswith("customers'")}
    trading = market.trading if trading is None else trading
    market = replace(market, grid=_by_step(market, report), trading=trading)
    return market, replace(
        report,
        source=f"SimBench {name}, {told}",
        notes=(*notes.notes, *report.notes),
        totals={**totals, **_energies(net, market, powers, hour_length)},
    )


def _read(code: str, data: str | None) -> Any:
    try:
        import simbench  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "from_simbench: the data come with simbench: pip install 'jaxgne[simbench]'."
        ) from None
    where: Any = data  # None is allowed, and means the package's own
    return simbench.get_simbench_net(code, input_path=where)


def _steps(day: Any, days: int, hour_length: float) -> tuple[Clock, int]:
    """The clock of local midnight, and how many steps there are to that `days` later."""
    date = dt.date.fromisoformat(str(day)[:10])
    first, last = (
        Clock(dt.datetime.combine(date + dt.timedelta(days=k), dt.time()), _ZONE) for k in (0, days)
    )
    steps = (int(last.start) - int(first.start)) / 60 / hour_length
    if days < 1 or steps < 1 or steps % 1:
        raise ValueError(
            f"from_simbench: {days} days are {steps:g} steps of {hour_length:g} h; give at least "
            "one day, and a length that divides it."
        )
    return first, int(steps)


def _profiles(net: Any, clock: Clock, steps: int, hour_length: float, notes: Notebook) -> Powers:
    """MW and Mvar of loads and generation, as `from_pandapower` takes them."""
    import pandas

    named = {key: _named(net, *key, suffix) for key, suffix in _SUFFIX.items()}
    year = _year(net, {name for each in named.values() for name in each})
    powers: dict[str, Any] = {}
    if len(year.columns) > 1:
        found = series(
            year, unit="1", zone=_ZONE, clock=clock, steps=steps, hour_length=hour_length,
            time="time", form=_FORM,
        )  # fmt: skip
        powers = dict(zip(found.names, found.values, strict=True))
    made = {}
    for (kind, name), of in named.items():
        shares = [powers[profile] for profile in of]
        share = np.array(shares).reshape(len(of), steps).T
        made[kind, name] = pandas.DataFrame(share * net[kind].loc[of.index, name].to_numpy())
        made[kind, name].columns = of.index
    for kind in ("load", "sgen", "gen"):
        bare = ~net[kind].index.isin(named[kind, "p_mw"].index if kind != "gen" else [])
        told, _ = labels(net[kind], kind)
        kw = 1e3 * column(net[kind], "p_mw", 0)[bare].sum()
        notes.some("profile.none", [told[k] for k in np.flatnonzero(bare).tolist()], kw)
    _say_peaks(year, notes)
    return made


def _named(net: Any, kind: str, name: str, suffix: str) -> Any:
    """The column of profiles that each row follows, of rows that follow any."""
    table = net[kind]
    wanted = table.profile.dropna() + suffix if "profile" in table else table[name].iloc[:0]
    known = {each for frame in net.profiles.values() for each in frame}
    lost = wanted.index[~wanted.isin(known)]
    if len(lost):
        raise ValueError(
            f"from_simbench: {kind} {lost[0]} has the profile {wanted[lost[0]]!r}, which "
            "net.profiles has not; give it one of these, or none."
        )
    return wanted


def _year(net: Any, wanted: set[str]) -> Any:
    """Times as the net has them, and the profiles that are wanted."""
    import pandas

    frames = [net.profiles[table] for table in _PROFILES if table in net.profiles]
    used = [frame for frame in frames if wanted & set(frame)]
    parts = [frame[[name for name in frame if name in wanted]] for frame in used]
    if any(not frame.time.equals(used[0].time) for frame in used):
        raise ValueError("from_simbench: tables of profiles differ in time; give them one.")
    time = [used[0].time] if used else [pandas.Series(name="time", dtype=object)]
    return pandas.concat([*time, *parts], axis=1)


def _say_peaks(year: Any, notes: Notebook) -> None:
    """What share of their rated power photovoltaics reach: a buyer of kWp expects more."""
    names = [name for name in year if name.startswith("PV")]
    if names:
        notes.add("profile.peak", names, float(year[names].to_numpy().max()))


def _case(net: Any, case: str, notes: Notebook) -> Powers:
    """Powers of a study case, and its voltage of the main grid in the net."""
    import pandas

    if case not in net.loadcases.index:
        known = ", ".join(map(str, net.loadcases.index))
        raise ValueError(f"from_simbench: there is no study case {case!r}; there are {known}.")
    factors = net.loadcases.loc[case]
    net.ext_grid = net.ext_grid.assign(vm_pu=float(factors.Slack_vm))
    kind = net.sgen.type.astype(str)
    wind, sun = kind.str.contains("Wind|WP"), kind.str.contains("PV")
    share = np.select([wind, sun], [factors.Wind_p, factors.PV_p], factors.RES_p)
    powers = {
        ("load", "p_mw"): factors.pload * net.load.p_mw,
        ("load", "q_mvar"): factors.qload * net.load.q_mvar,
        ("sgen", "p_mw"): share * net.sgen.p_mw,
    }
    return {
        key: pandas.DataFrame([power.to_numpy()], columns=power.index)
        for key, power in powers.items()
    }


def _say_devices(net: Any, notes: Notebook) -> None:
    """Loads that are a device of a household, and what of storages is not read."""
    told, _ = labels(net.load, "load")
    if "profile" in net.load:
        fixed = net.load.profile.astype(str).str.startswith(_DEVICES).to_numpy()
        kw = 1e3 * column(net.load, "p_mw", 0)[fixed].sum()
        notes.some("customer.device", [told[k] for k in np.flatnonzero(fixed).tolist()], kw)
    told, _ = labels(net.storage, "storage")
    notes.some("storage.profile", told)
    lost = column(net.storage, "self-discharge_percent_per_day", 0)
    notes.some(
        "storage.leak", [told[k] for k in np.flatnonzero(lost).tolist()], lost.max(initial=0)
    )


def _to_means(net: Any, powers: Powers) -> None:
    """The net in the state of the mean of all steps, its storages at rest."""
    for kind in ("load", "sgen", "storage"):
        net[kind] = net[kind].copy()
    for (kind, name), frame in powers.items():
        if len(frame.columns):
            net[kind].loc[frame.columns, name] = frame.mean().to_numpy()
    net.storage["p_mw"] = 0.0


def _by_step(market: Market, report: ImportReport) -> Grid:
    """The grid whose shunts and iron draw in each step what they do at that step's voltages.

    Storages at rest. Both go with the square of the voltage, so a few power flows find them.
    """
    grid = market.grid
    if report.count("state.none") or loops(grid) > MOST_LOOPS:
        return grid
    constant = report.constant[:, None]
    with by_numpy():
        host, people = to_host((grid, market.prosumers))
        passive = host.passive + 1j * host.passive_reactive.astype(float)
        power = passive.copy()
        np.add.at(power, people.bus, people.load + 1j * people.reactive)
        more: Any = np.zeros_like(power)  # than in the mean state
        for _ in range(_ROUNDS):
            found = flow(host, (power + more).real, (power + more).imag)
            if not np.all(found.ok):
                return grid
            squares = np.asarray(found.voltage) ** 2 / np.abs(report.state[:, None]) ** 2
            more = constant * (squares - 1)
    passive, kept = passive + more, grid.passive.dtype
    return replace(
        grid, passive=passive.real.astype(kept), passive_reactive=passive.imag.astype(kept)
    )


def _energies(net: Any, market: Market, powers: Powers, hour_length: float) -> dict[str, Total]:
    """kWh of all steps, in the source's rows that are in service and in the market's."""
    people, grid = to_host((market.prosumers, market.grid))
    made = people.curtail_max.sum()
    load = people.load.sum() + made
    told = {kind: hour_length * _drawn(net, kind, powers) for kind in ("load", "sgen", "gen")}
    return {
        "energy of load": Total(told["load"], hour_length * float(load), "kWh"),
        "energy of generation": Total(told["sgen"] + told["gen"], hour_length * float(made), "kWh"),
        "energy, passive": Total(0.0, hour_length * float(grid.passive.sum()), "kWh"),
    }


def _drawn(net: Any, kind: str, powers: Powers) -> float:
    """kW of all rows in service, summed over steps."""
    table, frame = net[kind], powers["load", "p_mw"]
    factor = 1e3 * column(table, "scaling", 1) * (column(table, "in_service") == 1)
    factor = factor * (column(table, "slack", 0) != 1)
    return float(len(frame) * (factor * column(table, "p_mw", 0)).sum())
