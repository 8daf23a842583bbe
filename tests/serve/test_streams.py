"""What a stream says, joined, is what the whole answer says: texts, ends, log-probabilities, usage."""

import asyncio

import pytest
from tests.serve.parrot import EOS, chat, completion, error_of, events, parrot

from aiinfra.engine import SamplingParams

pytestmark = pytest.mark.program
TEXTS = {
    "emoji": "a 👩‍👩‍👧‍👦 b 🏴󠁧󠁢󠁥󠁮󠁧󠁿 c 🎉",
    "CJK": "世界 こんにちは 한국어 naïve é",
    "plain": "one two three four five",
    "U+FFFD itself": "x \ufffd y",
}


def ask_both(path: str, body: dict, say: str, script: list[int] | None = None, **options):
    """The whole answer, and the objects of a stream."""
    async def run():
        async with parrot(say, **options) as served:
            if script is not None:
                served.runner.script = script
            whole = await served.client.post(path, json=body)
            streamed = await served.client.post(path, json={**body, "stream": True})
            assert whole.status_code == streamed.status_code == 200, (whole.text, streamed.text)
            assert served.engine.idle and served.engine.pool.used == 0
            return whole.json(), events(streamed)
    return asyncio.run(run())


def joined(found: list, index: int = 0) -> str:
    text = ""
    for event in found[:-1]:
        for choice in event["choices"]:
            if choice["index"] == index:
                text += choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_is_the_whole_answer_wherever_it_is_cut(text: str, cut: bool) -> None:
    """At every token, if `cut`: half a character is shown as it ends, by both alike."""
    async def run():
        async with parrot(text) as served:
            tokens = served.runner.script
            assert len(tokens) > len(text.split()) + 1
            for limit in range(1, len(tokens) + 1) if cut else [len(tokens) + 5]:
                body = completion(max_tokens=limit)
                whole = (await served.client.post("completions", json=body)).json()["choices"][0]
                found = events(await served.client.post("completions", json={**body, "stream": True}))
                expected = served.thread.llm.tokenizer.decode(tokens[:limit])
                assert whole["text"] == joined(found) == expected
                assert whole["finish_reason"] == found[-2]["choices"][0]["finish_reason"]
                assert whole["finish_reason"] == ("length" if cut else "stop")
                pieces = [event["choices"][0]["text"] for event in found[:-2]]
                assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
    asyncio.run(run())


def test_bytes_that_are_no_text(monkeypatch) -> None:
    """Half an emoji, then a letter; and half an emoji at the end."""
    async def run():
        async with parrot() as served:
            emoji = served.thread.llm.tokenizer.encode("🎉")
            letter = served.thread.llm.tokenizer.encode("x")
            served.runner.script = [*emoji[:2], *letter, *emoji, *emoji[:1]]
            whole = (await served.client.post("completions", json=completion())).json()["choices"][0]["text"]
            found = events(await served.client.post("completions", json=completion(stream=True)))
            assert whole == joined(found) == served.thread.llm.tokenizer.decode(served.runner.script)
            assert whole.endswith("x🎉\ufffd") and whole.startswith("\ufffd")
    asyncio.run(run())


STOPS = {
    "over two tokens": (["ee fo"], "one two thr"),
    "over three tokens": (["wo three f"], "one t"),
    "one begins the other": (["three", "three four"], "one two "),
    "the longer comes first": (["two three", "three"], "one "),
    "the first text": (["one"], ""),
    "nearly, and then not": (["four fivx"], "one two three four five"),
    "held at the end": (["five!"], "one two three four five"),
    "the end": (["five"], "one two three four "),
}


@pytest.mark.parametrize("stop, expected", STOPS.values(), ids=STOPS)
def test_no_part_of_a_stop_string_leaves(stop: list[str], expected: str) -> None:
    whole, found = ask_both("completions", completion(stop=stop), TEXTS["plain"])
    choice = whole["choices"][0]
    assert choice["text"] == joined(found) == expected and choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == (None if expected.endswith("five") else next(
        s for s in stop if TEXTS["plain"].startswith(expected + s)))
    assert [event for event in found[:-2] if not event["choices"][0]["text"]] == [], "an empty chunk"


def test_a_stop_string_inside_a_character_that_takes_several_tokens() -> None:
    whole, found = ask_both("completions", completion(stop="🎉"), "a 🎉 b")
    assert whole["choices"][0]["text"] == joined(found) == "a "


def test_min_tokens_holds_a_stop_string_and_the_end_off() -> None:
    body = completion(stop="two", min_tokens=5, max_tokens=8)
    whole, found = ask_both("completions", body, "two two two two two two two two")
    assert whole["choices"][0]["text"] == joined(found) and "two" in joined(found)
    assert whole["usage"]["completion_tokens"] >= 5


def test_roles_come_first_and_every_answer_has_one_end() -> None:
    whole, found = ask_both("chat/completions", chat(n=3, temperature=1, max_tokens=10), "hello there")
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert [event["choices"][0]["delta"] for event in found[:3]] == [{"role": "assistant", "content": ""}] * 3
    for index in range(3):
        assert joined(found, index) == whole["choices"][index]["message"]["content"] == "hello there"
        ends = [choice["finish_reason"] for event in found[:-1] for choice in event["choices"]
                if choice["index"] == index and choice["finish_reason"]]
        assert ends == ["stop"]
    assert whole["object"] == "chat.completion" and found[0]["object"] == "chat.completion.chunk"
    assert {event["id"] for event in found[:-1]} == {found[0]["id"]} and found[-1] == "[DONE]"


