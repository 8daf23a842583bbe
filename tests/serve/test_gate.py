"""Keys, ids and sizes are looked at before anything else of a request."""

import asyncio
import json

import httpx
import pytest
from tests.serve.parrot import completion, error_of, parrot

from aiinfra.serve.server import check_address

KEY = "a-key-of-some-length"


def test_a_key_is_asked_for_where_there_is_one() -> None:
    async def run():
        async with parrot("ok", api_key=KEY) as served:
            for headers in ({}, {"authorization": KEY}, {"authorization": f"Bearer {KEY}x"},
                            {"authorization": f"bearer {KEY}"}, {"authorization": "Bearer "},
                            {"authorization": "Bearer \u00e9".encode()}):
                response = await served.client.post("completions", json=completion(), headers=headers)
                assert response.status_code == 401 and error_of(response)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer" and KEY not in response.text
            right = {"authorization": f"Bearer {KEY}"}
            assert (await served.client.post("completions", json=completion(), headers=right)).is_success
            assert (await served.client.get("models")).status_code == 401
            for path in ("health", "ready", "metrics"):
                assert (await served.client.get(f"/../{path}")).status_code == 200
    asyncio.run(run())


def test_a_body_has_a_limit_whether_its_length_is_told_or_not() -> None:
    async def run():
        async with parrot("ok", max_body_bytes=1_000) as served:
            large = json.dumps(completion(prompt="x" * 2_000)).encode()
            told = await served.client.post("completions", content=large)

            async def pieces():
                for start in range(0, len(large), 100):
                    yield large[start:start + 100]
            untold = await served.client.post("completions", content=pieces(),
                                              headers={"content-type": "application/json"})
            for length in ("9" * 5_000, "1" + "0" * 18):
                more = {"content-type": "application/json", "content-length": length}
                longer = await served.client.post("completions", content=b"{}", headers=more)
                assert longer.status_code == 413 and error_of(longer)["code"] == "body_too_large"
            assert told.status_code == untold.status_code == 413
            assert error_of(told)["code"] == error_of(untold)["code"] == "body_too_large"
            assert "1,000" in error_of(told)["message"] and "1,000" in error_of(untold)["message"]
            assert (await served.client.post("completions", json=completion())).is_success
    asyncio.run(run())


def test_a_body_that_never_comes_is_not_waited_for() -> None:
    """Neither where nothing comes, nor where its end does not, however little by little."""
    async def run():
        async with parrot("ok", body_seconds=0.2) as served:
            async def slowly(first: bytes):
                yield first
                for _ in range(20):
                    await asyncio.sleep(0.05)
                    yield b" "

            async def never():
                await asyncio.sleep(30)
                yield b"{}"
            headers = {"content-type": "application/json"}
            for body in (slowly(b'{"model": "parrot", '), never()):
                late = await served.client.post("completions", content=body, headers=headers)
                assert late.status_code == 408 and late.headers["connection"] == "close"
                assert error_of(late)["code"] == "body_timeout" and "0.2 s" in error_of(late)["message"]
            served.runner.seconds = 0.1                    # an answer may take longer than its question
            answer = await served.client.post("completions", json=completion())
            assert answer.is_success and answer.json()["usage"]["completion_tokens"] > 1
            assert (served.admission.requests, served.admission.tokens) == (0, 0)
    asyncio.run(run())


@pytest.mark.parametrize("given", [b"a b", b"x" * 129, b"", b"a\xc3\xa9", b"<script>", b"a;b"])
def test_a_request_id_that_could_break_a_line_is_refused(given: bytes) -> None:
    async def run():
        async with parrot("ok") as served:
            response = await served.client.get("models", headers=httpx.Headers({b"x-request-id": given}))
            assert response.status_code == 400 and error_of(response)["param"] == "X-Request-Id"
            kept = await served.client.get("models", headers={"x-request-id": "abc-1.2_3:4"})
            assert kept.headers["x-request-id"] == "abc-1.2_3:4"
            chosen = [(await served.client.get("models")).headers["x-request-id"] for _ in range(2)]
            assert len(set(chosen)) == 2
    asyncio.run(run())


def test_who_can_be_reached_by_others_needs_a_key() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_address(host, None)
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        with pytest.raises(ValueError, match="set --api-key"):
            check_address(host, None)
        check_address(host, KEY)
    for key in ("", "short", "with\nline"):                      # "" of an unset variable, for instance
        with pytest.raises(ValueError, match="at least 8 printable"):
            check_address("127.0.0.1", key)
