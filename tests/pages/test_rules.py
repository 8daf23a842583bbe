"""The form of every notebook: what a reader may count on before the first cell is run."""

import re
import statistics

import nbformat
import pytest
from tests.pages.page_files import NOTEBOOKS, exercises, load, solutions, wrong_answers

from aiinfra.lab import exercise as ex

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
ABSOLUTE = re.compile(r"(?<![\w.:/~<])/(?:home|root|tmp|work|Users|mnt|var|usr|opt|private)/\S+|[A-Z]:\\\\?Users")


def code_cells(notebook) -> list:
    return [cell for cell in load(notebook).cells if cell.cell_type == "code"]


def lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def prose(notebook) -> str:
    return "\n".join(cell.source for cell in load(notebook).cells if cell.cell_type == "markdown")


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_is_valid_and_runs_on_the_stock_kernel(notebook):
    book = load(notebook)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    assert notebook.stat().st_size < 500_000


@each_notebook
def test_outputs_come_from_one_clean_run(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        failed = [out for out in cell.outputs if out.output_type == "error"]
        assert bool(failed) == ("raises-exception" in cell.metadata.get("tags", [])), cell.source
        assert not [out for out in cell.outputs if out.get("name") == "stderr"], cell.source


@each_notebook
def test_nothing_needs_a_kernel_to_be_seen(notebook):
    """Widget views without their kernel show an error, SVG is hidden in a clone nobody has trusted yet."""
    assert "widgets" not in load(notebook).metadata, "commit what aiinfra/lab/rerun.py writes"
    for cell in code_cells(notebook):
        kinds = {kind for out in cell.outputs for kind in out.get("data", {})}
        assert not kinds & {"application/vnd.jupyter.widget-view+json", "image/svg+xml"}, cell.source


@each_notebook
def test_nothing_ties_it_to_one_machine(notebook):
    book = load(notebook)
    for cell in book.cells:
        shown = [cell.source] + [str(out.get("text", "")) + str(out.get("traceback", ""))
                                 + "".join(str(body) for kind, body in out.get("data", {}).items()
                                           if kind.startswith("text/")) for out in cell.get("outputs", [])]
        for text in shown:
            assert not (found := ABSOLUTE.search(text)), found.group()
    assert "base64," not in prose(notebook) and not any("attachments" in cell for cell in book.cells)


@each_notebook
def test_links_lead_somewhere(notebook):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", prose(notebook), flags=re.DOTALL)      # `kernel[grid](…)` is no link
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (notebook.parent / target.split("#")[0]).exists(), target


@each_notebook
def test_cells_are_short_and_prose_outweighs_them(notebook):
    cells, kinds = code_cells(notebook), [cell.cell_type for cell in load(notebook).cells]
    assert statistics.median(map(lines, cells)) <= 8
    assert max(map(lines, cells)) <= 25
    widest = max((line for cell in cells for line in cell.source.splitlines()), key=len)
    assert len(widest) <= 115, f"a line of {len(widest)} characters needs scrolling: {widest}"
    assert "code code code" not in " ".join(kinds), "three code cells in a row"
    code = "\n".join(cell.source for cell in cells)
    assert len(prose(notebook)) > len(code), f"{len(prose(notebook))} characters of prose, {len(code)} of code"


@each_notebook
def test_every_cell_ends_in_something_visible(notebook):
    silent = [cell.source for cell in code_cells(notebook) if not cell.outputs]
    assert not silent, f"{len(silent)} cells show nothing, the first is:\n{silent[0]}"


@each_notebook
def test_opens_with_a_question_and_ends_with_three_numbers(notebook):
    first = load(notebook).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "?" in first.source
    assert re.search(r"^#+ .*three numbers", prose(notebook), re.IGNORECASE | re.MULTILINE)


@each_notebook
def test_exercises_are_complete(notebook):
    number, cells = notebook.stem[:2], exercises(notebook)
    assert set(cells) == set(ex.load(number)), "tags in the notebook and judges in lab/exercises differ"
    assert set(cells) == set(solutions(notebook)), "tags in the notebook and solutions differ"
    for name, cell in cells.items():
        assert f'check("{name}"' in cell.source.strip().splitlines()[-1], name
        hints = ex.find(name).hints
        assert len(set(hints)) == 3 and all(len(text) > 20 for text in hints), name
        assert sum(wrong.name == name for wrong in wrong_answers(notebook)) >= 2, name
