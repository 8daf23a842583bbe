"""Two replicas under Ray Serve: what is killed, replaced, added, and not kept back."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.peers import python_of
from tests.serve.replicas import free_port, load, small_folder, steady, wait_for
from tests.source_tree import ROOT

from aiinfra.bench.trace import TraceRequest
from aiinfra.environment import child_environment

pytestmark = [pytest.mark.program, pytest.mark.alone]
REPLICA = "ray::ServeReplica"


class Application:
    """A driver of Ray, in the environment that has it."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.arguments = {"model": str(folder), "cpus": 0.5, "settle_seconds": 1}
        python = python_of("ray")
        # On a busy machine Ray's own processes take longer to start than Ray waits for them.
        patient = {"RAY_raylet_start_wait_time_s": "180", "RAY_agent_register_timeout_ms": "180000"}
        env = child_environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0",
                                **patient)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [python, "-m", "tests.serve.ray_driver", str(port)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes)

    def run(self, **arguments: object) -> None:
        """Deploy it with these arguments; returns once it runs."""
        self.process.stdin.write(json.dumps(self.arguments | arguments) + "\n")
        self.process.stdin.flush()
        while self.process.stdout.readline().strip() != "runs":
            assert self.process.poll() is None, "the driver has ended"

    def replicas(self) -> list[int]:
        """The process ids of its replicas."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                named = (entry / "cmdline").read_bytes().decode().startswith(REPLICA)
                if named and self.process.pid in ancestors(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                pass                                          # it has just ended
        return found


def ancestors(process: int) -> list[int]:
    """The process, whoever started it, and so on."""
    found = [process]
    while found[-1] > 1:
        status = Path(f"/proc/{found[-1]}/stat").read_text()
        found.append(int(status.rpartition(")")[2].split()[1]))
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def application(tmp_path_factory) -> Iterator[Application]:
    one = Application(small_folder(tmp_path_factory.mktemp("ray") / "small"))
    one.run(max_replicas=2, max_running=1)
    wait_for(f"{one.url}/ready")
    yield one
    one.process.stdin.close()
    try:
        one.process.wait(60)
    except subprocess.TimeoutExpired:
        one.process.kill()


def test_a_stream_is_not_kept_back(application: Application) -> None:
    [one] = load(application.url, [TraceRequest(list(range(9)), 200)], "small")
    assert one.answered and len(set(one.at_seconds)) > 50
    assert one.first_token_seconds < one.total_seconds / 4


def test_waiting_requests_bring_a_replica(application: Application) -> None:
    assert len(application.replicas()) == 1
    heard = load(application.url, steady(20, 4, made=250), "small")
    assert all(one.answered for one in heard), {one.failure for one in heard}
    wait_until(lambda: len(application.replicas()) == 2)


def test_who_is_killed_fails_alone_and_is_replaced(application: Application) -> None:
    application.run(min_replicas=2, max_replicas=2)
    wait_until(lambda: len(application.replicas()) == 2)
    [victim, _] = before = application.replicas()
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        os.kill(victim, signal.SIGKILL)
    begun = time.monotonic()
    heard = load(application.url, steady(8, 8, made=100), "small", {2.5: kill})
    at = killed[0] - begun
    failed = [one for one in heard if not one.answered]
    print(f"ray: {len(failed)} of {len(heard)} failed", {one.failure for one in failed})
    assert all(one.sent_seconds < at + 0.1 for one in failed), "only what it was answering"
    assert len(failed) < len(heard) / 4 and sum(one.answered for one in heard if one.sent_seconds > at) > 30
    wait_until(lambda: len(application.replicas()) == 2 and set(application.replicas()) != set(before))


def test_a_rolling_restart_loses_nothing(application: Application) -> None:
    before = application.replicas()

    def restart() -> None:
        application.run(min_replicas=2, max_replicas=2, max_queued_requests=200)
    heard = load(application.url, steady(40, 5, made=60), "small", {2.0: restart})
    print(f"ray: {len(heard)} requests", {one.failure for one in heard if not one.answered})
    assert all(one.answered for one in heard)
    assert not set(before) & set(application.replicas()), "both are new"
