"""A page is run once: its stubs stay open, its solutions pass. Known-wrong answers fail for their reason."""

import pytest
from tests.pages.page_files import NOTEBOOKS, ROOT, SHEETS, exercises, run_cell, sections, setup
from tests.pages.page_files import wrong_answers
from tests.pages.page_kernel import PageKernel

from aiinfra.lab import store

SETUP, *RIGHT = sections(ROOT / "tests" / "pages" / "right_answers.py")
WRONG = [(notebook, section) for notebook in NOTEBOOKS for section in wrong_answers(notebook)]


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    """The reader's own progress is neither read nor written."""
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.page
@pytest.mark.parametrize("page", [*NOTEBOOKS, SHEETS[0]], ids=lambda page: page.stem)
def test_a_page_runs_and_every_stub_stays_open_and_every_solution_passes(page, own_data_folder):
    """One sheet is enough: tests/puzzles/test_trust.py judges all solutions, and nbval runs all sheets."""
    stands = PageKernel(page, own_data_folder).read()
    assert list(stands) == list(exercises(page))
    for name, stand in stands.items():
        assert stand.stub == "not solved yet", name
        assert stand.solved == "passed", f"{name}: {stand.said}"
    if page in NOTEBOOKS:
        kept = {name: store.read("exercises", name) for name in stands}
        assert {record["status"] for record in kept.values()} == {"passed"}, kept
        assert {record["tries"] for record in kept.values()} == {1}, "a stub is not a try"
    else:
        on_the_board = {file.stem for file in own_data_folder.rglob("*.json")}
        assert on_the_board == set(stands)


@pytest.mark.page
@pytest.mark.parametrize("notebook, wrong", WRONG, ids=[f"{s.name}-{s.words[:30]}" for _, s in WRONG])
def test_wrong_answer_is_rejected_for_its_reason(notebook, wrong, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert wrong.words, "after `|`, say which words the message must contain"
    namespace = {"__name__": "__main__"}
    run_cell(setup(notebook), namespace, tmp_path / "setup.py")
    seen = run_cell(wrong.code, namespace, tmp_path / "cell.py")
    assert seen.status == "wrong" and wrong.words in seen.message, seen


@pytest.mark.page
@pytest.mark.parametrize("right", RIGHT, ids=[section.name for section in RIGHT])
def test_a_right_answer_in_another_form_is_accepted(right, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": "__main__"}
    run_cell(SETUP.code, namespace, tmp_path / "setup.py")
    seen = run_cell(right.code, namespace, tmp_path / "cell.py")
    assert seen.passed, seen
