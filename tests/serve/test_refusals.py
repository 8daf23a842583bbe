"""What is not understood is refused by name, in OpenAI's form; what is sent and means nothing is legal."""

import asyncio
import json
from typing import get_type_hints

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params
from tests.serve.parrot import CONTEXT, NAME, chat, completion, error_of, parrot

from aiinfra.engine.sampling_params import RULES
from aiinfra.serve import complaint
from aiinfra.serve.protocol import ChatRequest, CompletionRequest

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}

# path, what is wrong, the field that is named, words of the message
WRONG = [
    ("chat/completions", {"n": 0}, "n", "n=0; it must be an integer of at least 1"),
    ("chat/completions", {"n": "2"}, "n", "n='2'"),
    ("chat/completions", {"n": True}, "n", "n=True"),
    ("chat/completions", {"n": 2, "temperature": 0}, "n", "n=2; it must be 1 at temperature 0"),
    ("chat/completions", {"temperature": -0.1}, "temperature", "temperature=-0.1; it must be at least 0"),
    ("chat/completions", {"top_p": 0}, "top_p", "top_p=0; it must be above 0"),
    ("chat/completions", {"max_tokens": 0}, "max_tokens", "max_tokens=0"),
    ("chat/completions", {"max_completion_tokens": -1}, "max_completion_tokens", "max_completion_tokens=-1"),
    ("chat/completions", {"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens", "two names of one"),
    ("chat/completions", {"max_completion_tokens": 9_999}, "max_completion_tokens",
     f"the context is {CONTEXT}"),
    ("chat/completions", {"min_tokens": 9, "max_tokens": 3}, "min_tokens", "between 0 and max_tokens=3"),
    ("chat/completions", {"seed": 2**64}, "seed", "at most 64 bits"),
    ("chat/completions", {"logprobs": 3}, "logprobs", "logprobs=3"),
    ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "top_logprobs=21"),
    ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "without logprobs"),
    ("chat/completions", {"stop": ["x"] * 17}, "stop", "at most 16"),
    ("chat/completions", {"stop": ["x" * 300]}, "stop", "300 characters"),
    ("chat/completions", {"stop": [""]}, "stop", "a non-empty string"),
    ("chat/completions", {"stop": 5}, "stop", "stop=5"),
    ("chat/completions", {"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ("chat/completions", {"frequency_penalty": 1}, "frequency_penalty", "not supported"),
    ("chat/completions", {"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ("chat/completions", {"tools": [TOOL]}, "tools", "not supported"),
    ("chat/completions", {"tool_choice": "auto"}, "tool_choice", "null or \"none\""),
    ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ("chat/completions", {"stream_options": {"include_usage": True}}, "stream_options", "set stream to true"),
    ("chat/completions", {"stream": True, "stream_options": {"use": True}}, "stream_options.use", "not a"),
    ("chat/completions", {"max_tokns": 5}, "max_tokns", "Did you mean 'max_tokens'?"),
    ("completions", {"tools": [TOOL]}, "tools", "tools is not a field that this server knows. Leave"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x", "tools": []}]}, "messages[0].tools",
     "Did you mean 'tool_calls'?"),
    ("chat/completions", {"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight",
     "messages[0].weight is not a field that this server knows. Leave"),
    ("chat/completions", {"messages": []}, "messages", "messages=[]"),
    ("chat/completions", {"messages": "hi"}, "messages", "messages='hi'"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
    ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
    ("chat/completions", {"messages": [{"role": "user", "content": None}]}, "messages[0].content", "None"),
    ("chat/completions", {"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type",
     "image_url"),
    ("chat/completions", {"messages": [{"role": "user", "content": "word " * 600}]}, "messages", "Shorten"),
    ("chat/completions", {"model": "gpt-4"}, "model", f"Served: {NAME}"),
    ("completions", {"prompt": ""}, "prompt", "the prompt is empty"),
    ("completions", {"prompt": []}, "prompt", "0 prompts"),
    ("completions", {"prompt": [[]]}, "prompt", "the prompt is empty"),
    ("completions", {"prompt": [10**6]}, "prompt", "token id 1000000 is outside the vocabulary"),
    ("completions", {"prompt": [-1]}, "prompt", "token id -1"),
    ("completions", {"prompt": [1, "a"]}, "prompt", "a list of token ids"),
    ("completions", {"prompt": {"a": 1}}, "prompt", "it must be a string"),
    ("completions", {"prompt": [1] * CONTEXT, "max_tokens": 1}, "prompt", f"the context is {CONTEXT}"),
    ("completions", {"prompt": [1] * 500, "max_tokens": 50}, "max_tokens", "Ask for at most 12"),
    ("completions", {"echo": True}, "echo", "not supported"),
    ("completions", {"suffix": "x"}, "suffix", "not supported"),
    ("completions", {"best_of": 3}, "best_of", "it must be n=1"),
    ("completions", {"logprobs": 21}, "logprobs", "logprobs=21"),
    ("completions", {"top_k": -2}, "top_k", "top_k=-2"),
    ("completions", {"repetition_penalty": 0}, "repetition_penalty", "repetition_penalty=0"),
    ("completions", {"temperature": float("nan")}, "temperature", "temperature=nan"),
    ("completions", {"model": 5}, "model", "model=5"),
]
LEGAL = [
    ("chat/completions", dict.fromkeys([
        "tools", "tool_choice", "stop", "n", "temperature", "top_p", "max_tokens", "max_completion_tokens",
        "logit_bias", "user", "metadata", "response_format", "presence_penalty", "frequency_penalty", "seed",
        "stream", "stream_options", "logprobs", "top_logprobs", "parallel_tool_calls", "function_call",
        "functions", "store", "reasoning_effort", "modalities", "audio", "prediction", "service_tier",
        "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "moderation",
        "prompt_cache_options", "prompt_cache_retention", "verbosity", "web_search_options",
    ])),
    ("chat/completions", {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "me",
                          "metadata": {"a": "b"}, "response_format": {"type": "text"}, "tool_choice": "none",
                          "tools": [], "store": False, "n": 1, "stream": False, "logprobs": False,
                          "top_logprobs": 0, "stop": [], "reasoning_effort": "none", "verbosity": "medium",
                          "modalities": ["text"], "parallel_tool_calls": True, "service_tier": "auto",
                          "functions": [], "function_call": "none", "prompt_cache_retention": "in_memory"}),
    ("chat/completions", {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1,
                          "ignore_eos": True, "stop_token_ids": [3], "max_tokens": 5}),
    ("chat/completions", {"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "u", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "audio": None,
         "annotations": [], "function_call": None},
        {"role": "user", "content": ""},
    ]}),
    ("completions", {"echo": False, "suffix": None, "best_of": 1, "logprobs": None, "max_tokens": None}),
    ("completions", {"prompt": [1, 2, 3]}),
    ("completions", {"prompt": [1] * 505}),                  # room for fewer than the usual 16
]


def test_what_is_wrong_is_named() -> None:
    async def run():
        async with parrot("ok") as served:
            for path, wrong, param, said in WRONG:
                body = chat(**wrong) if path.startswith("chat") else {**completion(), **wrong}
                if path == "completions" and "max_tokens" not in wrong:
                    del body["max_tokens"]
                response = await served.client.post(path, content=json.dumps(body),
                                                    headers={"content-type": "application/json"})
                assert response.status_code == (404 if param == "model" and "Served" in said else 400), wrong
                error = error_of(response)
                assert error["param"] == param and said in error["message"], (wrong, error)
                too_long = "context" in said or said in ("Shorten", "Ask for at most 12")
                assert error["code"] == ("context_length_exceeded" if too_long else error["code"]), error
                assert error["type"] == "invalid_request_error" and error["message"].endswith("."), error
            assert served.engine.idle and served.admission.requests == served.admission.tokens == 0
    asyncio.run(run())


def test_what_means_nothing_is_legal() -> None:
    async def run():
        async with parrot("ok") as served:
            for path, more in LEGAL:
                body = chat(**more) if path.startswith("chat") else {"model": NAME, "prompt": "hi", **more}
                response = await served.client.post(path, json=body)
                assert response.status_code == 200, (more, response.text)
    asyncio.run(run())


@pytest.mark.parametrize("content, said", [
    (b"{", "must be a JSON object"), (b"[1]", "must be a JSON object"), (b"null", "must be a JSON object"),
    (b"", "must be a JSON object"), (b'"x"', "must be a JSON object"), (b"[" * 100_000, "parsing the body"),
    (b'{"model": "\\ud800", "prompt": "x"}', "model '\\\\ud800' is not served"),
    (b'{"model": "parrot", "prompt": "\\ud800"}', "not valid Unicode"),
    (b'{"model": "parrot", "prompt": "\xff"}', "JSON"), (b'{"a": ' + b"9" * 5_000 + b"}", "JSON"),
])
def test_bodies_that_are_no_request(content: bytes, said: str) -> None:
    async def run():
        async with parrot("ok") as served:
            response = await served.client.post("completions", content=content,
                                                headers={"content-type": "application/json"})
            assert response.status_code in (400, 404) and error_of(response)["message"]
            assert said in response.text or "pars" in response.text, response.text
    asyncio.run(run())


@pytest.mark.parametrize("path, wrong, param, said", [
    ("chat/completions", {"messages": [1] * 200_000}, "messages[0]", "messages[0]=1"),
    ("chat/completions", {"metadata": {str(i): 1 for i in range(50_000)}}, "metadata", "50000"),
    ("completions", {"prompt": [1] + [""] * 200_000}, "prompt", "a list of token ids"),
    ("completions", {str(i): 1 for i in range(50_000)}, None, "at most 100"),
    ("completions", {"stop": ["x"] * 17 + [1] * 200_000}, "stop", "a non-empty string"),
    ("completions", {"stop_token_ids": [""] * 200_000}, "stop_token_ids[0]", "valid integer"),
])
def test_a_thousand_faults_cost_no_more_than_one(path: str, wrong: dict, param: str, said: str,
                                                 monkeypatch) -> None:
    """One fault each is written down: a body of 4 MB with a million took seconds of everybody's time."""
    counts = []
    told = complaint.refusal_of
    monkeypatch.setattr(complaint, "refusal_of", lambda errors, form: (counts.append(len(errors)),
                                                                       told(errors, form))[1])

    async def run():
        async with parrot("ok") as served:
            body = chat(**wrong) if path.startswith("chat") else completion(**wrong)
            error = error_of(await served.client.post(path, json=body))
            assert error["param"] == param and said in error["message"] and len(error["message"]) < 400
    asyncio.run(run())
    assert counts[0] < 10


def test_every_field_of_the_stock_client_is_known() -> None:
    """And its null is legal, whatever else is not."""
    for module, form in ((completion_create_params, CompletionRequest), (chat_params, ChatRequest)):
        names = {"stream", *get_type_hints(module.CompletionCreateParamsBase)}
        assert names <= set(form.model_fields), form


def test_addresses_methods_and_models_that_are_not_there() -> None:
    async def run():
        async with parrot("ok") as served:
            assert error_of(await served.client.get("/nothing"))["message"].startswith("GET '/v1/nothing'")
            wrong = await served.client.get("completions")
            assert wrong.status_code == 405 and wrong.headers["allow"] == "POST" and error_of(wrong)
            listed = (await served.client.get("models")).json()
            assert [model["id"] for model in listed["data"]] == [NAME]
            assert (await served.client.get(f"models/{NAME}")).json() == listed["data"][0]
            missing = await served.client.get("models/x")
            assert missing.status_code == 404 and error_of(missing)["code"] == "model_not_found"
    asyncio.run(run())


def test_a_template_that_refuses_is_the_clients_affair() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}x"

    async def run(template, said):
        async with parrot("ok", options={"template": template}) as served:
            body = chat(messages=[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
            response = await served.client.post("chat/completions", json=body)
            assert response.status_code == 400 and said in error_of(response)["message"]
            assert error_of(response)["param"] == "messages"
    asyncio.run(run(refusing, "no system here"))
    asyncio.run(run(None, "no chat template"))


def test_templates_get_texts_and_write_the_beginning_once() -> None:
    """A list of parts is one text, a developer a system; what the template writes is all there is."""
    template = "<|begin|>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"

    async def run():
        async with parrot("ok", options={"template": template, "prefix_caching": False}) as served:
            seen = []
            served.thread.on_submit.append(lambda ticket: seen.append(ticket.requests[0].prompt_token_ids))
            parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
            body = chat(messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": parts}])
            assert (await served.client.post("chat/completions", json=body)).status_code == 200
            tokenizer = served.thread.llm.tokenizer
            text = tokenizer.decode(seen[0], skip_special_tokens=False)
            assert text == "<|begin|>[system]d[user]a\nb" and text.count("<|begin|>") == 1
    asyncio.run(run())


def test_limits_come_from_the_one_table() -> None:
    """The schema that the server gives of itself has every limit of the rules."""
    async def run():
        async with parrot("ok") as served:
            return (await served.client.get("/../openapi.json")).json()
    described = asyncio.run(run())
    responses = described["paths"]["/v1/completions"]["post"]["responses"]
    assert "422" not in responses and "text/event-stream" in responses["200"]["content"]
    schemas = described["components"]["schemas"]
    for name in ("n", "temperature", "top_p", "seed", "max_tokens", "top_k", "min_p", "repetition_penalty"):
        rule = RULES[name]
        kinds = schemas["ChatRequest"]["properties"][name]["anyOf"]
        [one] = [kind for kind in kinds if kind["type"] != "null"]
        least = one.get("exclusiveMinimum" if rule.above_low else "minimum")
        assert [least, one.get("maximum")] == [limit if limit is None else float(limit)
                                               for limit in (rule.low, rule.high)], name
