"""The form of every page: what a reader may count on before the first cell is run."""

import ast
import re
import statistics

import nbformat
import pytest
from tests.pages.page_files import NOTEBOOKS, PAGES, SHEETS, code_cells, exercise_of, exercises, load
from tests.pages.page_files import number_of, prose, shown, solutions, tags, wrong_answers
from tests.source_tree import Function, nodes

from aiinfra.lab import exercise as ex

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
FOLDERS = "home|root|tmp|work|Users|mnt|var|usr|opt|private"
ABSOLUTE = re.compile(rf"(?<![\w.:/~<])/(?:{FOLDERS})/\S+|[A-Z]:\\\\?Users")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)                  # `kernel[grid](…)` is no link


MOST_LINES_OF_A_CELL = 15
# A cell may be longer where it is one function that is read as a whole, or one figure that a slider redraws.
# Pages that are not listed yet have at most 25 lines a cell.
LONGER = {
    "01_fit_a_line": set(), "09_triton_puzzles": set(), "10_fused_kernels": set(), "10b_recommender": set(),
    "03_transformer": set(), "16_smaller_and_sooner": set(), "02_autograd": {"class Value"},
    "00_your_machine": {"def cheap_machines", "def roofline", "def rent", "box = perf.Hardware"},
    "06_model_parallelism": {"def zero", "class Copy", "def run_stage"},
    "08_gpu_programming": {"def divergence", "def memory_map"},
    "11_kv_cache": {"def regime"},
    "12_batching": {"def step_seconds_with", "def schedule", "def serve", "def traffic", "def tune"},
    "13_paged_cache": {"def serve", "class Landlord", "def arrival"},
    "17_experts_and_giants": {"def train", "def expert_parallel", "def token_time"},
    "15_streaming": set(),
    "14_launch_overhead": {"def twin", "def step_ms", "def step()", "class Tape", "def loop"},
}


def lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def links(page) -> list[str]:
    """The links of a page that lead to files of the repository, without #parts."""
    targets = LINK.findall(CODE.sub("", prose(page)))
    ours = [target for target in targets if "://" not in target and not target.startswith("#")]
    return [target.partition("#")[0] for target in ours]


def test_there_are_pages():
    assert NOTEBOOKS and SHEETS


@each_page
def test_is_valid_and_runs_on_the_stock_kernel(page):
    book = load(page)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    assert page.stat().st_size < 500_000


@each_page
def test_outputs_come_from_one_clean_run(page):
    cells = code_cells(page)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        failed = [out for out in cell.outputs if out.output_type == "error"]
        assert bool(failed) == ("raises-exception" in tags(cell)), cell.source
        assert not [out for out in cell.outputs if out.get("name") == "stderr"], cell.source


@each_page
def test_every_exercise_is_shipped_open(page):
    solved = [name for name, cell in exercises(page).items() if "not solved yet" not in shown(cell)]
    assert not solved, solved


@each_page
def test_nothing_needs_a_kernel_to_be_seen(page):
    """Widget views without their kernel show an error, SVG is hidden in a clone nobody has trusted yet."""
    assert "widgets" not in load(page).metadata, "commit what `make page` writes"
    for cell in code_cells(page):
        kinds = {kind for out in cell.outputs for kind in out.get("data", {})}
        assert not kinds & {"application/vnd.jupyter.widget-view+json", "image/svg+xml"}, cell.source


@each_page
def test_every_picture_has_words_for_who_cannot_see_it(page):
    for cell in code_cells(page):
        for out in cell.outputs:
            if "image/png" in out.get("data", {}):
                alt = out.metadata.get("image/png", {}).get("alt", "")
                assert len(alt) > len("Figure: "), cell.source
            images = re.findall(r"<img [^>]*>", str(out.get("data", {}).get("text/html", "")))
            assert all(re.search(r'alt="[^"]{9,}"', image) for image in images), cell.source


@each_notebook
def test_a_page_says_its_minutes(notebook):
    opening = load(notebook).cells[0].source
    assert re.search(r"^\*About \d+ minutes", opening, re.MULTILINE), opening


@each_page
def test_nothing_ties_it_to_one_machine(page):
    book = load(page)
    for cell in book.cells:
        for text in (cell.source, shown(cell)):
            assert not (found := ABSOLUTE.search(text)), found.group()
        tracebacks = [line for output in cell.get("outputs", []) for line in output.get("traceback", [])]
        assert "site-packages/" not in "".join(tracebacks), "rerun.py takes the folders out of a traceback"
    assert "base64," not in prose(page) and not any("attachments" in cell for cell in book.cells)


