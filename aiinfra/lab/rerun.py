"""Run pages top to bottom and keep their outputs, as they are to be committed.

    python -m aiinfra.lab.rerun notebooks/01_fit_a_line.ipynb …          make page NB=01

A fresh data folder: the page shows "no guess yet" and open exercises. Widget views are taken
out again, and what they fall back to stays: without their kernel they would show an error.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbclient
import nbformat

from aiinfra import files
from aiinfra.environment import calm_threads, child_environment

WIDGET = "application/vnd.jupyter.widget-view+json"
_SECONDS = 600                # for one cell
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def rerun(path: Path) -> None:
    """Execute the notebook in its folder and rewrite the file. Raises CellExecutionError, writing nothing."""
    book = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as data:
        client = nbclient.NotebookClient(
            book,
            timeout=_SECONDS,
            kernel_name="python3",
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute(env=child_environment(AIINFRA_DATA=data))
    for cell in book.cells:
        cell.metadata.pop("execution", None)              # times of day: noise in a diff
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            if output.output_type == "error":
                output.traceback = [_without_folders(line, path) for line in output.traceback]
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _says_nothing(output)]
    book.metadata = _METADATA
    files.write_text(path, nbformat.writes(book) + "\n")


def _without_folders(line: str, page: Path) -> str:
    """A line of a traceback that names files from the repository's folder on, or from the installed package
    on: where they lie is this machine's affair."""
    line = line.replace(f"{page.parents[1]}{os.sep}", "")
    return re.sub(r"/[^\s:]*/site-packages/", "", line)


def _says_nothing(output: nbformat.NotebookNode) -> bool:
    """True for what a widget leaves that has no words for itself."""
    return output.get("data") == {"text/plain": ""}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: rerun each of the pages, one line a page. Ends with status 2 if one does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m aiinfra.lab.rerun",
        description="Run pages top to bottom with an empty data folder and keep their outputs.",
    )
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE", help="a notebook (.ipynb)")
    pages = parser.parse_args(arguments).pages
    for page in pages:
        if not page.is_file():
            parser.error(f"{page} does not exist.")
    calm_threads()                    # as `make lab` has them, also for a page that imports PyTorch first
    for page in pages:
        rerun(page.resolve())
        print(f"{page.name}: {page.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