@pytest.mark.parametrize("path, body", [("chat/completions", chat(n=2, temperature=1)),
                                        ("completions", completion(n=2, temperature=1))])
def test_usage_is_the_last_chunk_only_if_asked_for_and_counts_a_prompt_once(path: str, body: dict) -> None:
    async def run():
        async with parrot("one two", options={"prefix_caching": False}) as served:
            whole = (await served.client.post(path, json=body)).json()["usage"]
            tokens = len(served.runner.script) + 1                              # and the end
            assert whole["completion_tokens"] == 2 * tokens
            assert whole["total_tokens"] == whole["prompt_tokens"] + 2 * tokens
            plain = events(await served.client.post(path, json={**body, "stream": True}))
            assert all("usage" not in event for event in plain[:-1])
            asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
            found = events(await served.client.post(path, json=asked))
            assert all(event["usage"] is None for event in found[:-2])
            assert found[-2]["choices"] == [] and found[-2]["usage"] == whole
            asked["stream_options"]["continuous_usage_stats"] = True
            found = events(await served.client.post(path, json=asked))
            counts = [event["usage"]["completion_tokens"] for event in found[:-1]]
            assert counts == sorted(counts) and counts[-1] == 2 * tokens
    asyncio.run(run())


def test_the_prompts_of_a_completion_are_numbered_through() -> None:
    body = completion(prompt=["a", "b b", "c"], n=2, temperature=1)
    whole, found = ask_both("completions", body, "hi")
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    assert all(joined(found, index) == "hi" for index in range(6))
    ids, _ = ask_both("completions", completion(prompt=[[1, 2], [3]]), "hi")
    assert ids["usage"]["prompt_tokens"] == 3 and len(ids["choices"]) == 2


@pytest.mark.parametrize("top", [0, 3])
def test_logprobs_of_a_chat(top: int) -> None:
    body = chat(logprobs=True, top_logprobs=top, max_tokens=7)
    whole, found = ask_both("chat/completions", body, "a 🎉 世")
    content = whole["choices"][0]["logprobs"]["content"]
    streamed = [one for event in found[:-1] for choice in event["choices"]
                for one in (choice["logprobs"] or {"content": []})["content"]]
    assert streamed == content and len(content) == 7
    text = whole["choices"][0]["message"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode(errors="replace") == text
    for one in content:
        assert one["logprob"] == 0 and len(one["top_logprobs"]) == top
        if top:
            assert one["top_logprobs"][0]["bytes"] == one["bytes"]
            assert one["top_logprobs"][0]["logprob"] >= one["top_logprobs"][1]["logprob"]


def test_logprobs_of_a_completion() -> None:
    body = completion(logprobs=2, max_tokens=6)
    whole, found = ask_both("completions", body, "a 🎉 b")
    told = whole["choices"][0]["logprobs"]
    pieces = [choice["logprobs"] for event in found[:-1] for choice in event["choices"]]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for piece in pieces for one in piece[key]] == told[key], key
    text = whole["choices"][0]["text"]
    assert len(told["tokens"]) == 6 and any(token.startswith("bytes:\\x") for token in told["tokens"])
    for token, offset, tops in zip(told["tokens"], told["text_offset"], told["top_logprobs"]):
        assert token in tops and 2 <= len(tops) <= 3
        if not token.startswith("bytes:"):
            assert text[offset:offset + len(token)] == token


def test_what_is_impossible_is_valid_json() -> None:
    """A token that the model rules out has a log-probability of -inf, which JSON cannot write."""
    from aiinfra.engine.record import Logprob
    from aiinfra.serve.logprobs import likeliest
    told = {5: Logprob(float("-inf"), 2), 6: Logprob(-1.0, 1)}
    assert [token for token, _ in likeliest(told, 2)] == [6, 5]

    async def run():
        async with parrot("a b") as served:
            served.runner.silence = float("-inf")
            response = await served.client.post("completions", json=completion(logprobs=3))
            assert "Infinity" not in response.text
            assert -9999.0 in response.json()["choices"][0]["logprobs"]["top_logprobs"][0].values()
    asyncio.run(run())


def test_the_server_says_what_the_library_says() -> None:
    """Greedy, the same engine: ids, text and end."""
    async def run():
        async with parrot("some words 🎉 and more") as served:
            llm = served.thread.llm
            found = (await served.client.post("completions", json=completion(max_tokens=9))).json()
            served.thread.stop()
            out = llm.generate("hello", SamplingParams(temperature=0, max_tokens=9))[0].outputs[0]
            assert found["choices"][0]["text"] == out.text
            assert found["choices"][0]["finish_reason"] == out.finish_reason
    asyncio.run(run())


def test_logits_that_are_no_numbers_are_an_error_and_the_server_goes_on() -> None:
    async def run():
        async with parrot("fine") as served:
            served.runner.nan = True
            whole = await served.client.post("completions", json=completion())
            assert whole.status_code == 500 and "not finite" in error_of(whole)["message"]
            found = events(await served.client.post("chat/completions", json=chat(stream=True)))
            assert "not finite" in found[-1]["error"]["message"] and "[DONE]" not in found
            served.runner.nan = False
            assert (await served.client.post("completions", json=completion())).status_code == 200
    asyncio.run(run())


def test_the_end_of_sequence_is_not_shown() -> None:
    whole, found = ask_both("chat/completions", chat(), "bye")
    assert EOS not in whole["choices"][0]["message"]["content"] == joined(found)
    ignored, _ = ask_both("chat/completions", chat(ignore_eos=True, max_tokens=9), "bye")
    assert ignored["choices"][0]["finish_reason"] == "length" and ignored["usage"]["completion_tokens"] == 9