@each_page
def test_links_lead_somewhere(page):
    missing = [target for target in links(page) if not (page.parent / target).exists()]
    assert not missing, missing


@pytest.mark.parametrize("sheet", SHEETS[:-1], ids=lambda path: path.stem)
def test_a_sheet_links_to_the_next_one(sheet):
    assert links(sheet)


@each_page
def test_every_cell_ends_in_something_visible(page):
    silent = [cell.source for cell in code_cells(page) if not cell.outputs]
    assert not silent, f"{len(silent)} cells show nothing, the first is:\n{silent[0]}"


@each_page
def test_the_methods_whose_source_a_page_shows_are_there(page):
    """A rename is seen here, without running the page."""
    methods = {node.name: {part.name for part in node.body if isinstance(part, Function)}
               for _, node in nodes(ast.ClassDef)}
    shows = re.findall(r"show_source\((\w+)\.(\w+)", "\n".join(cell.source for cell in code_cells(page)))
    missing = [f"{owner}.{name}" for owner, name in shows if name not in methods.get(owner, {name})]
    assert not missing, missing


def names_of(source: str, kind: type[ast.expr_context]) -> set[str]:
    """The names that a cell reads (ast.Load) or sets (ast.Store, with what it defines and imports)."""
    found = list(ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE))))
    names = {node.id for node in found if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}
    if kind is ast.Store:
        names |= {node.name for node in found if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        names |= {node.asname or node.name for node in found if isinstance(node, ast.alias)}
    return names


@each_page
def test_no_later_cell_uses_what_an_exercise_defines(page):
    """So an open exercise cannot stop "Run All", and one run proves the shipped page and the solved one."""
    defined: dict[str, str] = {}
    answers = solutions(page)
    for cell in code_cells(page):
        name = exercise_of(cell)
        if name:
            own = names_of(cell.source, ast.Store) | names_of(answers[name], ast.Store)
            defined |= dict.fromkeys(own, name)
        else:
            used = {word: defined[word] for word in names_of(cell.source, ast.Load) if word in defined}
            for word in names_of(cell.source, ast.Store):
                defined.pop(word, None)
                used.pop(word, None)
            assert not used, f"{used} in\n{cell.source}"


@each_notebook
def test_cells_are_short_and_prose_outweighs_them(notebook):
    cells, kinds = code_cells(notebook), [cell.cell_type for cell in load(notebook).cells]
    assert statistics.median(map(lines, cells)) <= 8
    assert max(map(lines, cells)) <= 25
    longer = [cell.source for cell in cells if lines(cell) > MOST_LINES_OF_A_CELL]
    known = LONGER.get(notebook.stem, {""})
    new = [source for source in longer if not any(word in source for word in known)]
    assert not new, f"more than {MOST_LINES_OF_A_CELL} lines:\n{new[0]}"
    gone = [word for word in known if word and not any(word in source for source in longer)]
    assert not gone, f"{gone} are short now: take them from the list"
    widest = max((line for cell in cells for line in cell.source.splitlines()), key=len)
    assert len(widest) <= 115, f"a line of {len(widest)} characters needs scrolling: {widest}"
    assert "code code code" not in " ".join(kinds), "three code cells in a row"
    told, coded = len(prose(notebook)), len("\n".join(cell.source for cell in cells))
    assert told > coded, f"{told} characters of prose, {coded} of code"


@each_notebook
def test_opens_with_a_question_and_ends_with_three_numbers(notebook):
    first = load(notebook).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "?" in first.source
    assert re.search(r"^#+ .*three numbers", prose(notebook), re.IGNORECASE | re.MULTILINE)


@each_notebook
def test_exercises_are_complete(notebook):
    number, cells = number_of(notebook), exercises(notebook)
    assert set(cells) == set(ex.load(number)), "tags in the notebook and judges in notebooks/exercises differ"
    assert set(cells) == set(solutions(notebook)), "tags in the notebook and solutions differ"
    for name, cell in cells.items():
        assert f'check("{name}"' in cell.source.strip().splitlines()[-1], name
        hints = ex.find(name).hints
        assert len(set(hints)) == 3 and all(len(text) > 20 for text in hints), name
        assert sum(wrong.name == name for wrong in wrong_answers(notebook)) >= 2, name
