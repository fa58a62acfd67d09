"""The AC state of a network as its source tells it: shunts, taps, held voltages and all.

Newton's method in polar coordinates on sparse matrices. `acflow` is the AC power flow of a market's
grid, which has no shunts and no held voltages but at feeders; this one knows what those leave out,
so that an import can say how much that is.
"""

from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from scipy.sparse import csr_matrix, diags_array, hstack, vstack
from scipy.sparse.linalg import splu

from .network import Branches, Buses, Column

_STEPS = 30
_SMALL = 1e-9  # pu or rad, the last move: the next would be its square
_LEFT = 1e-6  # kW and kvar, of what each bus draws
_ROUNDED = 1e-14  # of the power that would flow at 1 pu across a bus's lines


def admittance(buses: Buses, branches: Branches) -> csr_matrix:
    """The bus admittance matrix, kW per pu^2, of branches with impedance and closed ends."""
    series = 1 / branches.impedance
    near, far = np.conj(branches.near), np.conj(branches.far)
    source, target, tap, count = branches.source, branches.target, branches.tap, len(buses)
    rows = np.concatenate([source, source, target, target, np.arange(count)])
    columns = np.concatenate([source, target, source, target, np.arange(count)])
    own = np.conj(buses.shunt + buses.quadratic)
    across = -series / tap
    values = [(series + near) / tap**2, across, across, series + far, own]
    return csr_matrix((np.concatenate(values), (rows, columns)), shape=(count, count))


def steady(
    buses: Buses, branches: Branches, start: Float[Column, " B"]
) -> Complex[Column, " B"] | None:
    """Voltages (pu) of a network whose buses all have a path to a source; None where none is found.

    `fed` buses have their `held` voltage and angle 0, other buses with a `held` voltage whatever
    reactive power keeps it. Begins from the magnitudes `start`.
    """
    matrix = admittance(buses, branches)
    free = np.flatnonzero(~buses.fed)
    floating = np.flatnonzero(np.isnan(buses.held))
    size, angle = np.where(np.isnan(buses.held), start, buses.held), np.zeros(len(buses))
    for _ in range(_STEPS):
        volts = size * np.exp(1j * angle)
        wrong = _wrong(buses, matrix, volts)
        slope = _slope(buses, matrix, volts, free, floating)
        right = np.concatenate([wrong.real[free], wrong.imag[floating]])
        if not right.size:
            return volts
        try:
            move = splu(slope).solve(-right)
        except RuntimeError:  # singular
            return None
        angle[free] += move[: free.size]
        size[floating] += move[free.size :]
        if not np.all(np.isfinite(move)) or np.any(size <= 0):
            return None
        if np.max(np.abs(move)) < _SMALL:
            break
    volts = size * np.exp(1j * angle)
    wrong = _wrong(buses, matrix, volts)
    left = np.concatenate([wrong.real[free], wrong.imag[floating]])
    rounding = 1e-9 * np.max(np.abs(buses.load - buses.generation), initial=1.0)
    stiff = _ROUNDED * np.asarray(abs(matrix).sum(axis=1)).ravel()  # of lines near no impedance
    most = _LEFT + rounding + np.concatenate([stiff[free], stiff[floating]])
    return volts if np.all(np.abs(left) < most) else None


def drawn(buses: Buses, volts: np.ndarray) -> Complex[Column, " B"]:
    """What is drawn at each bus at these voltages, its own shunts left to the matrix."""
    return buses.load - buses.generation + buses.current * np.abs(volts)


def _wrong(buses: Buses, matrix: csr_matrix, volts: Column) -> Column:
    return volts * np.conj(matrix @ volts) + drawn(buses, volts)


def _slope(buses: Buses, matrix: csr_matrix, volts: Column, free: Column, floating: Column) -> Any:
    """Of the powers that are wrong, by the angles and magnitudes that are not held."""
    turn = volts / np.abs(volts)
    current = np.conj(matrix @ volts)
    back = matrix.conj()
    by_angle = diags_array(1j * volts * current) - diags_array(1j * volts) @ back @ diags_array(
        np.conj(volts)
    )
    by_size = diags_array(volts) @ back @ diags_array(np.conj(turn)) + diags_array(
        turn * current + buses.current
    )
    by_angle, by_size = by_angle.tocsc()[:, free], by_size.tocsc()[:, floating]
    top = [a.tocsr()[free].real for a in (by_angle, by_size)]
    low = [a.tocsr()[floating].imag for a in (by_angle, by_size)]
    return vstack([hstack(top), hstack(low)]).tocsc()
