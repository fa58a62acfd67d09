"""How well, how large and how fast do nets of other programs come in, and when is a bill there?

    python benchmarks/imports.py
    python benchmarks/imports.py --questions nets --folder cases/    # MATPOWER .m, OpenDSS .dss
    python benchmarks/imports.py --questions install                 # makes an environment, MINUTES

`nets`: those that come with pandapower and SimBench, and the files of a folder, each beside an
outside power flow (pandapower's Newton, of MATPOWER's cases through its reader of PYPOWER's
dictionaries; OpenDSS' own solution): the largest difference of a voltage, losses, seconds to import
and seconds from there to the bills of the net's own customers. `large`: a made-up feeder of 10,000
buses. `install`: from `pip install` to the bills of a SimBench net, by stages. Writes
results/imports.jsonl and results/imports.md. Seconds are of the processor (`cpu`) and of the clock.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import record

import jaxgne as jg
from jaxgne import acflow
from jaxgne.io import matlab, read_case
from jaxgne.runner import by_numpy, to_host

_SMALL = 200_000  # bytes of a case file: no radial one has more
ROOT = Path(__file__).parent.parent
RADIAL = [
    "create_cigre_network_lv", "create_cigre_network_mv", "create_kerber_landnetz_freileitung_1",
    "create_kerber_landnetz_freileitung_2", "create_kerber_landnetz_kabel_1",
    "create_kerber_landnetz_kabel_2", "create_kerber_dorfnetz",
    "create_kerber_vorstadtnetz_kabel_1", "create_kerber_vorstadtnetz_kabel_2",
    "case33bw", "mv_oberrhein", "create_dickert_lv_network", "ieee_european_lv_asymmetric",
    "panda_four_load_branch", "four_loads_with_branches_out", "simple_four_bus_system",
    "simple_mv_open_ring_net",
]  # fmt: skip
MESHED = [
    "create_cigre_network_hv", "example_simple", "case4gs", "case5", "case6ww", "case9", "case14",
    "case24_ieee_rts", "case30", "case_ieee30", "case39", "case57", "case118",
]  # fmt: skip
SIMBENCH = [
    *(f"1-LV-{kind}--0-sw" for kind in ("rural1", "rural2", "rural3", "semiurb4", "semiurb5")),
    "1-LV-urban6--0-sw", "1-LV-semiurb4--1-sw", "1-LV-rural1--2-sw", "1-MV-rural--0-sw",
    "1-MV-semiurb--0-sw", "1-MV-urban--0-sw", "1-MV-comm--0-sw", "1-MVLV-rural-all-0-sw",
]  # fmt: skip
DAY = "2016-01-20"
STAGES = f"""
import time
begun = time.perf_counter()
import jax
jax.config.update("jax_enable_x64", True)
import jaxgne as jg
imported = time.perf_counter()
import simbench
net = simbench.get_simbench_net("1-LV-rural1--0-sw")
theirs = time.perf_counter()
market, report = jg.from_simbench(net, "{DAY}")
read = time.perf_counter()
bills = jg.settle(market, jg.clear(market))
assert float(bills.prosumers.sum()) > 0
done = time.perf_counter()
print(imported - begun, theirs - imported, read - theirs, done - read)
"""


def main() -> None:
    """The questions that are asked."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    asked.add_argument("--questions", nargs="+", default=["nets", "large"])
    asked.add_argument("--folder", type=Path, help="of MATPOWER's .m and OpenDSS' .dss files")
    asked.add_argument("--sources", nargs="+", default=["pandapower", "simbench", "folder"])
    asked.add_argument("--most", type=int, default=200, help="customers of which bills are wanted")
    given = asked.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    if "nets" in given.questions:
        for name, source, model, load in nets(given.folder):
            if (source if source in ("pandapower", "simbench") else "folder") in given.sources:
                net(name, source, model, load, given.most)
    if "large" in given.questions:
        large()
    if "install" in given.questions:
        install()
    table()


def nets(folder: Path | None) -> Iterator[tuple[str, str, Any, Callable[[], Any]]]:
    """Names, where they are from, the grid model they take, and how to get each."""
    import pandapower.networks as networks
    import simbench

    made: Any = networks
    for name in (*RADIAL, *MESHED):
        model = "lindistflow" if name in RADIAL else "paper"
        yield name, "pandapower", model, getattr(made, name)
    for code in SIMBENCH:
        yield code, "simbench", "lindistflow", lambda code=code: simbench.get_simbench_net(code)
    for path in sorted(folder.rglob("*")) if folder else []:
        if path.suffix == ".m" and _radial(path):
            yield path.stem, "MATPOWER", "lindistflow", lambda path=path: path
        if path.suffix.lower() == ".dss" and _circuit(path):
            name = f"{path.parent.name} {path.stem}"
            yield name, "OpenDSS", "lindistflow", lambda path=path: path


