"""What ranks do in test_expert.py, and the same by one process."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import MoEConfig, Transformer
from aiinfra.model.balance import begin_step, end_step
from aiinfra.model.moe import MoE
from aiinfra.parallel.expert import exchange, join_exchanges, serve_together, shard_experts
from aiinfra.parallel.mesh import make_mesh, mesh_rank
from aiinfra.train.loop import next_token_loss
from tests.engine.small_model import SMALL as SERVED
from tests.engine.small_model import engine_with
from tests.parallel.small import small_batch, small_model, whole

WIDTH = 6
# What the router's bias makes of eight experts.
LOADS = {
    "as it comes": [0.0] * 8,
    "half are empty": [9.0] * 4 + [0.0] * 4,
    "all to one": [0.0] * 3 + [9.0] + [0.0] * 4,
}


def layer_of(load: str, chosen: int) -> MoE:
    torch.manual_seed(0)
    moe = MoEConfig(num_experts=8, num_experts_per_tok=chosen, moe_intermediate_size=5,
                    scoring_func="sigmoid", norm_topk_prob=False)
    layer = MoE(WIDTH, moe).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    layer.router.bias.copy_(torch.tensor(LOADS[load]))
    return layer


def tokens_of(counts: list[int]) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(count, WIDTH, dtype=torch.float64, generator=random) for count in counts]


def one_layer(load: str, chosen: int, counts: list[int]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Each rank's output, and every gradient: by one process."""
    layer = layer_of(load, chosen)
    parts = layer(torch.cat(tokens_of(counts))).split(counts)
    sum(part.square().sum() for part in parts).backward()
    return [part.detach() for part in parts], {name: p.grad for name, p in layer.named_parameters()}


def layer_on_ranks(load: str, chosen: int, counts: list[int],
                   sizes: dict[str, int]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """This rank's output, every gradient whole, and that of its tokens."""
    mesh = make_mesh(sizes)
    layer = layer_of(load, chosen)
    shard_experts(layer, mesh["ep"])
    x = tokens_of(counts)[dist.get_rank()].requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    for parameter in layer.parameters():
        add_over_data(parameter, mesh)
    return y.detach(), {name: whole(p.grad) for name, p in layer.named_parameters()}, x.grad


def add_over_data(parameter: Tensor, mesh) -> None:
    """Sum over all ranks; of an expert's gradient, over dp alone."""
    if not isinstance(parameter, DTensor):
        dist.all_reduce(parameter.grad)
    elif "dp" in mesh.mesh_dim_names:
        dist.all_reduce(parameter.grad.to_local(), group=mesh.get_group("dp"))


def mixture(coefficient: float = 0.05) -> Transformer:
    moe = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, scoring_func="sigmoid",
                    n_shared_experts=1, first_k_dense_replace=1, router_aux_loss_coef=coefficient)
    return small_model(moe=moe)


def batches(count: int) -> list:
    return [small_batch((3 + number, 5), seed=number) for number in range(count)]


def steps_alone(count: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients of two steps, and the bias after each: by one process."""
    model, biases = mixture(), []
    for _ in range(2):
        _one_step(model, batches(count), sum(batch.valid for batch in batches(count)))
        end_step(model, lambda counts: None)
        biases.append(model.layers[1].mlp.router.bias.clone())
    return {name: p.grad for name, p in model.named_parameters()}, biases


def steps_on_ranks(count: int, sizes: dict[str, int]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The same with the micro-batches dealt."""
    mesh = make_mesh(sizes)
    model, biases = mixture(), []
    assert shard_experts(model, mesh["ep"]) == 1
    mine = batches(count)[dist.get_rank()::dist.get_world_size()]
    for _ in range(2):
        model.zero_grad()
        _one_step(model, mine, sum(batch.valid for batch in batches(count)))
        end_step(model, dist.all_reduce)
        biases.append(model.layers[1].mlp.router.bias.clone())
        for parameter in model.parameters():
            add_over_data(parameter, mesh)
    return {name: whole(p.grad) for name, p in model.named_parameters()}, biases


def _one_step(model: Transformer, mine: list, total: int) -> None:
    model.zero_grad()
    begin_step(model.train(), total)
    for batch in mine:
        next_token_loss(model, batch, total).backward()


def there_and_back(count: int) -> list[float]:
    """Rows to their owners and back, with more of them the higher the rank."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    sent = [rank * to for to in range(ranks)]
    received = [source * rank for source in range(ranks)]
    rows = (torch.arange(sum(sent)) + 100.0 * rank).requires_grad_()
    there = exchange(rows, sent, received, dist.group.WORLD)
    home = exchange(there * 2, received, sent, dist.group.WORLD)
    home.sum().backward()
    assert torch.equal(home.detach(), 2 * rows.detach())
    assert torch.equal(rows.grad, torch.full_like(rows, 2.0))
    return there.tolist()


def served_model() -> Transformer:
    torch.manual_seed(3)
    moe = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    model = Transformer(type(SERVED)(**{**vars(SERVED), "moe": moe})).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.35)
    return model


def serve_alone(prompts: list[list[int]]) -> list[list[int]]:
    return _serve(served_model(), prompts)


def serve_on_ranks(prompts: list[list[list[int]]]) -> tuple[list[list[int]], int]:
    """Each rank its own requests, some none; what it made, and how often it only joined."""
    model, mine = served_model(), prompts[dist.get_rank()]
    shard_experts(model, make_mesh({"ep": dist.get_world_size()})["ep"])
    engine, made = _engine(model, mine)
    steps = engine.stream()

    def step() -> None:
        for one in next(steps).made:
            made[int(one.request_id)].append(one.token_id)
    joined = serve_together(lambda: any(len(answer) < 8 for answer in made), step, model)
    return made, joined


def _engine(model: Transformer, prompts: list[list[int]]):
    engine = engine_with(model, blocks=60)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    return engine, [[] for _ in prompts]


def _serve(model: Transformer, prompts: list[list[int]]) -> list[list[int]]:
    engine, made = _engine(model, prompts)
    for record in engine.stream():
        for one in record.made:
            made[int(one.request_id)].append(one.token_id)
    return made


def refusals() -> list[str]:
    mesh = make_mesh({"ep": 3})["ep"]
    said = []
    for model in (mixture(), small_model()):
        try:
            shard_experts(model, mesh)
        except ValueError as error:
            said.append(str(error))
    join_exchanges(small_model())                            # nothing to join
    return said
