"""Records are whole or absent, and a folder that cannot be written is said, not raised."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiinfra.lab import predict, progress, store


def test_what_is_written_is_read_and_replaced(data_folder):
    assert store.read("guesses", "01.rate") == {}
    assert store.write("guesses", "01.rate", {"guess": 1.5}) == ""
    store.write("guesses", "01.rate", {"guess": 2.5})
    assert store.read("guesses", "01.rate") == {"guess": 2.5}
    assert [path.name for path in data_folder.rglob("*.*")] == ["01.rate.json"], "no part is left behind"


@pytest.mark.parametrize("damage", [b"", b'{"guess": 1', b"\xff\xfe\x00", b"[1, 2]"])
def test_a_damaged_record_counts_as_absent(damage):
    store.write("guesses", "01.rate", {"guess": 1.5})
    store.path("guesses", "01.rate").write_bytes(damage)
    assert store.read("guesses", "01.rate") == {}


def test_a_reader_never_sees_half_a_record():
    long = {"guess": 1.0, "question": "x" * 20_000}
    store.write("guesses", "01.rate", long)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(lambda: [store.write("guesses", "01.rate", long) for _ in range(200)])
        while not job.done():
            assert store.read("guesses", "01.rate") == long


def test_an_unwritable_folder_is_reported(unwritable):
    assert "AIINFRA_DATA" in store.write("guesses", "01.rate", {"guess": 1.0})
    assert store.read("guesses", "01.rate") == {}


def test_without_a_home_folder_it_is_said_and_nothing_stops(homeless):
    said = store.write("guesses", "01.rate", {"guess": 1.0})
    assert said.startswith("Not saved: this account has no home folder") and "Set AIINFRA_DATA" in said
    assert store.read("guesses", "01.rate") == {} and progress().head.startswith("0 of ")
    guess = predict("01.rate", question="how fast?", unit="steps", low=0, high=1, guess=0.5)
    assert "Not saved" in guess.foot, "a guess is not lost without a word"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden"])
def test_a_name_cannot_leave_the_folder(name):
    with pytest.raises(ValueError, match="cannot name a record"):
        store.write("guesses", name, {})


def test_records_are_plain_json(data_folder):
    store.write("exercises", "01.shards", {"status": "passed"})
    assert json.loads((data_folder / "lab" / "exercises" / "01.shards.json").read_text()) == {
        "status": "passed"
    }
