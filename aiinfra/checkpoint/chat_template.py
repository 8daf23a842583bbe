"""A chat is a list of messages; a model reads one text. The template between them is code.

It comes with the weights, from strangers: so it is rendered in jinja2's sandbox, where it can
format strings and nothing else. What it finds around it is what Hugging Face's templates expect: see
transformers, utils/chat_template_utils.py.
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from aiinfra.errors import LoadError

Message = dict[str, Any]

# What a template of a stranger may fail with: its own errors, and Python's for the values that it handles.
_FAULTS = (jinja2.TemplateError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)


_REASONING = ("reasoning_content", "thinking", "reasoning")      # what a message's thoughts are called


def render(template: str, messages: list[Message], add_generation_prompt: bool = True, **special: str) -> str:
    """The text that the model continues.

    messages: `[{"role": "user", "content": "…"}, …]`; content may also be a list of parts, or None beside
    tool_calls. special: the tokens that a template may write, by role, as `eos_token`; one that does not
    exist is left out. Raises ValueError for messages of another form and for what the template itself
    refuses; LoadError for a template that is broken or that reaches for what the sandbox forbids.
    """
    check_messages(messages)
    try:
        return _compiled(template).render(
            messages=[_as_templates_know_it(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **special)
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
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    if content is None:
        return bool(message.get("tool_calls"))
    if isinstance(content, list):
        return all(isinstance(part, dict) for part in content)
    return isinstance(content, str)


def _as_templates_know_it(message: Message) -> Message:
    """Without keys that hold None, which templates would print, and with thoughts under the names that they
    know."""
    message = {key: value for key, value in message.items() if value is not None}
    for name in _REASONING:
        if name in message:
            return {"thinking": message[name], **message, "reasoning_content": message[name]}
    return message


class _Refused(ValueError):
    """What a template says through raise_exception."""


class _Generation(Extension):
    """`{% generation %}`: marks what the model itself has said. Training masks by it; here it changes
    nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements up to `{% endgeneration %}`, in a scope of their own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


@lru_cache(maxsize=8)                  # to compile one takes 30 ms, to render it 0.2
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """As Python writes it: Jinja's own filter would escape what HTML escapes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _Refused(f"the chat template refuses these messages: {message}")
