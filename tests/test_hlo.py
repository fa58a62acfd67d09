"""What `benchmarks/roofline.py` counts, on programs whose kernels and bytes are known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.hlo import Program, size

# A loop of 5 turns, which gathers 10 of 100 rows and adds them up; then a product.
TEXT = """\
HloModule jit_run, is_scheduled=true

%gathered (param_0: f32[100,4], param_1: s32[10]) -> f32[10,4] {
  %param_0 = f32[100,4]{1,0} parameter(0)
  %param_1 = s32[10]{0} parameter(1)
  %rows = f32[10,4]{1,0} gather(%param_0, %param_1), offset_dims={1}, slice_sizes={1,4}
  ROOT %twice = f32[10,4]{1,0} add(%rows, %rows)
}

%body (state: (s32[], f32[100,4], s32[10], f32[10,4])) -> (s32[], f32[100,4], s32[10], f32[10,4]) {
  %state = (s32[], f32[100,4]{1,0}, s32[10]{0}, f32[10,4]{1,0}) parameter(0)
  %table = f32[100,4]{1,0} get-tuple-element(%state), index=1
  %index = s32[10]{0} get-tuple-element(%state), index=2
  %fusion.1 = f32[10,4]{1,0} fusion(%table, %index), kind=kLoop, calls=%gathered
  ROOT %next = (s32[], f32[100,4]{1,0}, s32[10]{0}, /*index=3*/f32[10,4]{1,0}) tuple(%fusion.1)
}

%going (state.1: (s32[], f32[100,4], s32[10], f32[10,4])) -> pred[] {
  %state.1 = (s32[], f32[100,4]{1,0}, s32[10]{0}, f32[10,4]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%state.1, %state.1), direction=LT
}

ENTRY %main (a: f64[8,3], b: f64[3,2]) -> f64[8,2] {
  %a = f64[8,3]{1,0} parameter(0)
  %b = f64[3,2]{1,0} parameter(1)
  %begun = (s32[], f32[100,4]{1,0}) tuple()
  %while.1 = (s32[], f32[100,4]{1,0}) while(%begun), condition=%going, body=%body, KNOWN
  ROOT %dot.1 = f64[8,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
FIVE = 'backend_config={"known_trip_count":{"n":"5"}}'


def test_a_loop_counts_as_often_as_it_turns():
    """And what is gathered as what is touched, but for a table that the cache holds."""
    known = Program(TEXT.replace("KNOWN", FIVE), cache=0.0)
    fusion, dot = known.kernels()
    gathered = 10 * 4 * 4
    assert (fusion.times, fusion.bytes) == (5, gathered + 10 * 4 + gathered)
    assert (fusion.narrow, fusion.wide) == (10 * 4, 0)
    assert (dot.times, dot.bytes) == (1, 8 * (8 * 3 + 3 * 2 + 8 * 2))
    assert (dot.narrow, dot.wide) == (0, 2 * 8 * 3 * 2)
    ((loop, turns),) = known.loops()
    assert turns == 5 and [k.times for k in known.kernels(known.body(loop))] == [1]
    assert [k.name for k in known.kernels(but=(loop.name,))] == ["dot.1"]
    many = TEXT.replace("s32[10]", "s32[200]").replace("f32[10,4]", "f32[200,4]")
    (held, _), (read, _) = (Program(many.replace("KNOWN", FIVE), c).kernels() for c in (1e6, 0.0))
    assert read.bytes - held.bytes == (200 - 100) * 4 * 4


def test_a_loop_of_unknown_length_is_told():
    """It counts as one turn and the question whether to go on."""
    names = [(k.name, k.times) for k in Program(TEXT.replace("KNOWN", "x=1"), 0.0).kernels()]
    assert names == [("?fusion.1", 1), ("?less", 1), ("dot.1", 1)]


def test_sizes():
    assert size("f32[10,4]{1,0}") == 160 and size("f64[]") == 8 and size("pred[3]{0}") == 3
    assert size("(f32[2]{0}, /*index=1*/s64[3,2]{1,0}, token[])") == 8 + 48


def test_what_xla_compiles_is_read():
    """A million numbers are read and as many written, by whatever kernels there are."""
    given = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    text = jax.jit(lambda a: jnp.sqrt(a) + a).lower(given).compile().as_text()
    kernels = list(Program(text or "", 0.0).kernels())
    assert sum(k.times * k.bytes for k in kernels) == pytest.approx(8e6, rel=0.01)
    assert sum(k.times * k.narrow for k in kernels) == pytest.approx(2e6, rel=0.01)
