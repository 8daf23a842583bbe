"""A guess is kept, survives a re-run, and is drawn beside bound and measurement; none is fine, too."""

import math

import pytest

from aiinfra.lab import store, style
from aiinfra.lab.guess import compare, number, predict


def ask(**more):
    return predict("01.rate", question="how fast?", unit="per step", low=1e-4, high=10, **more)


def test_the_guess_survives_a_rerun_and_can_be_changed():
    assert ask().guess is None and "No guess yet" in repr(ask())
    ask(guess=0.5)
    assert ask().guess == 0.5 and "0.5 per step" in repr(ask())
    assert predict("01.rate", guess=0.25).question == "how fast?"
    assert ask().guess == 0.25


def test_the_slider_writes_the_guess_down_and_starts_where_it_was_left():
    from aiinfra.lab.guess import _panel
    slider = _panel(ask()).children[1].children[1]
    slider.value = 1.0
    assert ask().guess == pytest.approx(1.0)
    again = _panel(ask()).children[1]
    assert again.children[1].value == pytest.approx(1.0)
    assert "your guess: 1 per step" in again.children[3].value


def test_a_linear_scale_and_a_logarithmic_one():
    assert ask().log and not predict("x", question="q", low=100, high=500).log
    from aiinfra.lab.guess import _panel
    assert _panel(predict("x", question="q", low=-5, high=500)).children[1].children[1].min == -5


def test_it_reads_without_a_kernel_and_without_widgets(no_widgets):
    bundle = ask()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/markdown", "text/html"}
    assert 'predict("01.rate", guess=…)' in bundle["text/markdown"]


@pytest.mark.parametrize("bad", [dict(low=2, high=1), dict(low=1, high=1), dict(guess=math.nan), dict(guess=math.inf)])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="predict"):
        predict("01.rate", question="q", **{"low": 0, "high": 1, **bad})


def bars(fig):
    return [patch.get_facecolor() for patch in fig.axes[0].patches]


def test_compare_draws_all_three_in_their_colours():
    from matplotlib.colors import to_rgba
    ask(guess=0.02)
    fig = compare("01.rate", bound=0.0167, measured=0.0166, bound_label="2/λ")
    assert bars(fig) == [to_rgba(colour) for colour in (style.PREDICTION, style.BOUND, style.MEASURED)]
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == ["your prediction", "2/λ", "measured"] and "per step" in fig.axes[0].get_xlabel()


def test_compare_without_a_guess_says_so():
    ask()
    fig = compare("01.rate", bound=0.0167, measured=0.0166)
    assert "no guess yet" in [text.get_text() for text in fig.axes[0].texts]
    assert fig.axes[0].get_title(loc="left") == "How fast?" or fig.axes[0].get_title() == "How fast?"


def test_compare_goes_logarithmic_only_where_it_must():
    ask(guess=5.0)
    wide = compare("01.rate", bound=0.0167, measured=0.0166).axes[0]
    assert wide.get_xscale() == "log" and not wide.patches, "a bar's length means nothing on a log scale"
    assert compare("01.rate", measured=4.0).axes[0].get_xscale() == "linear"
    assert compare("01.rate", measured=0.0).axes[0].get_xscale() == "linear"


def test_an_unwritable_folder_stops_nothing(unwritable):
    assert ask(guess=0.5).guess is None
    assert compare("01.rate", bound=1.0, measured=0.9, unit="s").axes[0].get_xlabel() == "[s]"


def test_a_damaged_record_stops_nothing():
    store.write("guesses", "01.rate", {"something": "else"})
    assert predict("01.rate").guess is None


@pytest.mark.parametrize("value, text", [(0, "0"), (0.0167, "0.0167"), (2278, "2,278"), (1.5, "1.5"), (119.666, "120"),
                                         (3.2e9, "3.20e+09"), (1e-7, "1.00e-07"), (-2.5, "-2.5"), (100_000, "100,000")])
def test_numbers_for_people(value, text):
    assert number(value) == text
