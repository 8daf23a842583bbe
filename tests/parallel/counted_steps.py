"""What ranks run for test_counting.py and test_link.py."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from aiinfra.parallel.counting import CollectiveCounter, tcp_sent_bytes
from aiinfra.parallel.link import EmulatedLink
from aiinfra.perf.collectives import Link, Volume

VALUES = 1200                            # float32 values in a tensor
WIDTH, INNER, ROWS = 16, 32, 8
MICRO_BATCHES = 5


def counted(step: Callable[[], object]) -> dict[str, Volume]:
    with CollectiveCounter() as counter:
        step()
    return dict(counter.sent)


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, INNER, bias=False), nn.Linear(INNER, WIDTH, bias=False))


def collectives() -> dict[str, Callable[[], object]]:
    ranks, rank = dist.get_world_size(), dist.get_rank()
    x, following = torch.ones(VALUES), (rank + 1) % ranks
    parts = [torch.empty(VALUES) for _ in range(ranks)]
    at_root = parts if rank == 0 else None
    uneven = torch.arange(ranks).roll(-1).tolist()                 # rows for each rank: 1, 2, …, 0
    mine = [uneven[rank]] * ranks
    grown = x.clone().requires_grad_()

    def around() -> None:
        ring = [dist.P2POp(dist.isend, x, following), dist.P2POp(dist.irecv, parts[0], (rank - 1) % ranks)]
        for work in dist.batch_isend_irecv(ring):
            work.wait()

    def there_and_back() -> None:
        functional.all_to_all_single_autograd(grown, None, None, dist.group.WORLD).sum().backward()

    def uneven_exchange() -> None:
        given = torch.ones(sum(uneven), 3)
        dist.all_to_all_single(torch.empty(sum(mine), 3), given, mine, uneven)
    return {
        "all_reduce": lambda: dist.all_reduce(x),
        "all_gather": lambda: dist.all_gather(parts, x),
        "all_gather of one tensor": lambda: dist.all_gather_into_tensor(torch.empty(ranks * VALUES), x),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(torch.empty(VALUES // ranks), x),
        "all_to_all": lambda: dist.all_to_all_single(torch.empty(VALUES), x),
        "uneven all_to_all": uneven_exchange,
        "all_to_all and its gradient": there_and_back,
        "broadcast": lambda: dist.broadcast(x, 0),
        "reduce": lambda: dist.reduce(x, 0),
        "gather": lambda: dist.gather(x, at_root),
        "scatter": lambda: dist.scatter(x, at_root),
        "messages around a ring": around,
        "barrier": dist.barrier,
        "functional all_reduce": lambda: functional.all_reduce(x, "sum", dist.group.WORLD).sum(),
    }


def count_collectives() -> dict[str, dict[str, Volume]]:
    return {name: counted(call) for name, call in collectives().items()}


def engines(mesh: DeviceMesh) -> dict[str, Callable[[], object]]:
    """A forward and backward pass by each of PyTorch's engines."""
    x = torch.ones(ROWS, WIDTH)
    copies = nn.parallel.DistributedDataParallel(two_layers(), process_group=mesh.get_group())
    sharded = two_layers()
    for part in (*sharded, sharded):
        fully_shard(part, mesh=mesh)
    divided = parallelize_module(two_layers(), mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    wants_gradient = x.clone().requires_grad_()
    return {
        "ddp": lambda: copies(x).sum().backward(),
        "fsdp": lambda: sharded(x).sum().backward(),
        "tensor": lambda: divided(wants_gradient).sum().backward(),
    }


def count_engines() -> dict[str, dict[str, Volume]]:
    mesh = DeviceMesh("cpu", list(range(dist.get_world_size())), mesh_dim_names=("dp",))
    steps = engines(mesh)
    found = {}
    for name, step in steps.items():
        for _ in range(2):               # DDP orders its buckets anew after the first
            step()
        found[name] = counted(step)
    return found


def count_pipeline() -> dict[str, Volume]:
    """1F1B over all ranks, each with a layer of its own: WIDTH values a row go on, as many come back."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    stage = PipelineStage(nn.Linear(WIDTH, WIDTH), rank, ranks, torch.device("cpu"))
    schedule = Schedule1F1B(stage, MICRO_BATCHES, loss_fn=lambda out, target: (out - target).square().sum())
    x = torch.ones(MICRO_BATCHES * ROWS, WIDTH)

    def step() -> None:
        if rank == 0:
            schedule.step(x)
        elif rank == ranks - 1:
            schedule.step(target=x)
        else:
            schedule.step()
    step()                               # the stages tell one another their shapes
    return counted(step)


def sent_over_tcp(values: int) -> dict[str, int | None]:
    """What the kernel has seen of some collectives on `values` float32 values."""
    ranks, x = dist.get_world_size(), torch.ones(values)
    calls = {
        "all_reduce": lambda: dist.all_reduce(x),
        "all_gather": lambda: dist.all_gather_into_tensor(torch.empty(ranks * values), x),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(torch.empty(values // ranks), x),
        "all_to_all": lambda: dist.all_to_all_single(torch.empty(values), x),
    }
    found = {}
    for name, call in calls.items():
        call()                           # gloo connects ranks when they first need it
        dist.barrier()
        time.sleep(0.05)                 # until what has been received is confirmed
        before = tcp_sent_bytes()
        call()
        dist.barrier()
        time.sleep(0.05)
        after = tcp_sent_bytes()
        found[name] = None if before is None else after - before
    return found


def on_two_threads() -> int:
    """The calls that one counter sees which is entered here and on another thread."""
    from threading import Thread
    group = dist.new_group()
    counter = CollectiveCounter()

    def call() -> None:
        with counter:
            dist.all_reduce(torch.ones(4), group=group)
    other = Thread(target=call)
    other.start()
    other.join()
    call()
    return counter.total.calls


# test_link.py

LINK = Link(latency_seconds=2e-3, bytes_per_second=1e6)


def through_the_link() -> dict[str, object]:
    """Each of PyTorch's engines on the plain mesh and behind the link, and what the link carried."""
    plain = DeviceMesh("cpu", list(range(dist.get_world_size())), mesh_dim_names=("dp",))
    with EmulatedLink(LINK) as emulated:
        linked = DeviceMesh.from_group(emulated.group(), "cpu", mesh_dim_names=("dp",))
        gradients, carried = {}, {}
        for where, mesh in (("plain", plain), ("linked", linked)):
            gradients[where] = _gradients(mesh)
        for name, step in engines(linked).items():
            for _ in range(2):
                step()
            before = len(emulated.transfers)
            step()
            dist.barrier()
            transfers = emulated.transfers[before:]
            carried[name] = sum((transfer.sent for transfer in transfers), Volume())
    return {"gradients": gradients, "carried": carried, "transfers": emulated.transfers}


def _gradients(mesh: DeviceMesh) -> list[torch.Tensor]:
    model = two_layers()
    fully_shard(model, mesh=mesh)
    model(torch.ones(ROWS, WIDTH)).sum().backward()
    return [parameter.grad.full_tensor() for parameter in model.parameters()]


def asked_and_waited() -> tuple[float, float, float, list]:
    """Seconds until an asynchronous all-reduce is asked for, is awaited after a computation of its length,
    and what the link says of it."""
    x = torch.ones(VALUES)
    with EmulatedLink(Link(latency_seconds=0.0, bytes_per_second=x.nbytes / 0.2)) as emulated:
        group = emulated.group()
        dist.barrier()
        start = time.perf_counter()
        work = dist.all_reduce(x, group=group, async_op=True)
        asked = time.perf_counter() - start
        assert not work.is_completed()
        time.sleep(0.25)                                 # the computation
        computed = time.perf_counter()
        work.wait()
        waited = time.perf_counter() - computed
        assert x[0] == dist.get_world_size()
    return asked, waited, work.is_completed(), emulated.transfers


def messages_through_the_link() -> tuple[float, float]:
    """Seconds of a message from rank 0 to rank 1, and the value that came."""
    x = torch.full((VALUES,), float(dist.get_rank() + 1))
    with EmulatedLink(LINK) as emulated:
        group = emulated.group()
        dist.barrier()
        start = time.perf_counter()
        if dist.get_rank() == 0:
            dist.send(x, 1, group=group)
        else:
            dist.recv(x, 0, group=group)
        seconds = time.perf_counter() - start
    return seconds, float(x[0])


def fails_behind_the_link() -> str:
    """What whoever waits is told of an operation that gloo refuses."""
    with EmulatedLink(LINK) as emulated:
        group = emulated.group()
        too_few, given = torch.empty(3), torch.ones(4)
        work = dist.all_to_all_single(too_few, given, [1, 1], [2, 2], group=group, async_op=True)
        try:
            work.wait()
        except RuntimeError as error:
            return str(error)
    return ""
