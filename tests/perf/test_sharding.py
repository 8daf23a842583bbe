"""Bytes of a rank: against FSDP2 under PyTorch's own tracker, against real ranks, and by plain division."""

import socket
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

from aiinfra.model.transformer import Transformer
from aiinfra.perf.memory import IN_FLIGHT, parameter_count, predict_memory
from aiinfra.perf.memory_recorder import storage_bytes
from aiinfra.perf.sharding import Sharding, shape_of_a_rank
from aiinfra.train.data import MicroBatch
from aiinfra.train.loop import next_token_loss
from tests.perf.test_memory import SIZES, batch
from tests.train.stories import tiny_config, tiny_model

WIDE = SIZES | dict(hidden_size=256, head_dim=64, intermediate_size=512, num_hidden_layers=6)
LARGE_TABLE = WIDE | dict(vocab_size=4096, tie_word_embeddings=False)


@pytest.fixture
def ranks() -> Iterator:
    """Gives a mesh of so many ranks, of which this process is one; what the others would send is made up."""
    def mesh(count: int) -> dist.DeviceMesh:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
        return init_device_mesh("cpu", (count,))
    yield mesh
    dist.destroy_process_group()


class WithLoss(nn.Module):
    """FSDP gathers parameters when `forward` is called, so the loss is part of it."""

    def __init__(self, model: Transformer, data: MicroBatch) -> None:
        super().__init__()
        self.model, self.data = model, data

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return next_token_loss(self.model, self.data, self.data.valid)


def shard(sizes: dict, rows: list[int], mesh: dist.DeviceMesh) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = tiny_model(**sizes)
    whole = WithLoss(model, batch(rows, model.config.vocab_size))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(whole, mesh=mesh)
    return whole, torch.optim.AdamW(whole.parameters(), lr=0.0, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(model.data.tokens).backward()
    optimizer.step()


@pytest.mark.parametrize("sizes, rows, count", [
    (WIDE, [32], 2), (WIDE, [32], 8), (LARGE_TABLE, [32], 4), (WIDE, [64] * 8, 4),
    (WIDE | {"num_hidden_layers": 2}, [16], 8),
])
def test_a_rank_of_fsdp_needs_what_is_predicted(sizes: dict, rows: list[int], count: int, ranks) -> None:
    """Within 3 % of the peak that PyTorch's tracker sees; parameters and optimizer within 1 %. The promise is
    10 % and 5 %."""
    model, optimizer = shard(sizes, rows, ranks(count))
    step(model, optimizer)
    optimizer.zero_grad()
    tracker = FSDPMemTracker(model, optimizer)
    tracker.track_inputs((model.data.tokens, model.data.targets, model.data.positions))
    with tracker:
        step(model, optimizer)
    seen = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    seen = {str(kind).rpartition(".")[2]: nbytes for kind, nbytes in seen.items()}
    plan = predict_memory(model.model.config, rows, sharding=Sharding(ranks=count, stage=3))
    assert seen["SHARDED_PARAM"] == pytest.approx(plan.parameters, rel=0.01)
    assert seen["OPT"] == pytest.approx(plan.optimizer, rel=0.01)
    assert seen["Total"] == pytest.approx(plan.peak, rel=0.03)
    assert plan.highest.by_kind[IN_FLIGHT] > 0


def test_stages_divide_what_their_name_says() -> None:
    """Parameters, gradients, optimizer: of N bytes each for 4 ranks, and the ZeRO paper's own example."""
    config = tiny_config(**WIDE)
    whole = 4 * parameter_count(config)
    shares = {0: (1, 1, 1), 1: (1, 1, 4), 2: (1, 4, 4), 3: (4, 4, 4)}
    peaks = []
    for stage, (parameters, gradients, optimizer) in shares.items():
        plan = predict_memory(config, [32], sharding=Sharding(ranks=4, stage=stage))
        held = [plan.parameters, plan.gradients, plan.optimizer]
        assert held == [whole // parameters, whole // gradients, 2 * whole // optimizer]
        peaks.append(plan.peak)
    assert peaks == sorted(peaks, reverse=True)
    alone = predict_memory(config, [32])
    assert predict_memory(config, [32], sharding=Sharding(ranks=4)) == alone
    assert predict_memory(config, [32], sharding=Sharding(ranks=1, stage=3)).peak == alone.peak
    with pytest.raises(ValueError, match="stage=4; it must be 0"):
        Sharding(stage=4)
    with pytest.raises(ValueError, match="num_attention_heads=4 cannot be divided among 3"):
        shape_of_a_rank(config, 3)


def test_tensor_parallel_shares_are_those_of_pytorch(ranks) -> None:
    """Columns of what goes in, rows of what comes out, and the table by its words."""
    count = 4
    model = tiny_model(**LARGE_TABLE)
    styles = {"embed": RowwiseParallel(), "lm_head": ColwiseParallel()}
    for name in ("attention.qkv", "mlp.gate_up"):
        styles[f"layers.*.{name}"] = ColwiseParallel()
    for name in ("attention.out", "mlp.down"):
        styles[f"layers.*.{name}"] = RowwiseParallel()
    parallelize_module(model, ranks(count), styles)
    mine = [one.to_local() if isinstance(one, DTensor) else one for one in model.parameters()]
    plan = predict_memory(model.config, [32], sharding=Sharding(tensor=count))
    assert storage_bytes(mine) == plan.parameters


def on_a_rank(rank: int, rows: list[int], port: int, out: str) -> None:
    """A step of FSDP2 over gloo, and what this rank holds after it."""
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model, optimizer = shard(WIDE, rows, init_device_mesh("cpu", (2,)))
    for _ in range(2):
        step(model, optimizer)
    weights = list(model.parameters())
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    local = {"parameters": weights, "gradients": [one.grad for one in weights], "optimizer": moments}
    held = {kind: sum(one.to_local().nbytes for one in tensors) for kind, tensors in local.items()}
    torch.save(held, f"{out}/{rank}")
    dist.destroy_process_group()


@pytest.mark.program
def test_two_real_ranks_hold_what_is_predicted(tmp_path, free_port: int) -> None:
    torch.multiprocessing.spawn(on_a_rank, args=([32], free_port, str(tmp_path)), nprocs=2)
    plan = predict_memory(tiny_config(**WIDE), [32], sharding=Sharding(ranks=2, stage=3))
    for rank in range(2):
        held = torch.load(tmp_path / str(rank), weights_only=True)
        for kind, nbytes in held.items():
            assert nbytes == pytest.approx(getattr(plan, kind), rel=0.001), (rank, kind)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
