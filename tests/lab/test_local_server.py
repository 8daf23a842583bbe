"""A page's server answers, stands still when told, and is gone with whoever has started it."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiinfra.lab.local_server import LocalServer

pytestmark = pytest.mark.program
PAGE = """
import asyncio, sys
from aiinfra.lab.local_server import LocalServer
server = LocalServer("--model", sys.argv[1])
print(server._process.pid, flush=True)
asyncio.run(server.freeze(after=0, seconds=2))
"""


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def status(process: int) -> str:
    """One letter of Linux's: T stands still."""
    told = Path(f"/proc/{process}/stat").read_text()
    return told.rpartition(")")[2].split()[0]


def wait_until_gone(process: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while is_there(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_there(process)


def test_it_answers_freezes_and_stops(real_model):
    server = LocalServer("--model", real_model)
    assert server.state()["running"] == 0 and real_model in server.get("/v1/models")

    async def during_a_freeze() -> float:
        begun = time.perf_counter()
        freeze = asyncio.create_task(server.freeze(after=0, seconds=1.0))
        while status(server._process.pid) != "T":
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.state)             # answered once it moves again
        answered = time.perf_counter() - begun
        await freeze
        return answered
    assert 1.0 <= asyncio.run(during_a_freeze()) < 30
    process = server._process.pid
    server.stop()
    server.stop()
    assert wait_until_gone(process)


def test_it_is_gone_with_the_page_that_was_killed_while_it_stood_still(real_model):
    page = subprocess.Popen([sys.executable, "-c", PAGE, real_model], stdout=subprocess.PIPE)
    process = int(page.stdout.readline())
    while status(process) != "T":
        time.sleep(0.01)
    page.kill()
    page.wait()
    page.stdout.close()
    assert wait_until_gone(process)


def test_a_server_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match="It said: error: .*no-such-model"):
        LocalServer("--model", "no-such-model")
