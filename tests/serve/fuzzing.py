"""Requests that nobody wrote: by schemathesis from the server's own OpenAPI schema, and by hypothesis from
good ones of which some fields are changed. Both send many, check all answers, and return how many they
sent."""

import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.serve.small_server import CHAT, COMPLETIONS, Answer, Served, assert_refused

_MOST_TOKENS = 4             # of an answer: it is the way there that is tried
_ALLOWED, _FORBIDDEN = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
_ASKED = ((CHAT, "POST", _ALLOWED), (CHAT, "POST", _FORBIDDEN), (COMPLETIONS, "POST", _ALLOWED),
          (COMPLETIONS, "POST", _FORBIDDEN), ("/v1/models/{name}", "GET", _ALLOWED))


def rounds(examples: int) -> settings:
    """So many, without hypothesis' limits of time: the server may be slow."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None,
                    phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))


def assert_fair(answer: Answer) -> None:
    """An answer, or a refusal that a client of OpenAI's understands: never a fault of the server."""
    if answer.status == 200:
        kind = answer.headers["content-type"]
        if kind.startswith("text/event-stream"):
            assert answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-300:]
        elif kind.startswith("application/json"):
            json.loads(answer.body, parse_constant=_no_json)
        return
    assert_refused(answer, 400, 401, 404, 405, 413, 415, 422, 429)


def _no_json(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def from_the_schema(served: Served, examples: int) -> int:
    """So many of each kind: as the schema allows, and as it forbids."""
    schema = schemathesis.openapi.from_url(f"{served.address}/openapi.json")
    sent = 0
    for path, method, mode in _ASKED:
        cases = schema[path][method].as_strategy(generation_mode=mode)

        @rounds(examples)
        @given(cases)
        def ask(case: schemathesis.Case) -> None:
            nonlocal sent
            if isinstance(case.body, dict):
                case.body = _tamed(case.body, served.model)
            response = case.call()
            headers = {name.lower(): values[0] for name, values in response.headers.items()}
            sent += 1
            assert_fair(Answer(response.status_code, headers, response.content))
        ask()
    return sent


def _tamed(body: dict[str, Any], model: str) -> dict[str, Any]:
    """For the model that is there, and short: else all were refused for one reason, or took long."""
    if isinstance(body.get("model"), str):
        body = body | {"model": model}
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int):
            body = body | {name: min(body[name], _MOST_TOKENS)}
    if isinstance(body.get("min_tokens"), int):
        body = body | {"min_tokens": min(body["min_tokens"], _MOST_TOKENS)}
    if "max_completion_tokens" not in body:
        body = {"max_tokens": _MOST_TOKENS} | body
    return body


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 30) | st.floats()
    | st.text(st.characters(), max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner,
                                                                max_size=3),
    max_leaves=8)
_NAMES = ("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p",
          "top_k", "min_p", "n", "best_of", "stop", "seed", "stream", "stream_options", "logprobs",
          "top_logprobs", "logit_bias", "user", "echo", "suffix", "presence_penalty",
          "frequency_penalty", "tools", "tool_choice", "response_format", "repetition_penalty",
          "min_tokens", "ignore_eos", "stop_token_ids", "functions")
_FIELDS = st.sampled_from(_NAMES) | st.text(st.characters(), max_size=8)
_CHANGES = st.dictionaries(_FIELDS, _VALUES, max_size=3)


def good(path: str, model: str) -> dict[str, Any]:
    """A request that is answered."""
    if path == CHAT:
        asked = {"messages": [{"role": "user", "content": "hello"}]}
    else:
        asked = {"prompt": "hello"}
    return {"model": model, "max_tokens": _MOST_TOKENS, "temperature": 0, **asked}


def changed(served: Served, examples: int) -> int:
    """Good requests but for at most three fields; and bodies that are no request at all."""
    sent = 0

    @rounds(examples)
    @given(st.sampled_from([CHAT, COMPLETIONS]), _CHANGES, st.sampled_from([None, True]),
           st.none() | st.binary(max_size=60) | _VALUES)
    def ask(path: str, changes: dict[str, Any], stream: bool | None, instead: Any) -> None:
        nonlocal sent
        body = good(path, served.model) | {"stream": stream} | changes
        bodies = [body]
        if instead is not None:
            bodies.append(instead)
        for one in bodies:
            sent += 1
            assert_fair(served.post(path, one))
    ask()
    return sent
