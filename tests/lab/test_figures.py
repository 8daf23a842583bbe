"""Sliders redraw the one figure; figures are small; sources are real and their paths relative."""

import base64
import io
import json
from dataclasses import dataclass

import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from aiinfra.environment import data_dir
from aiinfra.files import save_json
from aiinfra.lab import sliders, style
from aiinfra.lab.sliders import explore, slider
from aiinfra.lab.source import RECORDED, data_file, recorded, show_source


@dataclass
class Size:
    width: int
    height: int


@pytest.fixture
def shown(monkeypatch):
    """What explore displays, in order; the last entry's updates are appended."""
    log = []

    class Handle:
        def update(self, fig):
            log.append(("update", fig))

    def display(thing, display_id=None, raw=False):
        log.append(("raw" if raw else "figure", thing))
        return Handle() if display_id else None
    monkeypatch.setattr(sliders, "display", display)
    return log


def drawing(calls):
    def draw(**values):
        calls.append(values)
        return plt.figure(figsize=(1, 1))
    return draw


def test_the_figure_is_shown_at_the_starting_values_and_closed(shown):
    calls = []
    explore(drawing(calls), rate=(0.0, 1.0, 0.5), mode=["raw", "scaled"], log=True)
    assert calls == [{"rate": 0.5, "mode": "raw", "log": True}]
    assert [kind for kind, _ in shown] == ["raw", "figure"]
    assert "rate, mode, log" in shown[0][1]["text/plain"]
    assert not plt.get_fignums(), "an open figure would be shown twice"


def test_moving_a_slider_replaces_that_figure(shown, monkeypatch):
    made, calls = {}, []
    monkeypatch.setattr(sliders, "_show_controls", lambda widgets, specs: made.update(widgets))
    explore(drawing(calls), rate=(0.0, 1.0, 0.5), steps=(1, 100, 10))
    made["rate"].value = 0.75
    made["steps"].value = 20
    assert calls[1:] == [{"rate": 0.75, "steps": 10}, {"rate": 0.75, "steps": 20}]
    assert isinstance(calls[-1]["steps"], int)
    assert [kind for kind, _ in shown] == ["figure", "update", "update"]


def test_without_widgets_the_figure_remains(shown, no_widgets):
    calls = []
    explore(drawing(calls), rate=slider(1e-4, 1.0, 0.01, log=True))
    assert calls == [{"rate": 0.01}] and [kind for kind, _ in shown] == ["figure"]


def test_a_log_slider_is_given_in_values(monkeypatch, shown):
    made = {}
    monkeypatch.setattr(sliders, "_show_controls", lambda widgets, specs: made.update(widgets))
    explore(drawing([]), rate=slider(1e-4, 1.0, 0.01, log=True, label="learning rate"))
    widget = made["rate"]
    ends = widget.options[0], widget.options[-1]
    assert (widget.value, ends, widget.description) == (0.01, (("0.0001", 1e-4), ("1", 1.0)), "learning rate")


def test_a_count_reads_as_one_while_it_moves(monkeypatch, shown):
    made = {}
    monkeypatch.setattr(sliders, "_show_controls", lambda widgets, specs: made.update(widgets))
    explore(drawing([]), users=slider(1, 100_000, 1, log=True))
    labels = dict(made["users"].options)
    assert labels["1,000"] == 1000 and labels["100,000"] == 100_000 and isinstance(labels["1,000"], int)


def test_a_start_outside_its_scale_is_refused():
    with pytest.raises(ValueError, match="rate starts at 2"):
        explore(drawing([]), rate=(0.0, 1.0, 2.0))


def test_a_played_slider_has_a_linked_button(shown, monkeypatch):
    from ipywidgets import IntSlider, Play, jslink, widgets
    made, links = [], []
    monkeypatch.setattr("ipywidgets.HBox", lambda children: made.extend(children) or widgets.HBox(children))
    monkeypatch.setattr("ipywidgets.jslink", lambda *ends: links.append(ends) or jslink(*ends))
    calls = []
    explore(drawing(calls), frame=slider(2, 45, 20, 3, label="step", play=True), rate=(0.0, 1.0, 0.5))
    scale, button = made
    assert (
        isinstance(button, Play)
        and isinstance(scale, IntSlider)
        and links == [((button, "value"), (scale, "value"))]
    )
    assert [(w.value, w.min, w.max, w.step) for w in made] == [(20, 2, 45, 3)] * 2 and not button.playing
    assert [kind for kind, _ in shown] == ["raw", "figure"]  # a code host shows what it always did
    assert shown[0][1]["text/plain"] == "[run this cell in JupyterLab to move: step, rate]"
    scale.value = 23
    assert calls == [{"frame": 20, "rate": 0.5}, {"frame": 23, "rate": 0.5}]


