"""A run on a mesh: the files, the curve and the model of one process; killed, it names who, and goes on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aiinfra.environment import child_environment
from aiinfra.parallel.launch import RankFailed, launch
from aiinfra.train.options import TrainOptions
from aiinfra.train.run import TrainingRun, read_lines
from aiinfra.train.state import StateError
from tests.parallel import team_functions
from tests.source_tree import ROOT
from tests.train.stories import stories

pytestmark = pytest.mark.program
SMALL = TrainOptions(steps=6, layers=2, width=32, feed_forward=48, heads=4, kv_heads=2, vocabulary=300,
                     length=32, rows=2, accumulate=4, save_every=3, device="cpu")
FLAGS = ["--layers", "2", "--width", "32", "--heads", "4", "--kv-heads", "2", "--feed-forward", "48",
         "--vocabulary", "300", "--length", "32", "--rows", "2", "--accumulate", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n\n".join(stories(120)))
    return path


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The folder of one process's run."""
    run = TrainingRun(data, tmp_path_factory.mktemp("alone"), SMALL)
    for _ in run:
        pass
    run.export()
    return run.out


def names_in(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix() for path in paths if "step-" not in path.as_posix()}


def assert_same_run(out, alone):
    assert names_in(out) == names_in(alone)
    for mine, one in zip(read_lines(out / "metrics.jsonl"), read_lines(alone / "metrics.jsonl"), strict=True):
        assert mine["step"] == one["step"] and mine["tokens_seen"] == one["tokens_seen"]
        for name in ("loss", "gradient_norm", "bits_per_byte"):
            assert mine[name] == pytest.approx(one[name], rel=1e-5), (mine["step"], name)
    for mine, one in zip(read_lines(out / "evaluations.jsonl"), read_lines(alone / "evaluations.jsonl"),
                         strict=True):
        assert mine["loss"] == pytest.approx(one["loss"], rel=1e-4)
    exported, whole = (load_file(folder / "export" / "model.safetensors") for folder in (out, alone))
    assert exported.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(exported[name], value, rtol=1e-3, atol=1e-4)


def test_a_run_on_a_mesh_goes_on_on_fewer_ranks_and_is_one_process(data, alone, tmp_path):
    """Three steps on 4 ranks, then 3 on 2 that are cut otherwise."""
    assert launch(team_functions.train, 4, "dp=2,tp=2", data, tmp_path, SMALL, 3) == [3] * 4
    assert launch(team_functions.train, 2, "pp=2", data, tmp_path, SMALL, 6, resume=True) == [6] * 2
    assert_same_run(tmp_path, alone)


@pytest.mark.parametrize("mesh, changes", [("fsdp=2", {"recompute": "block"}),
                                           ("pp=2", {"recompute": "operation"}), ("cp=2", {})])
def test_other_meshes_are_one_process_too(mesh, changes, data, alone, tmp_path):
    launch(team_functions.train, 2, mesh, data, tmp_path, replace(SMALL, **changes), 6)
    assert_same_run(tmp_path, alone)


def test_experts_on_their_ranks_are_one_process_and_go_on_on_copies(data, tmp_path):
    """Three steps with each expert on one rank, then three with all experts on both."""
    sparse = replace(SMALL, experts=4, experts_per_token=2)
    whole = TrainingRun(data, tmp_path / "alone", sparse)
    for _ in whole:
        pass
    whole.export()
    out = tmp_path / "mesh"
    launch(team_functions.train, 2, "ep=2", data, out, sparse, 3)
    launch(team_functions.train, 2, "dp=2", data, out, sparse, 6, resume=True)
    assert_same_run(out, whole.out)


def test_what_does_not_go_together_is_refused(data, alone, tmp_path):
    for mesh, changes, words in [
            ("dp=2", {"accumulate": 3}, "a step of 3 micro-batches cannot be dealt among 2 ranks"),
            ("ep=2", {}, "a model without experts: give those ranks to dp"),
            ("tp=2", {"compile": True}, "compile is not supported on a mesh"),
            ("tp=2", {"kv_heads": 1, "heads": 1}, "num_attention_heads=1 cannot be divided among 2")]:
        with pytest.raises(RankFailed, match=words):
            launch(team_functions.train, 2, mesh, data, tmp_path / mesh, replace(SMALL, **changes), 6)
    with pytest.raises(RankFailed, match="was written whole, by one process"):
        launch(team_functions.train, 2, "dp=2", data, alone, replace(SMALL, steps=8), 8, resume=True)


def test_parts_are_not_for_one_process(data, tmp_path):
    launch(team_functions.train, 2, "dp=2", data, tmp_path, replace(SMALL, steps=3), 3)
    with pytest.raises(StateError, match="was written in parts, by the ranks of a mesh"):
        TrainingRun(data, tmp_path, SMALL, resume=True)


# Under torchrun

