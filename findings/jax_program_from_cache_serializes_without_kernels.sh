#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (CPU, Linux x86-64), Python 3.11 and newer.
#
# Two ways to keep a compiled program do not go together: an executable that JAX's persistent
# compilation cache gave can be run and serialized (`jax.experimental.serialize_executable`), without
# a word, but what is serialized lacks its kernels. It loads again, without a word too, and fails when
# it is first run. The same program compiled in the same process serializes whole.
#
# Expected: either the whole program, or an error on serializing. Seen, for a program of a few kernels:
#   compiled:    serialized 33 kB, loaded in another process it gives the right number
#   from cache:  serialized 18 kB, loaded in another process: JaxRuntimeError NOT_FOUND: Function ... not found
# Whoever stores executables has to tell the two apart, as by the monitoring event
# /jax/compilation_cache/cache_hits, or to turn the cache off meanwhile.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "jax==0.10.2" "jaxlib==0.10.2"
cat > "$work/keep.py" <<'PY'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

action, cache, entry = sys.argv[1:]
jax.config.update("jax_compilation_cache_dir", cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def total(x):
    y = jnp.sin(x) * 2 + jnp.cos(x)
    z = jnp.cumsum(y)
    return jnp.where(z > 0, z, y).sum() + x @ x


x = jnp.arange(1000.0)
if action == "keep":
    heard = []
    jax.monitoring.register_event_listener(lambda event, **_: heard.append(event))
    program = jax.jit(total).lower(x).compile()
    right = abs(float(program(x)) - 332835808.0) < 100
    with open(entry, "wb") as file:
        pickle.dump(serialize_executable.serialize(program), file)
    hits = heard.count("/jax/compilation_cache/cache_hits")
    print(f"kept: from cache {hits}, right {right}")
else:
    with open(entry, "rb") as file:
        program = serialize_executable.deserialize_and_load(*pickle.load(file))
    try:
        print("run: right", abs(float(program(x)) - 332835808.0) < 100)
    except jax.errors.JaxRuntimeError as error:
        print("run:", str(error).split(":")[0], "not found" in str(error))
PY
run() { JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/keep.py" "$1" "$work/cache" "$work/$2"; }
seen="$(run keep compiled; run load compiled; run keep cached; run load cached)"
echo "$seen"
expected="kept: from cache 0, right True
run: right True
kept: from cache 1, right True
run: NOT_FOUND True"
[[ "$seen" == "$expected" ]] || { echo "changed; seen before:"; echo "$expected"; exit 1; }
