"""What ranks are told to do by the tests of training on a mesh."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from aiinfra.parallel.data import BucketedAllReduce, CopiesDiffer, check_copies
from aiinfra.parallel.mesh import make_mesh
from aiinfra.parallel.ranks import MeshRanks


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Linear(8, 1)).double()


def own_rows(passes):
    random = torch.Generator().manual_seed(dist.get_rank())
    return [torch.randn(5, 6, generator=random, dtype=torch.float64) for _ in range(passes)]


def buckets_against_ddp(bucket_bytes, passes):
    """Gradients of ours and of DDP, which are means; and how many buckets had left before the end."""
    rows = own_rows(passes)
    ours = small_net()
    sums = BucketedAllReduce(ours.parameters(), dist.group.WORLD, bucket_bytes)
    sums.expect(passes)
    for row in rows:
        ours(row).square().sum().backward()
    early = sum(bucket.flat is not None for bucket in sums.buckets)
    sums.finish()
    theirs = DistributedDataParallel(small_net())
    with theirs.no_sync():
        for row in rows[:-1]:
            theirs(row).square().sum().backward()
    theirs(rows[-1]).square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad * dist.get_world_size(), rtol=1e-12, atol=1e-12)
    return early, len(sums.buckets)


def buckets_with_unused_parameters():
    """Rank 0 uses the first layer only: the others' gradients are those of the other ranks."""
    model = small_net()
    sums = BucketedAllReduce(model.parameters(), dist.group.WORLD, bucket_bytes=1)
    sums.expect(1)
    layers = model[:1] if dist.get_rank() == 0 else model
    layers(torch.ones(2, 6).double()).sum().backward()
    sums.finish()
    return [parameter.grad for parameter in model.parameters()]


def a_pass_too_many():
    model = small_net()
    sums = BucketedAllReduce(model.parameters(), dist.group.WORLD, bucket_bytes=1)
    sums.expect(1)
    for row in own_rows(2):
        model(row).sum().backward()


def sync_forgotten():
    """Nobody told the buckets how many passes there are: they leave at the end, all the same."""
    model = small_net()
    sums = BucketedAllReduce(model.parameters(), dist.group.WORLD)
    for row in own_rows(2):
        model(row).sum().backward()
    before = model[0].weight.grad.clone()
    sums.finish()
    whole = before.clone()
    dist.all_reduce(whole)
    return torch.equal(model[0].weight.grad, whole), not torch.equal(before, whole)


def norms_on_a_mesh(limit):
    """A vector cut along tp and one that all have, whose gradients each dp rank has its own part of."""
    mesh = make_mesh({"dp": 2, "tp": 2})
    cut = nn.Parameter(distribute_tensor(torch.zeros(5), mesh["tp"], [Shard(0)]))
    same = nn.Parameter(distribute_tensor(torch.zeros(3), mesh["tp"], [Replicate()]))
    plain = nn.Parameter(torch.zeros(2))
    place = 1.0 + mesh.get_local_rank("dp")
    cut.grad = distribute_tensor(place * torch.arange(5.0), mesh["tp"], [Shard(0)])
    same.grad = distribute_tensor(place * torch.ones(3), mesh["tp"], [Replicate()])
    plain.grad = place * torch.tensor([2.0, 0.0])
    ranks = MeshRanks(mesh)
    parameters = [cut, same, plain]
    ranks.add_gradients(parameters)
    norm = ranks.clip(parameters, limit)
    return norm, cut.grad.full_tensor(), same.grad.full_tensor(), plain.grad, ranks.total(place)


def partial_gradients():
    """A norm's weight under sequence parallelism: each rank of tp has the gradient of its own tokens."""
    mesh = make_mesh({"tp": 2})
    weight = nn.Parameter(distribute_tensor(torch.ones(3), mesh, [Replicate()]))
    rows = distribute_tensor(torch.arange(12.0).view(4, 3), mesh, [Shard(0)])
    (rows * weight).sum().backward()
    ranks = MeshRanks(mesh)
    ranks.add_gradients([weight])
    norm = ranks.clip([weight], 1e9)
    assert isinstance(weight.grad, DTensor)
    return weight.grad.to_local(), norm


def a_stage_without_some_parameters():
    """Stages of a pipeline hold other parameters, and share one, which both have the sum of."""
    mesh = make_mesh({"pp": 2})
    stage = mesh.get_local_rank("pp")
    own = [nn.Parameter(torch.zeros(2)) for _ in range(1 + 2 * stage)]
    table = nn.Parameter(torch.zeros(2))
    for parameter in own:
        parameter.grad = torch.ones(2)
    table.grad = torch.tensor([1.0, stage])
    ranks = MeshRanks(mesh, tied={table: mesh.get_group("pp")})
    ranks.add_gradients([*own, table])
    return ranks.clip([*own, table], 1e9), table.grad


def copies(seeds):
    """Whether a rank sees that the seeds of its mesh differ."""
    mesh = make_mesh({"dp": 2, "tp": 2})
    model = small_net(seeds[dist.get_rank()])
    try:
        check_copies(model, mesh)
    except CopiesDiffer as error:
        return str(error)
    return ""