def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def torchrun(ranks, *args, nodes=(), before=(), **variables):
    command = [*before, sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += nodes or ["--master-port", str(free_port())]
    command += ["-m", "aiinfra", "train", *FLAGS, *map(str, args)]
    environment = child_environment(OMP_NUM_THREADS="1", **variables)
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid):
    return int(re.search(r"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_text()).group(1))


def test_a_killed_rank_is_named_and_the_run_goes_on_on_fewer(data, alone, tmp_path):
    job = torchrun(2, "--data", data, "--out", tmp_path, "--steps", 5000, "--save-every", 3, "--mesh", "tp=2",
                   "--warmup", 0)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoints" / "step-00000006" / "state.json").exists():
            assert time.monotonic() < deadline and job.poll() is None, job.stdout.read()
            time.sleep(0.05)
        victim, = [pid for pid in children_of(job.pid) if rank_of(pid) == 1]
        os.kill(victim, signal.SIGKILL)
        start = time.monotonic()
        told, _ = job.communicate(timeout=60)
    finally:
        job.kill()
    assert time.monotonic() - start < 30 and job.returncode != 0
    assert re.search(r"Root Cause.*rank\s+: 1 .*Signal 9 \(SIGKILL\)", told, re.S), told[-3000:]
    saved = max(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    step = int(saved.removeprefix("step-"))
    before = {line["step"]: line["loss"] for line in read_lines(tmp_path / "metrics.jsonl")}
    options = replace(SMALL, steps=5000, warmup=0)
    launch(team_functions.train, 1, "dp=1", data, tmp_path, options, step + 1, resume=True)
    after = {line["step"]: line["loss"] for line in read_lines(tmp_path / "metrics.jsonl")}
    assert max(after) == step + 1
    for number in before.keys() & after.keys():
        assert after[number] == pytest.approx(before[number], rel=1e-4)


def test_ctrl_c_saves_on_all_ranks_and_the_run_goes_on(data, tmp_path):
    job = torchrun(2, "--data", data, "--out", tmp_path, "--steps", 5000, "--save-every", 5000, "--warmup", 0,
                   "--mesh", "tp=2")
    try:
        deadline = time.monotonic() + 120
        while len(read_lines(tmp_path / "metrics.jsonl")) < 3:
            assert time.monotonic() < deadline and job.poll() is None, job.stdout.read()
            time.sleep(0.05)
        ranks = children_of(job.pid)
        job.send_signal(signal.SIGINT)           # who started the ranks tells them, each once
        told, _ = job.communicate(timeout=60)
    finally:
        job.kill()
    assert len(ranks) == 2 and not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    steps = len(read_lines(tmp_path / "metrics.jsonl"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{steps:08}"], told
    options = replace(SMALL, steps=5000, warmup=0, save_every=5000)
    launch(team_functions.train, 1, "dp=1", data, tmp_path, options, steps + 1, resume=True)
    numbers = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert numbers == list(range(1, steps + 2))


def test_another_configuration_on_one_node_is_named(data, tmp_path):
    port = free_port()
    jobs = []
    for node, steps in enumerate((3, 4)):
        nodes = ["--nnodes", "2", "--node-rank", str(node), "--master-addr", "127.0.0.1",
                 "--master-port", str(port)]
        jobs.append(torchrun(1, "--data", data, "--out", tmp_path, "--steps", steps, "--mesh", "dp=2",
                             nodes=nodes))
    told = [job.communicate(timeout=120)[0] for job in jobs]
    assert all("rank 1 has steps=4 where rank 0 has 3" in text for text in told), told
    assert not (tmp_path / "metrics.jsonl").exists(), "before anything else"


def test_two_nodes_train_as_one_process(data, alone, tmp_path):
    port = free_port()
    jobs = []
    for node in range(2):
        nodes = ["--nnodes", "2", "--node-rank", str(node), "--master-addr", "127.0.0.1",
                 "--master-port", str(port)]
        jobs.append(torchrun(1, "--data", data, "--out", tmp_path, "--steps", 6, "--save-every", 3, "--mesh",
                             "fsdp=2", nodes=nodes))
    told = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert_same_run(tmp_path, alone)


@pytest.fixture
def two_machines():
    """Names of two network namespaces with a cable between them: 10.77.0.1 and 10.77.0.2."""
    names = [f"aiinfra{end}{os.getpid()}" for end in "ab"]
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0
    made = all(ip("netns", "add", name) for name in names)
    made = made and ip("link", "add", "cable0", "netns", names[0], "type", "veth", "peer", "name", "cable0",
                       "netns", names[1])
    try:
        if not made:
            pytest.skip("this container may not make network namespaces")
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable0")
            ip("-n", name, "link", "set", "cable0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_machines_train_and_resume(data, alone, tmp_path, two_machines):
    for steps, more in ((3, []), (6, ["--resume"])):
        jobs = []
        for node, name in enumerate(two_machines):
            nodes = ["--nnodes", "2", "--node-rank", str(node), "--master-addr", "10.77.0.1",
                     "--master-port", "29777"]
            jobs.append(torchrun(1, "--data", data, "--out", tmp_path, "--steps", steps, "--save-every", 3,
                                 "--warmup", 0, "--mesh", "fsdp=2", *more, nodes=nodes,
                                 before=["ip", "netns", "exec", name], GLOO_SOCKET_IFNAME="cable0"))
        told = [job.communicate(timeout=120)[0] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], told
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    first = read_lines(alone / "metrics.jsonl")[0]
    assert lines[0]["loss"] == pytest.approx(first["loss"], rel=1e-5)


def test_a_mesh_without_torchrun_is_refused(data, tmp_path):
    command = [sys.executable, "-m", "aiinfra", "train", "--data", data, "--out", tmp_path, "--mesh", "dp=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "was not started by torchrun" in done.stderr
    assert json.dumps(done.stderr).count("error:") == 1
