"""Every check passes the solution, leaves the stub open and rejects known-wrong answers for their reason.

The unsolved notebook is run by nbval (see the Makefile); here each runs once more, solved.
"""

import nbclient
import pytest
from tests.pages.page_files import NOTEBOOKS, exercises, load, run_cell, setup, solutions, wrong_answers

from aiinfra.lab import store

EACH = [(notebook, name) for notebook in NOTEBOOKS for name in exercises(notebook)]
WRONG = [(notebook, section) for notebook in NOTEBOOKS for section in wrong_answers(notebook)]


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path, monkeypatch):
    """The reader's own progress is neither read nor written."""
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MPLBACKEND", "Agg")


def verdict(notebook, code, tmp_path):
    namespace = {"__name__": "__main__"}
    run_cell(setup(notebook), namespace, tmp_path / "setup.py")
    return run_cell(code, namespace, tmp_path / "cell.py")


@pytest.mark.parametrize("notebook, name", EACH, ids=lambda value: getattr(value, "stem", value))
def test_solution_passes_and_stub_stays_open(notebook, name, tmp_path):
    assert verdict(notebook, exercises(notebook)[name].source, tmp_path).status == "not solved yet"
    assert store.read("exercises", name) == {}
    solved = verdict(notebook, solutions(notebook)[name], tmp_path)
    assert solved.passed, solved.message


@pytest.mark.parametrize("notebook, wrong", WRONG, ids=[f"{s.name}-{s.words[:30]}" for _, s in WRONG])
def test_wrong_answer_is_rejected_for_its_reason(notebook, wrong, tmp_path):
    assert wrong.words, "after `|`, say which words the message must contain"
    seen = verdict(notebook, wrong.code, tmp_path)
    assert seen.status == "wrong" and wrong.words in seen.message, seen


@pytest.mark.parametrize("notebook", [book for book in NOTEBOOKS if exercises(book)], ids=lambda path: path.stem)
def test_notebook_runs_with_the_solutions_filled_in(notebook, tmp_path):
    book, answers = load(notebook), solutions(notebook)
    for cell in book.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("exercise:"):
                cell.source = answers[tag.removeprefix("exercise:")]
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", store_widget_state=False,
                            resources={"metadata": {"path": str(notebook.parent)}}).execute()
    statuses = {name: store.read("exercises", name).get("status") for name in answers}
    assert set(statuses.values()) == {"passed"}, statuses