def test_a_played_slider_without_widgets_is_its_first_figure(shown, no_widgets):
    explore(drawing([]), frame=slider(0, 45, 20, play=True))
    assert [kind for kind, _ in shown] == ["figure"]


@pytest.mark.parametrize(
    "control, scale",
    [
        (slider(0.0, 1.0, 0.5, play=True), "0.0 to 1.0:"),
        (slider(0, 9, 1, 0.5, play=True), "0 to 9 in steps of 0.5:"),
        (slider(1, 1000, 10, log=True, play=True), "1 to 1000, log:"),
    ],
)
def test_only_integers_are_played(control, scale):
    with pytest.raises(
        ValueError,
        match=f"frame cannot be played from {scale} its frames must be integers. Play their numbers",
    ):
        explore(drawing([]), frame=control)


def test_figures_are_small_sharp_and_labelled():
    style.use()
    fig, ax = style.axes("age [years]", "height [cm]", "A title")
    ax.plot(torch.linspace(0, 1, 50), torch.rand(50), color=style.MEASURED)
    data, size = style.png(fig)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.mode == "P" and image.width == pytest.approx(1.5 * size["width"], abs=1.5)
    assert len(data) < 60_000 and ax.get_xlabel() == "age [years]"
    fig, pair = style.axes("x [s]", "y [m]", "Two", columns=2)
    assert [ax.get_ylabel() for ax in pair] == ["y [m]", "y [m]"]
    plt.close("all")


def test_the_three_colours_differ_in_lightness_too():
    """Readable in grey: the luminances (Rec. 709) of the three are apart."""
    def luminance(colour):
        red, green, blue = (int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue
    values = sorted(map(luminance, (style.PREDICTION, style.BOUND, style.MEASURED)))
    assert values[2] - values[1] > 0.2 and len(set(values)) == 3


def test_the_key_names_all_three():
    assert all(word in style.use()._repr_html_() for word in ("prediction", "bound", "measured"))


def test_sources_are_real_and_their_paths_relative():
    ours, theirs = show_source(data_dir), show_source(torch.nn.Linear.forward)
    assert ours.path == "aiinfra/environment.py" and "def data_dir() -> Path:" in ours.text
    assert "(../aiinfra/environment.py)" in ours._repr_markdown_(), "a link that JupyterLab opens"
    assert theirs.path == "torch/nn/modules/linear.py" and "F.linear" in theirs.text
    assert "](" not in theirs._repr_markdown_()


def test_a_source_can_be_narrowed_to_what_matters():
    part = show_source("aiinfra/environment.py", around="def data_dir", context=(0, 1))
    line = part.text.splitlines()[0]
    from aiinfra.lab.source import ROOT
    assert (ROOT / "aiinfra/environment.py").read_text().splitlines()[part.first - 1] == line
    assert len(part.text.splitlines()) == 2 and "lines" in part.title
    with pytest.raises(ValueError, match="'no such line' is in none of the"):
        show_source(data_dir, around="no such line")


def test_data_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_file("growth_medians.csv").exists()
    with pytest.raises(FileNotFoundError, match="nearest is data/growth_medians.csv"):
        data_file("growth_median.csv")


def test_recorded_results_carry_their_gpu_and_date(tmp_path, monkeypatch):
    monkeypatch.setattr("aiinfra.lab.source.RECORDED", tmp_path)
    assert recorded("kernels") is None
    for gpu in ("a100", "h100"):
        settings = {"device": gpu, "date": "2026-01-31", "torch": "2"}
        save_json([Size(width=1, height=2)], settings, tmp_path / f"kernels_{gpu}.json")
    found = recorded("kernels")
    assert [(row["device"], row["date"], row["width"]) for row in found.rows] == [("a100", "2026-01-31", 1),
                                                                                  ("h100", "2026-01-31", 1)]
    assert found.settings["device"] == "h100" and recorded("launches") is None


def test_the_folder_of_recorded_results_says_what_lies_there():
    text = (RECORDED / "README.md").read_text(encoding="utf-8")
    for path in RECORDED.glob("*.json"):
        name, *_ = path.stem.split("_")
        reported = json.loads(path.read_text(encoding="utf-8"))["settings"].get("command") == "gpu_report"
        assert f"`{'<gpu>.json' if reported else name + '*.json'}`" in text
