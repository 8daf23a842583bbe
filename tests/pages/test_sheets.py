"""The sheets say what is judged. Their form is in test_rules.py, one solved sheet in test_exercises.py."""

import re
from dataclasses import replace

import pytest
from tests.pages.page_files import SHEETS, exercises, load, prose

from puzzles.catalogue import PUZZLES
from puzzles.statement import markdown, stub

each_sheet = pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.stem)
LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")


def unlinked(text: str) -> str:
    """A statement names a notebook with or without a link: whichever is added first, sheet or notebook."""
    return LINK.sub(r"\1", text)


@each_sheet
def test_a_sheet_states_what_is_judged(sheet):
    mine = {name: puzzle for name, puzzle in PUZZLES.items() if puzzle.sheet == int(sheet.stem[0])}
    cells, said = exercises(sheet), unlinked(prose(sheet))
    assert list(cells) == list(mine)
    for name, puzzle in mine.items():
        assert unlinked(markdown(puzzle)) in said, f"{name}: the sheet's statement is not the judge's"
        assert cells[name].source.startswith(stub(puzzle).rstrip()), name
        assert cells[name].source.splitlines()[-1].startswith(f'check("{name}", {name}'), name
        assert any(cell.source == f'picture("{name}")' for cell in load(sheet).cells), name


@each_sheet
def test_a_sheet_says_its_minutes(sheet):
    minutes = sum(PUZZLES[name].minutes for name in exercises(sheet))
    assert f"*About {minutes} minutes for all " in load(sheet).cells[0].source


def test_a_statement_links_only_to_a_notebook_that_exists():
    puzzle = PUZZLES["add_constant"]
    assert "[08](../../notebooks/08_gpu_programming.ipynb)" in markdown(puzzle)
    assert "from notebook 99\n" in markdown(replace(puzzle, notebook="99_not_written"))
