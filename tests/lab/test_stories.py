"""How the corpus of notebook 04 is made: orders, a writer that can be killed, and a sieve that says why."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from aiinfra.engine.output import CompletionOutput
from aiinfra.lab.stories import write
from aiinfra.lab.stories.__main__ import main
from aiinfra.lab.stories.sieve import fault, sieve, tidy
from aiinfra.lab.stories.words import order
from aiinfra.lab.stories.write import RawStory, read_raw, whole_sentences, write_stories
from aiinfra.train.corpus import read_documents

GOOD = ("Once upon a time, there was a small dog named Bo. He lived by the sea and liked to dig. One day he "
        "found an old map under a stone. It showed a tree, a hill and a cross. Bo ran up the hill as fast as "
        "he could. There he met a shy goat, and they dug together until it was dark.")


class Echo:
    """In place of an LLM: ends a story at once if its number is even, else runs to the limit."""

    def __init__(self, *_, **__):
        self.tokenizer = SimpleNamespace(
            encode_chat=lambda messages: [0], encode=lambda text, add_special_tokens: [len(text)])
        self.calls = []
        Echo.last = self

    def generate(self, prompts, params, use_tqdm):
        self.calls.append([one.seed for one in params])
        answers = []
        for one in params:
            ends = one.seed % 2 == 0 or one.stop
            text = " It was good" if one.stop else " He slept. He was ti"
            answers.append(SimpleNamespace(outputs=[CompletionOutput(
                index=0, text=text, token_ids=[1, 2, 3], finish_reason="stop" if ends else "length",
                stop_reason=". " if one.stop else None)]))
        return answers


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(write, "LLM", Echo)


def test_an_order_is_the_same_for_its_number_and_unlike_its_neighbours():
    assert order(7, seed=0) == order(7, seed=0) != order(7, seed=1)
    many = [order(number, seed=0) for number in range(200)]
    assert len({one.request for one in many}) > 195
    assert all("{" not in one.request + one.opening + one.closing for one in many)
    assert all(one.opening.endswith((".", "!", '"')) for one in many)


def test_a_story_without_an_end_is_cut_back_and_given_one(echo, tmp_path):
    write_stories(tmp_path / "raw.jsonl", range(2), seed=0, batch=2, model="any")
    even, odd = read_raw(tmp_path / "raw.jsonl")
    assert even.text == even.opening + " He slept. He was ti" and even.tokens == 3
    assert odd.text == f"{odd.opening} He slept. {order(1, 0).closing} It was good." and odd.tokens == 6
    assert even.ended and odd.ended


def test_a_killed_writer_goes_on_where_it_was(echo, tmp_path):
    path = tmp_path / "raw.jsonl"
    write_stories(path, range(6), seed=0, batch=2, model="any")
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:4]) + '{"number": 4, "op')
    write_stories(path, range(6), seed=0, batch=2, model="any")
    assert path.read_text() == whole
    assert Echo.last.calls[0] == [4, 5], "only the missing ones"


def test_a_cut_never_stands_in_an_open_quotation():
    assert whole_sentences('He came. "I am here. Look') == "He came."
    assert whole_sentences('He said, "Look!" and ran. Then he') == 'He said, "Look!" and ran.'
    assert whole_sentences("no end at all") == "no end at all"


def test_a_good_story_is_kept():
    assert fault(GOOD, ended=True) is None


@pytest.mark.parametrize("text, reason", [
    (GOOD[:-1], "cut off"),
    ("Bo was sad. Then he was happy.", "too short"),
    (GOOD + " Il était content.", "foreign letters"),
    (GOOD + " Bo ran up the hill as fast as he could.", "loop"),
    (GOOD + " He ran" + 12 * " and ran" + ".", "loop"),
    (GOOD + " This story is about a dog.", "about itself"),
])
def test_a_fault_is_named(text, reason):
    assert fault(tidy(text), ended=True) == reason


def test_what_did_not_end_is_cut_off():
    assert fault(GOOD, ended=False) == "cut off"


def test_marks_are_made_plain_and_quotations_closed():
    assert tidy("It’s  “good”…\n\n He said, “yes.") == 'It\'s "good"...\nHe said, "yes."'


def test_a_near_copy_is_refused_and_the_first_one_stays():
    raw = RawStory(number=3, opening="", text=GOOD, ended=True, tokens=1)
    changed = GOOD.replace("Bo", "Zip").replace("goat", "cat")
    found = sieve([replace(raw, number=9, text=changed), raw])
    assert found.kept == [GOOD] and found.refused == {"copy": 1}


def test_the_command_makes_a_corpus_and_names_what_is_missing(echo, tmp_path, capsys):
    raw = tmp_path / "raw.jsonl"
    good = RawStory(number=0, opening="", text=GOOD, ended=True, tokens=1)
    lines = [good, replace(good, number=1, text="Short.")]
    raw.write_text("".join(json.dumps(vars(line)) + "\n" for line in lines))
    main(["sieve", str(raw), "--out", str(tmp_path / "stories.txt")])
    assert read_documents(tmp_path / "stories.txt") == [GOOD]
    assert "too short" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["sieve", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "x.txt")])
    assert stopped.value.code == 2 and "none.jsonl" in capsys.readouterr().err


@pytest.mark.model
def test_the_real_model_writes_a_story(tmp_path):
    write_stories(tmp_path / "raw.jsonl", range(2), seed=0, batch=2, model="smollm2-135m")
    for story in read_raw(tmp_path / "raw.jsonl"):
        assert story.text.startswith(order(story.number, 0).opening) and story.ended
