#!/usr/bin/env bash
# pypsa 1.4.0, linopy 0.10.1, highspy 1.16.0, pandas 3.1, Python 3.12.
#
# `optimize_with_rolling_horizon` carries contents of stores from window to window. What limits a sum
# over all snapshots, a GlobalConstraint on CO2 or a generator's `e_sum_max`, it grants to each
# window anew.
#
# Guess written down before: each window may use what the windows before it have left.
# Seen, 8 hours of 10 MW by coal of 1 t/MWh at 1 EUR/MWh or by another plant at 50, at most 40 t:
#   optimize():                                         40 t
#   optimize_with_rolling_horizon(horizon=4):           80 t, and the limit's price is 0
#   the same with e_sum_max=40 in place of the limit:   40 and 80 MWh
# Nothing is raised or logged about it.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "pypsa==1.4.0" "linopy==0.10.1" "highspy==1.16.0"
cat > "$work/budget.py" <<'PY'
import logging
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.INFO)
import pandas as pd
import pypsa

HIGHS = {"solver_name": "highs", "solver_options": {"output_flag": False}}


def network(**coal) -> pypsa.Network:
    n = pypsa.Network()
    n.set_snapshots(pd.date_range("2026-01-01", periods=8, freq="h"))
    n.add("Carrier", "coal", co2_emissions=1.0)
    n.add("Bus", "bus")
    n.add("Generator", "coal", bus="bus", p_nom=100, marginal_cost=1, carrier="coal", **coal)
    n.add("Generator", "other", bus="bus", p_nom=100, marginal_cost=50)
    n.add("Load", "load", bus="bus", p_set=10.0)
    if not coal:
        n.add("GlobalConstraint", "co2", sense="<=", constant=40.0,
              carrier_attribute="co2_emissions", type="primary_energy")
    return n


for words, coal in (("limit", {}), ("e_sum_max", {"e_sum_max": 40.0})):
    whole, rolling = network(**coal), network(**coal)
    whole.optimize(**HIGHS)
    rolling.optimize.optimize_with_rolling_horizon(horizon=4, overlap=0, **HIGHS)
    used = [f"{n.generators_t.p['coal'].sum():.0f}" for n in (whole, rolling)]
    print(f"RESULT {words}: {used[0]} at once, {used[1]} in windows")
PY
"$work/venv/bin/python" "$work/budget.py" > "$work/out" 2> "$work/words"
seen="$(sed -n 's/^RESULT //p' "$work/out")"
echo "$seen"
grep -qi "budget\|GlobalConstraint\|e_sum_max" "$work/words" && { echo "now something is said"; exit 1; }
expected="limit: 40 at once, 80 in windows
e_sum_max: 40 at once, 80 in windows"
[[ "$seen" == "$expected" ]] || { echo "changed; seen before:"; echo "$expected"; exit 1; }
