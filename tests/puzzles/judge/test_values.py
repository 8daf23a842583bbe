"""The outputs against the answer, and the advice that goes with what is wrong."""

from tests.puzzles.judge.probe import OFFSETS, all_negative, count, largest, probe, relu, zero

from puzzles.catalogue import PUZZLES
from puzzles.checking import judge_text
from puzzles.judge.facts import facts
from puzzles.source import from_text
from puzzles.tensors import f32, i32
from puzzles.wrong import solution_text


def rounded_squares(x, N):
    return dict(z=x.bfloat16().to(x.dtype) ** 2)


def test_integers_start_as_garbage_and_are_compared_exactly(workers):
    assert probe(workers, OFFSETS + "tl.store(z_ptr + i, i)", count, out=i32("N")).passed
    wrong = OFFSETS + "tl.store(z_ptr + i, i + (i == 3).to(tl.int32))"
    off_by_one = probe(workers, wrong, count, out=i32("N"))
    assert off_by_one.kinds == ("wrong_value",)
    left_out = probe(workers, OFFSETS + "tl.store(z_ptr + i, i, mask=i != 3)", count, out=i32("N"))
    assert left_out.kinds == ("not_written",)


def test_what_the_interpreter_cannot_do_is_no_fault_of_the_formula(workers):
    def finding(value):
        body = OFFSETS + f"x = tl.load(x_ptr + i)\ntl.store(z_ptr + i, {value})"
        return probe(workers, body, relu).findings[0]
    assembly = "tl.inline_asm_elementwise('mov', '=f,f', [x], dtype=tl.float32, is_pure=True, pack=1)"
    small = "(x.to(tl.float8e5) + x.to(tl.float8e5)).to(tl.float32)"
    for value in (assembly, small):
        found = finding(value)
        assert found.kind == "error" and "Triton's interpreter" in found.look_at and found.line == 9


def test_bfloat16_is_judged_as_a_gpu_computes_it(workers):
    """As bits, 1.5 · 1.5 would be hundreds of millions, and the right answer refused."""
    squares = """x = tl.load(x_ptr + i).to(tl.bfloat16)
table = tl.dot(x[:, None], x[None, :])
tl.store(z_ptr + i, tl.sum(tl.where(i[:, None] == i[None, :], table, 0.0), 1))"""
    assert probe(workers, OFFSETS + squares, rounded_squares).passed
    wrong = squares.replace("table, 0.0", "table + 1, 0.0")
    assert not probe(workers, OFFSETS + wrong, rounded_squares).passed


def test_a_constant_factor_is_named_and_drawn(workers):
    verdict = probe(workers, OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i) * 0.9)")
    assert "0.9 times what is right" in verdict.findings[0].message
    assert verdict.heat.tensor == "z" and len(verdict.heat.rows[0]) == 8 and "<svg" in verdict._repr_html_()


def test_advice_for_python_words_zero_answers_and_padding(workers):
    def advice(value):
        body = OFFSETS + f"x = tl.load(x_ptr + i)\ntl.store(z_ptr + i, {value})"
        return probe(workers, body, relu).findings[0].look_at
    python = {"max(x, 0.0)": "`max()`", "x if x > 0 else 0.0": "`if`", "x * (x > 0 and N > 0)": "`and`"}
    for value, word in python.items():
        assert word in advice(value) and "tl.where" in advice(value) and "line 9" in advice(value)
    assert "added or left out once" in advice("tl.maximum(x, 0.0) + 1.0")
    scalar = OFFSETS + "x = tl.load(x_ptr + i)\nif N > 0:\n    x = x + 1\ntl.store(z_ptr + i, x)"
    assert "single numbers" not in probe(workers, scalar, relu).findings[0].look_at, "this `if` is right"
    zeros = probe(workers, OFFSETS + "tl.store(z_ptr + i, 1.0)", zero)
    assert "off by 1" in zeros.findings[0].message and "times what is right" not in zeros.findings[0].message
    text = solution_text(1).replace("x_ptr + n[:, None] * stride_xn", "x_ptr + n[:, None] * M")
    kernel = from_text(text, "mul_relu")
    finding = judge_text(PUZZLES["mul_relu"], kernel, full=False, workers=workers).findings[0]
    assert "in the padding of x" in finding.message and "own strides" in finding.look_at


def test_a_masked_lane_that_counts_is_named_with_the_value_that_would_not(workers):
    body = "i = tl.arange(0, 8)\ntl.store(z_ptr, tl.max(tl.load(x_ptr + i, mask=i < N, other=OTHER), 0))"
    negative = dict(prepare=all_negative, sizes=(8, 5))
    right = probe(workers, body.replace("OTHER", "-float('inf')"), largest, out=f32("1"), **negative)
    assert right.passed
    finding = probe(workers, body.replace("OTHER", "0.0"), largest, out=f32("1"), **negative).findings[0]
    assert finding.kind == "wrong_value" and "N=5" in finding.case
    assert "count as 0 there; with -inf in their place, this case is right" in finding.look_at


def test_what_is_new_in_the_case_that_fails_is_told():
    puzzle = PUZZLES["long_sum"]
    assert facts(puzzle, puzzle.cases[0], ()).new == ""
    assert "M = 200 is no multiple of BLOCK = 32" in facts(puzzle, puzzle.cases[1], puzzle.cases[:1]).new
    flash = PUZZLES["flash_attention"]
    assert "3 query heads share a key head" in facts(flash, flash.cases[1], flash.cases[:1]).new
    mul = PUZZLES["mul_relu"]
    assert "strides" in facts(mul, mul.cases[2], mul.cases[:2]).new
