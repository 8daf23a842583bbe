"""What is typed is read, or refused with the value, the limit and the remedy."""

from argparse import ArgumentTypeError
from math import inf
from pathlib import Path

import pytest

from aiinfra.arguments import file_to_read, file_to_write, number, whole


def refusal(read, text: str) -> str:
    with pytest.raises(ArgumentTypeError) as caught:
        read(text)
    return str(caught.value)


def test_whole_numbers_within_both_ends() -> None:
    assert [whole(0, 65_535)(text) for text in ("0", " 80 ", "65_535")] == [0, 80, 65_535]
    for text in ("x", "", "1.0", "-1", "65536", "nan", "²"):
        assert refusal(whole(0, 65_535), text) == f"{text!r}; it must be a whole number from 0 to 65,535."
    assert refusal(whole(), "0") == "'0'; it must be a whole number of at least 1."
    assert len(refusal(whole(), "9" * 5000)) < 120, "Python itself reads no more than 4,300 digits"


def test_numbers_within_their_limits() -> None:
    assert number(above=0)("1e-3") == 1e-3 and number(least=0, most=1)("1") == 1.0
    assert number(above=0, endless=True)("inf") == inf
    for text in ("0", "-1", "nan", "x", ""):
        assert refusal(number(above=0), text) == f"{text!r}; it must be a number above 0."
    assert refusal(number(above=0), "inf") == "'inf'; it must be a number above 0, and finite."
    for text in ("-0.1", "1.5", "inf"):
        assert "it must be a number of at least 0 and at most 1." in refusal(number(least=0, most=1), text)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.touch()
    assert file_to_read(str(file)) == file
    assert file_to_write()(str(file)) == file
    assert file_to_write(".json")(str(tmp_path / "new" / "folder" / "x.JSON")).name == "x.JSON"
    assert "is a folder; name a file" in refusal(file_to_read, str(tmp_path))
    assert "does not exist" in refusal(file_to_read, str(tmp_path / "none"))
    assert "is a folder; name a file in it" in refusal(file_to_write(), str(tmp_path))
    assert "is no folder" in refusal(file_to_write(), str(file / "below"))
    assert "must end in .png, .svg" in refusal(file_to_write(".png", ".svg"), "plot.jpg")
    assert not (tmp_path / "new").exists(), "looking writes nothing"
