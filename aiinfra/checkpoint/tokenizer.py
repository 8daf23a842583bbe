"""Text to token ids and back. Rust does the byte-pair merging; this file says which rules to load.

    tokenizer.json ──────────┐
                             ├──> Tokenizer.encode / decode / chat / stream
    GGUF metadata ─(rebuilt)─┘

Ids are whole bytes, not whole characters: one emoji can be four tokens. A stream must therefore hold
back what is not yet a character (`StreamDecoder`). Notebook 15 sends these pieces over a network.
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from aiinfra.checkpoint import chat_template
from aiinfra.errors import LoadError, reading
from aiinfra.files import read_json, write_json, write_text

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CONTROL, _USER_DEFINED = 3, 4                                # tokenizer.ggml.token_type


class Tokenizer:
    """A model's vocabulary, its special tokens and its chat template."""

    def __init__(self, backend: tokenizers.Tokenizer, template: str | None = None,
                 bos_token: str = "", eos_token: str = "", eos_ids: tuple[int, ...] = ()) -> None:
        self.backend = backend
        self.chat_template = template
        self.bos_token, self.eos_token = bos_token, eos_token
        self.eos_ids = eos_ids

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """From a Hugging Face folder: tokenizer.json, tokenizer_config.json, chat_template.jinja."""
        folder = Path(folder).resolve()
        path = folder / "tokenizer.json"
        if not path.exists():
            raise LoadError(f"{folder.name} has no tokenizer.json. Save it with the model (transformers: "
                            "AutoTokenizer.from_pretrained(…).save_pretrained(folder)).")
        read_json(path)                                       # a clear error for what is not JSON
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:                            # the Rust side raises bare Exception
            raise LoadError(f"{folder.name}/tokenizer.json cannot be used ({error}).") from error
        side = folder / "tokenizer_config.json"
        config = read_json(side) if side.exists() else {}
        template_file = folder / "chat_template.jinja"
        template = config.get("chat_template")
        if template_file.exists():
            with reading(f"{folder.name}/{template_file.name}"):
                template = template_file.read_text(encoding="utf-8")
        if isinstance(template, list):                        # several, by name: transformers 4's form
            template = {one.get("name"): one.get("template") for one in template}.get("default")
        eos = _content(config.get("eos_token"))
        eos_id = backend.token_to_id(eos) if eos else None
        return cls(
            backend,
            template=template,
            bos_token=_content(config.get("bos_token")),
            eos_token=eos,
            eos_ids=_ids(eos_id))

    @classmethod
    def from_gguf(cls, meta: dict[str, Any], source: str) -> "Tokenizer":
        """From a GGUF file's metadata. Raises LoadError for a kind that is not supported."""
        kind = meta.get("tokenizer.ggml.model")
        builders = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}
        if kind not in builders:
            raise LoadError(f"{source}: tokenizer {kind!r} is not supported. "
                            f"Supported: {', '.join(builders)}.")
        with reading(source):
            tokens = meta["tokenizer.ggml.tokens"]
            try:
                backend = builders[kind](meta, source)
            except (LookupError, LoadError):
                raise
            except Exception as error:                        # the Rust side raises bare Exception
                raise LoadError(f"{source}: its tokenizer cannot be used ({error}).") from error
        _add_special_tokens(backend, meta)
        bos = meta.get("tokenizer.ggml.bos_token_id")
        eos = meta.get("tokenizer.ggml.eos_token_id")
        if bos is not None and meta.get("tokenizer.ggml.add_bos_token", kind == "llama"):
            first = _text_of(bos, tokens)
            backend.post_processor = processors.TemplateProcessing(
                single=f"{first} $A",
                pair=f"{first} $A {first} $B",
                special_tokens=[(first, bos)])
        return cls(
            backend,
            template=meta.get("tokenizer.chat_template"),
            bos_token=_text_of(bos, tokens),
            eos_token=_text_of(eos, tokens),
            eos_ids=_ids(eos))

    def save(self, folder: str | Path) -> None:
        """Write what `from_folder` and transformers read: tokenizer.json, tokenizer_config.json and, if the
        model has one, chat_template.jinja."""
        folder = Path(folder)
        special = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {name: token for name, token in special.items() if token}
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(folder / "tokenizer_config.json", config)
        if self.chat_template:
            write_text(folder / "chat_template.jinja", self.chat_template)
        else:
            (folder / "chat_template.jinja").unlink(missing_ok=True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Special tokens written in it are recognised, as in transformers. Raises
        ValueError for text that is no Unicode (bytes that were not UTF-8)."""
        if any("\ud800" <= c <= "\udfff" for c in text):              # how Python carries such bytes
            raise ValueError(f"the text is not valid Unicode: {ascii(text[:40])}. Convert it to UTF-8 first.")
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that form no character come out as U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def render_chat(self, messages: list[chat_template.Message], add_generation_prompt: bool = True) -> str:
        """The messages as the one text that the model was trained to continue."""
        if not self.chat_template:
            raise ValueError("this model has no chat template: it was not trained to chat. "
                             "Use generate with a prompt.")
        return chat_template.render(
            self.chat_template,
            messages,
            add_generation_prompt,
            bos_token=self.bos_token,
            eos_token=self.eos_token)

    def encode_chat(self, messages: list[chat_template.Message],
                    add_generation_prompt: bool = True) -> list[int]:
        """Token ids of the rendered chat; the template writes the special tokens itself."""
        return self.encode(self.render_chat(messages, add_generation_prompt), add_special_tokens=False)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.backend.get_vocab_size()


class StreamDecoder:
    """Decodes ids one by one; `push` returns only text that later ids cannot change.

    Invariant: the pieces, joined, equal `decode` of all ids. A window of ids since the last whole
    character is decoded twice, with and without the new id; the difference is the new text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.start = 0          # the window's first id: context for decoders that strip a leading space
        self.shown = 0          # ids whose text has been returned

    def push(self, token_id: int) -> str:
        """The text that this id completes: possibly empty, never half a character."""
        self.ids.append(token_id)
        before = self.tokenizer.decode(self.ids[self.start:self.shown])
        after = self.tokenizer.decode(self.ids[self.start:])
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self.start, self.shown = self.shown, len(self.ids)
        return after[len(before):]

    def flush(self) -> str:
        """What was still held back, at the end of a stream; broken bytes come out as U+FFFD."""
        before = self.tokenizer.decode(self.ids[self.start:self.shown])
        after = self.tokenizer.decode(self.ids[self.start:])
        self.start = self.shown = len(self.ids)
        return after[len(before):]


def _content(token: Any) -> str:
    """tokenizer_config.json writes a token as a string or as an object with its content."""
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _text_of(token_id: int | None, tokens: list[str]) -> str:
    return "" if token_id is None else tokens[token_id]


def _ids(token_id: int | None) -> tuple[int, ...]:
    return () if token_id is None else (token_id,)


def _add_special_tokens(backend: tokenizers.Tokenizer, meta: dict[str, Any]) -> None:
    """Tokens that are matched whole, before any merging: those that steer the model, and the user's."""
    types = meta.get("tokenizer.ggml.token_type", [])
    control, user_defined = [], []
    for token, kind in zip(meta["tokenizer.ggml.tokens"], types):
        if kind == _CONTROL:
            control.append(AddedToken(token, normalized=False, special=True))
        elif kind == _USER_DEFINED:
            user_defined.append(AddedToken(token, normalized=False))
    backend.add_special_tokens(control)
    backend.add_tokens(user_defined)


def _byte_level_bpe(meta: dict[str, Any], source: str) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate(meta["tokenizer.ggml.tokens"])}
    merges = [tuple(pair.split(" ", 1)) for pair in meta["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = _split_rules(meta.get("tokenizer.ggml.pre", "default"), source)
    backend.decoder = decoders.ByteLevel()
    return backend


def _split_rules(name: str, source: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut before merging: a model that learnt on single digits must be fed single digits."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in ("default", "gpt-2"):
        return plain
    if name in ("smollm", "starcoder", "refact", "command-r"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    if name in ("llama-bpe", "llama3", "llama-v3", "qwen2"):
        pattern = _QWEN2 if name == "qwen2" else _LLAMA3
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    raise LoadError(f"{source}: pre-tokenizer {name!r} is not supported. Supported: default, gpt-2, smollm, "
                    "starcoder, refact, command-r, llama-bpe, qwen2.")


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
