"""Whatever is sent: no fault of the server, every refusal in OpenAI's shape, and then all is as before."""

import json
import socket

import pytest

from tests.checkpoint.corpus_parts import chatml_folder
from tests.serve import fuzzing
from tests.serve.small_server import (
    CHAT,
    COMPLETIONS,
    Answer,
    Served,
    assert_refused,
    request,
    serving,
    wait_until,
)

pytestmark = pytest.mark.program
KEY = "open sesame"


@pytest.fixture(scope="module")
def served_with_a_key(tmp_path_factory):
    with serving(chatml_folder(tmp_path_factory.mktemp("keyed") / "small"), "--api-key", KEY) as one:
        yield one


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with a small random model of 256 tokens of context; at the end it is as it was."""
    folder = chatml_folder(tmp_path_factory.mktemp("fuzzed") / "small")
    with serving(folder) as one:
        before = one.post(COMPLETIONS, fuzzing.good(COMPLETIONS, one.model))
        yield one
        after = one.post(COMPLETIONS, fuzzing.good(COMPLETIONS, one.model))
        assert text_of(before) == text_of(after)
        assert one.get("/health").status == 200
        assert "Traceback" not in one.errors.read_text()
        assert wait_until(one.is_idle)


def text_of(answer: Answer) -> str:
    assert answer.status == 200, answer
    return json.loads(answer.body)["choices"][0]["text"]


def test_what_the_schema_allows_and_forbids(served: Served) -> None:
    assert fuzzing.from_the_schema(served, 60) >= 100


def test_good_requests_with_some_fields_changed(served: Served) -> None:
    assert fuzzing.changed(served, 150) >= 200


NESTED = b"[" * 100_000
DEEP = b'{"model": "m", "prompt": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"


@pytest.mark.parametrize("body", [
    b"", b"{", b"null", b"[]", b'"text"', b"17", b"NaN", b"{}{}", b"\xff\xfe\x00", b'{"model": "\xff"}',
    b'{"model": "m", "prompt": "\\ud800"}', b"\xef\xbb\xbf{}", NESTED, NESTED + b"]" * 100_000, DEEP,
    b'{"n": 1' + b"0" * 5000 + b"}", b"\x00" * 1000,
], ids=lambda body: ascii(body[:12]))
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_body_that_is_no_request(path: str, body: bytes, served: Served) -> None:
    assert_refused(served.post(path, body), 400, 404, 413, 422)


@pytest.mark.parametrize("name, value", [
    ("n", -1), ("n", 10**400), ("n", 1.5), ("n", "2"), ("n", True), ("max_tokens", -1),
    ("max_tokens", 10**30), ("max_tokens", 0), ("temperature", float("nan")), ("temperature", float("inf")),
    ("temperature", -0.5), ("temperature", 10**300), ("top_p", 0), ("top_p", 1.1), ("seed", 2**64),
    ("seed", -2**70), ("logprobs", 21), ("stop", ""), ("stop", [""]), ("stop", ["x"] * 1000),
    ("stop", "x" * 100_000), ("stop", [1]), ("model", "another"), ("model", None), ("model", ["small"]),
    ("model", "../../etc/passwd"), ("stream", "yes"), ("prompt", ""), ("prompt", []), ("prompt", [[]]),
    ("prompt", "word " * 5000), ("prompt", [-1]), ("prompt", [10**9]), ("prompt", [2**70]),
    ("prompt", [1.5]), ("prompt", [["a"]]), ("prompt", None), ("prompt", [1] * 256),
    ("prompt", ["a"] * 5000), ("logit_bias", {"1": 5}), ("stream_options", {}),
    ("stream_options", {"include_usage": "yes"}), ("tools", [{}]), ("unheard_of", 1), ("x" * 10_000, 1),
    ("stop_token_ids", [-1]), ("top_k", -2), ("min_tokens", 2**70), ("min_p", -1),
    ("repetition_penalty", 0), ("user", {"a": 1}),
], ids=lambda value: ascii(value)[:24])
def test_a_value_that_cannot_be_is_named(name: str, value: object, served: Served) -> None:
    answer = served.post(COMPLETIONS, fuzzing.good(COMPLETIONS, served.model) | {name: value})
    error = assert_refused(answer, 400, 404)
    assert name[:20] in (error["param"] or "") or name[:20] in error["message"], error


@pytest.mark.parametrize("messages", [
    None, [], {}, "hello", [{}], [{"role": "user"}], [{"role": "king", "content": "hello"}], [["hello"]],
    [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "image_url"}]}],
    [{"role": "user", "content": "hello", "weight": 1}], [{"role": "user", "content": "word " * 5000}],
    [{"role": "user", "content": None}],
], ids=lambda value: ascii(value)[:24])
def test_a_conversation_that_cannot_be_is_refused(messages: object, served: Served) -> None:
    answer = served.post(CHAT, fuzzing.good(CHAT, served.model) | {"messages": messages})
    assert "messages" in str(assert_refused(answer, 400))


def test_a_body_without_end_is_cut_off(served: Served) -> None:
    """Said to be long, and sent in chunks without saying; more is not read than is allowed."""
    long = fuzzing.good(COMPLETIONS, served.model) | {"prompt": "x" * 50_000_000}
    assert_refused(served.post(COMPLETIONS, long), 413)
    assert_refused(served.post(COMPLETIONS, b"{}", Content_Length="99999999999"), 413)
    head = request(COMPLETIONS, b"", Transfer_Encoding="chunked").replace(b"Content-Length: 0\r\n", b"")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert_refused(served.send(head + chunk * 800 + b"0\r\n\r\n"), 413)


def test_chunks_are_a_body(served: Served) -> None:
    head = request(COMPLETIONS, b"", Transfer_Encoding="chunked").replace(b"Content-Length: 0\r\n", b"")
    body = json.dumps(fuzzing.good(COMPLETIONS, served.model)).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert served.send(head + chunks + b"0\r\n\r\n").status == 200


@pytest.mark.parametrize("method, path, statuses", [
    ("GET", CHAT, {405}), ("PUT", CHAT, {405}), ("DELETE", COMPLETIONS, {405}), ("POST", "/v1/models", {405}),
    ("POST", "/health", {405}), ("GET", "/v1/nothing", {404}), ("GET", "/v1/../../etc/passwd", {404}),
    ("GET", "/v1/models/%00", {404}), ("GET", "/" + "a" * 5000, {404}), ("TRACE", CHAT, {405}),
    ("GET", "/v1/models/a%0d%0aSet-Cookie:%20a=1", {404}),
])
def test_an_address_that_is_not_there(method: str, path: str, statuses: set[int], served: Served) -> None:
    raw = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = served.send(raw.encode())
    assert_refused(answer, *statuses)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                                  "application/xml", "", "application/json; charset=utf-16", "a" * 1000])
def test_another_content_type(kind: str, served: Served) -> None:
    answer = served.post(CHAT, fuzzing.good(CHAT, served.model), Content_Type=kind)
    if "json" not in kind:
        assert_refused(answer, 400, 415)
    else:
        fuzzing.assert_fair(answer)


@pytest.mark.parametrize("raw", [
    b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: five\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n{}   ",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX\x00Y: a\r\n\r\n", b"a" * 300_000,
], ids=lambda raw: ascii(raw[-24:]))
def test_what_is_no_http_is_hung_up_on(raw: bytes, served: Served) -> None:
    """uvicorn answers 400 in words of its own; or it hangs up."""
    assert served.send(raw, half_close=True).status in (0, 200, 400, 404, 431)


def test_a_request_that_stops_in_its_middle_holds_nobody_up(served: Served) -> None:
    half = request(COMPLETIONS, fuzzing.good(COMPLETIONS, served.model))[:-10]
    lines = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(50)]
    try:
        for line in lines:
            line.sendall(half)
        assert served.post(COMPLETIONS, fuzzing.good(COMPLETIONS, served.model)).status == 200
    finally:
        for line in lines:
            line.close()


def test_headers_cannot_be_smuggled_in(served: Served) -> None:
    for name in ("X-Request-Id", "Origin", "User-Agent", "Authorization"):
        answer = served.post(COMPLETIONS, {"model": "a\r\nSet-Cookie: a=1", "prompt": "x"},
                             **{name.replace("-", "_"): "a\tb\x80\xffc"})
        assert_refused(answer, 400, 404)
        assert "set-cookie" not in answer.headers


def test_a_key_is_asked_for_everywhere(served_with_a_key: Served) -> None:
    asked = fuzzing.good(COMPLETIONS, served_with_a_key.model)
    wrong = (KEY, "", "Bearer", "Bearer \xff", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}")
    for authorization in [{}, *({"Authorization": text} for text in wrong)]:
        for path in (CHAT, COMPLETIONS, "/v1/models", "/openapi.json", "/nothing"):
            answer = served_with_a_key.post(path, asked, **authorization)
            assert assert_refused(answer, 401)["code"] == "invalid_api_key"
            assert KEY.encode() not in answer.body
    assert served_with_a_key.post(COMPLETIONS, asked, Authorization=f"Bearer {KEY}").status == 200
