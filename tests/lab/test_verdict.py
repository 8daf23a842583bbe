"""Whatever the answer does, a verdict comes back, and it says what the learner needs."""

import signal
import threading
import time

import ipywidgets as widgets
import numpy as np
import pytest
import torch

from aiinfra.lab import store, time_limit
from aiinfra.lab import verdict as v
from aiinfra.lab.course import progress
from aiinfra.lab.exercise import Exercise, Unsolved, Wrong, close, exercise, find, load, require
from aiinfra.lab.hints import hint
from aiinfra.lab.verdict import PASSED, UNSOLVED, WRONG, check, is_stub

HINTS = ("first the direction", "then the idea", "then nearly the code")


@pytest.fixture(autouse=True)
def one_exercise(monkeypatch):
    """99.double wants a function that doubles; nothing else about the exercises is replaced."""
    @exercise("99.double", hints=HINTS)
    def double(answer):
        close(answer(21), 42, "double of 21")
        return "42 it is"
    monkeypatch.setattr(v, "find", lambda name: double if name == "99.double" else find(name))
    monkeypatch.setattr(
        "aiinfra.lab.hints.exercise.find", lambda name: double if name == "99.double" else find(name)
    )
    return double


def documented(x):
    """Not written yet."""


def stub(x):
    ...


def half_written(x):
    return x * ...


def not_written(x):
    raise NotImplementedError


@pytest.mark.parametrize("answer", [None, ..., stub, documented, lambda x: None, half_written, not_written,
                                    lambda x: ..., (1, None), [stub], {"a": ...}])
def test_a_stub_is_open_and_leaves_no_record(answer):
    verdict = check("99.double", answer)
    assert verdict.status == UNSOLVED and 'hint("99.double")' in verdict.message
    assert store.read("exercises", "99.double") == {}


@pytest.mark.parametrize("answer", [0, "", 1.5, lambda x: 1, len, torch.zeros(2), np.zeros(2), [], ()])
def test_everything_else_is_no_stub(answer):
    assert not is_stub(answer)


def test_right_and_wrong():
    assert check("99.double", lambda x: 2 * x) == v.ExerciseVerdict("99.double", PASSED, "42 it is")
    wrong = check("99.double", lambda x: x)
    assert wrong.status == WRONG and not wrong.passed
    assert "double of 21: you have 21; 42 is wanted." in wrong.message


def crooked(x):
    y = x + 1
    return y / 0


def test_an_exception_names_the_line_of_the_learner():
    verdict = check("99.double", crooked)
    first = crooked.__code__.co_firstlineno
    assert (
        f"ZeroDivisionError: division by zero, in line {first + 2} of your cell: `return y / 0`"
        in verdict.message
    )


def test_an_exception_deep_in_a_library_names_the_learners_line():
    def deep(x):
        return torch.zeros(2) @ torch.zeros(3)
    assert "`return torch.zeros(2) @ torch.zeros(3)`" in check("99.double", deep).message


def endless(x):
    n = 1
    while n > 0:
        n += x


def stubborn(x):
    while True:
        try:
            time.sleep(0.001)
        except Exception:                  # a time limit that is an Exception would end here
            pass


@pytest.fixture
def impatient(monkeypatch):
    """The limit is 0.2 s instead of a minute."""
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)


needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on this system")


@needs_alarm
@pytest.mark.parametrize("answer, lines", [(endless, range(2, 4)), (stubborn, range(1, 6))])
def test_a_loop_without_an_end_is_wrong_and_names_its_line(impatient, answer, lines):
    before = signal.getsignal(signal.SIGALRM)
    verdict = check("99.double", answer)
    first = answer.__code__.co_firstlineno
    assert verdict.status == WRONG and "Still running after 0.2 s" in verdict.message
    assert any(f"in line {first + line} of your cell" in verdict.message for line in lines), verdict.message
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0 and signal.getsignal(signal.SIGALRM) is before


@needs_alarm
def test_only_the_learners_code_is_interrupted(impatient):
    def wait(seconds=0.5):                 # in the judge, or the cell that asked: not the answer's fault
        time.sleep(seconds)
        return "done"
    assert time_limit.limited(wait, lambda filename: False) == "done"
    with pytest.raises(time_limit.StillRunning):
        time_limit.limited(wait, lambda filename: filename == __file__)


@needs_alarm
def test_without_an_alarm_of_ones_own_there_is_no_limit(impatient):
    seen = []
    thread = threading.Thread(
        target=lambda: seen.append(check("99.double", lambda x: time.sleep(0.4) or 2 * x).passed)
    )
    thread.start()
    thread.join()
    signal.setitimer(signal.ITIMER_REAL, 60)                 # somebody else's
    try:
        seen.append(check("99.double", lambda x: time.sleep(0.4) or 2 * x).passed)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert seen == [True, True]


@pytest.mark.parametrize("answer", [5, "text", object(), [1, 2]])
def test_an_answer_of_the_wrong_kind_is_wrong(answer):
    assert "Your answer could not be used. TypeError" in check("01.shards", answer).message


def test_a_pass_is_never_taken_back():
    check("99.double", lambda x: 2 * x)
    check("99.double", lambda x: x)
    check("99.double", stub)
    record = store.read("exercises", "99.double")
    assert record["status"] == PASSED and record["tries"] == 2 and record["passed_on"]


