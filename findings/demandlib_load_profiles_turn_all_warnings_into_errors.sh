#!/usr/bin/env bash
# demandlib 0.2.2, pandas 2.3.3, Python 3.11 and newer.
#
# Guess written down before: making a standard load profile leaves the process as it was.
# Seen: `bdew.ElecSlp(year)` puts a filter "error" for all warnings first, and leaves it there. Every
# warning that any other package gives from then on is raised as an exception where it used to be
# printed, long after and far from the profile: here that of NumPy about a mean of nothing.
# Whoever makes profiles in a process that goes on has to do it inside `warnings.catch_warnings()`.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "demandlib==0.2.2" "pandas==2.3.3"
cat > "$work/warn.py" <<'PY'
import warnings

import numpy as np
from demandlib import bdew


def other() -> str:
    """What a later, unrelated warning does."""
    try:
        np.mean(np.array([]))
    except RuntimeWarning:
        return "raised"
    return "printed or hidden"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    guarded = other()
first = len([f for f in warnings.filters if f[:3] == ("error", None, Warning)])
bdew.ElecSlp(2025)
last = len([f for f in warnings.filters if f[:3] == ("error", None, Warning)])
print(f"filters that raise all warnings: {first}, then {last}")
print(f"a mean of nothing: {guarded}, then {other()}")
PY
seen="$("$work/venv/bin/python" "$work/warn.py" 2> /dev/null)"
echo "$seen"
expected="filters that raise all warnings: 0, then 1
a mean of nothing: printed or hidden, then raised"
[[ "$seen" == "$expected" ]] || { echo "changed; seen before:"; echo "$expected"; exit 1; }
