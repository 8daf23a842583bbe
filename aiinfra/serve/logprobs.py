"""Log-probabilities as OpenAI writes them, in two ways that are often mixed up.

    chat           content: [{token, logprob, bytes, top_logprobs: [{token, logprob, bytes}, …]}, …]
    completions    tokens: […], token_logprobs: […], top_logprobs: [{text: logprob}, …], text_offset: […]

A token is bytes, and not always text: one emoji may be four tokens. Chats have the raw bytes beside a text
that shows U+FFFD for them; completions, whose keys are texts, write such a token as bytes:\\xf0\\x9f, so that
no two fall together. JSON has no infinity: what is impossible has -9999, as in vLLM.
"""

import codecs
import math
from typing import Any

from aiinfra.checkpoint import Tokenizer
from aiinfra.engine.output import CompletionOutput
from aiinfra.engine.record import Logprob

_IMPOSSIBLE = -9999.0


def chat_logprobs(out: CompletionOutput, first: int, end: int, top: int,
                  tokenizer: Tokenizer) -> dict[str, Any]:
    """Of tokens `first` to `end` of an answer, each with the `top` likeliest, in a chat's form."""
    content = []
    for token, told in zip(out.token_ids[first:end], out.logprobs[first:end]):
        one = _chat_token(token, told[token], tokenizer)
        tops = likeliest(told, top)
        one["top_logprobs"] = [_chat_token(other, logprob, tokenizer) for other, logprob in tops]
        content.append(one)
    return {"content": content, "refusal": None}


def likeliest(told: dict[int, Logprob], top: int) -> list[tuple[int, Logprob]]:
    """The `top` likeliest of those told, in order."""
    ranked = sorted(told.items(), key=lambda item: -item[1].logprob)
    return ranked[:top]


def _chat_token(token: int, logprob: Logprob, tokenizer: Tokenizer) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": _finite(logprob.logprob), "bytes": list(raw)}


class CompletionLogprobs:
    """Of one answer of a completion, piece by piece: it knows where in the text the next token begins."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.offset = 0                                         # characters before the next token
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def piece(self, out: CompletionOutput, first: int, end: int, top: int) -> dict[str, Any]:
        """Of tokens `first` to `end`, which follow on those of the last piece, with the `top` likeliest."""
        tokens, logprobs, tops, offsets = [], [], [], []
        for token, told in zip(out.token_ids[first:end], out.logprobs[first:end]):
            tokens.append(self._name(token))
            logprobs.append(_finite(told[token].logprob))
            tops.append(self._tops(told, token, top))
            offsets.append(self.offset)
            if self.tokenizer.decode([token]):                  # special tokens are no part of the text
                self.offset += len(self._characters.decode(self.tokenizer.token_bytes(token)))
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}

    def _tops(self, told: dict[int, Logprob], chosen: int, top: int) -> dict[str, float]:
        """The likeliest and the one that was chosen, by their texts."""
        tops: dict[str, float] = {}
        shown = dict(likeliest(told, top))
        shown[chosen] = told[chosen]
        for token, logprob in shown.items():
            name = self._name(token)
            if name in tops:                                    # two ids with the same bytes
                name = f"token_id:{token}"
            tops[name] = _finite(logprob.logprob)
        return tops

    def _name(self, token: int) -> str:
        raw = self.tokenizer.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _IMPOSSIBLE