def test_a_verdict_comes_back_where_nothing_can_be_saved(unwritable):
    verdict = check("99.double", lambda x: 2 * x)
    assert verdict.passed and "AIINFRA_DATA" in verdict.foot


def test_three_faces_and_no_markup_from_the_learner():
    verdict = v.ExerciseVerdict("99.double", WRONG, "you have `x < 1`\n<script>")
    assert "<code>x &lt; 1</code><br>&lt;script&gt;" in verdict._repr_html_()
    assert verdict._repr_markdown_().startswith("**✗ 99.double wrong**")
    assert "99.double wrong · you have" in repr(verdict)


def test_hints_go_one_step_further_each_time():
    assert [hint("99.double").text for _ in range(4)] == [*HINTS, HINTS[2]]
    assert hint("99.double", 1).text == HINTS[0] and hint("99.double").level == 3
    with pytest.raises(ValueError, match="1, 2 and 3"):
        hint("99.double", 4)


def test_a_hint_says_how_to_go_on():
    first, _, last = hint("99.double"), hint("99.double"), hint("99.double")
    assert first.foot == '`hint("99.double")` again says more.'
    assert "notebooks/solutions/" in last.foot and "again" not in last.foot


class Shown:
    """What IPython is asked to display, and how it is changed afterwards."""

    def __init__(self, monkeypatch) -> None:
        self.bundles, self.updates = [], []
        for module in ("aiinfra.lab.verdict.display", "aiinfra.lab.hints.display"):
            monkeypatch.setattr(module, self.display)

    def display(self, bundle, raw=False, display_id=False):
        self.bundles.append(bundle)
        return self if display_id else None

    def update(self, bundle, raw=False):
        self.updates.append(bundle)


@pytest.fixture
def buttons(monkeypatch):
    """The buttons that are made, in order."""
    made = []

    class Button(widgets.Button):
        def __init__(self, **words):
            super().__init__(**words)
            made.append(self)
    monkeypatch.setattr(widgets, "Button", Button)
    return made


def test_a_verdict_that_is_no_pass_has_three_buttons(monkeypatch, buttons):
    shown = Shown(monkeypatch)
    check("99.double", lambda x: x)._ipython_display_()
    assert "text/html" in shown.bundles[0], "the verdict, as it is kept in the file"
    assert [button.description for button in buttons] == [
        "Hint 1: direction", "Hint 2: idea", "Hint 3: nearly the code"]
    assert all(set(bundle) >= {"text/plain"} and bundle["text/plain"] == "" for bundle in shown.bundles[1:])
    buttons[1].click()
    buttons[0].click()
    assert [HINTS[1] in update["text/plain"] for update in shown.updates] == [True, False]
    assert HINTS[0] in shown.updates[1]["text/html"] and hint("99.double").level == 3


def test_a_pass_offers_none_and_without_widgets_the_sentence_stands(monkeypatch, buttons, no_widgets):
    shown = Shown(monkeypatch)
    check("99.double", lambda x: 2 * x)._ipython_display_()
    check("99.double", lambda x: x)._ipython_display_()
    assert not buttons and len(shown.bundles) == 2
    assert 'hint("99.double")' in shown.bundles[1]["text/plain"]


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="nearest is '01.shards'"):
        check("01.shard", None)
    for name in ("", "zz.none", "00", "1.shards"):
        with pytest.raises(ValueError, match="there is no exercise"):
            check(name, None)


def test_three_hints_or_none():
    with pytest.raises(ValueError, match="2 hints"):
        exercise("99.x", hints=("a", "b"))


def test_the_board_shows_what_is_solved_and_tried():
    store.write("exercises", "01.shards", {"status": PASSED})
    store.write("exercises", "01.unscale", {"status": WRONG})
    board = progress("01")
    row = dict(board.rows)["01"]
    assert row["01.shards"] == PASSED and row["01.unscale"] == WRONG and row["01.largest_rate"] == ""
    assert repr(board).startswith(f"1 of {len(row)} exercises solved")
    assert "✓ shards" in repr(board) and "✗ unscale" in repr(board) and "<table>" in board._repr_html_()
    assert ("01", row) in progress().rows


def test_exercises_load_lazily_and_in_order():
    assert list(load("01"))[0] == "01.weighted_fit" and all(
        isinstance(e, Exercise) for e in load("01").values()
    )
    assert load("77") == {}


@pytest.mark.parametrize(
    "got, message",
    [
        (None, "`return` missing"),
        (3.0, "you have 3; 4 is wanted"),
        ([1.0, 2.0], "shape [2], but [] is wanted"),
        (float("nan"), "is not finite"),
        ("four", "a str cannot be read as numbers"),
        (object(), "cannot be read"),
    ],
)
def test_close_says_what_is_off(got, message):
    with pytest.raises(Wrong) as caught:
        close(got, 4.0, "the slope")
    assert message in str(caught.value) and str(caught.value).startswith("the slope: ")


@pytest.mark.parametrize(
    "got", [4, 4.0, torch.tensor(4.0), np.float32(4), torch.tensor(4.0, requires_grad=True)]
)
def test_close_takes_any_kind_of_number(got):
    close(got, 4.0, "the slope")


def test_close_takes_tuples_and_leaves_a_stub_open():
    close((torch.tensor(1.0), 2), [1.0, 2.0], "(a, b)")
    with pytest.raises(Unsolved):
        close(..., 4.0, "x")
    with pytest.raises(Wrong, match="no"):
        require(0, "no")
