"""From what pydantic found wrong to what a client is told: which field, its value, the limit, the remedy.

    [{"type": "greater_than_equal", "loc": ("body", "n"), "input": 0, …}]
        ──> n=0; it must be an integer of at least 1 (1 is one answer).       param: "n"

Sampling speaks in the words of `SamplingParams.RULES`, so that server, library and command line say the same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from aiinfra.engine.sampling_params import RULES
from aiinfra.errors import nearest
from aiinfra.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    Form,
    Message,
    StreamOptions,
    TextPart,
)
from aiinfra.serve.refusal import Refusal, cut, quote

_FORMS = {
    "prompt": "a string, a list of strings, a list of token ids or a list of such lists",
    "messages": 'a list of messages such as {"role": "user", "content": "Hello"}',
    "stop": RULES["stop"].limit,
}
_ANY_OF = ("prompt", "stop")
_RULE_OF = {"max_completion_tokens": "max_tokens", "best_of": "n"}
_CHAT = "/v1/chat/completions"
_INSIDE = {"stream_options": StreamOptions, "messages": Message, "content": TextPart}
_BODY = "the body must be a JSON object, sent with Content-Type: application/json"


async def on_invalid(request: Request, error: RequestValidationError) -> Response:
    """What FastAPI does with a body that is not of the form."""
    form = ChatRequest if request.url.path.endswith(_CHAT) else CompletionRequest
    return refusal_of(error.errors(), form).response


def refusal_of(errors: Sequence[Any], form: type[Form]) -> Refusal:
    """The error that lies deepest, of the first field that has one: it says most."""
    first = _path(errors[0])[:1]
    of_first = [error for error in errors if _path(error)[:1] == first]
    error = max(of_first, key=lambda error: len(_path(error)))
    if first and first[0] in _ANY_OF:            # none of its forms fits: the value as a whole is wrong
        error = of_first[0]
    path = _path(error)
    if not path and error["type"] == "fields":
        return Refusal(400, f"{error['msg']}.")
    if not path or error["type"] == "json_invalid":
        return Refusal(400, f"{_BODY}: {quote(error.get('msg', ''))}.")
    param = _written(path)
    if error["type"] == "extra_forbidden":
        return Refusal(400, _unknown(path, param, form), param=param)
    return Refusal(400, _said(error, path, param), param=param)


def _unknown(path: list[str | int], param: str, form: type[Form]) -> str:
    """Names a field that there is in the same place."""
    around = [_INSIDE[part] for part in path[:-1] if part in _INSIDE]
    fields = [form, *around][-1].model_fields
    return f"{param} is not a field that this server knows.{nearest(path[-1], fields)} Leave it out."


def _said(error: Any, path: list[str | int], param: str) -> str:
    name = str(path[-1])
    value = quote(error["input"])
    if error["type"] == "missing":
        return f"{param} is missing: {_FORMS.get(name, 'it is needed')}."
    if error["type"] == "only":
        return f"{param}={value}; {error['msg']}."
    if len(path) == 1 and name in _FORMS:
        return f"{param}={value}; it must be {_FORMS[name]}."
    if rule := RULES.get(_RULE_OF.get(name, name)):
        limit = rule.limit.format(max_tokens="max_tokens").replace("=max_tokens", "")
        return f"{param}={value}; it must be {limit} ({rule.remedy})."
    return f"{param}={value}: {error['msg'][:1].lower()}{error['msg'][1:]}."


def _path(error: Any) -> list[str | int]:
    """The fields on the way to what is wrong, without what pydantic adds for each kind that it tried."""
    path = list(error["loc"][1:])
    unknown = []
    if error["type"] == "extra_forbidden":
        unknown = [path.pop()]                      # a stranger may call a field as pydantic calls a kind
    path = [part for part in path if not _is_kind(part)] + unknown
    return path[:1] if path and path[0] in _ANY_OF else path


def _is_kind(part: str | int) -> bool:
    return isinstance(part, str) and (part == "str" or "[" in part)


def _written(path: Iterable[str | int]) -> str:
    """`messages[0].role`."""
    written = ""
    for part in path:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            written += f".{part}" if written else part
    return cut(written)
