"""One thread steps: who hangs up frees his places, who reads slowly stops nobody, and a fault is told."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.serve.parrot import Client, chat, completion, error_of, events, parrot, until

from aiinfra.serve import reply
from aiinfra.serve.admission import Admission

pytestmark = pytest.mark.program
SAID = "one two three four five six seven eight nine ten " * 4


def free(served) -> tuple[int, int, int]:
    """What a request takes: places that are counted, requests of the engine, blocks that are owned."""
    places = served.admission.requests + served.admission.tokens
    return places, served.engine.unfinished, served.engine.pool.used


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("when", ["waiting", "reading its prompt", "decoding"])
def test_who_hangs_up_is_gone_within_a_step(when: str, n: int, stream: bool) -> None:
    async def run():
        options = {"max_running": 4, "token_budget": 8, "prefix_caching": False}
        if when == "waiting":
            options["mode"] = "one"
        async with parrot(SAID, options=options) as served:
            served.runner.seconds = 0.01
            before = free(served)
            steps = []
            served.thread.on_step.append(steps.append)
            other = Client(served.app, "completions", completion(max_tokens=400, ignore_eos=True)).start()
            if when == "waiting":
                await until(lambda: steps)
            prompt = "word " * 200 if when == "reading its prompt" else "hi"
            more = {"temperature": 1, "n": n} if n > 1 else {}
            body = completion(prompt=prompt, stream=stream, **more)
            client = Client(served.app, "completions", body).start()
            running = served.engine.scheduler.running
            if when == "waiting":
                await until(lambda: served.engine.scheduler.waiting)
            elif when == "decoding":
                await until(lambda: sum(request.made > 1 for request in running) == n + 1)
            else:
                await until(lambda: any(10 < request.computed < 150 for request in running))
            client.gone.set()
            await until(lambda: len(served.thread.open) == 1)       # its letter is in the box
            seen = len(steps)
            await until(lambda: served.engine.unfinished == 1)
            assert len(steps) - seen <= 2           # the one that ran, and one that had perhaps just begun
            await asyncio.wait_for(client.task, 5)
            other.gone.set()
            await until(lambda: free(served) == before)
            assert not served.thread.open and served.engine.idle
            served.engine.pool.check()
    asyncio.run(run())


def test_a_slow_reader_stops_nobody_and_loses_nothing() -> None:
    async def run():
        async with parrot(SAID) as served:
            slow = Client(served.app, "completions", completion(stream=True)).start()
            slow.may_read.clear()
            quick = await served.client.post("completions", json=completion())
            assert quick.status_code == 200
            await until(lambda: not served.thread.open)             # computed to its end, and still unread
            slow.may_read.set()
            await asyncio.wait_for(slow.task, 5)
            pieces = [line for line in slow.text.split("\n\n") if line]
            assert pieces[-1] == "data: [DONE]" and len(pieces) < 10    # the steps it missed came together
            assert quick.json()["choices"][0]["text"].split()[-1] in slow.text
    asyncio.run(run())


def test_a_step_that_raises_fails_who_waits_and_flips_health() -> None:
    async def run():
        async with parrot(SAID) as served:
            served.runner.seconds = 0.005
            assert (await served.client.get("/../health")).status_code == 200
            stream = Client(served.app, "chat/completions", chat(stream=True)).start()
            whole = Client(served.app, "completions", completion()).start()
            await until(lambda: len(stream.messages) > 4 and len(served.thread.open) == 2)
            served.runner.fault = RuntimeError("the GPU fell off the bus")
            await asyncio.wait_for(asyncio.gather(stream.task, whole.task), 10)
            assert stream.status == 200 and '"error"' in stream.text.split("data: ")[-1]
            assert "fell off the bus" in stream.text and "[DONE]" not in stream.text
            assert whole.status == 500 and "fell off the bus" in whole.text
            await until(lambda: free(served) == (0, 0, 0))          # told first, then taken out
            for path in ("/../health", "/../ready"):
                response = await served.client.get(path)
                assert response.status_code == 503 and "fell off" in error_of(response)["message"]
            later = await served.client.post("completions", json=completion())
            assert later.status_code == 503 and error_of(later)["code"] == "engine_failed"
    asyncio.run(run())


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async def run():
        async with parrot(SAID, request_seconds=1.0) as served:
            served.runner.seconds = 0.1
            late = await served.client.post("completions", json=completion())
            assert late.status_code == 504 and error_of(late)["code"] == "deadline_exceeded"
            found = events(await served.client.post("completions", json=completion(stream=True)))
            assert found[-1]["error"]["code"] == "deadline_exceeded" and len(found) > 2
            await until(lambda: free(served) == (0, 0, 0))
            served.runner.seconds = 0.0
            brief = completion(max_tokens=1)
            assert (await served.client.post("completions", json=brief)).status_code == 200
    asyncio.run(run())


def test_draining_finishes_what_was_taken_and_refuses_the_rest() -> None:
    async def run():
        async with parrot(SAID, options={"max_running": 1}) as served:
            served.runner.seconds = 0.002
            taken = [Client(served.app, "completions", completion()).start() for _ in range(3)]
            await until(lambda: len(served.thread.open) == 3)
            served.thread.drain()
            ready = await served.client.get("/../ready")
            assert ready.status_code == 503 and error_of(ready)["code"] == "draining"
            assert (await served.client.get("/../health")).status_code == 200
            refused = await served.client.post("completions", json=completion())
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            await asyncio.wait_for(served.thread.until_drained(), 20)
            await asyncio.gather(*[client.task for client in taken])
            assert all(client.status == 200 and '"finish_reason"' in client.text for client in taken)
    asyncio.run(run())


def test_stopped_in_the_middle_everybody_is_told() -> None:
    async def run():
        async with parrot(SAID) as served:
            served.runner.gate = threading.Event()
            client = Client(served.app, "completions", completion()).start()
            await until(lambda: served.engine.unfinished)
            served.thread.state = "stopped"
            served.runner.gate.set()
            await asyncio.wait_for(client.task, 5)
            assert client.status == 503
    asyncio.run(run())


def test_a_question_between_steps_is_answered_and_its_fault_is_the_askers() -> None:
    async def run():
        async with parrot(SAID) as served:
            assert await served.thread.between_steps(lambda: served.engine.pool.total) == 256
            with pytest.raises(ZeroDivisionError):
                await served.thread.between_steps(lambda: 1 / 0)
            assert served.thread.state == "ready"
    asyncio.run(run())


def test_who_asks_between_steps_and_goes_away_stops_nobody() -> None:
    async def run():
        async with parrot(SAID) as served:
            served.runner.gate = threading.Event()
            client = Client(served.app, "completions", completion()).start()
            await until(lambda: served.engine.unfinished)
            question = asyncio.create_task(served.thread.between_steps(lambda: 1))
            await asyncio.sleep(0)
            assert served.thread.waiting == 0, "a question is no request"
            question.cancel()
            served.runner.gate.set()
            assert await asyncio.wait_for(served.thread.between_steps(lambda: 2), 10) == 2
            await asyncio.wait_for(client.task, 10)
            assert client.status == 200
    asyncio.run(run())


def test_a_fault_between_steps_fails_who_waits_too(monkeypatch) -> None:
    """The engine's memory is gone when somebody hangs up: the thread must not end in silence."""
    def no_more(request) -> None:
        raise RuntimeError("the GPU fell off the bus")

    async def run():
        async with parrot(SAID) as served:
            served.runner.seconds = 0.005
            gone, waits = [Client(served.app, "completions", completion()).start() for _ in range(2)]
            await until(lambda: served.thread.running == 2)
            monkeypatch.setattr(served.thread.llm.texts, "drop", no_more)
            gone.gone.set()
            await asyncio.wait_for(asyncio.gather(gone.task, waits.task), 10)
            assert waits.status == 500 and "fell off the bus" in waits.text
            assert (await served.client.get("/../health")).status_code == 503
            assert await asyncio.wait_for(served.thread.between_steps(lambda: 2), 10) == 2
    asyncio.run(run())


