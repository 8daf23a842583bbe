"""Faults in what other servers answer, as their users reported them, each with the test that would have
caught it. What no other file guards is here; what goes wrong under load is in test_load_faults.py.
"""

import asyncio

import pytest
from tests.guards import check_guards
from tests.serve.parrot import BOS, CONTEXT, chat, completion, error_of, events, parrot, parrot_llm
from tests.serve.test_streams import ask_both, joined
from tokenizers.processors import TemplateProcessing

from aiinfra.engine.output import CompletionOutput
from aiinfra.engine.record import Logprob
from aiinfra.serve.logprobs import CompletionLogprobs

TEXTS = {
    "a part of a stop string leaks, chunks are empty: vLLM 3574, 2577, 13087, FastChat 2780": [
        "serve/test_streams.py::test_no_part_of_a_stop_string_leaves",
        "engine/test_llm.py::test_cut_at_stop"],
    "text that was held is lost at the end: vLLM 42210": [
        "serve/test_streams.py::test_no_part_of_a_stop_string_leaves",
        "serve/test_faults.py::test_held_text_is_told_where_the_length_ends_it"],
    "a stop string begins or ends inside a character": [
        "serve/test_streams.py::test_a_stop_string_inside_a_character_that_takes_several_tokens",
        "serve/test_faults.py::test_stop_strings_are_of_characters_and_not_of_bytes"],
    "min_tokens and a stop string": [
        "serve/test_streams.py::test_min_tokens_holds_a_stop_string_and_the_end_off",
        "engine/test_llm.py::test_stop_strings_wait_for_min_tokens"],
    "a character is split: qwisp 134, mlx-vlm 1076, lucebox 641, ferrox 125, llama.cpp 28926": [
        "serve/test_streams.py::test_a_stream_is_the_whole_answer_wherever_it_is_cut",
        "serve/test_streams.py::test_bytes_that_are_no_text"],
    "a client takes a read for an event, or for a character: aisix 111": [
        "bench/test_events.py::test_however_the_network_cuts_it",
        "bench/test_http.py::test_over_a_socket"],
    "only the last of n answers ends, all are index 0, or the same: sglang 8417, dynamo 8745": [
        "serve/test_faults.py::test_each_of_n_answers_has_its_own_end",
        "serve/test_streams.py::test_roles_come_first_and_every_answer_has_one_end",
        "serve/test_server.py::test_completions_with_everything"],
}
NUMBERS = {
    "usage: choices of its chunk, null before it, only if asked for: apfel 100, llama.cpp 15443, 15444": [
        "serve/test_streams.py::test_usage_is_the_last_chunk_only_if_asked_for_and_counts_a_prompt_once"],
    "usage counts a prompt n times: ATOM 1711, ogx 6541": [
        "serve/test_faults.py::test_a_prompt_counts_once_whatever_n"],
    "log-probabilities by text: equal pieces fall together: sglang 32290": [
        "serve/test_faults.py::test_pieces_that_look_alike_are_all_told"],
    "bytes of U+FFFD in place of a token's own: ollama 13497": [
        "serve/test_streams.py::test_logprobs_of_a_chat"],
    "the two forms of log-probabilities are mixed, 0 and 20 of them: llama-cpp-python 1788": [
        "serve/test_faults.py::test_as_many_logprobs_as_asked_for_each_in_its_form",
        "serve/test_streams.py::test_logprobs_of_a_completion"],
    "minus infinity in JSON": [
        "serve/test_streams.py::test_what_is_impossible_is_valid_json",
        "serve/test_faults.py::test_as_many_logprobs_as_asked_for_each_in_its_form"],
    "max_completion_tokens is ignored: llama-cpp-python 1907, ik_llama 2321": [
        "serve/test_faults.py::test_both_names_of_the_limit_are_heeded"],
    "finish_reason is always stop, or null: Soup 360, ik_llama 2321, vLLM 27572": [
        "serve/test_faults.py::test_both_names_of_the_limit_are_heeded",
        "serve/test_streams.py::test_a_stream_is_the_whole_answer_wherever_it_is_cut"],
    "a prompt that fills the context": [
        "serve/test_refusals.py::test_what_is_wrong_is_named"],
    "max_tokens of 0, -1 and null": [
        "serve/test_faults.py::test_no_limit_is_the_context_and_none_is_0"],
    "metrics: a registry for each worker, sums, gauges: litellm 10595, kserve 2979, vLLM 28792": [
        "serve/test_metrics.py::test_counts_are_those_of_what_was_asked",
        "serve/test_metrics.py::test_gauges_rise_and_go_back_after_a_hang_up"],
}
FORMS = {
    "the beginning of a text is written twice: sglang 888, vLLM 55197, 55288, llama-cpp-python 1439": [
        "serve/test_faults.py::test_a_text_begins_once"],
    "content in parts, the developer's role, no system": [
        "serve/test_refusals.py::test_templates_get_texts_and_write_the_beginning_once",
        "serve/test_server.py::test_answers_are_the_librarys"],
    "a template fails: 400": [
        "serve/test_refusals.py::test_a_template_that_refuses_is_the_clients_affair",
        "serve/test_faults.py::test_a_template_that_breaks_is_a_400"],
    "what is not supported is taken in silence: mlx-vlm 1045, LiteRT-LM 2471, MTPLX 191": [
        "serve/test_refusals.py::test_what_is_wrong_is_named",
        "serve/test_refusals.py::test_every_field_of_the_stock_client_is_known",
        "serve/test_faults.py::test_what_would_change_the_answer_is_refused"],
    "tool_choice null is refused: notebook-intelligence 55": [
        "serve/test_refusals.py::test_what_means_nothing_is_legal"],
}
in_process = pytest.mark.program
PLAIN = "one two three four five"
FAMILY = "a 👩‍👩‍👧‍👦 b"


