"""An endless stream of packed rows whose place is one number, so that it can be left and found again exactly.

    epoch 0, shuffled    [doc 7][doc 2      ][doc 9  ][doc 4 ] …      all documents, one after another
    rows of T tokens     └─── row 0 ──┘└── row 1 ───┘└── row 2 …      cut wherever T tokens are full
    micro-batch          └──────── B rows, flat ────┘                 documents do not see each other

A document that a row's end cuts in two goes on in the next row as if it began there. The order of epoch e is
a function of (seed, e) alone, and row r is a function of (corpus, T, seed, r). So the position, the number of
rows taken since the start of training, is all that a checkpoint needs, at any micro-batch of any epoch.
Invariant: an epoch contains every pair (token, next token) once. Notebook 04.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from aiinfra.device import to_device
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.train.corpus import Corpus

IGNORED = -100          # a target that is not learnt from


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass takes: N tokens, flat, and what follows each."""

    tokens: Tensor              # int64 [N]
    targets: Tensor             # int64 [N]; IGNORED where there is nothing to learn
    positions: Tensor           # int64 [N], from 0 in each document
    documents: PackedDocuments
    valid: int                  # targets that are learnt from
    text_bytes: int             # bytes of text that these targets stand for

    def to(self, device: torch.device | str) -> "MicroBatch":
        """The same on `device`. The CPU does not wait for a GPU."""
        def there(values: Tensor) -> Tensor:
            return to_device(values, values.dtype, torch.device(device))

        return replace(
            self,
            tokens=there(self.tokens),
            targets=there(self.targets),
            positions=there(self.positions),
            documents=replace(self.documents, cu_seqlens=there(self.documents.cu_seqlens)))


class _Piece(NamedTuple):
    """A part of a document that lies within one row: tokens[start:end] of the corpus."""

    start: int
    end: int


class PackedStream:
    """Micro-batches of `rows` rows of `length` tokens, for ever. `position` may be read and set at any time.

    The last row of an epoch may be shorter. seed None keeps the documents in their order. Raises ValueError
    if a row is longer than the corpus.
    """

    def __init__(self, corpus: Corpus, length: int, rows: int, seed: int | None, position: int = 0) -> None:
        if length < 1 or rows < 1:
            raise ValueError(f"length={length}, rows={rows}; both must be at least 1.")
        if length > len(corpus):
            raise ValueError(f"a row is {length:,} tokens and the whole text is {len(corpus):,}: give more "
                             "text, or shorter rows.")
        self.corpus = corpus
        self.length = length
        self.rows = rows
        self.seed = seed
        self.position = position                            # rows taken since the start of training
        self.rows_per_epoch = -(-len(corpus) // length)
        self._epoch_in_hand = -1

    @property
    def epoch(self) -> int:
        """Whole passes over the corpus that lie behind."""
        return self.position // self.rows_per_epoch

    def __iter__(self) -> Iterator[MicroBatch]:
        return self

    def __next__(self) -> MicroBatch:
        """The next micro-batch; `position` moves on by `rows`."""
        pieces = []
        for row in range(self.position, self.position + self.rows):
            pieces += self._row(row)
        self.position += self.rows
        return self._pack(pieces)

    def _row(self, row: int) -> list[_Piece]:
        """The pieces of documents in row number `row` of the whole training."""
        epoch, index = divmod(row, self.rows_per_epoch)
        self._open_epoch(epoch)
        at = index * self.length
        stop = min(at + self.length, len(self.corpus))
        slot = int(torch.searchsorted(self._ends, at, right=True))
        pieces = []
        while at < stop:
            document = self._order[slot]
            until = min(int(self._ends[slot]), stop)
            from_end = int(self._ends[slot]) - at           # tokens of the document that are not yet taken
            start = int(self.corpus.starts[document + 1]) - from_end
            pieces.append(_Piece(start, start + until - at))
            at = until
            slot += 1
        return pieces

    def _open_epoch(self, epoch: int) -> None:
        """Have at hand in which order the documents of `epoch` come, and where each of them ends."""
        if epoch == self._epoch_in_hand:
            return
        self._order = document_order(self.corpus.documents, self.seed, epoch)
        lengths = self.corpus.starts.diff()
        self._ends = lengths[self._order].cumsum(0)
        self._epoch_in_hand = epoch

    def _pack(self, pieces: list[_Piece]) -> MicroBatch:
        flat = self.corpus.tokens
        lengths = [piece.end - piece.start for piece in pieces]
        tokens = torch.cat([flat[piece.start:piece.end] for piece in pieces])
        targets = torch.cat([self._targets(piece) for piece in pieces])
        learnt = targets[targets != IGNORED]
        borders = torch.tensor([0, *lengths]).cumsum(0)
        return MicroBatch(
            tokens=tokens.long(),
            targets=targets,
            positions=torch.cat([torch.arange(length) for length in lengths]),
            documents=PackedDocuments(borders.int(), longest=max(lengths)),
            valid=len(learnt),
            text_bytes=int(self.corpus.token_bytes[learnt].sum()))

    def _targets(self, piece: _Piece) -> Tensor:
        """What follows each token of a piece; IGNORED where it is not learnt from."""
        following = slice(piece.start + 1, piece.end + 1)
        targets = self.corpus.tokens[following].long()
        if self.corpus.learnt is None:
            return targets
        return targets.where(self.corpus.learnt[following], IGNORED)


def document_order(documents: int, seed: int | None, epoch: int) -> Tensor:
    """int64 [documents]: the order of an epoch, which depends on seed and epoch and on nothing else. None: as
    they are."""
    if seed is None:
        return torch.arange(documents)
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=7).digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(documents, generator=random)
