"""A kernel that reads a page as a reader does: top to bottom, at each exercise the stub, then the answer.

    cell ──► cell ──► exercise: the stub      its check says "not solved yet"
                          └───► the solution  its check says "passed"  ──► cell ──► …

One run keeps two promises, because no later cell uses what an exercise defines (test_rules.py sees to it):
the page as shipped runs to its end, and the solved page passes every check.
"""

import os
from pathlib import Path
from typing import NamedTuple

import nbclient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from tests.pages.page_files import ROOT, exercise_of, load, solutions, tags


class Stand(NamedTuple):
    """How an exercise stood after its stub and after its solution, and what the last check said."""

    stub: str
    solved: str
    said: str


class PageKernel:
    """The page in its own process, in its own folder, with a reader's data folder that is empty at first."""

    def __init__(self, page: Path, data: Path) -> None:
        self.page, self.book = page, load(page)
        self.environment = {**os.environ, "AIINFRA_DATA": str(data), "PYTHONPATH": str(ROOT)}
        where = {"metadata": {"path": str(page.parent)}}
        self.client = nbclient.NotebookClient(
            self.book, timeout=300, kernel_name="python3", store_widget_state=False, resources=where)

    def read(self) -> dict[str, Stand]:
        """Run every cell once, exercises twice. Raises CellExecutionError at the first cell that fails."""
        answers, stands = solutions(self.page), {}
        with self.client.setup_kernel(env=self.environment):
            for index, cell in enumerate(self.book.cells):
                self._run(cell, index)
                if name := exercise_of(cell):
                    stub, _ = self._verdict(index)
                    self._run(new_code_cell(answers[name]), index)
                    stands[name] = Stand(stub, *self._verdict(index))
        return stands

    def _run(self, cell: NotebookNode, index: int) -> str:
        """Run one cell where it stands in the page; returns what it prints."""
        self.client.execute_cell(cell, index)
        outputs = cell.get("outputs", [])
        failed = [out for out in outputs if out.output_type == "error"]
        meant = "raises-exception" in tags(cell)
        assert bool(failed) == meant, f"this cell should show an error:\n{cell.source}"
        return "".join(out.text for out in outputs if out.output_type == "stream")

    def _verdict(self, index: int) -> tuple[str, str]:
        """Status and text of the value shown last; asking shows nothing, so it stays the last."""
        last = "[*Out.values()][-1]"             # and not `_`, which a page may have taken for itself
        said = self._run(new_code_cell(f"print({last}.status, {last}, sep='\\n')"), index)
        status, _, text = said.partition("\n")
        return status, text.strip()