@pytest.mark.parametrize("guards", [TEXTS, NUMBERS, FORMS])
def test_each_fault_has_its_test(guards: dict[str, list[str]]) -> None:
    check_guards(guards)


# Texts

@in_process
def test_held_text_is_told_where_the_length_ends_it() -> None:
    """What might have begun a stop string is no part of one any more."""
    async def ask():
        async with parrot(PLAIN) as served:
            tokens = served.runner.script
            for limit in range(1, len(tokens) + 1):
                body = completion(stop=["three fours", "five!"], max_tokens=limit)
                whole = (await served.client.post("completions", json=body)).json()["choices"][0]
                found = events(await served.client.post("completions", json={**body, "stream": True}))
                assert whole["text"] == joined(found) == served.thread.llm.tokenizer.decode(tokens[:limit])
                assert whole["finish_reason"] == found[-2]["choices"][0]["finish_reason"] == "length"
    asyncio.run(ask())


@in_process
@pytest.mark.parametrize("text, stop, expected", [
    (FAMILY, "👩", "a "), (FAMILY, "\u200d👧", "a 👩\u200d👩"), (FAMILY, "👦 b", "a 👩\u200d👩\u200d👧\u200d"),
    ("x 🎉 y", "\ufffd", "x 🎉 y"), ("naïve é", "é", "naïve "),
])
def test_stop_strings_are_of_characters_and_not_of_bytes(text: str, stop: str, expected: str) -> None:
    """Half a character shows as U+FFFD nowhere, and so ends nothing."""
    whole, found = ask_both("chat/completions", chat(stop=stop), text)
    [choice] = whole["choices"]
    assert choice["message"]["content"] == joined(found) == expected
    assert choice["stop_reason"] == (None if expected == text else stop)


