"""The sheets: what they say is what is judged; they run as shipped, and with the solutions filled in."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nbclient
import nbformat
import pytest

from puzzles.board import sheet_path
from puzzles.catalogue import PUZZLES, SHEETS
from puzzles.wrong import solution_parts, solution_text

each_sheet = pytest.mark.parametrize("sheet", SHEETS)
_ABSOLUTE = re.compile(r"(?<![\w.:/~<])/(?:home|root|tmp|work|Users|mnt|var|usr|opt)/\S+")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")
_CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
_ROOT = sheet_path(1).parents[2]


def _load(sheet):
    return nbformat.read(sheet_path(sheet), as_version=4)


def _exercises(book):
    return {tag.removeprefix("puzzle:"): cell for cell in book.cells
            for tag in cell.metadata.get("tags", []) if tag.startswith("puzzle:")}


def _unlinked(text):
    """A notebook is named in a statement with or without a link: whichever is added first, sheet or notebook."""
    return _LINK.sub(r"\1", text)


def _environment(folder):
    return {**os.environ, "AIINFRA_DATA": str(folder), "PYTHONPATH": str(_ROOT)}


def _solved(sheet, folder):
    """A copy of the sheet with every exercise solved and every verdict asserted; returns its path."""
    book = _load(sheet)
    for name, cell in _exercises(book).items():
        call = cell.source.splitlines()[-1]
        cell.source = f"{solution_parts(solution_text(sheet), name)[1]}\nverdict = {call}\nassert verdict.passed, verdict\nverdict"
    path = folder / sheet_path(sheet).name
    nbformat.write(book, path)
    return path


@each_sheet
def test_a_sheet_states_what_is_judged(sheet):
    book = _load(sheet)
    nbformat.validate(book)
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    mine = {name: p for name, p in PUZZLES.items() if p.sheet == sheet}
    exercises = _exercises(book)
    assert list(exercises) == list(mine)
    for name, puzzle in mine.items():
        assert _unlinked(puzzle.markdown) in _unlinked(prose), f"{name}: the sheet's statement is not the judge's"
        assert exercises[name].source.startswith(puzzle.stub.rstrip()), name
        assert exercises[name].source.splitlines()[-1].startswith(f'check("{name}", {name}'), name
        assert any(cell.source == f'picture("{name}")' for cell in book.cells), name


@each_sheet
def test_links_lead_somewhere(sheet):
    prose = "\n".join(_CODE.sub("", cell.source) for cell in _load(sheet).cells if cell.cell_type == "markdown")
    targets = [target.partition("#")[0] for _, target in _LINK.findall(prose) if "://" not in target]
    assert targets or sheet == max(SHEETS), "a sheet links to the next one"
    missing = [target for target in targets if not (sheet_path(sheet).parent / target).is_file()]
    assert not missing, missing


def test_a_statement_links_only_to_a_notebook_that_exists():
    puzzle = PUZZLES["add_constant"]
    assert "[08](../../notebooks/08_gpu_programming.ipynb)" in puzzle.markdown
    assert "from notebook 99\n" in replace(puzzle, notebook="99_not_written").markdown


@each_sheet
def test_outputs_are_those_of_one_clean_unsolved_run(sheet):
    assert sheet_path(sheet).stat().st_size < 500_000
    cells = [cell for cell in _load(sheet).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs and all(out.output_type != "error" and out.get("name") != "stderr" for out in cell.outputs)
        shown = "".join(
            str(body)
            for out in cell.outputs
            for kind, body in out.get("data", {}).items()
            if kind.startswith("text/")
        )
        assert not _ABSOLUTE.search(shown), shown
        if any(tag.startswith("puzzle:") for tag in cell.metadata.get("tags", [])):
            assert "not solved yet" in shown


def test_sheets_run_unsolved_to_the_end(tmp_path):
    def run(sheet):
        book = _load(sheet)
        nbclient.NotebookClient(
            book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(sheet_path(sheet).parent)}}
        ).execute(env=_environment(tmp_path))
        return [cell for cell in book.cells if cell.cell_type == "code"]
    for cells in map(run, (1, 5)):                 # the others run in `make notebooks`
        verdicts = [
            str(out.get("data"))
            for cell in cells
            for tag in cell.metadata.get("tags", [])
            for out in cell.outputs
            if tag
        ]
        assert verdicts and all("not solved yet" in verdict for verdict in verdicts)


def test_solved_sheets_pass_nbval(tmp_path):
    paths = [_solved(sheet, tmp_path) for sheet in SHEETS]
    def validate(mine):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "--nbval-lax",
                "--nbval-cell-timeout=180",
                "-q",
                "-p",
                "no:cacheprovider",
                "--rootdir",
                str(tmp_path),
                *map(str, mine),
            ],
            env=_environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(validate, (paths[:3], paths[3:])):
            assert done.returncode == 0, done.stdout[-3000:]
    assert len(list((tmp_path / "puzzles").glob("*.json"))) == len(PUZZLES), "every solved puzzle is on the board"
