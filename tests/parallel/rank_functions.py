"""What ranks are told to do by test_launch.py: a process finds a function by its module and name."""

import os
import signal
import time

import torch
import torch.distributed as dist

from aiinfra.parallel.mesh import data_dimensions, make_mesh, mesh_rank, mesh_size


def where(greeting, mark=""):
    return greeting + mark, dist.get_rank(), dist.get_world_size(), os.getpid(), torch.get_num_threads()


def sum_of_ranks():
    mine = torch.tensor(float(dist.get_rank()))
    dist.all_reduce(mine)
    return mine


def fail(rank, seconds=0.0):
    """One rank raises; the others wait for it in a collective."""
    if dist.get_rank() == rank:
        time.sleep(seconds)
        raise LookupError("nothing is here")
    sum_of_ranks()


def die(rank):
    """One rank is killed between two of many collectives."""
    for number in range(1000):
        if dist.get_rank() == rank and number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        sum_of_ranks()


def leave(rank):
    if dist.get_rank() == rank:
        os._exit(3)
    sum_of_ranks()


def wait_for_ever(path):
    (path / str(os.getpid())).touch()
    time.sleep(600)


def wait_for_who_does_not_come():
    if dist.get_rank() == 0:
        sum_of_ranks()
    time.sleep(600)


def collectives(device="cpu"):
    """Each of those that parallel/ needs, against what it must give."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    own = torch.arange(2 * ranks, dtype=torch.float64) + 100 * rank
    out = torch.empty(2 * ranks, dtype=torch.float64)
    dist.all_to_all_single(out, own)
    want = torch.cat([torch.tensor([2.0 * rank, 2 * rank + 1]) + 100 * other for other in range(ranks)])
    assert torch.equal(out, want.double())
    part = torch.empty(2, dtype=torch.float64)
    dist.reduce_scatter_tensor(part, own)
    total = ranks * torch.tensor([2.0 * rank, 2 * rank + 1]) + 100 * sum(range(ranks))
    assert torch.equal(part, total.double())
    whole = torch.empty(2 * ranks, dtype=torch.float64)
    work = dist.all_gather_into_tensor(whole, part, async_op=True)
    work.wait()
    assert torch.equal(whole[2 * rank:2 * rank + 2], part)
    # uneven: rank r sends r + 1 values to everybody
    sent = torch.full((ranks * (rank + 1),), float(rank))
    got = torch.empty(sum(range(1, ranks + 1)))
    counts = list(range(1, ranks + 1))
    dist.all_to_all_single(got, sent, output_split_sizes=counts, input_split_sizes=[rank + 1] * ranks)
    assert got.tolist() == [float(other) for other in range(ranks) for _ in range(other + 1)]
    return "as they must be"


def places(sizes):
    """Size and place along each dimension, and along one that is not there."""
    mesh = make_mesh(sizes)
    names = [*sizes, "cp"]
    return {name: (mesh_size(mesh, name), mesh_rank(mesh, name)) for name in names}, data_dimensions(mesh)
