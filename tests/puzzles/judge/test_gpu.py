"""What a GPU would run, on the CPU: the same answer, and a kernel that is off by 1 % is found."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from puzzles.catalogue import PUZZLES
from puzzles.judge.gpu import AFTER, BEFORE, prepare
from puzzles.judge.on_gpu import launch
from puzzles.rebuild import load
from puzzles.source import from_text
from puzzles.wrong import solution_text


interpreted_only = pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels are compiled here; `check` itself runs them on the GPU")
NAMES = ["add_blocks", "rms_norm", "matmul_grouped", "rope", "kv_write", "split_k_decode"]


@interpreted_only
@pytest.mark.parametrize("name", NAMES)
def test_what_runs_interpreted_only_runs_here_interpreted(name, tmp_path):
    puzzle = PUZZLES[name]
    kernel = load(from_text(solution_text(puzzle.sheet), name), tmp_path).kernel
    case = puzzle.cases[1]
    prepared = prepare(puzzle, case, 3)
    save_file(prepared.zones, tmp_path / BEFORE)

    def findings(kernel):
        files = tmp_path / BEFORE, tmp_path / AFTER
        given = prepared.views, prepared.numbers, torch.device("cpu")
        launch(kernel, puzzle.launch_grid(case), *files, *given)
        return list(prepared.findings(load_file(tmp_path / AFTER), torch.device("cpu")))

    assert not findings(kernel) and set(prepared.inputs) == set(puzzle.inputs)
    found = findings(_Tampered(kernel, puzzle))
    assert {finding.kind for finding in found} == {"gpu"} and len(found) == len(puzzle.outputs)


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
