"""What one rank of a tensor-parallel model reads of a checkpoint: its own rows and columns, and nothing else.

    file            q_proj [H · Dh, D]        o_proj [D, H · Dh]     embed_tokens [V, D]     norm [D]
    rank 1 of 3     its H/3 heads' rows       their columns          its words' rows         all
                    ▒▒▒▒▓▓▓▓▒▒▒▒ (rows)       ▒▒▒▒▓▓▓▓▒▒▒▒ (columns)

A share looks like a file of a smaller model: a config with fewer heads, tensors with fewer rows. So it is
read, packed and quantised by the code that does so for a whole one (checkpoint/fill.py), and the stacks
[q | k | v] of that smaller model are the right ones. How a tensor is cut is said by the table of parts.py.
Notebook 17.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aiinfra.checkpoint.fill import WeightFile, layers_of, leaves_of, matrix_rows
from aiinfra.checkpoint.names import part_rows
from aiinfra.model.config import ModelConfig
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.parts import Cut, cut_of
from aiinfra.parallel.vocabulary import Words
from aiinfra.perf.sharding import shape_of_a_rank


def config_of_rank(config: ModelConfig, rank: int, ranks: int) -> ModelConfig:
    """The config of a rank's share: some heads, some of the feed-forward, some words. Raises ValueError, with
    the figures, for what cannot be divided."""
    words = Words.of_rank(rank, ranks, config.vocab_size)
    share = replace(shape_of_a_rank(config, ranks), vocab_size=words.count)
    if config.moe is None:
        return share
    width = config.moe.moe_intermediate_size
    if width % ranks:
        raise ValueError(f"moe_intermediate_size={width} cannot be divided among {ranks} tensor-parallel "
                         "ranks. Choose a number that divides it.")
    return replace(share, moe=replace(config.moe, moe_intermediate_size=width // ranks))


@dataclass(frozen=True)
class _Piece:
    """Rows or columns of a tensor of the file: `ranges` along `dimension`; None: all of it. empty: zeros in
    its place."""

    shape: tuple[int, ...]                       # of the whole tensor
    dimension: int | None = None
    ranges: tuple[range, ...] = ()
    empty: bool = False

    def shape_of_share(self) -> tuple[int, ...]:
        if self.dimension is None:
            return self.shape
        shape = list(self.shape)
        shape[self.dimension] = sum(map(len, self.ranges))
        return tuple(shape)


class RankFile:
    """A `WeightFile` with one rank's share of another. Raises ValueError for a model that cannot be divided,
    LoadError where the file is not as its config says."""

    def __init__(self, source: WeightFile, rank: int, ranks: int) -> None:
        self.source = source
        self.rank = rank
        self.ranks = ranks
        self.label = source.label
        self.words = Words.of_rank(rank, ranks, source.config.vocab_size)
        self.config = config_of_rank(source.config, rank, ranks)
        self._pieces: dict[str, _Piece] = {}             # by the file's name of a tensor
        with torch.device("meta"):
            whole = Transformer(source.config)
        for layer in layers_of(whole):
            for leaf, values in leaves_of(whole, layer).items():
                self._cut(layer, leaf, values)

    def names(self) -> set[str]:
        """See WeightFile: all of the whole file, so that what has no place is missed."""
        return self.source.names()

    def parts(self, ours: str) -> list[str]:
        """See WeightFile."""
        return self.source.parts(ours)

    def shape(self, name: str) -> tuple[int, ...]:
        """See WeightFile: of the share. A tensor that is not of the size that the whole config says has its
        own, so that it is refused."""
        found = self.source.shape(name)
        piece = self._pieces[name]
        return piece.shape_of_share() if found == piece.shape else found

    def read_into(self, name: str, out: Tensor) -> None:
        """See WeightFile."""
        piece = self._pieces[name]
        if piece.empty:
            out.zero_()
        elif piece.dimension is None:
            self.source.read_into(name, out)
        else:
            self._read_ranges(name, piece, out)

    def blocks(self, ours: str) -> None:
        """See WeightFile: 4-bit blocks are not cut; they are read as the numbers that they stand for."""
        return None

    def _read_ranges(self, name: str, piece: _Piece, out: Tensor) -> None:
        at = 0
        for taken in piece.ranges:
            where = [slice(None)] * len(piece.shape)
            where[piece.dimension] = slice(taken.start, taken.stop)
            self.source.read_slice(name, tuple(where), out.narrow(piece.dimension, at, len(taken)))
            at += len(taken)

    def _cut(self, layer: str, leaf: str, values: Tensor) -> None:
        """Note what is read of the file's tensors that make up one of our parameters."""
        cut = cut_of(layer)
        ours = f"{layer}.{leaf}"
        names = self.source.parts(ours)
        values = matrix_rows(values)
        rows = part_rows(ours, self.source.config, len(values))
        if len(names) == 1:                              # the file has our parts in one matrix, too
            self._pieces[names[0]] = self._piece(cut, leaf, tuple(values.shape), rows)
            return
        for name, count in zip(names, rows):
            shape = (count, *values.shape[1:])
            self._pieces[name] = self._piece(cut, leaf, shape, [count])

    def _piece(self, cut: Cut, leaf: str, shape: tuple[int, ...], parts: list[int]) -> _Piece:
        """parts: how many rows each of the stacked parts of a tensor has."""
        dimension = cut.dimension(leaf)
        if dimension is None:
            # A sum over ranks has its bias once.
            return _Piece(shape=shape, empty=cut.kind == "row" and self.rank > 0)
        if cut.kind == "vocabulary":
            end = self.words.first + self.words.count
            return _Piece(shape=shape, dimension=0, ranges=(range(self.words.first, end),))
        if dimension == 1:
            parts = [shape[1]]
        return _Piece(shape=shape, dimension=dimension, ranges=tuple(self._ranges(parts)))

    def _ranges(self, parts: list[int]) -> list[range]:
        """Of each of the parts that lie one after another, this rank's rows."""
        ranges, start = [], 0
        for count in parts:
            share = count // self.ranks
            first = start + self.rank * share
            ranges.append(range(first, first + share))
            start += count
        return ranges
