"""The real server as a process of its own, for as long as a page needs it: it can be looked into, and frozen.

`bench.own_server` starts and ends it. Notebook 15.
"""

import asyncio
import json
import subprocess
import sys
import urllib.request
from typing import Any

from aiinfra.bench.own_server import OwnServer

_READY_SECONDS = 120.0
_FREEZE = """
import os, signal, sys, time
process, seconds = int(sys.argv[1]), float(sys.argv[2])
os.kill(process, signal.SIGSTOP)
time.sleep(seconds)
os.kill(process, signal.SIGCONT)
"""


class LocalServer(OwnServer):
    """As OwnServer, for a reader: `LocalServer("--model", "smollm2-135m")`."""

    def __init__(self, *options: str, seconds: float = _READY_SECONDS) -> None:
        super().__init__(*options, seconds=seconds)

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
