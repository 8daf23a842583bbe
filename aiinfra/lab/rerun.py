"""Run notebooks top to bottom and keep their outputs, as they are to be committed.

    python aiinfra/lab/rerun.py notebooks/01_fit_a_line.ipynb …

A fresh data folder: the page shows "no guess yet" and open exercises. Widget views are taken
out again, and what they fall back to stays: without their kernel they would show an error.
"""


import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

from aiinfra.environment import child_environment

WIDGET = "application/vnd.jupyter.widget-view+json"


def rerun(path: Path) -> None:
    """Execute the notebook in its folder and rewrite the file. Raises CellExecutionError, writing nothing."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as data:
        client = nbclient.NotebookClient(book, timeout=600, kernel_name="python3", store_widget_state=False, coalesce_streams=True,
                                         resources={"metadata": {"path": str(path.parent)}})
        client.execute(env=child_environment(AIINFRA_DATA=data))
    for cell in book.cells:
        cell.metadata.pop("execution", None)              # times of day: noise in a diff
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    book.metadata = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python",
                                    "name": "python3"}, "language_info": {"name": "python"}}
    nbformat.write(book, path)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rerun(Path(name).resolve())
