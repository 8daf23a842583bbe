"""A fresh process has the kernels that were asked for; a fork may die without harm."""

import os
import time

import pytest

from aiinfra.environment import triton_interpreted
from aiinfra.gpu import process


def interpreted_here(*values):
    return triton_interpreted(), values


def loud():
    print("this is no answer")
    return 7


def failing():
    raise KeyError("what was asked for")


def dying():
    os._exit(3)


@pytest.mark.parametrize("interpret", [True, False])
def test_a_fresh_process_has_the_kernels_that_were_asked_for(interpret):
    assert process.call(interpreted_here, 1, "two", interpret=interpret) == (interpret, (1, "two"))


def test_what_it_prints_is_not_its_answer():
    assert process.call(loud, interpret=False) == 7


@pytest.mark.parametrize(
    "function, code, said", [(failing, 1, "KeyError: 'what was asked for'"), (dying, 3, "")]
)
def test_a_failure_says_its_code_and_its_last_words(function, code, said):
    with pytest.raises(process.ChildFailed) as caught:
        process.call(function, interpret=False)
    assert caught.value.exit_code == code and str(caught.value) == said


def test_a_fork_returns_what_it_wrote():
    ended = process.in_fork(lambda pipe: os.write(pipe, b"done"), seconds=10)
    assert ended == process.Ended(output=b"done", in_time=True, exit_code=0)


def test_a_fork_that_hangs_is_killed_and_one_that_raises_is_gone():
    def hang(pipe):
        os.write(pipe, b"half")
        time.sleep(60)
    begin = time.monotonic()
    assert process.in_fork(hang, seconds=0.3) == process.Ended(output=b"half", in_time=False, exit_code=-9)
    assert time.monotonic() - begin < 10
    assert process.in_fork(lambda pipe: 1 / 0, seconds=10).output == b""
