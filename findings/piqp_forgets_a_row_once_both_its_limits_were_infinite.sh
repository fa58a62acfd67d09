#!/usr/bin/env bash
# piqp 0.7.0, numpy 2.4, scipy, Python 3.12.
#
# A loop that keeps one solver and updates its limits from step to step, as a receding horizon does,
# has rows that limit nothing at first. Once both limits of a row are infinite, its coefficients are
# set to zero inside the solver, with two lines on stderr, and a later `update` of the limits alone
# does not bring them back.
#
# Guess written down before: `update(h_u=...)` does with infinite limits as with all others, and the
# answer is that of a solver that is set up anew.
# Seen, 1/2 |x|^2 - x1 - x2 with x1 + x2 <= 0.5, whose answer is (0.25, 0.25):
#   h_u infinite at setup, then 0.5: PIQP_SOLVED at (1, 1), x1 + x2 is 2, and the primal residual
#   that is told is below 1e-6; dense and sparse
#   h_u 0.5 at setup, infinite, then 0.5 again: the same, dense; the sparse solver, with no limit at
#   all on two variables, ends at its iterations instead of (1, 1)
#   update(G=G, h_u=...), G as it was: (0.25, 0.25)
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "piqp==0.7.0" scipy
cat > "$work/limits.py" <<'PY'
import numpy as np
import piqp
import scipy.sparse as sparse

FREE, HELD = np.array([np.inf]), np.array([0.5])
P, c, G = np.eye(2), np.array([-1.0, -1.0]), np.array([[1.0, 1.0]])


def told(words: str, solver) -> None:
    status = solver.solve().name
    x = solver.result.x
    below = "below" if solver.result.info.primal_res < 1e-6 else "not below"
    numbers = f"({x[0]:.2f}, {x[1]:.2f}), residual {below} 1e-6" if "SOLVED" in status else ""
    print(f"{words}: {status} {numbers}".strip())


for name, kind, form in (
    ("dense", piqp.DenseSolver, np.asarray),
    ("sparse", piqp.SparseSolver, sparse.csc_matrix),
):

    def begun(upper, kind=kind, form=form):
        solver = kind()
        solver.setup(form(P), c, None, None, form(G), -FREE, upper, None, None)
        solver.solve()
        return solver

    told(f"{name}, 0.5 at setup", begun(HELD))
    solver = begun(FREE)
    solver.update(h_u=HELD)
    told(f"{name}, infinite then 0.5", solver)
    solver.update(G=form(G), h_u=HELD)
    told(f"{name}, G given again", solver)
    solver = begun(HELD)
    solver.update(h_u=FREE)
    told(f"{name}, 0.5 then infinite", solver)
PY
seen="$("$work/venv/bin/python" "$work/limits.py" 2> "$work/words")"
echo "$seen"
expected="dense, 0.5 at setup: PIQP_SOLVED (0.25, 0.25), residual below 1e-6
dense, infinite then 0.5: PIQP_SOLVED (1.00, 1.00), residual below 1e-6
dense, G given again: PIQP_SOLVED (0.25, 0.25), residual below 1e-6
dense, 0.5 then infinite: PIQP_SOLVED (1.00, 1.00), residual below 1e-6
sparse, 0.5 at setup: PIQP_SOLVED (0.25, 0.25), residual below 1e-6
sparse, infinite then 0.5: PIQP_SOLVED (1.00, 1.00), residual below 1e-6
sparse, G given again: PIQP_SOLVED (0.25, 0.25), residual below 1e-6
sparse, 0.5 then infinite: PIQP_MAX_ITER_REACHED"
[[ "$seen" == "$expected" ]] || { echo "changed; seen before:"; echo "$expected"; exit 1; }
