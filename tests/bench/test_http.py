"""One request over HTTP: what was heard, when, and why it failed."""

import asyncio
import time

import pytest

from aiinfra.bench.http import Endpoint, HttpServed
from aiinfra.bench.trace import TraceRequest
from tests.bench.fake_server import Fake, FakeTransport, run_virtually, served

REQUEST = TraceRequest([5, 6, 7], 6)


async def asked(endpoint: Endpoint, request: TraceRequest, patience: float | None) -> HttpServed:
    async with endpoint:
        loop = asyncio.get_running_loop()
        start = loop.time()
        return await endpoint.ask(request, lambda: loop.time() - start, patience)


def ask(fake: Fake, request: TraceRequest = REQUEST, patience: float | None = None,
        **options: object) -> HttpServed:
    """Without a network: delays are exact."""
    endpoint = Endpoint("http://fake", transport=FakeTransport(fake), **options)
    return run_virtually(asked(endpoint, request, patience))


def ask_socket(fake: Fake, request: TraceRequest = REQUEST, patience: float | None = None) -> HttpServed:
    """Over a socket: delays are lower bounds."""
    with served(fake) as url:
        got = asyncio.run(asked(Endpoint(url), request, patience))
        time.sleep(0.1)                       # until the server has noticed that we have gone
        return got


def test_times_are_those_of_the_reads() -> None:
    got = ask(Fake(first=0.10, gap=0.02))
    assert got.answered and got.text == " é" * 6 and (got.prompt_tokens, got.cached_tokens) == (7, 3)
    assert got.at_seconds == pytest.approx([0.10, 0.12, 0.14, 0.16, 0.18, 0.20])


def test_over_a_socket() -> None:
    got = ask_socket(Fake(first=0.05, gap=0.02, bytes_a_write=3, text="漢🦊"))
    assert got.answered and got.text == "漢🦊" * 6 and len(got.at_seconds) == 6
    assert got.first_token_seconds >= 0.05 and got.total_seconds >= 0.15


def test_what_is_asked() -> None:
    fake = Fake()
    ask(fake)
    ask(fake, asked="chat", plain=True)
    ask(fake, asked="words")
    [plain, chat, words] = fake.bodies
    assert words == plain | {"prompt": "and old road"}
    assert plain == {"model": "fake", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0, "stream": True,
                     "ignore_eos": True,
                     "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    assert chat == {"model": "fake", "max_completion_tokens": 6, "temperature": 0, "stream": True,
                    "messages": [{"role": "user", "content": "and old road"}],
                    "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("usage, counted", [("continuous", True), ("last", False)])
def test_several_tokens_a_chunk(usage: str, counted: bool) -> None:
    got = ask(Fake(gap=0.03, per_chunk=3, usage=usage))
    assert got.at_seconds == pytest.approx([0, 0, 0, 0.03, 0.03, 0.03]) and got.counted == counted


def test_the_role_is_not_the_first_token() -> None:
    for usage in ("continuous", "none"):
        got = ask(Fake(role_after=0.05, first=0.1, usage=usage), asked="chat")
        assert got.first_token_seconds == pytest.approx(0.15) and len(got.at_seconds) == 6


@pytest.mark.parametrize("fake, why", [
    (Fake(refuse=(0,)), "429 the queue is full"),
    (Fake(break_after=3), "RemoteProtocolError"),
    (Fake(error_after=3), "error in the stream: the step failed"),
    (Fake(usage="none", text=""), "no token"),
])
def test_a_failure_has_a_reason(fake: Fake, why: str) -> None:
    got = ask(fake)
    assert not got.answered and why in got.failure


def test_a_connection_that_is_cut() -> None:
    got = ask_socket(Fake(break_after=3))
    assert not got.answered and got.failure.startswith(("RemoteProtocolError", "ReadError"))


def test_no_request_is_lost_on_a_connection_that_the_server_gives_up() -> None:
    """A server that stood still for longer than it keeps a connection cuts it, a request on its way."""
    got = ask_socket(Fake(stale=True))          # the second over this address: the first asked for the model
    assert got.answered, got.failure


def test_a_server_that_never_ends() -> None:
    got = ask(Fake(first=5), timeout=0.1)
    assert got.failure == "no end after 0.1 s" and not got.at_seconds and not got.hung_up


def test_who_hangs_up_did_not_fail() -> None:
    got = ask(Fake(gap=0.05), TraceRequest([1], 50), patience=0.12)
    assert got.hung_up and not got.failure and not got.answered and len(got.at_seconds) == 3


def test_the_server_notices_who_hangs_up() -> None:
    fake = Fake(gap=0.01)
    got = ask_socket(fake, TraceRequest([1], 10_000), patience=0.1)
    assert got.hung_up and fake.hung_up == 1


def test_keys() -> None:
    assert ask(Fake(key="s3cret"), key="s3cret").answered
    with pytest.raises(ConnectionError, match="/v1/models says 401 wrong key"):
        ask(Fake(key="s3cret"))


def test_nobody_there() -> None:
    async def enter() -> None:
        async with Endpoint("http://127.0.0.1:9"):
            pass
    with pytest.raises(ConnectionError, match="nobody answers at http://127.0.0.1:9/v1"):
        asyncio.run(enter())


@pytest.mark.parametrize("url, base", [
    ("http://h:1", "http://h:1/v1"), ("https://h/v1/", "https://h/v1"), ("http://h/x/", "http://h/x/v1"),
])
def test_addresses(url: str, base: str) -> None:
    assert Endpoint(url).url == base


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", ""])
def test_no_addresses(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address; write http://HOST:PORT"):
        Endpoint(url)
