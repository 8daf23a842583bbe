"""Several documents in one flat row, for training: no query of one sees a key of another.

    tokens      ░░░░░░░░░ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒ ▓▓▓▓▓▓        [N], no padding
    positions   0 … 8     0 … 13         0 … 5         each document counts from 0
    cu_seqlens  0         9              23     29      where each begins, and the end of the last

It plugs into the model where a KV cache does: `model(tokens, positions, kv=documents)`. It keeps nothing.
Notebook 04.
"""

from dataclasses import dataclass

from torch import Tensor

from aiinfra.kernels.flash_attention import flash_attention


@dataclass(frozen=True)
class PackedDocuments:
    """The borders of the documents in a flat row of N tokens; attention is causal within each.

    `length` is what the protocol of a cache asks: nothing came before the first token.
    """

    cu_seqlens: Tensor          # int32 [documents + 1], from 0 to N
    longest: int                # tokens of the longest document
    length: int = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [N, H, Dh], k and v [N, K, Dh] -> [N, H, Dh]. `layer` does not matter."""
        return flash_attention(q, k, v, self.cu_seqlens, max_seqlen_q=self.longest)
