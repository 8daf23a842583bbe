"""A guess is kept, survives a re-run, and is drawn beside bound and measurement; none is fine, too."""

import math

import pytest

from aiinfra.lab import guess as guess_module
from aiinfra.lab import store, style
from aiinfra.lab.guess import compare, control_of, predict
from aiinfra.lab.numbers import number, steps


def ask(**more):
    return predict("01.rate", question="how fast?", unit="per step", low=1e-4, high=10, **more)


def test_the_guess_survives_a_rerun_and_can_be_changed():
    assert ask().guess is None and "No guess yet" in repr(ask())
    ask(guess=0.5)
    assert ask().guess == 0.5 and "0.5 per step" in repr(ask())
    assert predict("01.rate", guess=0.25).question == "how fast?"
    assert ask().guess == 0.25


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as [bundle, …]; an update replaces the bundle where it stands."""
    log = []

    class Handle:
        def __init__(self):
            self.place = len(log) - 1

        def update(self, data, **_):
            log[self.place] = data

    def record(data, **_):
        log.append(data)
        return Handle()

    monkeypatch.setattr(guess_module, "display", record)
    return log


def test_the_slider_writes_the_guess_down_and_starts_where_it_was_left(shown, monkeypatch):
    made = []
    monkeypatch.setattr(guess_module, "control_of", lambda asked: made.append(control_of(asked)) or made[-1])
    ask()._ipython_display_()
    assert "No guess yet" in shown[0]["text/html"]
    made[0].value = 1.0
    assert ask().guess == pytest.approx(1.0)
    assert (
        "Your guess: 1 per step" in shown[0]["text/html"]
    ), "the sentence, which is kept in the file, says it"
    assert control_of(ask()).value == pytest.approx(1.0)


def test_the_slider_shows_numbers_for_people_while_it_moves():
    labels = control_of(predict("08.flight", question="q", low=1e2, high=1e8)).options
    texts = [text for text, _ in labels]
    assert texts[0] == "100" and "1,000" in texts and texts[-1] == "100 million"
    assert control_of(predict("x", question="q", low=0, high=50, guess=12.34)).value == 12.34


def test_a_linear_scale_and_a_logarithmic_one():
    assert ask().log and not predict("x", question="q", low=100, high=500).log
    assert control_of(predict("x", question="q", low=-5, high=500)).options[0] == ("-5", -5)
    assert steps(1, 10, 10, log=True, whole=True) == [1, 2, 3, 4, 5, 6, 8, 10]


def test_it_reads_without_a_kernel_and_without_widgets(no_widgets, shown):
    ask()._ipython_display_()
    [bundle] = shown
    assert set(bundle) == {"text/plain", "text/markdown", "text/html"}
    assert 'predict("01.rate", guess=…)' in bundle["text/markdown"]


def test_the_widget_stands_alone_and_says_nothing_without_its_kernel(shown):
    ask()._ipython_display_()
    sentence, widget = shown
    assert "application/vnd.jupyter.widget-view+json" in widget and widget["text/plain"] == ""
    assert "application/vnd.jupyter.widget-view+json" not in sentence


def test_the_answer_is_folded_until_there_is_a_guess(shown, monkeypatch):
    made = []
    monkeypatch.setattr(guess_module, "control_of", lambda asked: made.append(control_of(asked)) or made[-1])
    ask()._ipython_display_()
    compare("01.rate", measured=0.0166)._ipython_display_()
    assert (
        shown[2]["text/html"].startswith("<details><summary>")
        and 'alt="Figure: How fast?; [per step]"' in shown[2]["text/html"]
    )
    made[0].value = 1.0
    assert set(shown[2]) == {"image/png", "text/plain"}, "a guess unfolds it, and is drawn"


@pytest.mark.parametrize(
    "bad", [dict(low=2, high=1), dict(low=1, high=1), dict(guess=math.nan), dict(guess=math.inf)]
)
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="predict"):
        predict("01.rate", question="q", **{"low": 0, "high": 1, **bad})


def bars(fig):
    return [patch.get_facecolor() for patch in fig.axes[0].patches]


def test_compare_draws_all_three_in_their_colours():
    from matplotlib.colors import to_rgba
    ask(guess=0.02)
    fig = compare("01.rate", bound=0.0167, measured=0.0166, bound_label="2/λ").figure()
    assert bars(fig) == [to_rgba(colour) for colour in (style.PREDICTION, style.BOUND, style.MEASURED)]
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == ["your prediction", "2/λ", "measured"] and "per step" in fig.axes[0].get_xlabel()


def test_compare_without_a_guess_says_so():
    ask()
    fig = compare("01.rate", bound=0.0167, measured=0.0166).figure()
    assert "no guess yet" in [text.get_text() for text in fig.axes[0].texts]
    assert fig.axes[0].get_title(loc="left") == "How fast?" or fig.axes[0].get_title() == "How fast?"


def test_compare_goes_logarithmic_only_where_it_must():
    ask(guess=5.0)
    wide = compare("01.rate", bound=0.0167, measured=0.0166).figure().axes[0]
    assert wide.get_xscale() == "log" and not wide.patches, "a bar's length means nothing on a log scale"
    assert compare("01.rate", measured=4.0).figure().axes[0].get_xscale() == "linear"
    assert compare("01.rate", measured=0.0).figure().axes[0].get_xscale() == "linear"


def test_an_unwritable_folder_stops_nothing(unwritable):
    asked = ask(guess=0.5)
    assert asked.guess is None and "Not saved" in asked._repr_html_()
    assert compare("01.rate", bound=1.0, measured=0.9, unit="s").figure().axes[0].get_xlabel() == "[s]"


def test_a_damaged_record_stops_nothing():
    store.write("guesses", "01.rate", {"something": "else"})
    assert predict("01.rate").guess is None


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.0167, "0.0167"),
        (2278, "2,278"),
        (1.5, "1.5"),
        (119.666, "120"),
        (3.2e9, "3.2 billion"),
        (1e8, "100 million"),
        (2e15, "2.00e+15"),
        (1e-7, "1.00e-07"),
        (-2.5, "-2.5"),
        (100_000, "100,000"),
    ],
)
def test_numbers_for_people(value, text):
    assert number(value) == text
