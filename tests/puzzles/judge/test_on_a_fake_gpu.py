"""The judge's run on a GPU that computes nothing: what it launches, and that it stays on one device."""

import pytest
import torch
from safetensors.torch import save_file

from aiinfra.gpu.fake import FakeGPU, fake_gpu
from puzzles.catalogue import PUZZLES
from puzzles.judge import compiled, gpu
from puzzles.judge.gpu import AFTER, BEFORE, prepare
from puzzles.judge.on_gpu import launch
from puzzles.judge.verdict import GpuRun
from puzzles.puzzle import Puzzle
from puzzles.rebuild import load
from puzzles.solutions.sheet1 import grid_of_outer_sum_2d
from puzzles.source import from_text
from puzzles.tensors import evaluate
from puzzles.wrong import solution_text

pytest.importorskip("triton")
BY_NUMBERS = ("kv_write", "merge_splits", "grouped_matmul")


def judge_on(device: FakeGPU, puzzle: Puzzle, folder) -> GpuRun | None:
    """What the judge does with a right kernel where there is a GPU, in this process and at a small size; of
    an answer whose shapes depend on numbers, the launches alone."""
    kernel = load(from_text(solution_text(puzzle.sheet), puzzle.name), folder).kernel
    case = puzzle.cases[1]
    prepared = prepare(puzzle, case, 3)
    save_file(prepared.zones, folder / BEFORE)
    grid = puzzle.launch_grid(case) if puzzle.grid else grid_of_outer_sum_2d(case.sizes)
    files = folder / BEFORE, folder / AFTER
    again = launch(kernel, grid, *files, prepared.views, prepared.numbers, device.device)
    again()
    if puzzle.name in BY_NUMBERS:
        return None
    for finding in prepared.findings(gpu.load_file(folder / AFTER), device.device):
        assert finding.kind == "gpu"                         # the numbers that came back are made up
    return gpu._timed(prepared, device.device, kernel_seconds=1.0)


@pytest.mark.compile                   # it compiles nothing, but is not for `make quick`
@pytest.mark.parametrize("name", PUZZLES)
def test_a_right_answer_is_launched_twice_and_is_what_the_judge_compiled(name, tmp_path, monkeypatch) -> None:
    puzzle = PUZZLES[name]
    monkeypatch.setattr(gpu, "best_seconds", lambda work: [work(), 1e-3][1])
    with fake_gpu(numbers=True) as device:
        run = judge_on(device, puzzle, tmp_path)
        first, second = [one for one in device.started if one.variant is not None]
        assert first == second and first.name == name and first.grid
        if run is not None:
            assert run.case == str(puzzle.cases[1]) and 0 < run.least_seconds and "fake GPU" in run.device
        types = compiled._types(puzzle)
        for parameter, kind in first.variant.types:
            assert kind.split(":")[0] in ("1", types.get(parameter, "i32")), parameter
        sizes = puzzle.cases[1].sizes
        assert dict(first.variant.constexprs) == {block: sizes[block] for block in puzzle.blocks}


def test_no_share_is_above_all_that_there_is() -> None:
    run = GpuRun("a GPU", "N=1", kernel_seconds=1e-6, torch_seconds=1e-6, least_seconds=2e-6)
    assert run.roofline == 1.0


def test_the_best_rate_counts(monkeypatch) -> None:
    """Whatever a kernel reads, writes or multiplies: the roof is the fastest of the ways to do so. Old code:
    that of a copy and of float32, below what a kernel that only reads, or one that uses TF32, can show."""
    seconds = {"copy_": 4e-3, "zero_": 3e-3, "sum": 1e-3}
    monkeypatch.setattr(gpu, "_COPY_BYTES", 4000)
    monkeypatch.setattr(gpu, "_MATMUL_SIZE", 8)

    def timed(work) -> float:
        return seconds.get(work.__name__, 4e-3)
    monkeypatch.setattr(gpu, "best_seconds", timed)
    assert gpu._bandwidth(torch.device("cpu")) == pytest.approx(4000 / 1e-3)
    rates = iter([4e-3, 1e-3])                               # TF32 is four times as fast
    monkeypatch.setattr(gpu, "best_seconds", lambda work: next(rates))
    plain = 2 * 8 ** 3 / 4e-3
    assert gpu._matmul_rate(torch.device("cpu"), torch.float32) == pytest.approx(plain * 4 / 3)
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(gpu, "best_seconds", lambda work: 4e-3)
    assert gpu._matmul_rate(torch.device("cpu"), torch.bfloat16) == pytest.approx(plain)


def test_a_convolution_counts_the_products_that_there_are() -> None:
    """Of ones, the answer is how many. Old code: those with the zeros beyond the edge, too."""
    puzzle = PUZZLES["conv2d"]
    for case in puzzle.cases:
        ones = {name: torch.ones_like(values) for name, values in puzzle.draw(case, 0).items()}
        products = puzzle.solve(ones, case)["z"].value.sum()
        assert 2 * products == evaluate(puzzle.flops, case.sizes)
