"""From a text file to documents, from documents to tokens, and which documents are kept for tests.

    file ──read_documents──► texts ──split_documents──► train │ validation │ test
                                                          │
                                    train_tokenizer ◄─────┤
                                          └──► tokenize ──┴──► Corpus

    Corpus.tokens   E t t t t E t t E t t t E        E: the token that ends a text and begins the next
                    └─ doc 0 ─┴ 1 ──┴ 2 ────┘

A model that has seen `E` at the start of each text can begin one, and one that has learnt to say `E` can end.
Invariant: the parts of a split share no text, not even two copies of one. Notebook 04.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from aiinfra.checkpoint.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
_MIN_VOCABULARY = 257           # a token for each byte, and the end of text


def read_documents(path: str | Path) -> list[str]:
    """The texts of a UTF-8 file, in order, without the space around them.

    Texts are divided by `<|endoftext|>` where the file has it, else by empty lines. Raises ValueError, naming
    the file, if it is empty or not text, and OSError if it cannot be read.
    """
    path = Path(path)
    raw = path.read_bytes()
    if b"\0" in raw:
        raise ValueError(f"{path.name} is not a text file: byte {raw.index(0):,} is 0. Give plain text in "
                         "UTF-8.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8: byte {error.start:,} is 0x{raw[error.start]:02X}. "
                         "Convert it first, for example with iconv.") from error
    lines = text.replace("\r\n", "\n")
    separator = END_OF_TEXT if END_OF_TEXT in lines else "\n\n"
    parts = [part.strip() for part in lines.split(separator)]
    documents = [part for part in parts if part]
    if not documents:
        raise ValueError(f"{path.name} has no text in it ({len(raw):,} bytes). Give it a document.")
    return documents


@dataclass(frozen=True)
class Split:
    """Texts to learn from, to choose by, and to judge by at the very end."""

    train: list[str]
    validation: list[str]
    test: list[str]


def split_documents(texts: Sequence[str], validation: float = 0.05, test: float = 0.05) -> Split:
    """Divide texts by what is in them, not by where they stand: each part gets its share, rounded down.

    The order of hashes decides, so the split is the same however the file is sorted, and copies of a text
    stay together. Raises ValueError unless the shares leave something to train on.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(f"validation={validation} and test={test} are shares; they must be at least 0 and "
                         "sum to less than 1.")
    distinct = sorted(set(texts), key=_fingerprint)
    first_test = int(len(distinct) * validation)
    first_train = first_test + int(len(distinct) * test)
    for_validation = set(distinct[:first_test])
    for_test = set(distinct[first_test:first_train])
    kept_out = for_validation | for_test
    return Split(
        train=[text for text in texts if text not in kept_out],
        validation=[text for text in texts if text in for_validation],
        test=[text for text in texts if text in for_test])


def _fingerprint(text: str) -> bytes:
    return hashlib.blake2b(text.encode()).digest()


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer learnt from `texts`: any text can be written in it, and comes back byte for
    byte.

    Id 0 is `<|endoftext|>`, which `encode` puts in front, as the model was trained. Fewer ids than asked for
    come out where the texts have no more pairs to merge. Raises ValueError for fewer ids than there are
    bytes.
    """
    if vocab_size < _MIN_VOCABULARY:
        raise ValueError(f"vocab_size={vocab_size}; it must be at least {_MIN_VOCABULARY}: one id for each "
                         f"byte, and one for {END_OF_TEXT}.")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, 0)])
    return Tokenizer(backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, eos_ids=(0,))


@dataclass(frozen=True)
class Corpus:
    """Documents as one flat row of token ids. Document d is tokens[starts[d]:starts[d + 1]], and what follows
    its last token is the first of the next: the end of text."""

    tokens: Tensor              # int32 [N + 1]
    starts: Tensor              # int64 [documents + 1], from 0 to N
    token_bytes: Tensor         # int64 [V]: bytes of text that each id stands for; special tokens have none
    learnt: Tensor | None = None     # bool [N + 1]: which tokens are learnt to be said; None: all

    def __len__(self) -> int:
        """Tokens that can be learnt from in one epoch, N."""
        return int(self.starts[-1])

    @property
    def documents(self) -> int:
        """How many texts."""
        return len(self.starts) - 1

    def digest(self) -> str:
        """A fingerprint of tokens and borders: two corpora with the same one give the same training."""
        found = hashlib.blake2b(self.tokens.numpy().tobytes(), digest_size=16)
        found.update(self.starts.numpy().tobytes())
        if self.learnt is not None:
            found.update(self.learnt.numpy().tobytes())
        return found.hexdigest()


def tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> Corpus:
    """Write each text in `tokenizer`'s ids, the end of text in front of it. Raises ValueError if it has no
    such token."""
    if not tokenizer.eos_ids:
        raise ValueError("this tokenizer has no end-of-text token: a model could not learn where texts end.")
    end = tokenizer.eos_ids[0]
    encodings = tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    ids = [[end, *encoding.ids] for encoding in encodings]
    lengths = torch.tensor([0, *map(len, ids)])
    flat = [one for document in ids for one in document]
    return Corpus(
        tokens=torch.tensor([*flat, end], dtype=torch.int32),
        starts=lengths.cumsum(0),
        token_bytes=bytes_of_tokens(tokenizer))


def tokenize_answers(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> Corpus:
    """As `tokenize`, for texts that are a question and its answer: the answer, and the end behind it, is
    learnt to be said; the question is only read. A chat is such a pair once its template has written it."""
    whole = tokenize([question + answer for question, answer in pairs], tokenizer)
    learnt = torch.zeros(len(whole) + 1, dtype=torch.bool)
    for document, (question, _) in enumerate(pairs):
        begin, end = whole.starts[document:document + 2].tolist()
        sizes = whole.token_bytes[whole.tokens[begin + 1:end]]
        ends_at = sizes.cumsum(0)
        # a token that the border cuts belongs to the answer
        learnt[begin + 1:end] = ends_at > len(question.encode())
        learnt[end] = True
    return replace(whole, learnt=learnt)


def bytes_of_tokens(tokenizer: Tokenizer) -> Tensor:
    """int64 [V]: how many bytes of text each id of a byte-level vocabulary stands for; 0 for special tokens.

    A byte-level vocabulary writes each byte as one character, so a token has as many bytes as characters.
    """
    backend = tokenizer.backend
    special = {one.content for one in backend.get_added_tokens_decoder().values() if one.special}
    sizes = torch.zeros(tokenizer.vocab_size, dtype=torch.int64)
    for token, index in backend.get_vocab().items():
        if token not in special:
            sizes[index] = len(token)
    return sizes
