"""The judge's parts: watched memory, traces, races, tolerances, and puzzles made for one question each."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from puzzles.catalogue import PUZZLES
from puzzles.checking import judge_source
from puzzles.judge.gpu import agreement
from puzzles.judge.interpret import odd_strides
from puzzles.judge.memory import Memory, owners
from puzzles.judge.races import RaceDetector
from puzzles.judge.tolerance import allowed_error, error_ratio
from puzzles.judge.worker import Worker
from puzzles.puzzle import Answer, Case, Puzzle, Size, Tensor, evaluate, f32, i32
from puzzles.source import from_text, load
from puzzles.wrong import solution_text

_HEADER = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef probe(x_ptr, z_ptr, N):\n"


@pytest.fixture(scope="module")
def workers():
    worker = Worker(True, path=(str(Path(__file__).parents[3]),))   # it finds this module's puzzles here
    yield (worker, worker)
    worker.close()


def _copy(x, N):
    return dict(z=x)


def _total(x, N):
    return dict(z=Answer(x.sum(0, keepdim=True), terms=N, size=lambda: x.abs().sum(0, keepdim=True)))


def _relu(x, N):
    return dict(z=x.relu())


def _zero(x, N):
    return dict(z=0 * x)


def _count(x, N):
    return dict(z=torch.arange(N))


def _probe(workers, body, reference=_copy, grid=("1",), out=f32("N"), sizes=(8,), **changes):
    """The verdict on a small kernel of one line or more, judged on a puzzle of its own."""
    puzzle = Puzzle(
        **{
            **dict(
                name="probe",
                sheet=1,
                title="",
                minutes=1,
                notebook="",
                statement="",
                inputs=dict(x=f32("N")),
                outputs=dict(z=out),
                scalars=dict(N=Size),
                blocks=(),
                grid=grid,
                cases=tuple(Case(dict(N=n)) for n in sizes),
                big=Case(dict(N=8)),
                reference=reference,
                prepare=None,
                budget={},
                flops="0",
                hints=("", "", ""),
            ),
            **changes,
        }
    )
    text = _HEADER + "".join(f"    {line}\n" for line in body.splitlines())
    return judge_source(puzzle, from_text(text, "probe"), full=False, seed=1, workers=workers, seconds=10)


def test_each_tensor_lies_in_a_range_of_its_own_between_guards():
    memory = Memory(dict(x=torch.arange(6.0), z=torch.zeros(4)), {"z"})
    x, z = memory.regions
    assert z.start - x.start >= 64 << 20 and x.canaries_intact() and z.canaries_intact()
    assert torch.equal(x.tensor, torch.arange(6.0)) and x.tensor.data_ptr() == x.start
    x.raw[0] = 0
    assert not x.canaries_intact()


def test_gaps_between_rows_are_nobodys():
    padded, turned = odd_strides(torch.arange(6.0).view(2, 3), 1), odd_strides(torch.arange(6.0).view(2, 3), 2)
    assert padded.stride() == (6, 1) and turned.stride() == (1, 2) and torch.equal(padded, turned)
    assert owners(padded).tolist() == [0, 1, 2, -1, -1, -1, 3, 4, 5]
    assert owners(turned).tolist() == [0, 3, 1, 4, 2, 5]


def test_races_between_any_two_programs_are_seen_in_any_order():
    element = np.array([3])
    for first, second, clash in (
        ("write", "write", True),
        ("read", "write", True),
        ("write", "read", True),
        ("read", "read", False),
        ("atomic", "atomic", False),
        ("atomic", "read", True),
        ("atomic", "write", True),
    ):
        detector = RaceDetector(5)
        assert detector.access(first, element, 0) is None
        assert (
            detector.access(first if first != "write" else "read", element, 0) is None
        ), "a program never races with itself"
        conflict = detector.access(second, element, 7)
        assert bool(conflict) == clash and (not clash or conflict[:2] == (3, 0)), (first, second)


def test_a_third_program_is_seen_behind_two_readers():
    detector = RaceDetector(1)
    for program in (4, 4, 9):
        detector.access("read", np.array([0]), program)
    assert detector.access("write", np.array([0]), 4)[1] == 9


def test_the_allowed_error_covers_float32_and_little_more():
    x = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    answer = Answer(x.double().sum(1), terms=1000, size=lambda: x.double().abs().sum(1))
    naive = x[:, 0].clone()
    for i in range(1, 1000):
        naive += x[:, i]
    assert error_ratio(naive, answer).max() <= 1 and error_ratio(x.sum(1), answer).max() <= 1
    half = x[:, 0].half()
    for i in range(1, 1000):
        half += x[:, i].half()
    assert (error_ratio(half.float(), answer) > 1).double().mean() > 0.7
    assert allowed_error(answer, torch.float32).max() < 1e-3 * answer.size().max()
    assert torch.equal(
        error_ratio(torch.tensor([3, 4]), Answer(torch.tensor([3, 5]))), torch.tensor([0.0, torch.inf]).double()
    )


def test_float16_gets_one_rounding():
    value = torch.tensor([1.0 + 2.0 ** -12, 1000.3], dtype=torch.float64)
    assert (error_ratio(value.half(), Answer(value)) <= 1).all()
    assert (error_ratio((value * 1.002).half(), Answer(value)) > 1).all()


def test_nan_is_wrong_unless_it_is_the_answer():
    got, value = torch.tensor([torch.nan, torch.inf, -torch.inf]), torch.tensor([torch.nan, 1.0, -torch.inf]).double()
    assert error_ratio(got, Answer(value)).tolist() == [0.0, torch.inf, 0.0]


_OFFSETS = "i = tl.arange(0, 8)\n"


def test_a_wild_index_is_caught_wherever_it_lands(workers):
    for index in ("i + 1000000000", "i - 2000000000", "i + 8"):
        verdict = _probe(workers, _OFFSETS + f"tl.store(z_ptr + i, tl.load(x_ptr + {index}))")
        assert verdict.kinds[0] == "out_of_bounds_read" and verdict.findings[0].program == (0,), index
        assert "x_ptr" in verdict.findings[0].message and "tl.load" in verdict.findings[0].code


def test_a_pointer_of_another_type_is_caught(workers):
    body = _OFFSETS + "p = x_ptr.to(tl.pointer_type(tl.int8))\ntl.store(z_ptr + i, tl.load(p + i).to(tl.float32))"
    assert _probe(workers, body).kinds[0] == "out_of_bounds_read"


def test_two_lanes_of_one_store_must_agree(workers):
    assert (
        _probe(
            workers, _OFFSETS + "x = tl.load(x_ptr + i)\ntl.store(z_ptr + i * 0, x)\ntl.store(z_ptr + i, x)"
        ).kinds[0]
        == "race"
    )
    assert _probe(
        workers,
        _OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))\ntl.store(z_ptr + i * 0, tl.load(x_ptr) + 0.0 * i)",
    ).passed


def test_atomics_may_meet_and_plain_stores_may_not(workers):
    zero = Tensor(torch.float32, ("1",), start=0.0)
    body = "n = tl.program_id(0)\ntl.atomic_add(z_ptr, tl.load(x_ptr + n))"
    assert _probe(workers, body, _total, ("N",), zero).passed
    body = "n = tl.program_id(0)\ntl.store(z_ptr, tl.load(z_ptr) + tl.load(x_ptr + n))"
    assert _probe(workers, body, _total, ("N",), zero).kinds[0] == "race"


def test_a_program_that_reads_what_another_writes(workers):
    body = ("n = tl.program_id(0)\ntl.store(z_ptr + n, tl.load(x_ptr + n))\n"
            "tl.load(z_ptr + (n + 1) % N)")
    verdict = _probe(workers, body, grid=("N",))
    assert verdict.kinds[0] == "race" and "program" in verdict.findings[0].message


def test_program_order_is_shuffled(workers):
    verdict = _probe(
        workers,
        "n = tl.program_id(0)\ntl.device_print('', n)\ntl.store(z_ptr + n, tl.load(x_ptr + n))",
        grid=("N",),
        sizes=(16,),
    )
    seen = [int(number) for number in re.findall(r"\[(\d+)\]", verdict.printed)]
    assert sorted(seen) == list(range(16)) and seen != list(range(16))


def test_integers_start_as_garbage_and_are_compared_exactly(workers):
    assert _probe(workers, _OFFSETS + "tl.store(z_ptr + i, i)", _count, out=i32("N")).passed
    assert _probe(
        workers, _OFFSETS + "tl.store(z_ptr + i, i + (i == 3).to(tl.int32))", _count, out=i32("N")
    ).kinds == ("wrong_value",)
    assert _probe(workers, _OFFSETS + "tl.store(z_ptr + i, i, mask=i != 3)", _count, out=i32("N")).kinds == (
        "not_written",
    )


def test_a_constant_factor_is_named_and_drawn(workers):
    verdict = _probe(workers, _OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i) * 0.9)")
    assert "0.9 times the answer" in verdict.findings[0].message
    assert verdict.heat.tensor == "z" and len(verdict.heat.rows[0]) == 8 and "<svg" in verdict._repr_html_()


def test_block_pointers_are_watched_too(workers):
    good = (
        "p = tl.make_block_ptr(x_ptr, (N,), (1,), (0,), (16,), (0,))\no = tl.make_block_ptr(z_ptr, (N,), (1,), (0,), (16,), (0,))\n"
        "tl.store(o, tl.load(p, boundary_check=(0,)), boundary_check=(0,))"
    )
    assert _probe(workers, good).passed
    assert (
        _probe(workers, good.replace("tl.load(p, boundary_check=(0,))", "tl.load(p)")).kinds[0]
        == "out_of_bounds_read"
    )


def test_a_crash_is_a_verdict(workers):
    verdict = _probe(workers, "import os\nos.abort()\ntl.store(z_ptr, 0.0)")
    assert verdict.status == "failed" and verdict.kinds[0] in ("crash", "error")
    assert _probe(workers, _OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))").passed


def test_text_that_is_not_python(workers):
    verdict = judge_source(
        PUZZLES["add_constant"],
        from_text("import triton\n\ndef probe(x_ptr:\n", "probe"),
        full=False,
        workers=workers,
    )
    assert verdict.kinds == ("error",) and verdict.findings[0].line == 3


def test_nothing_is_left_behind():
    worker = Worker(True, path=(str(Path(__file__).parents[3]),))
    verdict = _probe((worker, worker), _OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))")
    process = worker._process
    assert verdict.passed and process.poll() is None
    process.stdin.close()                       # what the end of a notebook's kernel does
    assert process.wait(timeout=10) == 0


def test_grid_expressions():
    assert evaluate("cdiv(N, BLOCK)", dict(N=65, BLOCK=32)) == 3
    with pytest.raises(NameError):
        evaluate("__import__('os')", {})


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here; `check` itself runs them on the GPU")
@pytest.mark.parametrize("name", ["add_blocks", "rms_norm", "matmul_grouped", "rope", "kv_write", "split_k_decode"])
def test_what_runs_on_a_gpu_runs_here_interpreted(name, tmp_path):
    puzzle = PUZZLES[name]
    kernel, _, _ = load(from_text(solution_text(puzzle.sheet), name), tmp_path)
    case = puzzle.cases[1]
    grid = puzzle.launch_grid(case)
    findings, launch, inputs = agreement(puzzle, case, kernel, grid, 3, torch.device("cpu"))
    assert not findings and set(inputs) == set(puzzle.inputs)
    findings, _, _ = agreement(puzzle, case, _Tampered(kernel, puzzle), grid, 3, torch.device("cpu"))
    assert {finding.kind for finding in findings} == {"gpu"} and len(findings) == len(puzzle.outputs)


class _Tampered:
    """A kernel whose outputs are off by 1 %."""

    def __init__(self, kernel, puzzle):
        self.kernel, self.puzzle = kernel, puzzle

    def __getitem__(self, grid):
        def launch(**arguments):
            self.kernel[grid](**arguments)
            for name in self.puzzle.outputs:
                arguments[f"{name}_ptr"].mul_(1.01)
        return launch


def test_stores_count_as_traffic_and_never_lower_the_score(workers):
    once = _OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))"
    good, twice = _probe(workers, once), _probe(workers, once + "\ntl.store(z_ptr + i, tl.load(x_ptr + i))")
    assert good.traffic_score == 1.0 and "z: 8 elements, 8 stores (1.0 each)" in str(good)
    assert twice.kinds == ("traffic",) and twice.traffic_score == 2.0
    assert "z: 8 elements, 16 stores (2.0 each)" in str(twice)


def test_advice_for_python_words_zero_answers_and_padding(workers):
    def advice(value):
        body = _OFFSETS + f"x = tl.load(x_ptr + i)\ntl.store(z_ptr + i, {value})"
        return _probe(workers, body, _relu).findings[0].look_at
    for value, word in (("max(x, 0.0)", "`max()`"), ("x if x > 0 else 0.0", "`if`"), ("x * (x > 0 and N > 0)", "`and`")):
        assert word in advice(value) and "tl.where" in advice(value) and "line 9" in advice(value)
    assert "one step at a time" in advice("tl.maximum(x, 0.0) + 1.0")
    zeros = _probe(workers, _OFFSETS + "tl.store(z_ptr + i, 1.0)", _zero)
    assert "off by 1" in zeros.findings[0].message and "times the answer" not in zeros.findings[0].message
    text = solution_text(1).replace("x_ptr + n[:, None] * stride_xn", "x_ptr + n[:, None] * M")
    finding = judge_source(PUZZLES["mul_relu"], from_text(text, "mul_relu"), full=False, workers=workers).findings[0]
    assert "in the padding of x" in finding.message and "own strides" in finding.look_at
