"""check() as a notebook uses it: what comes back for right, wrong, hanging and unusable answers."""

import subprocess
import sys
import time
from pathlib import Path

from tests.puzzles import puzzle_answers as answers
import pytest

from puzzles import check, hint, picture, progress
from puzzles.__main__ import main
from puzzles.judge.process import shared_worker
from puzzles.source import BadInput
from puzzles.wrong import solution_text

pytestmark = pytest.mark.compile
ROOT = Path(__file__).parents[2]
GRID = lambda meta: (-(-meta["N"] // meta["BLOCK_N"]), -(-meta["M"] // meta["BLOCK_M"]))  # noqa: E731


@pytest.fixture(autouse=True)
def own_board(tmp_path, monkeypatch):
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path))


def _sentence(verdict):
    assert verdict.kinds == ("bad_input",) and verdict.status == "failed"
    assert "\n" not in verdict.findings[0].message and verdict.findings[0].message.endswith(".")
    return verdict.findings[0].message


def test_a_solution_passes_with_its_figures_and_lands_on_the_board():
    verdict = check("add_constant", answers.add_constant)
    assert verdict.passed and not verdict.findings
    assert [t.times for t in verdict.traffic if t.tensor == "x"] == [1.0]
    assert verdict.traffic_score == 1.0
    assert [c.target for c in verdict.compiled] == ["sm_80", "sm_90", "sm_100"]
    assert "passed" in verdict._repr_html_() and "sm_90" in str(verdict)
    assert progress().solved == 1
    assert not check("add_constant", answers.misspelt).passed
    assert progress().solved == 1, "a later mistake must not take a solved puzzle back"


def test_helpers_and_constants_come_along():
    assert check("add_constant", answers.with_helper).passed
    assert check("add_constant", answers.with_constexpr_function).passed


def test_a_tuned_kernel_is_judged_with_the_judges_blocks(tmp_path):
    assert check("add_blocks", answers.tuned).passed
    mine = tmp_path / "mine.py"
    mine.write_text(Path(answers.__file__).read_text().replace("def tuned(", "def add_blocks("))
    assert main(["check", str(mine), "add_blocks"]) == 0


def test_a_stub_is_not_solved_yet_and_not_a_try():
    verdict = check("add_constant", answers.stub)
    assert verdict.status == "not solved yet" and not verdict.passed
    assert all(entry.tries == 0 for entry in progress().entries)


def test_what_only_the_interpreter_accepts_fails_to_compile():
    verdict = check("add_constant", answers.with_plain_constant)
    finding = verdict.findings[0]
    assert verdict.kinds == ("does_not_compile",) and "FACTOR" in finding.message + finding.code


def test_an_endless_loop_is_stopped_and_its_line_named():
    begin = time.monotonic()
    verdict = check("add_constant", answers.endless, seconds=2.0)
    assert time.monotonic() - begin < 12
    assert verdict.kinds == ("time_limit",) and verdict.findings[0].line
    loop = ("while i < 1:", "x = tl.load(x_ptr + tl.arange(0, BLOCK))", "i = i * 2")
    assert verdict.findings[0].code in loop
    assert check("add_constant", answers.add_constant).passed, "the next check works"


def test_a_raising_kernel_names_the_line_and_what_to_look_at():
    finding = check("add_constant", answers.raising).findings[0]
    assert finding.kind == "error" and "tl.arange(0, 4 * BLOCK)" in finding.code
    lines = Path(answers.__file__).read_text().splitlines()
    assert lines[finding.line - 1].strip() == finding.code, "the number is that of the learner's own file"
    assert "[:, None]" in finding.look_at and "interpreter" not in str(finding)


def test_a_misspelt_name_offers_the_right_one():
    finding = check("add_constant", answers.misspelt).findings[0]
    assert finding.code == "offsets = tl.arrange(0, BLOCK)" and "arange" in finding.look_at


def test_what_a_kernel_prints_comes_back():
    assert "first" in check("add_constant", answers.chatty).printed


def test_the_same_seed_gives_the_same_inputs():
    first, second = (
        check("add_blocks", answers.tiled_outer_sum, seed=3),
        check("outer_sum", answers.tiled_outer_sum, seed=3),
    )
    assert first.kinds == ("bad_input",) and second.passed and second.seed == 3
    one, other = check("outer_sum", answers.tiled_outer_sum), check("outer_sum", answers.tiled_outer_sum)
    assert one.seed != other.seed


@pytest.mark.parametrize(
    "kernel, words",
    [
        (answers.plain, "@triton.jit"),
        (42, "@triton.jit"),
        (answers.wrong_names, "lacks z_ptr and has unknown out_ptr"),
        (answers.not_constexpr, "BLOCK: tl.constexpr"),
        (answers.with_list, "TABLE"),
        (answers.add_constant[(1,)], "pass the kernel itself"),
    ],
)
def test_an_unusable_kernel_is_one_clear_sentence(kernel, words):
    assert words in _sentence(check("add_constant", kernel))


def test_an_unknown_name_offers_the_nearest():
    assert "'add_constant'" in _sentence(check("add_constnat", answers.add_constant))
    with pytest.raises(BadInput, match="add_constant"):
        hint("add_constnat")
    with pytest.raises(BadInput, match="1, 2 and 3"):
        hint("add_constant", 4)


