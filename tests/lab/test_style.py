"""Three colours have one meaning on every page: the palettes do not meet, and no page writes a colour by its
number."""

import json
import re
from itertools import combinations

import pytest
from tests.pages.page_files import NOTEBOOKS

from aiinfra.lab import style
from aiinfra.lab.source import ROOT

LAW = {"prediction": style.PREDICTION, "bound": style.BOUND, "measured": style.MEASURED}
VERDICT = {"good": style.GOOD, "bad": style.BAD}
OTHERS = {*style.EXTRA, *style.TENANTS, style.WASTE, style.PALE_WASTE}
HEX = re.compile(r"#[0-9A-Fa-f]{6}\b|#[0-9A-Fa-f]{3}\b")


def distance(one: str, other: str) -> float:
    """How far apart two colours are, 0 to 441: the length of the difference of red, green and blue."""
    parts = [(int(one[i:i + 2], 16) - int(other[i:i + 2], 16)) ** 2 for i in (1, 3, 5)]
    return sum(parts) ** 0.5


def test_the_three_colours_belong_to_nothing_else():
    assert not OTHERS & {*LAW.values(), *VERDICT.values(), style.RECORDED}


@pytest.mark.parametrize("colour", sorted(OTHERS))
def test_no_other_series_looks_like_one_of_the_three(colour):
    near = [name for name, law in LAW.items() if distance(colour, law) < 60]
    assert not near, f"{colour} looks like {near[0]}"


def test_colours_of_one_palette_can_be_told_apart():
    for palette in (style.EXTRA, style.TENANTS, (style.GOOD, style.BAD, style.WASTE)):
        assert all(distance(one, other) > 60 for one, other in combinations(palette, 2))


def test_curves_without_a_colour_are_never_orange_or_grey():
    style.use()
    cycle = style.plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert not {style.PREDICTION, style.BOUND} & set(cycle)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_pages_name_their_colours(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert not HEX.findall(code), "write style.LIGHT, style.PALE, style.EXTRA[0] …"


def test_figures_of_the_lab_take_their_palettes_from_style():
    for path in (ROOT / "aiinfra" / "lab" / "figures").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not {*LAW.values(), *VERDICT.values(), *OTHERS} & set(HEX.findall(text)), path.name


def test_a_long_title_is_wrapped_before_the_edge():
    for columns in (1, 2):
        fig, _ = style.axes(
            "x [s]", "y [m]", "What each landlord does with the same memory " * 3, columns=columns
        )
        fig.canvas.draw()
        title = fig._suptitle if columns > 1 else fig.axes[0].title
        assert title.get_window_extent().x1 <= fig.bbox.x1, "the title reaches over the edge"
        style.plt.close(fig)
