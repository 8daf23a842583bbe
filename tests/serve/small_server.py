"""A real server with a small random model, in a process of its own, and bytes sent to it."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from aiinfra.environment import child_environment
from tests.source_tree import ROOT

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Answer:
    """What came back; status 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Served:
    """A server's process, and where it listens."""

    process: subprocess.Popen
    port: int
    model: str
    errors: Path

    @property
    def address(self) -> str:
        """For clients of HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def send(self, raw: bytes, *, half_close: bool = False) -> Answer:
        """These very bytes, in one connection; what comes first in answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            try:
                line.sendall(raw)
                if half_close:
                    line.shutdown(socket.SHUT_WR)
            except OSError:                          # it has answered, and hung up, before it heard all
                pass
            response = HTTPResponse(line)
            try:
                response.begin()
                body = response.read()
            except (OSError, HTTPException):
                return Answer(0, {}, b"")
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, body)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """A JSON body; bytes are sent as they are."""
        return self.send(request(path, body, **headers))

    def get(self, path: str) -> Answer:
        """Without a body."""
        return self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def metric(self, name: str) -> float:
        """A number of /metrics, summed over its labels."""
        text = self.get("/metrics").body.decode()
        found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is not in:\n{text}"
        return sum(map(float, found))

    def is_idle(self) -> bool:
        """True if nobody runs or waits, and nobody owns a block."""
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        return not any(self.metric(f"vllm:{name}") for name in names)

    def resident_bytes(self) -> int:
        """Of memory that the process has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))


def request(path: str, body: Any, **headers: str) -> bytes:
    """The bytes of a POST."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "x", "Connection": "close", "Content-Type": "application/json",
             "Content-Length": str(len(raw))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + raw


@contextmanager
def serving(folder: Path, *flags: str, **variables: str) -> Iterator[Served]:
    """`python -m aiinfra serve` until the end of the block; what it wrote to stderr is in a file. variables:
    of its environment."""
    command = [sys.executable, "-m", "aiinfra", "serve", "--model", str(folder), "--port", "0", *flags]
    errors = folder / f"stderr-{time.monotonic_ns()}.txt"
    with errors.open("w") as written:
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=written,
                                   env=child_environment(OMP_NUM_THREADS="1", **variables))
    try:
        line = process.stdout.readline()
        said = re.search(r"ready: (\S+) at http://.*:(\d+)/v1", line)
        assert said, line + errors.read_text()
        yield Served(process, int(said[2]), said[1], errors)
    finally:
        process.kill()
        process.communicate()


def wait_until(true, seconds: float = 10.0) -> bool:
    """Ask again and again."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def assert_refused(answer: Answer, *statuses: int) -> dict:
    """OpenAI's error object and nothing else; returns it."""
    assert answer.status in statuses, (answer.status, answer.body[:500])
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    said = json.loads(answer.body)
    assert list(said) == ["error"] and set(said["error"]) == {"message", "type", "param", "code"}, said
    error = said["error"]
    assert isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert len(answer.body) < 4096, "who is refused is not told what he said at length"
    return error
