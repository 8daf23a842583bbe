"""What a tokenizer's files hold, whatever their format; and the ends of answers that go without saying.

    huggingface_tokenizer.py ──┐
                               ├──> Vocabulary ──> Tokenizer
    gguf_tokenizer.py ─────────┘

Where an answer ends is said in up to five places, and files forget some of them. An answer ends at every id
that any of them names: config.json and generation_config.json, the end of sequence of the tokenizer, GGUF's
eos, eot and eom, and the tokens of `ends_by_text`, which stand for nothing else. Too few ends let an answer
run to its limit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import tokenizers

# Source: llama.cpp, src/llama-vocab.cpp, "tokens that cause end-of-generation".
_END_TEXTS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>",
))
_HARMONY = frozenset(("<|return|>", "<|call|>"))      # where both are, <|end|> only ends a message


@dataclass(frozen=True)
class Vocabulary:
    """The rules of a tokenizer, ready for use."""

    backend: tokenizers.Tokenizer
    special: Mapping[str, str]            # role -> text: "bos_token", "pad_token", …; those that exist
    eos_ids: tuple[int, ...] = ()         # that end an answer
    template: str | None = None           # of chats


def ends_by_text(tokens: Iterable[tuple[str, int]]) -> list[int]:
    """The ids of those (text, id) that end an answer wherever they occur."""
    found = {text: token_id for text, token_id in tokens if text in _END_TEXTS}
    if _HARMONY <= found.keys():
        found.pop("<|end|>", None)
    return list(found.values())