@in_process
@pytest.mark.parametrize("path, body", [("chat/completions", chat), ("completions", completion)])
def test_each_of_n_answers_has_its_own_end(path: str, body) -> None:
    """One ends by itself, one by a stop string, one by the limit, each in another step."""
    said = {0: "one", 1: "one two three", 2: "one " * 40}
    ends = {0: ("one", "stop"), 1: ("one two", "stop"), 2: (None, "length")}

    async def ask():
        async with parrot(said[0]) as served:
            served.runner.others = {str(i): served.thread.llm.tokenizer.encode(said[i]) for i in (1, 2)}
            asked = body(n=3, temperature=1, stop=[" three"], max_tokens=20)
            whole = (await served.client.post(path, json=asked)).json()
            found = events(await served.client.post(path, json={**asked, "stream": True}))
            made = [served.runner.script, served.runner.others["1"]]
            assert 20 + len(made[0]) < whole["usage"]["completion_tokens"] <= 21 + sum(map(len, made))
        for choice, (text, reason) in zip(whole["choices"], ends.values(), strict=True):
            index = choice["index"]
            told = choice["text"] if "text" in choice else choice["message"]["content"]
            assert told == joined(found, index) and text in (told, None)
            pieces = [one for event in found[:-1] for one in event["choices"] if one["index"] == index]
            assert [one["finish_reason"] for one in pieces if one["finish_reason"]] == [reason]
            assert pieces[-1]["finish_reason"] == choice["finish_reason"] == reason, "nothing after its end"
    asyncio.run(ask())


# Numbers

@in_process
def test_a_prompt_counts_once_whatever_n() -> None:
    async def ask():
        async with parrot("ok", options={"prefix_caching": False}) as served:
            client = served.client
            encode = served.thread.llm.tokenizer.encode
            for n in ({}, {"n": 3, "temperature": 1}):
                whole = await client.post("completions", json=completion(prompt=["a b c", "d"], **n))
                expected = len(encode("a b c")) + len(encode("d"))
                assert whole.json()["usage"]["prompt_tokens"] == expected
                asked = chat(stream=True, stream_options={"include_usage": True}, **n)
                *_, last, _ = events(await client.post("chat/completions", json=asked))
                dialogue = served.thread.llm.tokenizer.encode_chat(asked["messages"])
                assert last["usage"]["prompt_tokens"] == len(dialogue)
                quiet = chat(stream=True, stream_options={"include_usage": False})
                *chunks, _ = events(await client.post("chat/completions", json=quiet))
                assert all(chunk.get("usage") is None and chunk["choices"] for chunk in chunks)
    asyncio.run(ask())


def test_pieces_that_look_alike_are_all_told() -> None:
    class Alike:
        """Every id is the same text."""

        def token_bytes(self, token: int) -> bytes:
            return b"the"

        def decode(self, tokens: list[int]) -> str:
            return "the"
    told = {5: Logprob(-1.0, 1), 6: Logprob(-2.0, 2), 7: Logprob(-3.0, 3)}
    out = CompletionOutput(0, token_ids=[7], logprobs=[told])
    [tops] = CompletionLogprobs(Alike()).piece(out, 0, 1, 2)["top_logprobs"]
    assert sorted(tops.values()) == [-3.0, -2.0, -1.0] and tops["the"] == -1.0


@in_process
@pytest.mark.parametrize("top", [0, 20])
@pytest.mark.parametrize("silence", [-1e4, float("-inf")])
def test_as_many_logprobs_as_asked_for_each_in_its_form(top: int, silence: float) -> None:
    async def ask():
        async with parrot("a 🎉") as served:
            served.runner.silence = silence
            asked = chat(logprobs=True, top_logprobs=top)
            whole = await served.client.post("chat/completions", json=asked)
            stream = await served.client.post("chat/completions", json={**asked, "stream": True})
            assert "Infinity" not in whole.text + stream.text and events(stream)[-1] == "[DONE]"
            told = whole.json()["choices"][0]["logprobs"]
            assert set(told) == {"content", "refusal"}
            assert {len(one["top_logprobs"]) for one in told["content"]} == {top}
            lowest = min((one["logprob"] for one in told["content"][0]["top_logprobs"]), default=None)
            assert lowest == (None if top == 0 else pytest.approx(max(silence, -9999.0), rel=1e-3))
            whole = await served.client.post("completions", json=completion(logprobs=top))
            told = whole.json()["choices"][0]["logprobs"]
            assert set(told) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
            assert {len(tops) for tops in told["top_logprobs"]} == {max(top, 1)}, "and the one chosen"
    asyncio.run(ask())


