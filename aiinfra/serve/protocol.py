"""What a request may say: OpenAI's two forms, checked before anything is computed.

    JSON ── ChatRequest | CompletionRequest ──> SamplingParams, prompts
              │  limits and messages of sampling: SamplingParams.RULES, the one table of them
              └─ what this server cannot do: only its neutral value is legal (presence_penalty 0, tools null)

Nothing is ignored: a field that is not written here is refused by name, and so is a value that would change
the answer and cannot. Beside OpenAI's there are vLLM's extra fields of sampling (top_k, ignore_eos, …).
Notebook 15.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from aiinfra.engine.sampling_params import RULES, SamplingParams
from aiinfra.serve.refusal import Refusal

MOST_LOGPROBS = 20
_MOST_STOPS, _LONGEST_STOP = 16, 256
_MOST_PROMPTS = 1_024
_COMPLETION_TOKENS = 16                  # of a completion that says nothing of its length, as at OpenAI
_MOST_FIELDS = 100                       # of an object; more are told by one error, not by one each
_MOST_NOTES = 16                         # pairs of metadata, as at OpenAI

# A list ends at its first fault: a million errors would take seconds, and gigabytes, to be written down.
Strings = Annotated[list[str], Field(fail_fast=True)]
Ids = Annotated[list[int], Field(fail_fast=True)]
StopIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]
TextPrompts = str | Strings
IdPrompts = Ids | Annotated[list[Ids], Field(fail_fast=True)]


def ruled(name: str, default: Any) -> Any:
    """A field with the limits of `SamplingParams`' rule of that name."""
    rule = RULES[name]
    limits: dict[str, Any] = {"description": f"{rule.limit}; {rule.remedy}".replace("{", "").replace("}", "")}
    if rule.low is not None:
        limits["gt" if rule.above_low else "ge"] = rule.low
    if isinstance(rule.high, int | float):
        limits["le"] = rule.high
    return Field(default, **limits)


def only(*values: Any) -> Any:
    """The type of a field that this server cannot heed: nothing but these values, or null, is legal."""
    def check(value: Any) -> Any:
        if value is None or value in values:
            return value
        said = " or ".join(["null", *map(json.dumps, values)])
        message = "it is not supported here: leave it out, or send {said}"
        raise PydanticCustomError("only", message, {"said": said})
    return Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": [None, *values]})]


def bounded(most: int) -> Callable[[Any], Any]:
    """A check of an object, before its fields are looked at: has it at most so many?"""
    def check(given: Any) -> Any:
        if isinstance(given, dict) and len(given) > most:
            message = "an object here may have at most {most} fields; this one has {count}: leave some out"
            raise PydanticCustomError("fields", message, {"most": most, "count": len(given)})
        return given
    return check


Notes = Annotated[dict[str, str], Field(max_length=_MOST_NOTES), BeforeValidator(bounded(_MOST_NOTES))]


class Form(BaseModel):
    """Unknown fields are errors, and so are numbers in quotes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    few_fields = model_validator(mode="before")(bounded(_MOST_FIELDS))


class StreamOptions(Form):
    """What a stream says beside the answer."""

    include_usage: bool | None = None                  # a last chunk without choices has the usage
    continuous_usage_stats: bool | None = None         # every chunk has the usage so far
    include_obfuscation: only(False) = None


class AnswerRequest(Form):
    """What both forms share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = ruled("n", None)
    temperature: float | None = ruled("temperature", None)
    top_p: float | None = ruled("top_p", None)
    seed: int | None = ruled("seed", None)
    max_tokens: int | None = ruled("max_tokens", None)
    stop: str | Strings | None = Field(None, description=RULES["stop"].limit)

    # vLLM's
    top_k: int | None = ruled("top_k", None)
    min_p: float | None = ruled("min_p", None)
    repetition_penalty: float | None = ruled("repetition_penalty", None)
    min_tokens: int | None = Field(None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: StopIds | None = Field(None, max_length=_MOST_PROMPTS)

    # Who asks: it has no bearing on the answer, there as here.
    user: str | None = None

    # What would change the answer, and cannot.
    presence_penalty: only(0) = None
    frequency_penalty: only(0) = None
    logit_bias: only({}) = None
    include_stop_str_in_output: only(False) = None
    skip_special_tokens: only(True) = None
    use_beam_search: only(False) = None

    # What routers write into every request that passes (sglang-router 0.3, vllm-router 0.1): their own
    # defaults, which ask for what is done here anyway.
    no_stop_trim: only(False) = None
    return_hidden_states: only(False) = None
    continue_final_message: only(False) = None
    separate_reasoning: only(True) = None
    stream_reasoning: only(True) = None
    include_reasoning: only(True) = None

    def sampling(self, logprobs: int | None, max_tokens: int | None) -> SamplingParams:
        """As the engine knows it. Raises Refusal with the rule that is broken."""
        self._check_stops()
        names = ("n", "temperature", "top_p", "seed", "stop", "top_k", "min_p", "repetition_penalty",
                 "min_tokens", "ignore_eos", "stop_token_ids")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if "stop" in given and not isinstance(given["stop"], str):
            given["stop"] = tuple(given["stop"])
        try:
            return SamplingParams(**given, logprobs=logprobs, max_tokens=max_tokens)
        except ValueError as error:
            name = str(error).partition("=")[0]
            raise Refusal(400, str(error), param=name) from error

    @property
    def streams(self) -> bool:
        """True if the answer is to come piece by piece. Raises Refusal for options of a stream without
        one."""
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options belongs to a stream: leave it out, or set stream to true.",
                          param="stream_options")
        return bool(self.stream)

    def _check_stops(self) -> None:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > _MOST_STOPS:
            raise Refusal(400, f"stop has {len(stops):,} strings; at most {_MOST_STOPS} are looked for. "
                               "Leave some out.", param="stop")
        longest = max(map(len, stops), default=0)
        if longest > _LONGEST_STOP:
            raise Refusal(400, f"stop has a string of {longest:,} characters; it may have "
                               f"{_LONGEST_STOP}. Shorten it.", param="stop")


