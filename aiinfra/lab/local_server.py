"""The real server as a process of its own, for as long as a page needs it.

    page ──starts──► python -m aiinfra serve …  ──one line──► "http://127.0.0.1:PORT"
      └── a pipe, held open ──► the server ends when it closes: by `stop`, or because the kernel is gone

A server in the page's own process would share its lock with the clients that measure it. Invariant: however
the page's process ends, its server ends too. Notebook 15.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import weakref
from pathlib import Path
from typing import Any

from aiinfra.environment import child_environment

_ROOT = str(Path(__file__).parents[2])
_START = f"""
import sys
sys.path[:0] = [{_ROOT!r}]
from aiinfra.__main__ import main
from aiinfra.lab.local_server import end_with_the_page
end_with_the_page()
sys.exit(main(sys.argv[1:]))
"""
_FREEZE = """
import os, signal, sys, time
process, seconds = int(sys.argv[1]), float(sys.argv[2])
os.kill(process, signal.SIGSTOP)
time.sleep(seconds)
os.kill(process, signal.SIGCONT)
"""
_ADDRESS = re.compile(r"http://([\w.]+):(\d+)")
_LAST_WORDS = 2000                       # characters that an error quotes
_MOST_READ = 1 << 20
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.05


class LocalServer:
    """`python -m aiinfra serve OPTIONS` on a free port of this machine, ready when this returns.

    Ends with `stop`, when nobody has it any more, and with this process. Raises RuntimeError, with the
    server's last words, if it ends before it is ready, or is not ready after `seconds`.
    """

    def __init__(self, *options: str, seconds: float = 120.0) -> None:
        self._said = tempfile.TemporaryFile()
        command = [sys.executable, "-c", _START, "serve", "--port", "0", *options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            env=child_environment(),
            start_new_session=True,          # Ctrl-C, which is for the page, does not reach it
        )
        self._end = weakref.finalize(self, _end, self._process)
        self.host, self.port = self._until_ready(seconds)

    @property
    def address(self) -> str:
        """For instance http://127.0.0.1:8000."""
        return f"http://{self.host}:{self.port}"

    def get(self, path: str) -> str:
        """What it answers to GET, as text."""
        with urllib.request.urlopen(f"{self.address}{path}", timeout=30) as answer:
            return answer.read().decode()

    def state(self) -> dict[str, Any]:
        """Its /state: blocks and requests at this moment."""
        return json.loads(self.get("/state"))

    async def freeze(self, after: float, seconds: float) -> None:
        """Have it stand still, as a machine does that is moved, or swaps: `after` seconds from now, for
        `seconds`."""
        await asyncio.sleep(after)
        command = [sys.executable, "-c", _FREEZE, str(self._process.pid), str(seconds)]
        # A process of its own wakes it up again, even if this one is gone by then.
        freezer = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        await asyncio.to_thread(freezer.wait)

    def stop(self) -> None:
        """End it. A second time changes nothing."""
        self._end()

    def _until_ready(self, seconds: float) -> tuple[str, int]:
        """Wait for the line with its address."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            if found := _ADDRESS.search(self._words()):
                return found[1], int(found[2])
            time.sleep(_LOOK_SECONDS)
        self.stop()
        raise RuntimeError(f"the server was not ready within {seconds:g} s. It said: "
                           f"{self._words()[-_LAST_WORDS:]}")

    def _words(self) -> str:
        """All that it has said; the place where it writes on is its own."""
        said = os.pread(self._said.fileno(), _MOST_READ, 0)
        return said.decode(errors="replace").strip()


def end_with_the_page() -> None:
    """In the server's process: end in good order when the pipe from the page closes."""
    def wait() -> None:
        sys.stdin.buffer.read()              # returns when nobody holds the other end
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=wait, daemon=True).start()


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # if it is frozen just now
        process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

