"""Text to token ids and back. Rust does the byte-pair merging; which rules it follows is read elsewhere.

    tokenizer.json and its companions ─ huggingface_tokenizer.py ──┐
                                                                   ├──> encode / decode / chat / stream
    GGUF metadata ─ gguf_tokenizer.py ─────────────────────────────┘

Ids are whole bytes, not whole characters: one emoji can be four tokens. A stream must therefore hold
back what is not yet a character (`StreamDecoder`). Notebook 15 sends these pieces over a network.
"""

from pathlib import Path
from typing import Any

import tokenizers

from aiinfra.checkpoint import chat_template
from aiinfra.checkpoint.token_bytes import bytes_of, is_byte_level
from aiinfra.checkpoint.gguf_tokenizer import vocabulary_from_gguf
from aiinfra.checkpoint.huggingface_tokenizer import vocabulary_from_folder
from aiinfra.checkpoint.vocabulary import Vocabulary
from aiinfra.files import write_json, write_text

_LONG = 10_000                       # characters that are tokenized in about ten milliseconds


class Tokenizer:
    """A model's vocabulary, its special tokens and its chat template."""

    def __init__(self, backend: tokenizers.Tokenizer, template: str | None = None,
                 eos_ids: tuple[int, ...] = (), **special: str) -> None:
        """special: tokens by role, as `bos_token="<s>"`."""
        self.backend = backend
        self.chat_template = template
        self.eos_ids = eos_ids
        self.special = special
        # Byte by byte, where a piece is missing (Llama 2): a run of bytes is read as a whole.
        self._bytes_apart = self.backend.decoder.decode(["<0x41>"]) == "A"
        self._byte_level = is_byte_level(self.backend)
        self._added = self.backend.get_added_tokens_decoder()

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """From a Hugging Face folder. Raises LoadError, naming the file, for what cannot be read."""
        return cls._of(vocabulary_from_folder(folder))

    @classmethod
    def from_gguf(cls, meta: dict[str, Any], source: str) -> "Tokenizer":
        """From a GGUF file's metadata. Raises LoadError for a kind that is not supported."""
        return cls._of(vocabulary_from_gguf(meta, source))

    @classmethod
    def _of(cls, found: Vocabulary) -> "Tokenizer":
        return cls(found.backend, template=found.template, eos_ids=found.eos_ids, **found.special)

    @property
    def bos_token(self) -> str:
        """What begins a text, empty if there is no such token."""
        return self.special.get("bos_token", "")

    @property
    def eos_token(self) -> str:
        """What ends a text, empty if there is no such token."""
        return self.special.get("eos_token", "")

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`, which is one of `eos_ids`."""
        return self.backend.token_to_id(self.eos_token)

    def save(self, folder: str | Path) -> None:
        """Write what `from_folder` and transformers read: tokenizer.json, tokenizer_config.json and, if the
        model has one, chat_template.jinja."""
        folder = Path(folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= self.special
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(folder / "tokenizer_config.json", config)
        if self.chat_template:
            write_text(folder / "chat_template.jinja", self.chat_template)
        else:
            (folder / "chat_template.jinja").unlink(missing_ok=True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Special tokens written in it are recognised, as in transformers. Raises
        ValueError for text that is no Unicode (bytes that were not UTF-8)."""
        try:
            text.encode()
        except UnicodeEncodeError as error:                          # half a surrogate is such a byte
            said = f"the text is not valid Unicode: {ascii(text[:40])}. Convert it to UTF-8 first."
            raise ValueError(said) from error
        if len(text) > _LONG:                      # other threads go on, which `encode` keeps waiting
            [found] = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return found.ids
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that form no character come out as U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for, which may be a part of a character; b"" for an unknown id."""
        text = self.backend.id_to_token(token_id)
        if text is None:
            return b""
        if token_id in self._added:
            return text.encode()
        return bytes_of(text, self._byte_level)

    def render_chat(self, messages: list[chat_template.Message], add_generation_prompt: bool = True) -> str:
        """The messages as the one text that the model was trained to continue."""
        if not self.chat_template:
            raise ValueError("this model has no chat template: it was not trained to chat. "
                             "Use generate with a prompt.")
        return chat_template.render(self.chat_template, messages, add_generation_prompt, **self.special)

    def apply_chat_template(self, conversation: list[chat_template.Message], tokenize: bool = True,
                            add_generation_prompt: bool = False) -> str | list[int]:
        """The chat as ids, or as text; under transformers' name and with its defaults."""
        if tokenize:
            return self.encode_chat(conversation, add_generation_prompt)
        return self.render_chat(conversation, add_generation_prompt)

    def encode_chat(self, messages: list[chat_template.Message],
                    add_generation_prompt: bool = True) -> list[int]:
        """Token ids of the rendered chat; the template writes the special tokens itself."""
        return self.encode(self.render_chat(messages, add_generation_prompt), add_special_tokens=False)

    def may_go_on(self, token_id: int) -> bool:
        """True if the text of what comes before may still change after this id: it is a byte of a run whose
        end decides how all its bytes are read, or it is not shown at all."""
        text = self.backend.id_to_token(token_id)
        if text is None:
            return True
        if self._bytes_apart and len(text) == 6 and text.startswith("<0x"):
            return True
        added = self._added.get(token_id)
        return added is not None and added.special

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.backend.get_vocab_size()


class StreamDecoder:
    """Decodes ids one by one; `push` returns only text that later ids cannot change.

    Invariant: the pieces, joined, equal `decode` of all ids. A window of ids since the last whole
    character is decoded twice, with and without the new id; the difference is the new text. Where bytes are
    tokens of their own, one that is wrong spoils its whole run, so a run is held back until it has ended.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.start = 0          # the window's first id: context for decoders that strip a leading space
        self.shown = 0          # ids whose text has been returned

    def push(self, token_id: int) -> str:
        """The text that this id completes: possibly empty, never half a character."""
        self.ids.append(token_id)
        if self.tokenizer.may_go_on(token_id):
            return ""
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