@in_process
@pytest.mark.parametrize("limit", [{"max_completion_tokens": 3}, {"max_tokens": 3},
                                   {"max_tokens": 3, "max_completion_tokens": 3}])
def test_both_names_of_the_limit_are_heeded(limit: dict[str, int]) -> None:
    whole, found = ask_both("chat/completions", chat(**limit), PLAIN)
    assert whole["usage"]["completion_tokens"] == 3 and whole["choices"][0]["finish_reason"] == "length"
    assert found[-2]["choices"][0]["finish_reason"] == "length"


@in_process
def test_no_limit_is_the_context_and_none_is_0() -> None:
    async def ask():
        async with parrot("word " * 400) as served:
            async def made(path: str, body: dict) -> tuple[int, str]:
                told = (await served.client.post(path, json=body)).json()
                return told["usage"]["total_tokens"], told["choices"][0]["finish_reason"]
            assert await made("chat/completions", chat()) == (CONTEXT, "length")
            assert await made("chat/completions", chat(max_tokens=None)) == (CONTEXT, "length")
            assert await made("completions", completion(max_tokens=None)) == (CONTEXT, "length")
            unsaid = completion(prompt=[1, 2])
            del unsaid["max_tokens"]
            assert await made("completions", unsaid) == (2 + 16, "length")
            for path, body in (("chat/completions", chat), ("completions", completion)):
                for value in (0, -1):
                    refused = await served.client.post(path, json=body(max_tokens=value))
                    assert refused.status_code == 400 and error_of(refused)["param"] == "max_tokens"
    asyncio.run(ask())


# Forms

@in_process
def test_a_text_begins_once() -> None:
    """The tokenizer writes the beginning of a text, and the template that of a chat."""
    llm = parrot_llm("<|begin|>{% for m in messages %}{{ m.content }}{% endfor %}")
    backend = llm.tokenizer.backend
    begin = backend.token_to_id(BOS)
    backend.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, begin)])
    assert llm.tokenizer.encode("hello")[0] == begin

    async def ask():
        async with parrot("ok", llm=llm) as served:
            seen = []
            served.thread.on_submit.append(lambda ticket: seen.append(ticket.requests[0].prompt_token_ids))
            for path, body in (("chat/completions", chat()), ("completions", completion())):
                assert (await served.client.post(path, json=body)).status_code == 200
                assert seen[-1][0] == begin and seen[-1].count(begin) == 1, path
    asyncio.run(ask())


@in_process
@pytest.mark.parametrize("template", [
    "{{ messages[0].nothing.more }}", "{{ 1 / 0 }}", "{{ messages[0].content + 1 }}",
    "{{ messages[0].content.foo() }}", "{% for m in messages %}", "{{ tools[0].name }}",
])
def test_a_template_that_breaks_is_a_400(template: str) -> None:
    async def ask():
        async with parrot("ok", options={"template": template}) as served:
            broken = await served.client.post("chat/completions", json=chat())
            assert broken.status_code == 400 and error_of(broken)["param"] == "messages"
            assert "template" in error_of(broken)["message"] and served.admission.requests == 0
            assert (await served.client.post("completions", json=completion())).status_code == 200
    asyncio.run(ask())


@in_process
def test_what_would_change_the_answer_is_refused() -> None:
    named = {"type": "function", "function": {"name": "f"}}
    wrong = [("tool_choice", "required"), ("tool_choice", named), ("include_stop_str_in_output", True),
             ("skip_special_tokens", False), ("parallel_tool_calls", False), ("functions", [{"name": "f"}])]

    async def ask():
        async with parrot("ok") as served:
            for name, value in wrong:
                refused = await served.client.post("chat/completions", json=chat(**{name: value}))
                assert refused.status_code == 400 and error_of(refused)["param"] == name
                legal = await served.client.post("chat/completions", json=chat(**{name: None}))
                assert legal.status_code == 200
    asyncio.run(ask())
