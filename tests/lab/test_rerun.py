"""Running a page again keeps its outputs and takes out what needs a live kernel."""

import nbformat
import pytest

from aiinfra.lab import rerun

pytestmark = pytest.mark.page                   # each runs a page in a kernel


def page(path, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


def test_outputs_are_kept_and_widgets_taken_out(tmp_path, capsys):
    path = page(
        tmp_path / "01_small.ipynb", "from aiinfra.lab import predict", 'predict("x", question="q?", high=2)'
    )
    rerun.main([str(path)])
    book = nbformat.read(path, as_version=4)
    [output] = book.cells[1].outputs
    assert rerun.WIDGET not in output.data and "No guess yet." in output.data["text/plain"]
    assert [cell.execution_count for cell in book.cells] == [1, 2] and "execution" not in book.cells[
        0
    ].metadata
    assert book.metadata.kernelspec.name == "python3" and "01_small.ipynb: " in capsys.readouterr().out


def test_a_page_that_fails_is_left_as_it_was(tmp_path):
    path = page(tmp_path / "01_small.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        rerun.main([str(path)])
    assert path.read_bytes() == before


def test_a_traceback_says_nothing_of_where_files_lie(tmp_path):
    wrong = "import torch\ntorch.nn.Linear(2, 2)(torch.ones(3))"
    path = page(tmp_path / "notebooks" / "01_small.ipynb", wrong)
    book = nbformat.read(path, as_version=4)
    book.cells[0].metadata.tags = ["raises-exception"]
    nbformat.write(book, path)
    rerun.main([str(path)])
    [output] = nbformat.read(path, as_version=4).cells[0].outputs
    said = "\n".join(output.traceback)
    assert "torch/nn/modules" in said and "site-packages" not in said and str(tmp_path) not in said


def test_a_page_that_is_not_there_is_said(capsys):
    with pytest.raises(SystemExit):
        rerun.main(["77_nothing.ipynb"])
    assert "77_nothing.ipynb does not exist" in capsys.readouterr().err
