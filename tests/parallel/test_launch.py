"""Processes that take one call together: values in order, and an end of all when one fails."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
import torch

from aiinfra.environment import child_environment
from aiinfra.parallel.launch import RankFailed, launch
from tests.parallel import rank_functions
from tests.source_tree import ROOT


def test_values_come_in_the_order_of_ranks():
    got = launch(rank_functions.where, 3, "hello", mark="!")
    assert [entry[:3] for entry in got] == [("hello!", rank, 3) for rank in range(3)]
    assert len({entry[3] for entry in got} | {os.getpid()}) == 4, "each is a process of its own"
    assert [entry[4] for entry in got] == [1, 1, 1], "one thread each"


def test_a_launch_takes_well_under_a_second():
    launch(rank_functions.sum_of_ranks, 2)                    # the forkserver loads PyTorch
    start = time.perf_counter()
    assert [float(value) for value in launch(rank_functions.sum_of_ranks, 2)] == [1, 1]
    assert time.perf_counter() - start < 2                    # 0.1 s on a quiet machine


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_collectives_that_are_needed_are_there(ranks):
    assert set(launch(rank_functions.collectives, ranks)) == {"as they must be"}


def test_a_function_of_a_cell_runs_on_ranks():
    cell = types.ModuleType("__main__")
    exec("import torch.distributed as dist\nfactor = 10\ndef own():\n    return factor * dist.get_rank()",
         cell.__dict__)
    cell.own.__module__ = "__main__"
    assert launch(cell.own, 2) == [0, 10]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_that_fails_is_the_one_shown(rank):
    start = time.perf_counter()
    with pytest.raises(RankFailed) as told:
        launch(rank_functions.fail, 3, rank, seconds=0.2)
    assert time.perf_counter() - start < 8
    assert (told.value.rank, told.value.kind) == (rank, "LookupError")
    assert f"rank {rank} of 3 failed:\nTraceback" in str(told.value)
    assert "nothing is here" in str(told.value) and "rank_functions.py" in str(told.value)


def test_a_rank_killed_among_collectives_ends_the_others_and_is_named():
    start = time.perf_counter()
    with pytest.raises(RankFailed, match="rank 2 of 4 was ended by SIGKILL") as told:
        launch(rank_functions.die, 4, 2)
    assert time.perf_counter() - start < 10
    assert told.value.kind == ""


def test_a_rank_that_leaves_without_a_word_is_named():
    with pytest.raises(RankFailed, match="rank 1 of 2 ended with exit code 3"):
        launch(rank_functions.leave, 2, 1)


def test_a_collective_that_nobody_joins_ends_at_the_timeout():
    with pytest.raises(RankFailed, match="rank 0 of 2"):
        launch(rank_functions.wait_for_who_does_not_come, 2, timeout_seconds=1.0)


def pids(folder):
    return [int(path.name) for path in folder.iterdir()]


def is_alive(pid):
    try:
        return "zombie" not in open(f"/proc/{pid}/status").read()
    except FileNotFoundError:
        return False


def wait_until(fact, seconds=20):
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_ctrl_c_ends_all(tmp_path):
    def press():
        wait_until(lambda: len(pids(tmp_path)) == 2)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        launch(rank_functions.wait_for_ever, 2, tmp_path)
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


@pytest.mark.program
def test_ranks_end_with_who_launched_them(tmp_path):
    code = ("from pathlib import Path; from aiinfra.parallel.launch import launch; "
            "from tests.parallel import rank_functions; "
            f"launch(rank_functions.wait_for_ever, 2, Path({str(tmp_path)!r}))")
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_until(lambda: len(pids(tmp_path)) == 2, seconds=60)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is in use"):
            launch(rank_functions.sum_of_ranks, 2, port=port)


def test_no_ranks_are_refused():
    with pytest.raises(ValueError, match="ranks=0; at least 1"):
        launch(rank_functions.sum_of_ranks, 0)


def start_by_hand(code, port, rank, ranks):
    """A process with torchrun's environment."""
    environment = child_environment(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
                                    MASTER_PORT=str(port))
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


JOIN = ("import torch, torch.distributed as dist; "
        "from aiinfra.parallel.launch import init_ranks, rank_device; "
        "init_ranks({}, timeout_seconds=60); x = torch.ones(1); dist.all_reduce(x); "
        "print(x.item(), rank_device())")


@pytest.mark.program
def test_ranks_of_torchruns_environment_join():
    port = free_port()
    started = [start_by_hand(JOIN.format({"steps": 3}), port, rank, 2) for rank in range(2)]
    told = [process.communicate(timeout=90) for process in started]
    assert [out for out, _ in told] == ["2.0 cpu\n"] * 2, told


@pytest.mark.program
def test_another_configuration_is_named_on_every_rank():
    port = free_port()
    started = [start_by_hand(JOIN.format({"steps": 3 + rank}), port, rank, 2) for rank in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=90)
        assert "rank 1 has steps=4 where rank 0 has 3" in errors and process.returncode == 1


def test_torch_is_told_once():
    """What a rank returns is its own: a tensor comes back whole."""
    first, second = launch(torch.arange, 2, 3)
    assert torch.equal(first, second) and first.tolist() == [0, 1, 2]
