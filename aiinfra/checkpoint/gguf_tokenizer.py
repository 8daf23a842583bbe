"""The tokenizer in a GGUF file's metadata. The file names its rules; what they are, llama.cpp knows.

    text ─ special tokens ─ cuts, one pattern after another ─ merges ──> ids

`tokenizer.ggml.pre` names a kind, and a kind is more than its patterns: some look a word up before they
merge, some begin every prompt with BOS. Source: llama.cpp, src/llama-vocab.cpp; the patterns are those that
the models were published with.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from aiinfra.checkpoint.vocabulary import Vocabulary, ends_by_text
from aiinfra.errors import LoadError, reading

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4                   # tokenizer.ggml.token_type
# role -> the file's key, under tokenizer.ggml
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
          "sep_token": "seperator", "mask_token": "mask", "cls_token": "cls"}

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"                      # don't, we'll
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+~|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*~"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES


@dataclass(frozen=True)
class _Kind:
    """A pre-tokenizer, and what goes with it."""

    cuts: tuple[str, ...]                 # each cuts what the ones before it left
    words_first: bool = False             # a word that is a token is taken whole: no merging
    begins: bool = False                  # BOS first, unless the file says otherwise


def _named(names: str, kind: _Kind) -> dict[str, _Kind]:
    return dict.fromkeys(names.split(), kind)


_KINDS = {
    **_named("gpt-2 phi-2 mpt olmo jais trillion gigachat a.x-4.0 mellum exaone4", _Kind((_GPT2,))),
    **_named("smollm starcoder refact command-r codeshell exaone minerva-7b", _Kind((r"\p{N}", _GPT2))),
    **_named("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
             _Kind((_LLAMA3,), words_first=True, begins=True)),
    **_named("dbrx smaug-bpe", _Kind((_LLAMA3,))),
    **_named("qwen2 deepseek-r1-qwen megrez kormo f2llmv2 stablelm2 hunyuan solar-open", _Kind((_QWEN2,))),
    **_named("tekken", _Kind((_WORDS.replace("~", "") + r"|\p{N}" + _SIGNS,), words_first=True, begins=True)),
    **_named("gpt-4o llama4 kanana2", _Kind((_WORDS.replace("~", _SHORT + "?") + r"|\p{N}{1,3}" + _SIGNS,))),
    **_named("deepseek-coder", _Kind((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"))),
    **_named("default", _Kind((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
}


def vocabulary_from_gguf(meta: dict[str, Any], source: str) -> Vocabulary:
    """From a GGUF file's metadata. Raises LoadError for a kind that is not supported."""
    model = meta.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}
    if model not in builders:
        raise LoadError(f"{source}: tokenizer {model!r} is not supported. Supported: {', '.join(builders)}.")
    with reading(source):
        tokens = meta["tokenizer.ggml.tokens"]
        try:
            backend = builders[model](meta, source)
        except (LookupError, LoadError):
            raise
        except Exception as error:                            # the Rust side raises bare Exception
            raise LoadError(f"{source}: its tokenizer cannot be used ({error}).") from error
        ends = list(_ends(meta, tokens))
        _add_whole_tokens(backend, meta, ends)
        special = {role: tokens[i] for role, i in _special_ids(meta).items()}
        _frame(backend, meta, special)
    return Vocabulary(
        backend=backend,
        special=special,
        eos_ids=tuple(dict.fromkeys(ends)),
        template=meta.get("tokenizer.chat_template"))


def _special_ids(meta: dict[str, Any]) -> dict[str, int]:
    found = {role: meta.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLES.items()}
    return {role: token_id for role, token_id in found.items() if token_id is not None}


def _ends(meta: dict[str, Any], tokens: list[str]) -> Iterator[int]:
    for name in ("eos", "eot", "eom"):
        if (token_id := meta.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            yield token_id
    yield from ends_by_text(zip(tokens, range(len(tokens))))


def _add_whole_tokens(backend: tokenizers.Tokenizer, meta: dict[str, Any], ends: list[int]) -> None:
    """Tokens that are matched whole, before any merging: those that steer the model, and the user's. An end
    is one of the former, whatever the file says of it."""
    tokens = meta["tokenizer.ggml.tokens"]
    types = list(meta.get("tokenizer.ggml.token_type", ()))
    types += [0] * (len(tokens) - len(types))
    for token_id in ends:
        types[token_id] = _CONTROL
    control, user_defined = [], []
    for token, kind in zip(tokens, types):
        if kind in (_CONTROL, _UNKNOWN):
            control.append(AddedToken(token, normalized=False, special=True))
        elif kind == _USER_DEFINED:
            user_defined.append(AddedToken(token, normalized=False))
    backend.add_special_tokens(control)
    backend.add_tokens(user_defined)


def _frame(backend: tokenizers.Tokenizer, meta: dict[str, Any], special: dict[str, str]) -> None:
    """Put BOS before a prompt and EOS after it, where the file or its kind asks for that."""
    begins = meta["tokenizer.ggml.model"] == "llama" or _KINDS[_pre(meta)].begins
    parts = ["$A"]
    if "bos_token" in special and meta.get("tokenizer.ggml.add_bos_token", begins):
        parts.insert(0, special["bos_token"])
    if "eos_token" in special and meta.get("tokenizer.ggml.add_eos_token", False):
        parts.append(special["eos_token"])
    named = [(text, backend.token_to_id(text)) for text in parts if text != "$A"]
    if named:
        backend.post_processor = processors.TemplateProcessing(single=parts, special_tokens=named)


def _pre(meta: dict[str, Any]) -> str:
    return meta.get("tokenizer.ggml.pre") or "default"


def _byte_level_bpe(meta: dict[str, Any], source: str) -> tokenizers.Tokenizer:
    """GPT-2's kind: every byte is a letter, so that nothing is unknown."""
    name = _pre(meta)
    if name not in _KINDS:
        raise LoadError(f"{source}: pre-tokenizer {name!r} is not supported. Supported: {', '.join(_KINDS)}.")
    kind = _KINDS[name]
    vocab = {token: i for i, token in enumerate(meta["tokenizer.ggml.tokens"])}
    merges = [tuple(pair.split(" ", 1)) for pair in meta["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=kind.words_first))
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in kind.cuts]
    as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, as_letters])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece_bpe(meta: dict[str, Any], source: str) -> tokenizers.Tokenizer:
    """Llama 2's kind: pieces with scores. A pair merges if its union is a piece; better scores first."""
    tokens, scores = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.scores"]
    vocab = {token: i for i, token in enumerate(tokens)}
    ranked = []
    for token, i in vocab.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                ranked.append((-scores[i], vocab[left], vocab[right], (left, right)))
    merges = [pair for *_, pair in sorted(ranked)]
    unknown = meta.get("tokenizer.ggml.unknown_token_id")
    model = models.BPE(
        vocab=vocab,
        merges=merges,
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if unknown is None else tokens[unknown])
    to_pieces = [normalizers.Replace(" ", "▁")]
    to_text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if meta.get("tokenizer.ggml.add_space_prefix", True):
        to_pieces.insert(0, normalizers.Prepend("▁"))
        to_text.append(decoders.Strip(" ", 1, 0))
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(to_pieces)
    backend.decoder = decoders.Sequence(to_text)
    return backend
