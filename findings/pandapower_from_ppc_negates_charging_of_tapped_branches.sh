#!/usr/bin/env bash
# pandapower 3.5.6, numpy 2.3 or newer, Python 3.11 and newer.
#
# A branch of a MATPOWER or PYPOWER case has a tap ratio and a line charging susceptance `BR_B`; any
# branch may have both. `from_ppc` makes a transformer of one whose ratio is not 1, and gives it the
# magnetizing current of that susceptance with the sign turned: what fed reactive power now draws it.
#
# Guess written down before: the net that is returned solves to the voltages of the case.
# Seen, 50 MW and 10 Mvar behind 0.01 + 0.1j pu at 110 kV, ratio 0.98, charging 0 and 0.3 pu, the
# voltage of the case by the two-bus equation:
#   BR_B 0.0: 1.0043 pu, as in the case
#   BR_B 0.3: 0.9891 pu, the case has 1.0198
# A message is logged which says that such a number should be negative; the numbers that come back
# are those of another case.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "pandapower==3.5.6"
cat > "$work/branch.py" <<'PY'
import warnings

warnings.simplefilter("ignore")
import logging

import numpy as np
import pandapower as pp
from pandapower.converter.pypower.from_ppc import from_ppc

logging.disable(logging.CRITICAL)
R, X, RATIO, P, Q = 0.01, 0.1, 0.98, 0.5, 0.1


def voltage(charging: float) -> float:
    """At the load, by the two-bus equation of the case's own branch model, in per unit."""
    series, v = 1 / (R + 1j * X), 1 + 0j
    for _ in range(500):
        v = (-np.conj((P + 1j * Q) / v) + series / RATIO) / (series + 1j * charging / 2)
    return abs(v)


def case(charging: float) -> dict:
    bus = [[1, 3, 0, 0, 0, 0, 1, 1, 0, 110, 1, 1.1, 0.9], [2, 1, 50, 10, 0, 0, 1, 1, 0, 110, 1, 1.1, 0.9]]
    branch = [[1, 2, R, X, charging, 250, 250, 250, RATIO, 0, 1, -360, 360]]
    gen = [[1, 0, 0, 300, -300, 1, 100, 1, 300, -300] + [0] * 11]
    tables = {"bus": bus, "branch": branch, "gen": gen}
    return {"version": "2", "baseMVA": 100.0} | {k: np.array(t, float) for k, t in tables.items()}


for charging in (0.0, 0.3):
    net = from_ppc(case(charging), f_hz=50)
    pp.runpp(net, tolerance_mva=1e-10, numba=False)
    print(f"BR_B {charging}: {net.res_bus.vm_pu.iloc[1]:.4f} pu, the case has {voltage(charging):.4f}")
PY
seen="$("$work/venv/bin/python" "$work/branch.py" 2> /dev/null)"
echo "$seen"
expected="BR_B 0.0: 1.0043 pu, the case has 1.0043
BR_B 0.3: 0.9891 pu, the case has 1.0198"
[[ "$seen" == "$expected" ]] || { echo "changed; seen before:"; echo "$expected"; exit 1; }
