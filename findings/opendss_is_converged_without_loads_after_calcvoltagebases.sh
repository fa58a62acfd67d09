#!/usr/bin/env bash
# dss-python 0.15.7 (OpenDSS engine DSS C-API), Python 3.11 and newer.
#
# `calcvoltagebases` solves a circuit without its loads to find nominal voltages. Many master files end
# with it and leave `solve` to a second script.
#
# Guess written down before: `Solution.Converged` is false until a circuit's loads have been solved.
# Seen, 600 kW behind a kilometre of line at 20 kV:
#   built:            not converged
#   calcvoltagebases: converged, after 0 iterations, and the source sends 0 kW
#   solve:            converged, and the source sends 600 kW
# Whoever reads voltages and powers of a compiled master file once `Converged` is true has those of
# no load at all. `Iterations` is 0 then, and `SystemYChanged` is still true.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "dss-python==0.15.7"
cat > "$work/circuit.py" <<'PY'
from dss import DSS

BUILT = """clear
new circuit.street basekv=20 pu=1.0 phases=3
new line.a bus1=sourcebus bus2=b phases=3 length=1 units=km
new load.x bus1=b phases=3 kv=20 kw=600 kvar=150"""


def tell(step: str) -> None:
    now = DSS.ActiveCircuit.Solution
    words = f"{step}: converged {now.Converged}, iterations {now.Iterations}"
    if now.Converged:
        words += f", source {abs(round(DSS.ActiveCircuit.TotalPower[0]))} kW"
    print(words + f", changed {now.SystemYChanged}")


for line in BUILT.splitlines():
    DSS.Text.Command = line
tell("built")
DSS.Text.Command = "set voltagebases=[20]"
DSS.Text.Command = "calcvoltagebases"
tell("calcvoltagebases")
DSS.Text.Command = "solve"
tell("solve")
PY
seen="$("$work/venv/bin/python" "$work/circuit.py")"
echo "$seen"
expected="built: converged False, iterations 0, changed True
calcvoltagebases: converged True, iterations 0, source 0 kW, changed True
solve: converged True, iterations 2, source 600 kW, changed False"
[[ "$seen" == "$expected" ]] || { echo "changed; seen before:"; echo "$expected"; exit 1; }
