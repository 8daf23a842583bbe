"""Who finds no place hears it at once, however busy the server is, and before his text costs anything."""

import asyncio
import statistics
import time

import pytest
from tests.serve.parrot import Client, completion, parrot

from aiinfra.serve.admission import Admission

ANSWER = "one two three four five six seven eight nine ten " * 4


@pytest.mark.alone
def test_a_refusal_takes_less_than_ten_milliseconds_beside_a_hundred_streams(monkeypatch) -> None:
    """From the request's last byte to the answer's first, at the server. Check and count in two places took
    vLLM seconds."""
    async def run() -> list[float]:
        admission = Admission(max_requests=68)
        async with parrot(ANSWER, admission=admission, options={"max_running": 32, "blocks": 1024}) as served:
            served.runner.seconds = 0.005
            served.runner.script *= 10                    # longer than this test takes
            body = completion(stream=True, max_tokens=400)
            crowd = []
            while served.thread.running < 32 or admission.requests < 68:
                crowd.append(Client(served.app, "completions", body).start())
                await asyncio.sleep(0.005)
            monkeypatch.setattr(served.thread.llm.tokenizer, "encode", never)
            seconds = []
            for _ in range(60):
                late = Client(served.app, "completions", completion(prompt="word " * 20_000))
                begun = time.perf_counter()
                await late.start().task
                seconds.append(time.perf_counter() - begun)
                assert late.status == 429 and "queue_full" in late.text
            assert served.thread.running == 32, "it was busy all the time"
            for client in crowd:
                client.gone.set()
            await asyncio.gather(*[client.task for client in crowd])
            assert (admission.requests, admission.tokens) == (0, 0)
            return seconds
    assert statistics.median(asyncio.run(run())) < 0.010


def never(*asked: object) -> None:
    raise AssertionError("the text of somebody who is refused was tokenized")
