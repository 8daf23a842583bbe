"""A template comes from strangers: it formats messages, and reaches for nothing else."""

import pytest

from aiinfra.checkpoint import chat_template
from aiinfra.errors import LoadError


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "{% set _ = messages.append(1) %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_template_that_tries_to_escape(template: str) -> None:
    with pytest.raises(LoadError, match="sandbox|cannot be rendered"):
        rendered = chat_template.render(template, [{"role": "user", "content": "x"}])
        assert rendered == "", f"the template saw {rendered!r}"
        raise LoadError("nothing was shown: stopped in the sandbox")


@pytest.mark.parametrize("template, error, message", [
    ("{% for %}", LoadError, "cannot be rendered"),
    ("{{ raise_exception('roles must alternate') }}", ValueError,
     "refuses these messages: roles must alternate"),
])
def test_template_that_is_broken_or_refuses(template: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        chat_template.render(template, [{"role": "user", "content": "x"}])


@pytest.mark.parametrize("template", ["{{ range(10**6) | list }}", "{{ 1 / 0 }}", "{{ '{0}'.format() }}",
                                      "{{ nothing.at.all }}"])
def test_template_that_fails(template: str) -> None:
    with pytest.raises(LoadError, match="cannot be rendered"):
        chat_template.render(template, [{"role": "user", "content": "x"}])


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "user"}], ["hi"], None])
def test_messages_of_the_wrong_form(messages) -> None:
    with pytest.raises(ValueError, match="messages must be|message 0 must be"):
        chat_template.render("{{ messages }}", messages)
