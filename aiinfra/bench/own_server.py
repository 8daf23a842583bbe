"""Our own server in a process of its own, for as long as a benchmark needs it.

    with own_server("smollm2-135m") as url:         python -m aiinfra serve … --port (a free one)
        …                                           asked until it is ready; ended with SIGTERM, then for good
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import httpx

from aiinfra.environment import child_environment

_READY_SECONDS = 600.0                # a large model is read from disk first
_END_SECONDS = 30.0                   # to finish what it has accepted
_LOOK_SECONDS = 0.1


@contextmanager
def own_server(model: str, arguments: Sequence[str] = (), key: str | None = None,
               threads: int | None = None) -> Iterator[str]:
    """The address of a server of `model`, once it is ready; it ends with the block, whatever ends that.
    arguments: more of `serve`'s. threads: of PyTorch, if not its own choice. Raises RuntimeError with its
    last words if it ends before it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "aiinfra", "serve", "--model", model, "--port", str(port), *arguments]
    url = f"http://127.0.0.1:{port}"
    environment = child_environment(AIINFRA_API_KEY=key)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as said:
        # In a session of its own: Ctrl-C is for us, who then end it.
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True,
                                   env=environment)
        try:
            _wait_until_ready(process, url, said)
            yield url
        finally:
            _end(process)


def free_port() -> int:
    """A port of this machine that nobody listens on, now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen, url: str, said: IO[str]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said.seek(0)
            last = said.read().strip().splitlines()[-1:] or ["nothing"]
            raise RuntimeError(f"the server ended with status {process.returncode}; it said: {last[0]}")
        try:
            if httpx.get(f"{url}/ready", timeout=5.0, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass                       # it does not listen yet
        time.sleep(_LOOK_SECONDS)
    raise RuntimeError(f"the server was not ready within {_READY_SECONDS:g} s.")


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