def test_a_reader_who_does_not_read_is_left_after_the_deadline(monkeypatch) -> None:
    async def run():
        monkeypatch.setattr(reply, "_LINGER_SECONDS", 0.2)
        async with parrot(SAID, request_seconds=0.5) as served:
            client = Client(served.app, "completions", completion(stream=True)).start()
            client.may_read.clear()
            await asyncio.wait_for(client.task, 10)                 # raises nothing: there is no fault
            assert not served.thread.open and "[DONE]" not in client.text
    asyncio.run(run())


@pytest.mark.parametrize("admission, body, said", [
    (Admission(max_requests=2), completion(), "2 of 2 requests wait"),
    (Admission(max_requests=3), completion(n=2, temperature=1), "2 of 3 requests wait"),
    (Admission(max_tokens=100), completion(prompt="a b c " * 30), "tokens wait"),
])
def test_a_full_queue_refuses_at_once_and_is_open_again_after(admission, body: dict, said: str) -> None:
    async def run():
        async with parrot("ok", admission=admission, options={"max_running": 1}) as served:
            served.runner.gate = threading.Event()
            first = Client(served.app, "completions", completion()).start()
            await until(lambda: served.engine.unfinished and admission.requests == 1)
            waiting = Client(served.app, "completions", completion(prompt="x y z " * 5)).start()
            await until(lambda: admission.requests == 2)
            full = await served.client.post("completions", json=body)
            assert full.status_code == 429          # no step has ended meanwhile: nobody was asked to wait
            assert full.headers["retry-after"] == "1"
            assert error_of(full)["code"] == "queue_full" and said in error_of(full)["message"]
            assert error_of(full)["type"] == "rate_limit_error"
            assert (await served.client.get("/../health")).status_code == 200
            served.runner.gate.set()
            await asyncio.gather(first.task, waiting.task)
            assert (admission.requests, admission.tokens) == (0, 0)
            assert (await served.client.post("completions", json=body)).status_code == 200
    asyncio.run(run())


