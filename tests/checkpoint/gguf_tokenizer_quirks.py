"""Quirks of tokenizers in GGUF files: every kind of pre-tokenizer, pieces with scores, and chats.

What a kind does is written down here from llama.cpp's source: src/llama-vocab.cpp, `llm_tokenizer_bpe`
(patterns) and `llama_vocab::impl::load` (flags).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from tests.checkpoint.corpus_gguf import SPECIAL, WIDE, model_of, says_of, vocabulary_of, write
from tests.checkpoint.corpus_parts import (
    CHATML,
    LLAMA3_CUT,
    QWEN2_CUT,
    begins_with,
    byte_fallback,
    byte_level,
    small_model,
    with_a_word,
    wrap,
)
from tests.checkpoint.corpus_says import TEXTS, Says, logits_of, quirk, refused, renderer_of

# Pre-tokenizers. name: (patterns that cut one after another, words before merges, BOS by default)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LETTERS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PRE = {
    "gpt-2": ((GPT2,), False, False),
    "mpt": ((GPT2,), False, False),
    "olmo": ((GPT2,), False, False),
    "smollm": ((r"\p{N}", GPT2), False, False),
    "starcoder": ((r"\p{N}", GPT2), False, False),
    "refact": ((r"\p{N}", GPT2), False, False),
    "command-r": ((r"\p{N}", GPT2), False, False),
    "llama-bpe": ((LLAMA3_CUT,), True, True),
    "llama3": ((LLAMA3_CUT,), True, True),
    "falcon3": ((LLAMA3_CUT,), True, True),
    "smaug-bpe": ((LLAMA3_CUT,), False, False),
    "dbrx": ((LLAMA3_CUT,), False, False),
    "qwen2": ((QWEN2_CUT,), False, False),
    "deepseek-r1-qwen": ((QWEN2_CUT,), False, False),
    "megrez": ((QWEN2_CUT,), False, False),
    "tekken": ((LETTERS % ("", "") + r"|\p{N}" + REST,), True, True),
    "gpt-4o": ((LETTERS % (SHORT, SHORT) + r"|\p{N}{1,3}" + REST,), False, False),
    "deepseek-coder": ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"), False, False),
    "default": ((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), False, False),
}
HARD = (
    *TEXTS,
    "Ünder ÉCOLE aÉb iPhone HTTPServer",
    "x=1;y=(22+333)-4444",
    "a  12 \n\n 3'S WE'VE",
    "unreachable word",
    "١٢٣ Ⅷ ½",
    "$5.00 + `code` <b>^~|</b>",
    " \r\n \n\n end  ",
)


def pre_tokenizer(name: str, pre: str | None, **keys: Any) -> Callable[[Path], Says]:
    """A builder of a file with this pre-tokenizer, whose vocabulary has a word that no merges make."""
    patterns, words_first, bos = PRE[pre or "default"]

    def build(folder: Path) -> Says:
        backend = with_a_word(
            byte_level("<|begin|>", "<|end_of_mine|>"), "unreachable", ignore_merges=words_first
        )
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        if keys.get("add_bos_token", bos):
            backend.post_processor = begins_with(backend, "<|begin|>")
        model = small_model("llama", backend.get_vocab_size(), **WIDE)
        ids = {
            "bos_token_id": backend.token_to_id("<|begin|>"),
            "eos_token_id": backend.token_to_id("<|end_of_mine|>"),
        }
        path = write(folder / "m.gguf", model, vocabulary=vocabulary_of(backend, "gpt2", pre, **ids, **keys))
        return says_of(path, backend, logits_of(model), texts=HARD, ends={ids["eos_token_id"]})

    build.__name__ = name
    build.__module__ = __name__
    return build


for kind in PRE:
    quirk(pre_tokenizer(f"gguf_pre_tokenizer_{kind}", kind))
quirk(pre_tokenizer("gguf_no_pre_tokenizer", None))
quirk(pre_tokenizer("gguf_llama_bpe_that_denies_its_bos", "llama-bpe", add_bos_token=False))
quirk(pre_tokenizer("gguf_qwen_2_that_asks_for_a_bos", "qwen2", add_bos_token=True))


@refused("'martian'")
def gguf_a_pre_tokenizer_that_nobody_knows(folder: Path) -> Path:
    backend = byte_level(*SPECIAL)
    return write(folder / "m.gguf", model_of(), vocabulary=vocabulary_of(backend, "gpt2", "martian"))


@quirk
def gguf_an_end_after_the_prompt(folder: Path) -> Says:
    backend = byte_level(*SPECIAL)
    end = backend.token_to_id("<|end_of_mine|>")
    model = model_of()
    path = write(
        folder / "m.gguf",
        model,
        vocabulary=vocabulary_of(backend, "gpt2", "gpt-2", eos_token_id=end, add_eos_token=True),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|end_of_mine|>", special_tokens=[("<|end_of_mine|>", end)]
    )
    return says_of(path, backend, logits_of(model))


# SentencePiece


def pieces(folder: Path, backend: tokenizers.Tokenizer, **keys: Any) -> Says:
    """A Llama 2 file."""
    model = small_model("llama", backend.get_vocab_size(), **WIDE)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **keys}
    path = write(folder / "m.gguf", model, vocabulary=vocabulary_of(backend, "llama", **ids))
    return says_of(path, backend, logits_of(model), ends={2})


@quirk
def gguf_pieces(folder: Path) -> Says:
    return pieces(folder, byte_fallback("[INST]", "[/INST]"))


@quirk
def gguf_pieces_without_a_space_before(folder: Path) -> Says:
    backend = byte_fallback()
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
        ]
    )
    return pieces(folder, backend, add_space_prefix=False)


@quirk
def gguf_pieces_without_a_bos(folder: Path) -> Says:
    backend = byte_fallback()
    backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return pieces(folder, backend, add_bos_token=False)


@quirk
def gguf_pieces_and_a_users_tokens(folder: Path) -> Says:
    backend = byte_fallback()
    backend.add_tokens([AddedToken("cat", normalized=False), AddedToken("<|mine|>", normalized=False)])
    return pieces(folder, backend)


# Chats


@quirk
def gguf_template_and_all_its_tokens(folder: Path) -> Says:
    backend = byte_level(*SPECIAL)
    template = (
        "{% generation %}{{ bos_token }}{{ pad_token }}{{ unk_token }}{{ tools }}{% endgeneration %}" + CHATML
    )
    names = {
        "bos_token": "<|begin|>",
        "eos_token": "<|end_of_mine|>",
        "pad_token": "<|pad|>",
        "unk_token": "<|pad|>",
    }
    keys = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    ids = {f"{key}_token_id": backend.token_to_id(names[name]) for key, name in keys.items()}
    model = model_of()
    path = write(
        folder / "m.gguf",
        model,
        vocabulary=vocabulary_of(backend, "gpt2", "gpt-2", chat_template=template, **ids),
    )
    return says_of(
        path, backend, logits_of(model), render=renderer_of(wrap(backend, chat_template=template, **names))
    )


@quirk
def gguf_template_without_a_bos(folder: Path) -> Says:
    backend = byte_level(*SPECIAL)
    template = "{% if bos_token is defined %}B{% endif %}{{ bos_token }}" + CHATML
    model = model_of()
    path = write(
        folder / "m.gguf",
        model,
        vocabulary=vocabulary_of(
            backend,
            "gpt2",
            "gpt-2",
            chat_template=template,
            eos_token_id=backend.token_to_id("<|end_of_mine|>"),
        ),
    )
    return says_of(
        path,
        backend,
        logits_of(model),
        render=renderer_of(wrap(backend, chat_template=template, eos_token="<|end_of_mine|>")),
    )
