"""Tokens to their experts and home again, by hand: what `expert.py` does with PyTorch's own all-to-all.

    rank 0   a b c d    a, c chose expert 0, b, d expert 1      all_to_all:  0 has a c e f     1 has b d g h
    rank 1   e f g h    e, f chose expert 0, g, h expert 1      and back:    0 has a b c d     1 has e f g h

One expert a rank, one choice a token, forward alone: the part that is to be read. Notebook 17.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aiinfra.parallel.communicator import Communicator


def all_to_all(pieces: Sequence[Tensor], comm: Communicator) -> list[Tensor]:
    """pieces[r], rows [n, D] of any n, goes to rank r; piece r of what comes back is from rank r.

    Who waits for rows must know how many: counts travel first. A rank's own piece does not travel.
    """
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    for rank in others:
        comm.send(torch.tensor([len(pieces[rank])]), to=rank)
        comm.send(pieces[rank].contiguous(), to=rank)
    arrived = list(pieces)
    for rank in others:
        count = comm.receive(torch.zeros(1, dtype=torch.int64), source=rank)
        room = pieces[rank].new_empty(int(count), *pieces[rank].shape[1:])
        arrived[rank] = comm.receive(room, source=rank)
    return arrived


def through_experts(x: Tensor, chosen: Tensor, expert: Callable[[Tensor], Tensor],
                    comm: Communicator) -> Tensor:
    """x [N, D], and of each row the rank whose `expert` ([n, D] -> [n, D]) it takes, chosen int64 [N] ->
    [N, D] in the order of x. All ranks call it, those without rows too."""
    order = chosen.argsort(stable=True)                                    # rows for rank 0 first, then 1, …
    counts = torch.bincount(chosen, minlength=comm.size).tolist()
    visitors = all_to_all(x[order].split(counts), comm)
    done = [expert(rows) for rows in visitors]
    home = torch.cat(all_to_all(done, comm))
    y = torch.empty_like(home)
    y[order] = home
    return y
