"""Three-phase reference feeders with the answers of OpenDSS, kept outside the project.

They lie in `data/phases` beside the folder that `JAXGNE_GOLDEN` names, one folder of tables a case:
ohms of whole lines, kW and kvar drawn, fixed taps as ratios, volts per unit of `kv_ln`.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.phases import by_phase
from tests.golden import VARIABLE
from tests.phased import PAIRS, TURN

LOOP = np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]])  # ab, bc, ca of a, b, c


def folder() -> Path:
    return Path(os.environ.get(VARIABLE, "")).resolve().parent / "data" / "phases"


needs_cases = pytest.mark.skipif(
    VARIABLE not in os.environ or not folder().is_dir(),
    reason=f"no data/phases beside the folder that {VARIABLE} names",
)


@dataclass
class Case:
    """The tables of a feeder, bus by bus; the branch of a bus is the one that leads to it."""

    names: list[str]
    kv: Any  # (S,) line to neutral
    phases: np.ndarray  # (S, 3)
    parent: np.ndarray  # (S,)
    branch: list[str]
    z: Any  # (S, 3, 3) ohm
    ratio: np.ndarray  # (S, 3) voltage of the bus over that of its parent
    source: Any  # (3,) complex pu
    wye: Any  # (S, 3) kVA drawn, those of capacitors included
    delta: Any  # (S, 3) kVA drawn between ab, bc, ca
    volts: Any  # (S, 3) complex pu, as OpenDSS has them
    ampere: Any  # (S, 3) at the source's end of the branch
    power: Any  # (S, 3) kVA into the branch there
    losses: float  # kW

    @property
    def pu(self) -> Any:
        return self.z / (1000 * self.kv[:, None, None] ** 2)

    def grid(self, source: np.ndarray | None = None) -> jg.Grid:
        """In phases, one hour; delta loads stand between two."""
        spans = [(int(bus), PAIRS[k]) for bus, k in np.argwhere(self.delta)]
        between = self.delta[self.delta != 0]
        return by_phase(
            self.phases, self.parent[1:], np.arange(1, len(self.kv)), self.pu[1:].real,
            self.pu[1:].imag, hours=1, passive=self.wye.real, passive_reactive=self.wye.imag,
            spans=spans, span_passive=between.real, span_reactive=between.imag,
            tap=1 / self.ratio[1:], names=self.names, line_names=self.branch[1:],
            feeder_voltage=np.abs(self.source) if source is None else source,
        )  # fmt: skip

    def pairs(self) -> jg.Grid:
        """A feeder without a neutral, in pairs ab, bc, ca, on which its delta loads stand."""
        z = LOOP @ self.pu[1:] @ LOOP.T / 3
        return by_phase(
            self.phases, self.parent[1:], np.arange(1, len(self.kv)), z.real, z.imag, hours=1,
            passive=self.delta.real, passive_reactive=self.delta.imag, names=self.names,
            feeder_voltage=np.abs(LOOP @ self.source) / np.sqrt(3),
        )  # fmt: skip


def names() -> list[str]:
    if VARIABLE not in os.environ or not folder().is_dir():
        return []
    return sorted(path.parent.name for path in folder().glob("*/source.csv"))


def _table(case: str, name: str) -> list[dict[str, str]]:
    path = folder() / case / f"{name}.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def _three(row: dict[str, str], name: str, empty: float = 0.0) -> list[float]:
    return [float(row[name.format(p)] or empty) for p in "abc"]


def load(case: str) -> Case:
    buses = _table(case, "buses")
    at = {row["bus"]: k for k, row in enumerate(buses)}
    size = len(buses)
    parent, branch = np.full(size, -1), [""] * size
    z, ratio = np.zeros((size, 3, 3), complex), np.ones((size, 3))
    for table in ("lines", "regulators", "transformers"):
        for row in _table(case, table):
            to = at[row["to"]]
            parent[to], branch[to] = at[row["from"]], row["name"]
            if table == "regulators":
                ratio[to] = _three(row, "ratio_{}", 1.0)
            elif table == "transformers":
                z[to] = np.eye(3) * complex(float(row["r_ohm_to"]), float(row["x_ohm_to"]))
            else:
                for i in range(3):
                    for j in range(i, 3):
                        pair = "abc"[i] + "abc"[j]
                        ohm = complex(float(row["r_" + pair] or 0), float(row["x_" + pair] or 0))
                        z[to, i, j] = z[to, j, i] = ohm
    drawn = {"wye": np.zeros((size, 3), complex), "delta": np.zeros((size, 3), complex)}
    for row in _table(case, "loads"):
        kva = [complex(float(row[f"kw_{k}"]), float(row[f"kvar_{k}"])) for k in (1, 2, 3)]
        drawn[row["connection"]][at[row["bus"]]] += kva
    for row in _table(case, "capacitors"):
        drawn["wye"][at[row["bus"]]] -= 1j * np.array(_three(row, "kvar_{}"))
    volts = np.full((size, 3), np.nan, complex)
    for row in _table(case, "reference_voltages"):
        turn = np.exp(1j * np.deg2rad(float(row["angle_deg"])))
        volts[at[row["bus"]], "abc".index(row["phase"])] = float(row["v_pu"]) * turn
    ampere, power = np.zeros((size, 3)), np.zeros((size, 3), complex)
    for row in _table(case, "reference_branches"):
        place = at[row["to"]], "abc".index(row["phase"])
        ampere[place] = float(row["current_a"])
        power[place] = complex(float(row["kw_from"]), float(row["kvar_from"]))
    (row,) = _table(case, "source")
    angle = np.exp(1j * np.deg2rad(_three(row, "angle_{}_deg")))
    summary = {row["quantity"]: row["value"] for row in _table(case, "reference_summary")}
    return Case(
        names=[row["bus"] for row in buses],
        kv=np.array([float(row["kv_ln"]) for row in buses]),
        phases=np.array([[p in row["phases"] for p in "abc"] for row in buses]),
        parent=parent,
        branch=branch,
        z=z,
        ratio=ratio,
        source=_three(row, "v_{}_pu") * angle,
        **drawn,
        volts=volts,
        ampere=ampere,
        power=power,
        losses=float(summary["losses_kw"]),
    )


def without_zero_sequence(source: Any) -> tuple[np.ndarray, complex]:
    """Voltages 120 degrees apart between which the source's line voltages stand, and their turn.

    Their positive and negative sequence are the source's; three magnitudes fix the two.
    """
    positive = np.mean(source * np.conj(TURN))
    turn = positive / abs(positive)
    negative = np.mean(source * np.conj(TURN) ** 2) / turn
    return abs(positive) + 2 * (negative * TURN).real, complex(turn)
