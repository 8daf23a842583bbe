"""Faults that users of other servers and load generators have met under load, each with the test that
would have caught it. What no other file guards is here.
"""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.bench.test_serve import heard, run
from tests.guards import check_guards
from tests.serve.parrot import Client, completion, parrot, until
from tests.serve.test_engine_thread import free

from aiinfra.serve import reception
from aiinfra.serve.admission import Admission
from aiinfra.serve.refusal import Refusal

LOAD = {
    "who hangs up keeps his cache: ATOM 1562, sglang 17031, 36475, 36552, 37833, vLLM 54947, 50425, 32442": [
        "serve/test_engine_thread.py::test_who_hangs_up_is_gone_within_a_step",
        "serve/test_server.py::test_a_dropped_connection_frees_its_places",
        "serve/test_load_faults.py::test_who_hangs_up_while_his_text_is_read_leaves_nothing"],
    "no bound on who waits, n counts as 1: vLLM 2901, 13395, 18826, 49445, 49330": [
        "serve/test_engine_thread.py::test_a_full_queue_refuses_at_once_and_is_open_again_after"],
    "check and count are apart: vLLM 58192": [
        "serve/test_engine_thread.py::test_two_who_come_together_do_not_both_take_the_last_place",
        "serve/test_admission.py::test_a_refusal_takes_less_than_ten_milliseconds_beside_a_hundred_streams",
        "serve/test_load_faults.py::test_who_is_refused_is_not_counted"],
    "an end loses requests: llm-d 2444, vLLM 24885, 43208, sglang 39016, litellm 29439": [
        "serve/test_engine_thread.py::test_draining_finishes_what_was_taken_and_refuses_the_rest",
        "serve/test_server.py::test_a_signal_finishes_what_was_taken_and_refuses_the_rest",
        "serve/test_server.py::test_a_second_signal_ends_at_once",
        "serve/test_crowd.py::test_a_signal_loses_nobody_and_a_second_one_ends_at_once",
        "serve/test_load_faults.py::test_who_hangs_up_is_not_waited_for_at_the_end",
        "serve/test_load_faults.py::test_a_signal_ends_what_has_not_begun"],
    "a step that raises lets its requests hang, a broken stream ends as if well": [
        "serve/test_engine_thread.py::test_a_step_that_raises_fails_who_waits_and_flips_health",
        "serve/test_streams.py::test_logits_that_are_no_numbers_are_an_error_and_the_server_goes_on"],
}
GENERATOR = {
    "the load waits for the server: guidellm 1048": [
        "bench/test_open_loop.py::test_a_stall_is_seen_by_the_open_loop_and_hidden_by_the_closed_one",
        "bench/test_open_loop.py::test_times_count_from_when_it_should_have_been_sent",
        "bench/test_open_loop.py::test_no_request_waits_in_here_for_a_connection"],
    "several tokens in a chunk are one: vLLM 27485, 28183, 42661, 46652": [
        "bench/test_events.py::test_tokens_are_counted_and_not_chunks",
        "bench/test_http.py::test_several_tokens_a_chunk"],
    "a role is the first token: vLLM 15106, 3768": [
        "bench/test_events.py::test_a_role_is_no_token",
        "bench/test_http.py::test_the_role_is_not_the_first_token"],
    "who failed waited for 0 s: vLLM 5895": [
        "bench/test_serve.py::test_failed_requests_are_no_zeros",
        "serve/test_load_faults.py::test_who_failed_in_the_middle_is_no_quick_answer"],
    "no choices in the chunk of the usage: sglang 5451": [
        "bench/test_events.py::test_tokens_are_counted_and_not_chunks"],
}
in_process = pytest.mark.program


@pytest.mark.parametrize("guards", [LOAD, GENERATOR])
def test_each_fault_has_its_test(guards: dict[str, list[str]]) -> None:
    check_guards(guards)


@in_process
def test_who_hangs_up_while_his_text_is_read_leaves_nothing(monkeypatch) -> None:
    """He has a place, and no ticket yet."""
    reading, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(reception, "_LONG", 0)                  # each text is read on a thread

    async def ask():
        async with parrot("word " * 60) as served:
            read = served.thread.llm.texts.request

            def slowly(*asked):
                reading.set()
                assert go_on.wait(20)
                return read(*asked)
            monkeypatch.setattr(served.thread.llm.texts, "request", slowly)
            before = free(served)
            client = Client(served.app, "completions", completion(ignore_eos=True, max_tokens=400)).start()
            await until(reading.is_set)
            assert free(served) != before
            client.gone.set()
            go_on.set()
            await asyncio.wait_for(client.task, 10)
            await until(lambda: free(served) == before)
            assert not served.thread.open and client.status in (None, 499)
    asyncio.run(ask())


def test_who_is_refused_is_not_counted() -> None:
    admission = Admission(max_requests=4, max_tokens=100)
    [place] = admission.enter(1, [60])
    for n, tokens in ((4, [1]), (1, [50]), (1, [30, 30]), (5, [1]), (1, [101])):
        with pytest.raises(Refusal):
            admission.enter(n, tokens)
        assert (admission.requests, admission.tokens) == (1, 60), (n, tokens)
    [other] = admission.enter(3, [10])
    with pytest.raises(Refusal):
        other.weigh(50)                                         # it was longer than it looked
    other.leave()
    other.leave()
    assert (admission.requests, admission.tokens) == (1, 60)
    place.leave()
    assert (admission.requests, admission.tokens) == (0, 0)


@in_process
def test_who_hangs_up_is_not_waited_for_at_the_end() -> None:
    async def ask():
        async with parrot("word " * 100) as served:
            served.runner.seconds = 0.02
            body = completion(max_tokens=400, ignore_eos=True)
            client = Client(served.app, "completions", body).start()
            await until(lambda: served.thread.running)
            served.thread.drain()
            client.gone.set()
            await asyncio.wait_for(served.thread.until_drained(), 2)       # the answer would take 8 s
            await until(lambda: free(served) == (0, 0, 0))
    asyncio.run(ask())


@in_process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_has_not_begun(number: int, tmp_path: Path) -> None:
    """While the model is loaded nobody has asked for anything: there is nothing to wait for."""
    code = """
import sys, time
from aiinfra.__main__ import main
from aiinfra.engine import command

def make_llm(args):
    print("loading", flush=True)
    time.sleep(60)

command.make_llm = make_llm
sys.exit(main(["serve", "--model", sys.argv[1], "--port", "0"]))
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert child.stdout.readline() == "loading\n"
        child.send_signal(number)
        out, errors = child.communicate(timeout=10)
    finally:
        child.kill()
        child.wait()
    assert child.returncode in (-number, 128 + number) and not out and "Traceback" not in errors


# The load generator

def test_who_failed_in_the_middle_is_no_quick_answer() -> None:
    """Two tokens came in no time, then the connection broke: no percentile has them."""
    broken = heard(0.0, 0.001, 0.002, failure="the connection was cut")
    quick = heard(0.0, 0.5, 0.55)
    both, alone = run(2.0, quick, *[broken] * 9), run(2.0, quick)
    waits = {name: value for name, value in alone.figures().items() if "_p" in name}
    assert len(waits) > 5 and waits.items() <= both.figures().items()
    assert min(row.ours for row in both.rows() if "first" in row.name) == pytest.approx(0.5)
    assert both.in_time == 1 / 10 and both.figures()["failed"] == 9
