"""Without Triton (macOS, Windows) a page runs to its end: what needs it says one sentence, everything else
runs."""

import os

import nbclient
import pytest
from tests.pages.page_files import NOTEBOOKS, ROOT, SHEETS, load, shown

from aiinfra.lab.without_triton import SENTENCE

pytestmark = pytest.mark.page
GPU_PAGE = [page for page in NOTEBOOKS if page.stem.startswith("08")]


@pytest.mark.parametrize("page", [*GPU_PAGE, *SHEETS[:1]], ids=lambda page: page.stem)
def test_a_page_runs_without_triton(page, tmp_path):
    (tmp_path / "triton.py").write_text(
        "raise ModuleNotFoundError('No module named triton', name='triton')\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    environment = {**os.environ, "AIINFRA_DATA": str(tmp_path / "data"), "PYTHONPATH": path}
    book = load(page)
    where = {"metadata": {"path": str(page.parent)}}
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", store_widget_state=False, resources=where)
    client.execute(env=environment)                 # raises at the first cell that fails
    said = [SENTENCE in shown(cell) for cell in book.cells if cell.cell_type == "code"]
    assert any(said) and not said[0]
    if page in NOTEBOOKS:
        assert said.count(False) > 10, "half of this page needs no Triton"
