"""Servers and requests that the tests of several benchmarks share."""

import time

from aiinfra.bench.load import EngineServer, Token
from aiinfra.bench.trace import random_trace


TRACE = random_trace(9, 211, seed=1, prompt_tokens=(3, 40), output_tokens=(2, 12))


def tokens_run(server: EngineServer) -> int:
    return sum(count for record in server.records for *_, count in record.ran)


class Clerk:
    """A server that takes `seconds` a token, one request after another; `extra` tokens more than asked
    for."""

    def __init__(self, seconds: float = 0.01, extra: int = 0, name: str = "clerk") -> None:
        self.seconds, self.extra, self.name = seconds, extra, name
        self.queue, self.came = [], []

    @property
    def unfinished(self) -> int:
        return len(self.queue)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        self.queue.append([request, output_tokens + self.extra])
        self.came.append(request)

    def step(self) -> list[Token]:
        time.sleep(self.seconds)
        request, left = self.queue[0]
        self.queue[0][1] -= 1
        if left == 1:
            self.queue.pop(0)
        return [Token(request, 7, time.perf_counter())]