def test_two_who_come_together_do_not_both_take_the_last_place() -> None:
    async def run():
        async with parrot("ok", admission=Admission(max_requests=4), options={"max_running": 1}) as served:
            served.runner.gate = threading.Event()
            clients = [Client(served.app, "completions", completion()).start() for _ in range(12)]
            await until(lambda: sum(client.status == 429 for client in clients) == 8)
            served.runner.gate.set()
            await asyncio.gather(*[client.task for client in clients])
            assert sorted(client.status for client in clients) == [200] * 4 + [429] * 8
            assert served.admission.requests == 0
    asyncio.run(run())


def test_what_can_never_wait_is_told_so_and_not_to_try_again() -> None:
    async def run():
        admission = Admission(max_requests=3, max_tokens=50)
        async with parrot("ok", admission=admission) as served:
            many = await served.client.post("completions", json=completion(n=4, temperature=1))
            long = await served.client.post("completions", json=completion(prompt=[1] * 60))
            assert many.status_code == long.status_code == 400
            assert error_of(many)["param"] == "n" and error_of(long)["param"] == "prompt"
            assert "retry-after" not in many.headers and admission.requests == 0
    asyncio.run(run())
    with pytest.raises(ValueError, match="max_tokens=0"):
        Admission(max_tokens=0)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux shows them")
def test_who_loads_the_model_leaves_no_openmp_workers_behind() -> None:
    """They would slow the engine thread down: see `made_aside`. The first child shows that they are seen."""
    code = """
import os, sys, time, torch
from aiinfra.serve.engine_thread import made_aside
torch.set_num_threads(3)
work = lambda: torch.ones(512, 512) @ torch.ones(512, 512)
before = len(os.listdir("/proc/self/task"))
assert (made_aside(work) if sys.argv[1] == "aside" else work()).shape == (512, 512)
end = time.monotonic() + 10                      # threads that are told to end take a moment
while len(os.listdir("/proc/self/task")) > before and time.monotonic() < end and sys.argv[1] == "aside":
    time.sleep(0.01)
print(len(os.listdir("/proc/self/task")) - before)
"""
    counts = {}
    for how in ("here", "aside"):
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        counts[how] = int(done.stdout)
    assert counts["here"] >= 2 and counts["aside"] == 0