def test_grids():
    assert "pass grid=" in _sentence(check("outer_sum_2d", answers.tiled_outer_sum))
    assert "leave out grid=" in _sentence(check("outer_sum", answers.tiled_outer_sum, grid=(1,)))
    broken = check("outer_sum_2d", answers.tiled_outer_sum, grid=lambda meta: (1.5,))
    assert "positive integers" in _sentence(broken)
    few = check("outer_sum_2d", answers.tiled_outer_sum, grid=(1, 1))
    assert "not_written" in few.kinds
    said = "grid (1, 1) for N=10, M=45, BLOCK_N=4, BLOCK_M=16: 1 program, and 9 would do"
    assert said in few.findings[0].look_at
    many = check("outer_sum_2d", answers.tiled_outer_sum, grid=lambda meta: (meta["N"], meta["M"]))
    assert many.kinds == ("too_many_programs",) and "128 programs, and 1 would do" in many.findings[0].message
    down = check("outer_sum_2d", answers.tiled_outer_sum, grid=lambda meta: (meta["N"] // meta["BLOCK_N"], 5))
    assert "for N=1, M=33, BLOCK_N=4, BLOCK_M=8 it is (0, 5). Was it rounded down?" in _sentence(down)
    assert check("outer_sum_2d", answers.tiled_outer_sum, grid=GRID).passed


def test_a_grid_function_that_raises_is_one_sentence_with_its_line(tmp_path, capsys):
    def grid(meta):
        return meta["n"], 1
    said = _sentence(check("outer_sum_2d", answers.tiled_outer_sum, grid=grid))
    line = grid.__code__.co_firstlineno + 1
    assert f"KeyError: 'n' (line {line}); meta has N, M, BLOCK_N, BLOCK_M." in said
    mine = tmp_path / "mine.py"
    mine.write_text(solution_text(1).replace('meta["N"]', 'meta["n"]'))
    line = next(n for n, text in enumerate(mine.read_text().splitlines(), 1) if 'meta["n"]' in text)
    assert main(["check", str(mine), "outer_sum_2d"]) == 1
    assert f"bad input: Your grid function raised KeyError: 'n' (line {line});" in capsys.readouterr().out


def test_triton_interpret_set_too_late():
    code = ("import os, torch; os.environ.pop('TRITON_INTERPRET', None)\n"
            "torch.cuda.is_available = lambda: False\n"
            "import sys; sys.path.insert(0, 'tests/puzzles'); import puzzle_answers as answers\n"
            "from puzzles import check\n"
            "os.environ['TRITON_INTERPRET'] = '1'\n"
            "print(check('add_constant', answers.add_constant))")
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert "before `import triton`" in out and "restart the kernel" in out


def test_hints_go_one_step_further_each_time_as_on_pages(tmp_path, monkeypatch):
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path))
    given = [hint("add_constant") for _ in range(4)]
    assert [one.level for one in given] == [1, 2, 3, 3] and "puzzles/solutions/" in given[3].foot
    assert given[0].foot == '`hint("add_constant")` again says more.'
    verdict = check("add_constant", answers.stub)
    for face in (str(verdict), verdict._repr_html_()):
        assert "hint(" in face and "helps" in face
    assert "helps" not in str(check("add_constant", answers.add_constant))


def test_hints_and_pictures_show_themselves():
    assert "Hint 1 of 3" in repr(hint("add_constant", 1)) and hint("add_constant", 3).text
    png, shown = picture("add_blocks")._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert "z in 1 × 4 tiles, one program writes or keeps (1, 3), the mask cuts" in shown["alt"]


def test_a_board_that_cannot_be_written_or_read_is_no_traceback(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("AIINFRA_DATA", str(blocked))
    verdict = check("add_constant", answers.add_constant)
    assert verdict.passed and "AIINFRA_DATA" in verdict.printed
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path))
    (tmp_path / "puzzles").mkdir()
    (tmp_path / "puzzles" / "add_constant.json").write_text("{half")
    assert progress().solved == 0


def test_an_interrupted_or_killed_worker_is_replaced():
    assert check("add_constant", answers.add_constant).passed
    shared_worker(True).running.kill()
    shared_worker(True).running.wait()
    assert check("add_constant", answers.add_constant).passed


def test_command_line(tmp_path, capsys):
    wrong = tmp_path / "mine.py"
    text = Path(answers.__file__).read_text().replace(") + c)\n", ") - c)\n")
    wrong.write_text(text + "\nraise SystemExit('never run')\n")
    assert main([]) == 0 and "add_constant" in capsys.readouterr().out
    assert main(["check", answers.__file__, "add_constant"]) == 0 and "passed" in capsys.readouterr().out
    assert main(["check", str(wrong)]) == 1 and "wrong value" in capsys.readouterr().out
    for arguments, words in (
        (["check", "nowhere.py"], "nowhere.py"),
        (["check", str(wrong), "add_constnat"], "add_constant"),
        (["check", __file__], "named like a puzzle"),
        (["hint", "nothing_like_it"], "no puzzle"),
    ):
        assert main(arguments) == 2 and words in capsys.readouterr().err


def test_command_line_as_a_process():
    done = subprocess.run(
        [sys.executable, "-m", "puzzles", "hint", "add_blocks", "2"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Hint 2 of 3" in done.stdout
