"""Readers' copies: laid once, brought on by updates, and nothing that a reader wrote is ever lost."""

import copy
import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra.lab import copies


def cell(key: str, source: str, **more) -> dict:
    return {"cell_type": "code", "id": key, "metadata": {}, "outputs": [], "execution_count": None,
            "source": source.splitlines(keepends=True), **more}


def book(*cells: dict) -> dict:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def sources(made: dict) -> list[str]:
    return ["".join(one["source"]) for one in made["cells"]]


@pytest.fixture
def workbook(tmp_path):
    for place in ("notebooks/01_a.ipynb", "puzzles/sheets/1_b.ipynb"):
        path = tmp_path / place
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(book(cell("a", "x = ..."), cell("b", "print(x)"))))
    return tmp_path


def write(path, made) -> None:
    path.write_text(json.dumps(made))


def test_copies_are_laid_once(workbook):
    assert [str(place) for place in copies.lay(workbook)] == ["01_a.ipynb", "sheets/1_b.ipynb"]
    mine = workbook / "work/01_a.ipynb"
    write(mine, book(cell("a", "x = 3")))
    assert copies.lay(workbook) == [] and copies.outdated(workbook) == []
    assert sources(json.loads(mine.read_text())) == ["x = 3"]


def test_an_update_keeps_the_sliders_as_they_were_left(workbook):
    """JupyterLab keeps a widget's state in the page's metadata; what the page ships comes with the page."""
    copies.lay(workbook)
    mine = json.loads((workbook / "work/01_a.ipynb").read_text())
    state = {"application/vnd.jupyter.widget-state+json": {"state": {"slider": {"value": 7}}}}
    mine["metadata"] = {"widgets": state, "kernelspec": {"name": "mine"}}
    write(workbook / "work/01_a.ipynb", mine)
    shipped = book(cell("a", "x = ..."), cell("b", "print(x + 1)"))
    shipped["metadata"] = {"kernelspec": {"name": "python3"}}
    write(workbook / "notebooks/01_a.ipynb", shipped)
    copies.update(workbook)
    updated = json.loads((workbook / "work/01_a.ipynb").read_text())
    assert updated["metadata"] == {"widgets": state, "kernelspec": {"name": "python3"}}
    assert sources(updated) == ["x = ...", "print(x + 1)"]


def test_an_update_keeps_what_was_written_and_brings_what_is_new(workbook):
    copies.lay(workbook)
    mine = workbook / "work/01_a.ipynb"
    write(mine, book(cell("a", "x = 3"), cell("own", "my = 1"), cell("b", "print(x)", execution_count=7)))
    before = mine.read_text()
    news = book(cell("a", "x = ..."), cell("new", "news"), cell("b", "print(x)"))
    write(workbook / "notebooks/01_a.ipynb", news)
    changed = copies.update(workbook, now=lambda: datetime(2030, 1, 2, 3, 4, 5))
    assert [str(place) for place in changed] == ["01_a.ipynb"]
    made = json.loads(mine.read_text())
    assert sources(made) == ["x = 3", "my = 1", "news", "print(x)"]
    assert made["cells"][-1]["execution_count"] == 7, "outputs stay where the cell has not changed"
    assert (workbook / "work/.before/2030-01-02_03-04-05/01_a.ipynb").read_text() == before
    assert copies.outdated(workbook) == [] and copies.update(workbook) == []


def test_a_cell_that_both_changed_is_there_twice():
    base, shipped, mine = (book(cell("a", text)) for text in ("x = ...", "y = ...", "x = 3"))
    made = copies.merge(base, shipped, mine)
    assert sources(made) == ["y = ...", copies._THEIRS, "x = 3"]
    assert len({one["id"] for one in made["cells"]}) == 3


def test_a_cell_that_the_page_no_longer_has_stays_if_the_reader_changed_it():
    base = book(cell("a", "1"), cell("b", "2"), cell("c", "3"))
    mine = book(cell("a", "1"), cell("b", "mine"), cell("c", "3"))
    assert sources(copies.merge(base, book(cell("a", "1")), mine)) == ["1", "mine"]


def test_without_a_base_everything_that_differs_is_kept():
    made = copies.merge(None, book(cell("a", "new")), book(cell("a", "old")))
    assert "old" in sources(made)


def test_a_copy_that_is_no_notebook_is_named_and_left_alone(workbook):
    copies.lay(workbook)
    (workbook / "work/01_a.ipynb").write_text("{broken")
    write(workbook / "notebooks/01_a.ipynb", book(cell("a", "other")))
    with pytest.raises(ValueError, match="01_a.ipynb is not a notebook.*Move it away"):
        copies.update(workbook)
    assert (workbook / "work/01_a.ipynb").read_text() == "{broken"


def test_links_lead_to_copies_of_pages_and_to_the_files_themselves(workbook):
    (workbook / "aiinfra").mkdir()
    (workbook / "aiinfra/x.py").write_text("")
    (workbook / "notebooks/solutions").mkdir()
    (workbook / "notebooks/solutions/01_a.py").write_text("")
    page = ("[s](../puzzles/sheets/1_b.ipynb) [f](../aiinfra/x.py#L3) [n](01_a.ipynb) "
            "[a](solutions/01_a.py) [w](https://a.b/c) f[i](x)")
    sheet = "[p](../../notebooks/01_a.ipynb) [f](../../aiinfra/x.py)"
    for place, text in (("notebooks/01_a.ipynb", page), ("puzzles/sheets/1_b.ipynb", sheet)):
        write(workbook / place, book({"cell_type": "markdown", "id": "m", "metadata": {}, "source": [text]}))
    copies.lay(workbook)
    [made] = sources(json.loads((workbook / "work/01_a.ipynb").read_text()))
    assert made == ("[s](sheets/1_b.ipynb) [f](../aiinfra/x.py#L3) [n](01_a.ipynb) "
                    "[a](../notebooks/solutions/01_a.py) [w](https://a.b/c) f[i](x)")
    [made] = sources(json.loads((workbook / "work/sheets/1_b.ipynb").read_text()))
    assert made == "[p](../01_a.ipynb) [f](../../aiinfra/x.py)"


KEYS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)
TEXTS = st.lists(st.sampled_from("12"), min_size=6)
BOOKS = st.builds(lambda keys, texts: book(*(cell(k, t) for k, t in zip(keys, texts))), KEYS, TEXTS)


@given(base=st.none() | BOOKS, shipped=BOOKS, mine=BOOKS)
def test_whatever_comes_nothing_of_the_readers_is_lost_and_every_page_cell_is_there(base, shipped, mine):
    before = copy.deepcopy((base, shipped, mine))
    made = copies.merge(base, shipped, mine)
    assert (base, shipped, mine) == before
    known = {one["id"]: "".join(one["source"]) for one in (base or shipped)["cells"]}
    for one in mine["cells"]:
        text = "".join(one["source"])
        if known.get(one["id"]) != text:
            assert text in sources(made)
    page = {one["id"] for one in shipped["cells"]}
    assert page <= {one["id"] for one in made["cells"]}
    assert len({one["id"] for one in made["cells"]}) == len(made["cells"])
