"""Three colours have one meaning on every page: the palettes do not meet, and no page writes a colour by its
number."""

import json
import re
from itertools import combinations

import pytest
from tests.pages.page_files import NOTEBOOKS

from aiinfra.lab import style
from aiinfra.lab.markup import _THEME, LOOKS, TONES, ink
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


def luminance(colour: list[float]) -> float:
    """Relative luminance, as WCAG 2.2 defines it; parts from 0 to 255."""
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: list[float], other: list[float]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def parts_of(colour: str) -> list[float]:
    colour = colour.lstrip("#")
    return [int(colour[i:i + 2], 16) for i in (0, 2, 4)]


def darkened(colour: list[float]) -> list[float]:
    """What LOOKS makes of a figure's colour in the dark theme: invert(0.92) hue-rotate(180deg), as CSS
    defines both (Filter Effects Module 1)."""
    assert "invert(0.92) hue-rotate(180deg)" in LOOKS
    red, green, blue = [255 * 0.92 - 0.84 * part for part in colour]
    turned = [-0.574 * red + 1.43 * green + 0.144 * blue,
              0.426 * red + 0.43 * green + 0.144 * blue,
              0.426 * red + 1.43 * green - 0.856 * blue]
    return [min(255.0, max(0.0, part)) for part in turned]


WORDS = {style.TEXT, style.BOUND, style.PREDICTION_TEXT, style.MEASURED, *(value for name, value in
         style._RC.items() if name in ("axes.labelcolor", "xtick.color", "ytick.color"))}
READABLE = {style.readable(colour) for colour in (*OTHERS, *LAW.values(), *VERDICT.values(), style.LIGHT)}


@pytest.mark.parametrize("colour", sorted(WORDS | READABLE))
def test_words_in_figures_can_be_read_on_white_and_in_the_dark_theme(colour):
    assert contrast(parts_of(colour), [255, 255, 255]) >= 4.5
    assert contrast(darkened(parts_of(colour)), darkened([255, 255, 255])) >= 4.5


@pytest.mark.parametrize("tone", TONES)
@pytest.mark.parametrize("surface, text, share", [("#FFFFFF", "#000000", 0.87), ("#111111", "#FFFFFF", 1.0)],
                         ids=["light", "dark"])
def test_heads_of_verdicts_can_be_read_on_both_themes(tone, surface, text, share):
    """`ink` mixes a tone with JupyterLab's colour of text, which in the light theme lets 13 % through."""
    assert f"currentColor {_THEME}%" in ink(TONES[tone])
    part = _THEME / 100
    mixed = [part * (share * t + (1 - share) * s) + (1 - part) * c
             for t, s, c in zip(parts_of(text), parts_of(surface), parts_of(TONES[tone]))]
    assert contrast(mixed, parts_of(surface)) >= 4.5


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_words_on_pages_have_colours_that_can_be_read(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    used = re.findall(r"\.(?:text|annotate)\([^\n]*color=style\.(\w+)(?:\[(\d)\])?", code)
    for name, index in used:
        if name != "readable":
            colour = getattr(style, name)[int(index)] if index else getattr(style, name)
            assert contrast(parts_of(colour), [255, 255, 255]) >= 4.5, f"write style.readable(style.{name})"