class CompletionRequest(AnswerRequest):
    """POST /v1/completions."""

    asks: ClassVar[str] = "prompt"                     # the field that has the question
    prompt: TextPrompts | IdPrompts
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    best_of: int | None = ruled("n", None)
    echo: only(False) = None
    suffix: only("") = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, each a text or token ids. Raises Refusal for none, and for too many."""
        prompt = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        if not 1 <= len(prompt) <= _MOST_PROMPTS:
            raise Refusal(400, f"prompt has {len(prompt):,} prompts; it must be 1 to {_MOST_PROMPTS:,}.",
                          param="prompt")
        return list(prompt)

    @property
    def asked_tokens(self) -> int | None:
        """The limit that the client wrote."""
        return self.max_tokens

    @property
    def params(self) -> SamplingParams:
        """How to answer. Raises Refusal."""
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise Refusal(400, f"best_of={self.best_of}; it must be n={self.n or 1}: no answers are made and "
                               "thrown away here. Ask for n, and choose.", param="best_of")
        max_tokens = self.max_tokens
        if "max_tokens" not in self.model_fields_set:
            max_tokens = _COMPLETION_TOKENS
        return self.sampling(self.logprobs, max_tokens)


class TextPart(Form):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Form):
    """One turn of a conversation. What OpenAI's client echoes of an answer is legal, as long as it is
    empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: str | None = None
    refusal: only() = None
    audio: only() = None
    annotations: only([]) = None
    tool_calls: only([]) = None
    function_call: only() = None

    @property
    def as_template_knows_it(self) -> dict[str, Any]:
        """With its text in one piece, parts a line each as in vLLM; a developer is who was called system
        before."""
        text = self.content
        if not isinstance(text, str):
            text = "\n".join(part.text for part in text)
        role = "system" if self.role == "developer" else self.role
        message = {"role": role, "content": text}
        if self.name is not None:
            message["name"] = self.name
        return message


class ChatRequest(AnswerRequest):
    """POST /v1/chat/completions."""

    asks: ClassVar[str] = "messages"
    messages: Annotated[list[Message], Field(fail_fast=True)] = Field(min_length=1)
    max_completion_tokens: int | None = ruled("max_tokens", None)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    # Notes about the request that have no bearing on the answer.
    metadata: Notes | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: only({}) = None
    prompt_cache_retention: only("in_memory") = None

    # What would change the answer, and cannot.
    tools: only([]) = None
    tool_choice: only("none") = None
    parallel_tool_calls: only(True) = None
    functions: only([]) = None
    function_call: only("none") = None
    response_format: only({"type": "text"}) = None
    reasoning_effort: only("none") = None
    verbosity: only("medium") = None
    moderation: only() = None
    modalities: only(["text"]) = None
    audio: only() = None
    prediction: only() = None
    web_search_options: only() = None
    service_tier: only("auto", "default") = None
    store: only(False) = None

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages, as a template knows them."""
        return [message.as_template_knows_it for message in self.messages]

    @property
    def asked_tokens(self) -> int | None:
        """The limit that the client wrote, under either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def params(self) -> SamplingParams:
        """How to answer. Raises Refusal."""
        if self.top_logprobs and not self.logprobs:
            raise Refusal(400, f"top_logprobs={self.top_logprobs} without logprobs: set logprobs to true, "
                               "too.", param="top_logprobs")
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise Refusal(400, f"max_tokens={old} and max_completion_tokens={new} are two names of one "
                               "limit: send one.", param="max_tokens")
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(logprobs, self.asked_tokens)
