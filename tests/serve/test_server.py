"""The command as a process: the stock client finds OpenAI's server, and signals lose nothing."""

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from tests.checkpoint.corpus_parts import byte_level, chatml_folder, small_model

from aiinfra import LLM, SamplingParams
from aiinfra import __main__ as command_line

pytestmark = pytest.mark.program
NAME = "small"
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model with a long context, and ChatML."""
    backend = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    end = backend.token_to_id("<|im_end|>")
    model = small_model("llama", backend.get_vocab_size(), max_position_embeddings=8192, eos_token_id=end)
    return chatml_folder(tmp_path_factory.mktemp("server") / NAME, model)


class Process:
    """A server of its own; `words` are what it said."""

    def __init__(self, *args: object, before: tuple[str, ...] = ()) -> None:
        command = [sys.executable, *before, "-m", "aiinfra", "serve", *map(str, args)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert select.select([self.process.stdout], [], [], 120)[0], "it was not ready in two minutes"
        self.ready = self.process.stdout.readline()
        if not self.ready:
            raise AssertionError(self.process.communicate()[1])
        self.url = re.fullmatch(r"ready: \S+ at (http://127\.0\.0\.1:\d+/v1)\n", self.ready).group(1)
        self.port = int(self.url.split(":")[2].split("/")[0])

    def ended(self, seconds: float = 30) -> tuple[int, str]:
        words = self.process.communicate(timeout=seconds)[1]
        return self.process.returncode, words

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Process]:
    process = Process("--model", folder, "--port", 0, "--dtype", "float32")
    yield process
    process.stop()


@pytest.fixture
def fresh(folder: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    process = Process("--model", folder, "--port", 0, *getattr(request, "param", ()))
    yield process
    process.stop()


@pytest.fixture(scope="module")
def client(server: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def library(folder: Path) -> LLM:
    return LLM(folder, dtype="float32", device="cpu")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# The stock client

def test_the_client_lists_models(client: openai.OpenAI) -> None:
    [model] = client.models.list()
    assert model.id == NAME and client.models.retrieve(NAME) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize("text", ["hello there", "naïve 世界 🎉", ""])
def test_answers_are_the_librarys(text: str, client: openai.OpenAI, library: LLM) -> None:
    params = SamplingParams(**GREEDY, logprobs=2)
    ours = library.chat(user(text), params)[0].outputs[0]
    more = {"model": NAME, "messages": user(text), "logprobs": True, "top_logprobs": 2}
    [choice] = client.chat.completions.create(**more, **GREEDY).choices
    assert choice.message.content == ours.text and choice.message.role == "assistant"
    assert choice.finish_reason == ours.finish_reason
    expected = [told[token].logprob for token, told in zip(ours.token_ids, ours.logprobs)]
    assert [one.logprob for one in choice.logprobs.content] == pytest.approx(expected, abs=1e-4)
    streamed = client.chat.completions.create(**more, **GREEDY, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == ours.text


def test_completions_with_everything(client: openai.OpenAI, library: LLM) -> None:
    params = SamplingParams(temperature=1, seed=7, n=2, max_tokens=20, stop=["e"])
    [ours] = library.generate(["the cat"], params)
    asked = {"model": NAME, "prompt": ["the cat", "the dog"], "temperature": 1, "seed": 7, "n": 2,
             "max_tokens": 20, "stop": ["e"], "logprobs": 3}
    found = client.completions.create(**asked)
    assert [choice.text for choice in found.choices[:2]] == [out.text for out in ours.outputs]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.choices[0].text != found.choices[1].text, "answers of one seed differ by their index"
    assert all("e" not in choice.text for choice in found.choices)
    texts = [""] * 4
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in found.choices] and chunk.usage.total_tokens > 0
    again = client.completions.create(**asked)
    assert [choice.text for choice in again.choices] == texts


def test_the_client_gets_typed_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=NAME, messages=user("x"), presence_penalty=1)
    assert wrong.value.param == "presence_penalty"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=user("x"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="8,192"):
        client.completions.create(model=NAME, prompt="x", max_tokens=9_000)


def test_an_answers_message_can_be_sent_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model=NAME, messages=user("a"), **GREEDY).choices[0].message
    for echoed in (first, first.model_dump()):
        messages = [*user("a"), echoed, *user("b")]
        assert client.chat.completions.create(model=NAME, messages=messages, **GREEDY).choices


def test_a_dropped_connection_frees_its_places(server: Process, client: openai.OpenAI) -> None:
    for stream in (True, False):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = {"model": NAME, "prompt": "x", "max_tokens": 8_000, "ignore_eos": True, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        wait_for(server, "vllm:num_requests_running", 1)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        wait_for(server, "vllm:num_requests_running", 0)
        wait_for(server, "vllm:kv_cache_usage_perc", 0)


def wait_for(server: Process, metric: str, value: float) -> None:
    deadline = time.monotonic() + 20
    while metric_of(server, metric) != value:
        assert time.monotonic() < deadline, f"{metric} did not become {value}"
        time.sleep(0.05)


def metric_of(server: Process, metric: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    return float(re.search(rf"^{metric}{{.*}} (\S+)$", text, re.M).group(1))


# Its beginning and its end

def test_a_port_in_use_is_one_sentence(server: Process, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "aiinfra", "serve", "--model", str(folder),
                           "--port", str(server.port)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert f"port {server.port} of 127.0.0.1 is in use" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("args, said", [
    (["--host", "0.0.0.0"], "set --api-key"),
    (["--port", "70000"], "'70000'; it must be a whole number from 0 to 65,535"),
    (["--set", "max_runing=3"], "Did you mean 'max_running'?"),
    (["--max-queued-requests", "0"], "at least 1"),
    (["--request-seconds", "nan"], "above 0"), (["--drain-seconds", "nan"], "at least 0"),
])
def test_what_cannot_be_is_refused_before_the_model_is_loaded(args: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(command_line.main(["serve", "--model", "/nowhere", *args]))
    errors = capsys.readouterr().err
    assert ended.value.code in (1, 2) and said in errors and errors.count("\n") == 1


def long_answers(server: Process, count: int) -> list[threading.Thread]:
    """Streams of 600 tokens, under way; each thread keeps its text."""
    def read(thread_number: int) -> None:
        body = {"model": NAME, "prompt": f"{thread_number}", "max_tokens": 600, "ignore_eos": True,
                "stream": True}
        with httpx.stream("POST", f"{server.url}/completions", json=body, timeout=60) as response:
            threads[thread_number].status = response.status_code
            threads[thread_number].text = "".join(response.iter_text())
    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    wait_for(server, "vllm:num_requests_running", count)
    return threads


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_taken_and_refuses_the_rest(number: int, fresh: Process) -> None:
    threads = long_answers(fresh, 4)
    os.kill(fresh.process.pid, number)
    deadline = time.monotonic() + 10
    while httpx.get(f"http://127.0.0.1:{fresh.port}/ready").status_code != 503:
        assert time.monotonic() < deadline
    refused = httpx.post(f"{fresh.url}/completions", json={"model": NAME, "prompt": "x"})
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert httpx.get(f"http://127.0.0.1:{fresh.port}/health").status_code == 200
    for thread in threads:
        thread.join()
        assert thread.status == 200 and thread.text.endswith("data: [DONE]\n\n")
        assert thread.text.count('"finish_reason":"length"') == 1
    code, words = fresh.ended()
    assert code == 0 and "4 requests to finish first" in words and "Traceback" not in words


def test_a_second_signal_ends_at_once(fresh: Process) -> None:
    body = {"model": NAME, "prompt": "x", "max_tokens": 8_000, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", fresh.port)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    wait_for(fresh, "vllm:num_requests_running", 1)
    fresh.process.send_signal(signal.SIGTERM)
    assert "to finish first" in fresh.process.stderr.readline()
    fresh.process.send_signal(signal.SIGTERM)
    code, words = fresh.ended(5)
    assert code == 128 + signal.SIGTERM and "ended at once" in words and "Traceback" not in words


def test_a_key_of_the_environment_is_asked_for(monkeypatch, capsys) -> None:
    """And is not in the list of processes, nor shown by --help; one on the command line goes before it."""
    asked = []
    monkeypatch.setenv("AIINFRA_API_KEY", "a-secret-key")
    monkeypatch.setattr("aiinfra.serve.server.check_address", lambda host, key: asked.append(key))
    for more, status in ((), 1), (("--api-key", "another-key"), 1), (("--api-key", ""), 1):
        assert command_line.main(["serve", "--model", "/nowhere", "--port", "0", *more]) == status
    assert asked == ["a-secret-key", "another-key", ""]
    with pytest.raises(SystemExit):
        command_line.main(["serve", "--help"])
    shown = capsys.readouterr().out
    assert "a-secret-key" not in shown and "None" not in shown and "AIINFRA_API_KEY" in shown


@pytest.mark.parametrize("fresh", [("--api-key", "a-secret-key", "--name", "mine", "--drain-seconds", "3")],
                         indirect=True)
def test_a_key_a_name_and_time_for_routers(fresh: Process) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=fresh.url, api_key="another", max_retries=0).models.list()
    client = openai.OpenAI(base_url=fresh.url, api_key="a-secret-key", max_retries=0)
    assert [model.id for model in client.models.list()] == ["mine"]
    fresh.process.send_signal(signal.SIGTERM)
    assert "0 requests to finish first" in fresh.process.stderr.readline()
    assert httpx.get(f"http://127.0.0.1:{fresh.port}/ready").status_code == 503
    assert fresh.ended()[0] == 0


# Over several ranks

def on_ranks(folder: Path, ranks: int) -> Process:
    before = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    return Process("--model", folder, "--port", 0, "--dtype", "float32", before=before)


def test_two_ranks_answer_as_one_process_and_drain(folder: Path, library: LLM) -> None:
    server = on_ranks(folder, 2)
    try:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        ours = library.generate("the cat", SamplingParams(**GREEDY))[0].outputs[0].text
        assert client.completions.create(model=NAME, prompt="the cat", **GREEDY).choices[0].text == ours
        threads = long_answers(server, 2)
        server.process.send_signal(signal.SIGTERM)               # torchrun passes it to both ranks
        for thread in threads:
            thread.join()
            assert thread.text.endswith("data: [DONE]\n\n")
        server.ended(60)
    finally:
        server.stop()


def test_a_lost_rank_ends_the_replica(folder: Path) -> None:
    server = on_ranks(folder, 2)
    try:
        ranks = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True)
        children = [int(pid) for pid in ranks.stdout.split()]
        follower = next(pid for pid in children if is_rank(pid, 1))
        os.kill(follower, signal.SIGSTOP)                        # it hangs: torchrun notices nothing
        deadline = time.monotonic() + 20
        status = 200
        while status == 200 and time.monotonic() < deadline:
            status = httpx.get(f"http://127.0.0.1:{server.port}/health").status_code
            time.sleep(0.05)
        assert status == 503
        os.kill(follower, signal.SIGCONT)
        code, words = server.ended(60)
        assert code != 0 and "rank 1 of 2 was not heard of for" in words
    finally:
        server.stop()


def is_rank(pid: int, rank: int) -> bool:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return f"RANK={rank}".encode() in environment


# The real model

@pytest.mark.model
def test_the_real_model_says_what_the_library_says(real_model: str) -> None:
    server = Process("--model", real_model, "--port", 0, "--dtype", "float32")
    try:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        llm = LLM(real_model, dtype="float32", device="cpu")
        greedy = {"temperature": 0, "max_tokens": 30}
        asked = user("Write the word sea, an emoji and the Chinese for sea.")
        ours = llm.chat(asked, SamplingParams(**greedy))[0].outputs[0].text
        found = client.chat.completions.create(model=real_model, messages=asked, **greedy)
        assert found.choices[0].message.content == ours
        stream = client.chat.completions.create(model=real_model, messages=asked, stream=True, **greedy)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ours
    finally:
        server.stop()