def _circuit(path: Path) -> bool:
    """Whether a script begins a circuit, rather than being a part of one."""
    return bool(re.search(r"(?im)^\s*new\s+(object=)?circuit\.", path.read_text(errors="replace")))


def _radial(path: Path) -> bool:
    """Whether it is a case without loops that is read at all."""
    if path.stat().st_size > _SMALL:
        return False
    try:
        jg.from_matpower(path)
    except ValueError:
        return False
    return True


def net(name: str, source: str, model: Any, load: Callable[[], Any], most: int) -> None:
    """One line about a net; what failed says so."""
    facts: dict[str, Any] = {"question": "nets", "net": name, "source": source, "model": model}
    try:
        got = load()
        got = got[0] if isinstance(got, tuple) else got
        (grid, report), facts["import_s"], facts["import_cpu_s"] = timed(
            lambda: _import(got, source, model)
        )
        facts |= {"buses": len(report.bus), "kept": len(report.nominal)}
        facts |= {"lines": len(grid.source), "load_kw": float(report.totals["load"].before)}
        facts |= beside(grid, report, *truth(got, source))
        if model == "lindistflow" and source != "OpenDSS":
            facts |= answer(got, source, most)
    except Exception as error:  # whatever a net trips over is what is asked
        facts["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    record.write("imports", **facts)


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """A result, the seconds it took, and those of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _import(got: Any, source: str, model: Any) -> Any:
    if source == "MATPOWER":
        return jg.from_matpower(got, model=model)
    if source == "OpenDSS":
        return jg.from_opendss(got, model=model)
    return jg.from_pandapower(got, model=model, taps="pandapower")


def truth(got: Any, source: str) -> tuple[np.ndarray | None, float]:
    """Voltages of the source's buses, pu, and losses, kW, by an outside power flow."""
    import pandapower

    if source == "OpenDSS":
        return None, np.nan
    if source == "MATPOWER":
        from pandapower.converter.pypower.from_ppc import from_ppc

        got = from_ppc(tables_of(got), f_hz=50)
    try:
        pandapower.runpp(got, tolerance_mva=1e-10, numba=False)
    except pandapower.LoadflowNotConverged:  # from the state of direct current; from 1 pu it may
        options: Any = {"init": "flat", "max_iteration": 100}
        pandapower.runpp(got, tolerance_mva=1e-9, numba=False, **options)
    tables = [got[f"res_{kind}"].pl_mw.sum() for kind in ("line", "trafo", "trafo3w", "impedance")]
    return got.res_bus.vm_pu.to_numpy(), 1e3 * float(sum(tables))


def tables_of(path: Path) -> dict[str, Any]:
    """What a MATPOWER case is after its statements, as PYPOWER has it."""
    names = ("baseMVA", "bus", "gen", "branch")
    space = matlab.read(path.read_text(encoding="utf-8", errors="replace"), names)
    prefix = f"{space.struct}." if space.struct else ""
    found = {name: np.array(space.values[prefix + name], float) for name in names}
    return found | {"baseMVA": float(found["baseMVA"].flat[0]), "version": "2"}


def beside(grid: jg.Grid, report: Any, volts: Any, losses: float) -> dict[str, Any]:
    """How far the AC power flow of the imported grid is from the outside one."""
    with by_numpy():
        host = to_host(grid)
        found = acflow.flow(host, host.passive.astype(float), host.passive_reactive.astype(float))
    told = {"losses_outside_kw": None if np.isnan(losses) else losses}
    told["losses_kw"] = float(np.sum(found.losses)) + float(report.constant.real.sum())
    if volts is None:
        notes = {note.code: note.number for note in report.notes}
        return told | {"error_pu": notes.get("state.solved"), "lowest_pu": notes["state.voltage"]}
    kept = (report.bus[: len(volts)] >= 0) & np.isfinite(volts)
    ours = np.asarray(found.voltage)[report.bus[: len(volts)][kept], 0]
    told["error_pu"] = float(np.max(np.abs(ours - volts[kept])))
    return told | {"lowest_pu": float(volts[kept].min())}


def answer(got: Any, source: str, most: int) -> dict[str, Any]:
    """Seconds from the net to the bills of its own customers, in one step or on a SimBench day."""
    import pandapower

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.json"
        if source == "MATPOWER":
            path = got
        elif source == "pandapower":
            pandapower.to_json(got, str(path))
        if source == "simbench":
            if len(got.load) > most:
                return {"customers": len(got.load)}
            (market, _), read, cpu = timed(lambda: jg.from_simbench(got, DAY))
        else:
            (market, _), read, cpu = timed(lambda: read_case(path))
    count, steps = market.prosumers.load.shape
    if count > most:
        return {"customers": count}
    clearing, wall, spent = timed(lambda: jg.clear(market, throw=False))
    done = {"customers": count, "steps": steps, "market_s": read, "market_cpu_s": cpu}
    done |= {"clear_s": wall, "clear_cpu_s": spent}
    return done | {"status": jg.status.status_name(clearing.status)}


def large(rows: int = 10_000) -> None:
    """A made-up feeder of a size that no net here has."""
    import pandapower

    pp: Any = pandapower
    made = pp.create_empty_network()
    bus = pp.create_buses(made, rows, 0.4)
    pp.create_ext_grid(made, bus[0])
    rng = np.random.default_rng(0)
    ends = np.maximum(0, np.arange(1, rows) - rng.integers(1, rows // 20, rows - 1))
    pp.create_lines_from_parameters(
        made, bus[ends], bus[1:], 1e-3, r_ohm_per_km=0.2, x_ohm_per_km=0.08, c_nf_per_km=200,
        max_i_ka=0.27,
    )  # fmt: skip
    pp.create_loads(made, bus[1:], 1e-5, 1e-6)
    (grid, report), wall, cpu = timed(lambda: jg.from_pandapower(made))
    facts = {"net": f"made up, {rows} buses", "source": "pandapower", "model": "lindistflow"}
    facts |= beside(grid, report, *truth(made, "pandapower"))
    facts |= {"buses": rows, "kept": len(report.nominal), "lines": rows - 1}
    record.write("imports", question="large", import_s=wall, import_cpu_s=cpu, **facts)


def install() -> None:
    """From nothing to the bills of a SimBench net: the environment, pip, and what follows."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        words = [str(python), "-m", "pip", "install", "-q", f"{ROOT}[simbench]"]
        subprocess.run(words, check=True)
        installed = time.perf_counter()
        spent = subprocess.run(
            [str(python), "-c", STAGES], check=True, capture_output=True, text=True, cwd=folder
        ).stdout.split()
        total = time.perf_counter() - begun
    names = ("import_jaxgne_s", "their_net_s", "market_s", "bills_s")
    stages = dict(zip(names, map(float, spent), strict=True))
    ours = stages["import_jaxgne_s"] + stages["market_s"] + stages["bills_s"]
    record.write(
        "imports", question="install", net="1-LV-rural1--0-sw", pip_s=installed - begun,
        **stages, ours_s=ours, total_s=total,
    )  # fmt: skip


def table() -> None:
    """results/imports.md: the latest line of each net, largest errors named at the end."""
    lines = (record.RESULTS / "imports.jsonl").read_text().splitlines()
    last = {(one["question"], one.get("source"), one["net"]): one for one in map(json.loads, lines)}
    heads = ["net", "from", "buses -> kept", "error, pu", "lowest, pu", "losses outside, ours, kW"]
    heads += ["import, s (CPU)", "customers", "market and bills, s (CPU)"]
    text = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (question, _, name), one in last.items():
        if question == "install":
            continue
        if "failed" in one:
            text.append(f"| {name} | {one['source']} | {one['failed']} |" + " |" * (len(heads) - 3))
            continue
        kind = one["source"] + (", meshed" if one["model"] == "paper" else "")
        losses = [one.get("losses_outside_kw"), one["losses_kw"]]
        bills = f"{one['market_cpu_s'] + one['clear_cpu_s']:.2f}" if "clear_s" in one else ""
        cells = [
            name, kind, f"{one['buses']} -> {one['kept']}", _short(one["error_pu"]),
            f"{one['lowest_pu']:.4f}", ", ".join(_short(value) for value in losses),
            f"{one['import_cpu_s']:.2f}", str(one.get("customers", "")),
            bills + ("" if one.get("status") in (None, "cleared") else f" ({one['status']})"),
        ]  # fmt: skip
        text.append(f"| {' | '.join(cells)} |")
    for (question, _, name), one in last.items():
        if question == "install":
            text += ["", _told(name, one)]
    (record.RESULTS / "imports.md").write_text("\n".join(text) + "\n")


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if abs(value) < 0.1 else f"{value:,.2f}"


def _told(name: str, one: dict[str, Any]) -> str:
    return (
        f"From `pip install` to the bills of {name}: {one['total_s']:.0f} s, of which pip "
        f"{one['pip_s']:.0f}, SimBench's own reading {one['their_net_s']:.0f}, and ours "
        f"{one['ours_s']:.1f} (import {one['import_jaxgne_s']:.1f}, market {one['market_s']:.1f}, "
        f"clearing and bills {one['bills_s']:.1f})."
    )


if __name__ == "__main__":
    sys.exit(main())
