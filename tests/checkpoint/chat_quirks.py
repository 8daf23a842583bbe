"""Quirks of chat templates: what their authors found around them."""

import json
from pathlib import Path

from tests.checkpoint.corpus_parts import CHATML, chatml_folder, edit
from tests.checkpoint.corpus_says import CHATS, Chat, Says, quirk, transformers_says

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"x": 1, "ü": "<é>"}}}
CALLS: tuple[Chat, ...] = (
    [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ],
    [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "user", "content": "so?"},
    ],
)
PARTS: tuple[Chat, ...] = (
    [{"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]}],
    [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Hi"},
    ],
)


def chat(folder: Path, template: str, chats: tuple[Chat, ...] = CHATS, **named: str | None) -> Says:
    """A usual folder with this template."""
    chatml_folder(folder, chat_template=template, **named)
    return transformers_says(folder, chats=chats)


@quirk
def a_generation_tag(folder: Path) -> Says:
    return chat(
        folder,
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}",
    )


@quirk
def a_generation_tag_that_trims(folder: Path) -> Says:
    return chat(
        folder,
        "{%- for m in messages %}\n  {%- generation -%}\n {{ m.content }}\n"
        " {%- endgeneration -%}\n{%- endfor %}",
    )


@quirk
def arguments_of_tojson(folder: Path) -> Says:
    return chat(
        folder,
        "{{ messages | tojson(indent=2) }}|{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}|"
        "{{ messages | tojson(ensure_ascii=true) }}|{{ messages | tojson(true, 4) }}|{{ '<é>' | tojson }}",
        CALLS,
    )


@quirk
def tools_and_documents_are_none(folder: Path) -> Says:
    return chat(
        folder,
        "{% if tools is not none %}T{% endif %}{% if documents is none %}D{% endif %}"
        "{% if tools is defined and documents is defined %}both{% endif %}{{ tools }}" + CHATML,
    )


@quirk
def pad_and_unk_tokens(folder: Path) -> Says:
    return chat(
        folder,
        "{{ pad_token }}|{{ unk_token }}|{% if sep_token is defined %}S{% endif %}|{{ bos_token }}" + CHATML,
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


@quirk
def a_bos_that_does_not_exist(folder: Path) -> Says:
    return chat(
        folder,
        "{% if bos_token is defined %}B{% endif %}{{ bos_token }}{{ eos_token }}" + CHATML,
        bos_token=None,
    )


@quirk
def a_bos_that_is_null(folder: Path) -> Says:
    chatml_folder(
        folder,
        chat_template="{% if bos_token is defined %}B{% endif %}{{ bos_token }}" + CHATML,
        bos_token=None,
    )
    edit(folder / "tokenizer_config.json", lambda raw: raw.update(bos_token=None))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": None}))
    return transformers_says(folder)


@quirk
def more_special_tokens_in_a_template(folder: Path) -> Says:
    template = "{{ image_token }}|{% for t in extra_special_tokens or [] %}{{ t }}{% endfor %}" + CHATML
    chatml_folder(folder, chat_template=template)
    edit(folder / "tokenizer_config.json", image_token="<|endoftext|>")
    return transformers_says(folder)


@quirk
def content_in_parts(folder: Path) -> Says:
    return chat(
        folder,
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}",
        (*CHATS, *PARTS),
    )


@quirk
def no_content_beside_tool_calls(folder: Path) -> Says:
    return chat(
        folder,
        "{% for m in messages %}{{ m.role }}:"
        "{% if m.content is defined and m.content is not none %}{{ m.content }}"
        "{% else %}nothing{% endif %}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}"
        "{{ c.function.arguments | tojson }}{% endfor %}{% endif %}\n{% endfor %}",
        (*CHATS, *CALLS),
    )


@quirk
def reasoning_under_another_name(folder: Path) -> Says:
    thoughts = tuple(
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": "4", name: "two and two"}]
        for name in ("reasoning_content", "reasoning", "thinking")
    )
    return chat(
        folder,
        "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }}/{{ m.content }}{% endfor %}",
        thoughts,
    )


@quirk
def namespaces_dicts_and_loop_controls(folder: Path) -> Says:
    return chat(
        folder,
        "{% set ns = namespace(n=0, last='') %}{% set d = dict(a=1, b='x') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.last = m.content %}"
        "{% if ns.n > 2 %}{% break %}{% endif %}{% endfor %}{{ ns.n }}{{ ns.last }}{{ d.b }}{{ d | tojson }}"
        "{{ strftime_now('%Y') }}",
    )


@quirk
def templates_by_name(folder: Path) -> Says:
    chatml_folder(folder, chat_template=None)
    edit(
        folder / "tokenizer_config.json",
        chat_template=[{"name": "tool_use", "template": "tools"}, {"name": "default", "template": CHATML}],
    )
    return transformers_says(folder)


@quirk
def a_template_in_the_config_and_another_in_a_file(folder: Path) -> Says:
    chatml_folder(folder)
    edit(folder / "tokenizer_config.json", chat_template="the older one")
    return transformers_says(folder)


@quirk
def templates_in_a_folder_of_their_own(folder: Path) -> Says:
    chatml_folder(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    return transformers_says(folder)


@quirk
def the_template_of_llama_3_1(folder: Path) -> Says:
    return chat(
        folder,
        """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {{- '{"parameters": ' + (message.tool_calls[0].function.arguments | tojson) + "}" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
        (*CHATS, *CALLS),
    )


@quirk
def the_template_of_qwen_3(folder: Path) -> Says:
    thoughts = (
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"},
            {"role": "user", "content": "c"},
        ],
    )
    return chat(
        folder,
        """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n') %}
            {%- set reasoning_content = reasoning_content.split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
                {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
        (*CHATS, *CALLS, *thoughts),
    )


@quirk
def the_template_of_mistral(folder: Path) -> Says:
    return chat(
        folder,
        """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    )


@quirk
def a_template_beside_chat_tokens_in_companion_files(folder: Path) -> Says:
    from tests.checkpoint.tokenizer_quirks import chat_tokens_only_in_added_tokens_json

    says = chat_tokens_only_in_added_tokens_json(folder)
    (folder / "chat_template.jinja").write_text(
        "{% generation %}{{ tools }}{{ pad_token }}{% endgeneration %}" + CHATML
    )
    return transformers_says(says.path)
