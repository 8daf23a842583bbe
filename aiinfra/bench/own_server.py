"""Our own server in a process of its own, for as long as a benchmark or a page needs it.

    owner ──starts──► python -m aiinfra serve --port 0 …  ──one line──► "http://127.0.0.1:PORT"
      └── a pipe, held open ──► the server ends when it closes: by `stop`, or because the owner is gone

In the owner's process it would share its lock with the clients that measure it. Invariant: however the owner
ends, its server ends too. Notebook 15.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiinfra.environment import child_environment

_ROOT = str(Path(__file__).parents[2])
_START = f"""
import sys
sys.path[:0] = [{_ROOT!r}]
from aiinfra.__main__ import main
from aiinfra.bench.own_server import end_with_the_owner
end_with_the_owner()
sys.exit(main(sys.argv[1:]))
"""
_ADDRESS = re.compile(r"http://([\w.]+):(\d+)")
_LAST_WORDS = 2000                    # characters that an error quotes
_MOST_READ = 1 << 20
_READY_SECONDS = 600.0                # a large model is read from disk first
_END_SECONDS = 30.0                   # to finish what it has accepted
_LOOK_SECONDS = 0.05


class OwnServer:
    """`python -m aiinfra serve OPTIONS` on a free port of this machine, ready when this returns.

    Ends with `stop`, when nobody has it any more, and with this process. environment: variables that it has
    instead of ours. Raises RuntimeError, with the server's last words, if it ends before it is ready, or is
    not ready after `seconds`.
    """

    def __init__(self, *options: str, seconds: float = _READY_SECONDS, **environment: str | None) -> None:
        self._said = tempfile.TemporaryFile()
        command = [sys.executable, "-c", _START, "serve", "--port", "0", *options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            env=child_environment(**environment),
            start_new_session=True,          # Ctrl-C is for the owner, who then ends it
        )
        self._end = weakref.finalize(self, _end, self._process)
        try:
            self.host, self.port = self._until_ready(seconds)
        except BaseException:                # Ctrl-C, too
            self.stop()
            raise

    @property
    def address(self) -> str:
        """For instance http://127.0.0.1:8000."""
        return f"http://{self.host}:{self.port}"

    def stop(self) -> None:
        """End it. A second time changes nothing."""
        self._end()

    def _until_ready(self, seconds: float) -> tuple[str, int]:
        """Wait for the line with its address."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self._process.poll()
            if found := _ADDRESS.search(self._words()):
                return found[1], int(found[2])
            if status is not None:
                raise RuntimeError(f"the server ended with status {status}. It said: {self._last_words()}")
            time.sleep(_LOOK_SECONDS)
        raise RuntimeError(f"the server was not ready within {seconds:g} s. It said: {self._last_words()}")

    def _last_words(self) -> str:
        return self._words()[-_LAST_WORDS:] or "nothing"

    def _words(self) -> str:
        """All that it has said; the place where it writes on is its own."""
        said = os.pread(self._said.fileno(), _MOST_READ, 0)
        return said.decode(errors="replace").strip()


@contextmanager
def own_server(model: str, arguments: Sequence[str] = (), key: str | None = None,
               threads: int | None = None) -> Iterator[str]:
    """The address of a server of `model`, once it is ready; it ends with the block, whatever ends that.
    arguments: more of `serve`'s. threads: of PyTorch, if not its own choice. Raises as OwnServer."""
    environment = {"AIINFRA_API_KEY": key}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    server = OwnServer("--model", model, *arguments, **environment)
    try:
        yield server.address
    finally:
        server.stop()


def end_with_the_owner() -> None:
    """In the server's process: end in good order when the pipe from its owner closes."""
    def wait() -> None:
        sys.stdin.buffer.read()              # returns when nobody holds the other end
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=wait, daemon=True).start()


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # if it is frozen just now
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
