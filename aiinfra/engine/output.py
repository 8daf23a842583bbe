"""What a user of `LLM` or of the server gets: a request and its answers, whose text only grows.

    token ─ stream decoder ─> characters ─ stop strings ─> text     no half character leaves, and nothing that
                                │                                   may yet turn out to begin a stop string
                                └─ held back until it is known what it becomes

Invariant: the text that a stream has shown is a beginning of the text at the end. Notebook 15.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aiinfra.checkpoint import StreamDecoder, Tokenizer
from aiinfra.engine.record import Logprob, Made
from aiinfra.engine.sampling_params import SamplingParams


@dataclass
class CompletionOutput:
    """One answer of a request's n. Both kinds of log-probabilities are None unless asked for."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None                  # the sum over the tokens made
    logprobs: list[dict[int, Logprob]] | None = None         # of each token: itself and the likeliest, by id
    # "stop" (end of sequence, stop string or id), "length", "error" (the logits were not numbers); None: it
    # grows.
    finish_reason: str | None = None
    stop_reason: int | str | None = None                     # the stop string or id that ended it, if one did


@dataclass
class RequestOutput:
    """A request and its answers so far."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    num_cached_tokens: int | None = None                     # of the prompt, found in the cache; None: waits

    @property
    def finished(self) -> bool:
        """True once every answer has a finish_reason."""
        return all(output.finish_reason for output in self.outputs)


class AnswerText:
    """One answer's text, as its tokens come in: `out` grows. silent: ids that end an answer and are not
    shown."""

    def __init__(self, out: CompletionOutput, params: SamplingParams, silent: frozenset[int],
                 tokenizer: Tokenizer) -> None:
        self.out = out
        self.params = params
        self.tokenizer = tokenizer
        self.silent = silent                       # ids that end an answer and are not shown
        self.decoder = StreamDecoder(tokenizer)
        self.decoded = ""                          # the text shown may lag behind it
        self.protected = 0                         # characters of the first min_tokens, free of stop strings
        if params.logprobs is not None:
            out.logprobs = []
            out.cumulative_logprob = 0.0

    def push(self, made: Made) -> None:
        """Add one token; sets finish_reason at the end."""
        out = self.out
        if made.token_id is not None:
            out.token_ids.append(made.token_id)
            if made.token_id not in self.silent:
                self.decoded += self.decoder.push(made.token_id)
        if made.logprobs is not None:
            self._tell(made.logprobs)
            out.cumulative_logprob += made.logprobs[made.token_id].logprob
        final = bool(made.finish_reason)
        if final:
            self.decoded += self.decoder.flush()
        if len(out.token_ids) <= self.params.min_tokens:
            self.protected = len(self.decoded)
        shown = max(self.protected, len(out.text))         # no stop string begins before
        rest, stop = cut_at_stop(self.decoded[shown:], self.params.stop, final)
        out.text = self.decoded[:shown] + rest
        out.finish_reason = made.finish_reason
        if stop is not None:
            out.finish_reason, out.stop_reason = "stop", stop
        elif made.finish_reason == "stop" and made.token_id in self.params.stop_token_ids:
            out.stop_reason = made.token_id

    def _tell(self, logprobs: dict[int, Logprob]) -> None:
        """Add the log-probabilities of one token, each with its text."""
        told = {}
        for token, one in logprobs.items():
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            told[token] = replace(one, decoded_token=text)
        self.out.logprobs.append(told)


def cut_at_stop(text: str, stops: Sequence[str], final: bool) -> tuple[str, str | None]:
    """`text` up to the first stop string, and that string, if there was one. Unless `final`, also without an
    ending that may yet grow into a stop string, so that what a stream has shown is never taken back."""
    found = [stop for stop in stops if stop in text]
    if found:
        first = min(found, key=text.find)
        return text[:text.find(first)], first
    if final:
        return text, None
    held = 0
    for stop in stops:
        for n in range(held + 1, min(len(stop), len(text) + 1)):
            if text.endswith(stop[:n]):
                held = n
    return text[:len(text) - held], None
