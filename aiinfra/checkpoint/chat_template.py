"""A chat is a list of messages; a model reads one text. The template between them is code.

It comes with the weights, from strangers: so it is rendered in jinja2's sandbox, where it can
format strings and nothing else. The helpers are those that Hugging Face's templates expect.
"""

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from aiinfra.errors import LoadError

Message = dict[str, Any]

# What a template of a stranger may fail with: its own errors, and Python's for the values that it handles.
_FAULTS = (jinja2.TemplateError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)


def render(template: str, messages: list[Message], add_generation_prompt: bool = True,
           bos_token: str = "", eos_token: str = "", **extra: Any) -> str:
    """The text that the model continues.

    messages: `[{"role": "user", "content": "…"}, …]`. Raises ValueError for a message without
    role or content and for what the template itself refuses; LoadError for a template that is
    broken or that reaches for what the sandbox forbids.
    """
    check_messages(messages)
    try:
        compiled = _environment().from_string(template)
        return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt,
                               bos_token=bos_token, eos_token=eos_token, **extra)
    except SecurityError as error:
        raise LoadError(f"the model's chat template tried to leave its sandbox ({error}); it was stopped. "
                        "Do not trust the file that it came with.") from error
    except _Refused:
        raise
    except _FAULTS as error:
        raise LoadError(f"the model's chat template cannot be rendered ({error}).") from error


def check_messages(messages: list[Message]) -> None:
    """Raise ValueError, naming the position, for anything that is not a list of messages."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a non-empty list of {'role': …, 'content': …}; "
                         f"got {messages!r}.")
    for i, message in enumerate(messages):
        if not _is_message(message):
            raise ValueError(f"message {i} must be a dict with the strings 'role' and 'content'; "
                             f"got {message!r}.")


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    return isinstance(message.get("role"), str) and isinstance(message.get("content"), str)


class _Refused(ValueError):
    """What a template says through raise_exception."""


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise _Refused(f"the chat template refuses these messages: {message}")
