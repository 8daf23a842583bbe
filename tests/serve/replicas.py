"""Servers in processes of their own, which can be killed and started again; and load that watches them."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.checkpoint.corpus_parts import CHATML, byte_level, save, small_model
from tests.source_tree import ROOT

from aiinfra.bench.http import Endpoint, HttpServed
from aiinfra.bench.open_loop import open_loop
from aiinfra.bench.trace import TraceRequest
from aiinfra.environment import child_environment


def free_port() -> int:
    """A port of this machine that nobody listens on, now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def small_folder(folder: Path) -> Path:
    """A random model that makes hundreds of tokens a second, with a context of 4,096, and its tokenizer."""
    backend = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    model = small_model("llama", backend.get_vocab_size(), max_position_embeddings=4096)
    return save(folder, model, backend, eos_token="<|endoftext|>", chat_template=CHATML)


class Replica:
    """`python -m aiinfra serve`, always at the same port."""

    def __init__(self, model: Path, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-m", "aiinfra", "serve", "--model", str(model),
                        "--port", str(self.port), *arguments]
        self.process: subprocess.Popen | None = None

    def start(self) -> "Replica":
        env = child_environment(OMP_NUM_THREADS="1")
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=env, start_new_session=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, and wait; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def metric(self, name: str) -> float:
        """The sum over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


def wait_for(url: str, seconds: float = 90) -> None:
    """Until this address says 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer within {seconds} s")


@contextmanager
def running(command: list[str], ready: str) -> Iterator[subprocess.Popen]:
    """A program, once `ready` says 200; it ends with the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        wait_for(ready)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(url: str, trace: list[TraceRequest], model: str, events: dict[float, object] = {},
         asked: str = "words") -> list[HttpServed]:
    """The trace, open loop; meanwhile each of `events` is called in a thread at its second."""
    heard: dict[int, HttpServed] = {}

    async def later(seconds: float, event) -> None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(event)

    async def work() -> None:
        async with Endpoint(url, model, asked=asked, timeout=60) as endpoint:
            other = [asyncio.create_task(later(*event)) for event in events.items()]
            await open_loop(endpoint, trace, heard.__setitem__)
            await asyncio.gather(*other)
    asyncio.run(work())
    return [heard[i] for i in range(len(trace))]


def steady(seconds: float, rate: float, prompt: int = 12, made: int = 24) -> list[TraceRequest]:
    """Requests at equal gaps, no two of which begin alike."""
    count = int(seconds * rate)
    return [TraceRequest([i, i // 32, *range(prompt)], made, i / rate) for i in range(count)]
