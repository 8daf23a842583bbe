"""The course is what lies on disk: links, the README's table and the overview name the same pages."""

import re

import pytest
from tests.pages.page_files import NOTEBOOKS, exercises, load, number_of

from aiinfra.lab import course, progress, store
from aiinfra.lab.source import ROOT

PAGES = course.pages()
ROW = re.compile(r"^\| (\d\db?) \| (?:\[(\w+)\]\((\S+)\)|(\w+)) \| (.+?) \| ([\d +]*)\|$", re.MULTILINE)
WORD = re.compile(r"^\| \*\*(.+?)\*\*(?: \((\w+)\))? \|.*\| (\d\db?) \|$", re.MULTILINE)


def readme() -> list[tuple[str, str, str, str, str]]:
    """(number, name, link or "", question, minutes) of each row of the README's table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = []
    for number, linked, link, plain, question, minutes in ROW.findall(text):
        rows.append((number, linked or plain, link, question, minutes.strip()))
    return rows


def test_pages_are_the_notebooks_with_their_exercises():
    assert [page.file for page in PAGES] == [path.name for path in NOTEBOOKS]
    for page, notebook in zip(PAGES, NOTEBOOKS, strict=True):
        assert page.number == number_of(notebook) and list(page.marks) == list(exercises(notebook))


def test_the_readme_links_the_notebooks_on_disk_and_no_other():
    linked = {number: link for number, _, link, *_ in readme() if link}
    assert linked == {number_of(path): f"notebooks/{path.name}" for path in NOTEBOOKS}
    whole = [number for number, *_ in readme() if number.isdigit()]
    assert whole == [f"{n:02}" for n in range(19)]


def test_the_readme_and_the_pages_have_the_same_names_and_questions():
    rows = {number: (name, question) for number, name, _, question, _ in readme()}
    for page, notebook in zip(PAGES, NOTEBOOKS, strict=True):
        name, question = rows[page.number]
        assert notebook.stem == f"{page.number}_{name}"
        assert (
            question.rstrip("?") in load(notebook).cells[0].source
        ), f"page {page.number} opens with another question"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_page_links_its_neighbours(notebook):
    lines = load(notebook).cells[0].source.splitlines()
    assert lines[2] == course.links(number_of(notebook), PAGES), "the line under the title"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_page_says_its_minutes_as_the_readme_does(notebook):
    said = {number: minutes for number, *_, minutes in readme()}
    reading, exercising = said[number_of(notebook)].split(" + ")
    line = load(notebook).cells[0].source.splitlines()[4]
    assert line == f"*About {reading} minutes, and {exercising} for the exercises.*"


def test_the_glossary_is_in_order_and_each_word_stands_on_its_page():
    text = (ROOT / "notebooks/glossary.md").read_text(encoding="utf-8")
    words = WORD.findall(text)
    assert len(words) > 40 and words == sorted(words, key=lambda row: (row[0].lower(), row[1].lower()))
    prose = {number_of(path): page_text(load(path)) for path in NOTEBOOKS}
    missing = []
    for word, _, number in words:
        names = word.split(", ")
        if not all(name.lower() in prose[number] for name in names):
            missing.append((word, number))
    assert not missing, missing


def page_text(book) -> str:
    """All Markdown of a page, in small letters, without the signs of emphasis."""
    cells = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    return "\n".join(cells).replace("*", "").lower()


def test_the_first_and_the_last_page_have_one_neighbour():
    assert course.links("00", PAGES).startswith("[the whole course]") and "[01 · " in course.links(
        "00", PAGES
    )
    assert course.links(PAGES[-1].number, PAGES).endswith("[glossary](glossary.md)")


def test_progress_shows_the_whole_course_and_what_others_add():
    store.write("exercises", "01.shards", {"status": "passed"})
    sheet = course.Part(number="1", title="First blocks", file="1.ipynb", marks={"map": "passed", "zip": ""})
    whole, more = progress(), progress(also=[sheet])
    assert [part.number for part in whole.parts] == [page.number for page in PAGES]
    assert whole.head.startswith("1 of ") and more.head.startswith("2 of ")
    assert "1 · First blocks  ✓ map  ○ zip" in repr(more)
    assert '<a href="01_fit_a_line.ipynb">01 · Fit a line</a>' in whole._repr_html_()
    assert "- [01 · Fit a line](01_fit_a_line.ipynb) " in whole._repr_markdown_()


def test_a_page_that_is_not_there():
    with pytest.raises(ValueError, match="there is no page '77'. There are: 00, 01"):
        progress("77")
