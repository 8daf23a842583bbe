"""Machines by name; this one is measured."""

import pytest

from aiinfra.plan.machine import MACHINES, read_machine


def test_the_first_word_is_enough() -> None:
    assert read_machine("h200") is MACHINES["H200 SXM"]
    assert {"H20", "H100 SXM", "H200 SXM", "A100 SXM 80GB", "B200 SXM"} <= set(MACHINES)


def test_an_unknown_one_says_the_nearest() -> None:
    with pytest.raises(ValueError, match="'B200'"):
        read_machine("B20")


def test_a_gpu_without_8_bit_units_computes_in_16() -> None:
    assert read_machine("A100").peak(8) == read_machine("A100").peak(16)
    assert read_machine("H100").peak(8) > 1.9 * read_machine("H100").peak(16)


def test_this_machine_is_measured() -> None:
    here = read_machine("this machine")
    assert here.sheet.source == "measured here" and here.peak(16) > 1e8
