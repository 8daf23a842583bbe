"""What ranks do in test_tensor.py and test_vocabulary.py: each compares its share with one process."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel
from torch.distributed.tensor.parallel import parallelize_module

from aiinfra.kernels.cross_entropy import linear_cross_entropy_reference
from aiinfra.model.layers import Linear
from aiinfra.parallel.mesh import make_mesh
from aiinfra.parallel.parts import split_parts
from aiinfra.parallel.ranks import MeshRanks
from aiinfra.parallel.tensor import TensorLoss, tensor_parallel
from aiinfra.parallel.vocabulary import Words, vocabulary_cross_entropy
from aiinfra.train.loop import next_token_loss
from aiinfra.train.recompute import recompute
from tests.parallel.small import assert_equal_to, gradients, small_batch, small_model, whole


def equal_one_process(variants, sequence, lengths=(7, 1, 9, 6), changes={}):
    """Loss, every gradient and logits of each variant."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    for variant in variants:
        alone, cut = small_model(variant, **changes), small_model(variant, seed=dist.get_rank(), **changes)
        split_parts(alone)                              # only for its names
        layout = tensor_parallel(cut, mesh, sequence)
        batch = small_batch(lengths, alone.config.vocab_size)
        expected = next_token_loss(alone, batch, 10)
        loss = TensorLoss(layout)(cut, batch, 10)
        assert abs(loss - expected) < 1e-10 * expected, f"{variant}: {loss} is not {expected}"
        expected.backward()
        loss.backward()
        assert_equal_to(gradients(cut), gradients(alone))
        tokens = batch.tokens[:len(batch.tokens) // mesh.size() * mesh.size()]
        torch.testing.assert_close(cut(tokens), alone(tokens), rtol=1e-10, atol=1e-10)


def steps(variant, sequence):
    """Parameters after three steps of two micro-batches; copies stay the same to the bit."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    alone, cut = small_model(variant), small_model(variant)
    split_parts(alone)
    loss = TensorLoss(tensor_parallel(cut, mesh, sequence))
    for model, compute in ((alone, next_token_loss), (cut, loss)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        for step in range(3):
            optimizer.zero_grad()
            for part in range(2):
                compute(model, small_batch(seed=2 * step + part), 20).backward()
            optimizer.step()
    found = {name: whole(parameter) for name, parameter in cut.named_parameters()}
    assert_equal_to(found, dict(alone.named_parameters()))
    copies = {name: parameter.to_local() for name, parameter in cut.named_parameters()
              if parameter.placements[0].is_replicate()}
    for copy in copies.values():
        of_all = [torch.empty_like(copy) for _ in range(mesh.size())]
        dist.all_gather(of_all, copy.detach())
        assert all(torch.equal(copy, other) for other in of_all)
    return sorted(copies)


def forgotten_sums(variant):
    """What a copy's gradient lacks where its ranks' parts are not summed: the largest share of it."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    model = small_model(variant)
    layout = tensor_parallel(model, mesh, sequence=True)
    expected = {}
    for forget in (False, True):
        model.zero_grad()
        for module in model.modules():
            if hasattr(module, "partial"):
                module.partial = not forget
        TensorLoss(layout)(model, small_batch(), 10).backward()
        norms = {name: p.grad.to_local().clone() for name, p in model.named_parameters() if "norm" in name}
        expected = expected or norms
    return {name: float((norms[name] - value).norm() / value.norm()) for name, value in expected.items()}


def refused(changes, sequence=False):
    """The words with which a model that cannot be cut is refused; nothing was changed."""
    model = small_model(**changes)
    before = [name for name, _ in model.named_parameters()]
    try:
        tensor_parallel(model, make_mesh({"tp": dist.get_world_size()}), sequence)
    except ValueError as error:
        assert before == [name for name, _ in model.named_parameters()]
        assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
        return str(error)


def norm_of_gradients(changes):
    """Of the ranks together, of one process, and as it would be if each rank counted what all have."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    alone, cut = small_model(**changes), small_model(**changes)
    split_parts(alone)
    loss = TensorLoss(tensor_parallel(cut, mesh))
    batch = small_batch()
    next_token_loss(alone, batch, 10).backward()
    loss(cut, batch, 10).backward()
    expected = nn.utils.get_total_norm([p.grad for p in alone.parameters()])
    of_all = sum(p.grad.to_local().square().sum() for p in cut.parameters())
    dist.all_reduce(of_all)
    found = MeshRanks(mesh).clip(list(cut.parameters()), 1e9)
    return found, float(expected), float(of_all.sqrt())


def parted():
    """The words with which a model is refused whose tied table has become two."""
    model = small_model("tied")
    model.lm_head.weight = nn.Parameter(model.embed.weight.detach().clone())
    try:
        tensor_parallel(model, make_mesh({"tp": dist.get_world_size()}))
    except ValueError as error:
        return str(error)


def cross_entropy(vocabulary, dtype, rows):
    """The loss of hidden states alone, and its two gradients, against the reference of the kernel."""
    torch.manual_seed(0)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    words = Words.of_rank(rank, ranks, vocabulary)
    hidden = torch.randn(rows, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, 6, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[::3] = -100
    own = weight.detach()[words.first:words.first + words.count].clone().requires_grad_()
    same = hidden.detach().clone().requires_grad_()
    for total in (None, 7.0):
        for tensor in (hidden, weight, own, same):
            tensor.grad = None
        expected = linear_cross_entropy_reference(hidden, weight, targets, total=total)
        loss = vocabulary_cross_entropy(same, own, targets, words, dist.group.WORLD, total=total)
        (3 * expected).backward()
        (3 * loss).backward()
        dist.all_reduce(same.grad)
        near = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(loss, expected, **near)
        torch.testing.assert_close(same.grad, hidden.grad, **near)
        torch.testing.assert_close(own.grad, weight.grad[words.first:words.first + words.count], **near)
    with torch.no_grad():
        alone = vocabulary_cross_entropy(same, own, targets, words, dist.group.WORLD, total=7.0)
    torch.testing.assert_close(alone, loss.detach())


def id_outside(id_):
    """Look up a word that nobody has."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    model = small_model()
    tensor_parallel(model, mesh)
    with torch.no_grad():
        model(torch.tensor([1, id_]))


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.to_local().numel() for parameter in model.parameters())


def share(variant):
    """How many values a rank holds, and one process."""
    alone, cut = small_model(variant), small_model(variant)
    tensor_parallel(cut, make_mesh({"tp": dist.get_world_size()}))
    return parameters_of(cut), sum(parameter.numel() for parameter in alone.parameters())


def as_pytorch_does(sequence):
    """A model under PyTorch's own plan for every module but the norms: its loss and gradients are ours."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    theirs, ours = small_model(), small_model()
    split_parts(theirs)
    tokens = Shard(0) if sequence else Replicate()
    plan = {"embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=tokens),
            "lm_head": ColwiseParallel(input_layouts=tokens, use_local_output=False)}
    for name, module in theirs.named_modules():
        if name.endswith(("out", "down")):
            plan[name] = RowwiseParallel(output_layouts=tokens)
        elif type(module) is Linear and name != "lm_head":
            plan[name] = ColwiseParallel(input_layouts=tokens)
    parallelize_module(theirs, mesh, plan)
    for layer in theirs.layers:
        layer.attention.heads //= mesh.size()
        layer.attention.kv_heads //= mesh.size()
    batch = small_batch((8, 1, 9, 6))
    logits = theirs(batch.tokens, batch.positions, batch.documents)
    with loss_parallel():
        expected = nn.functional.cross_entropy(logits, batch.targets, reduction="sum") / 10
        expected.backward()
    loss = TensorLoss(tensor_parallel(ours, mesh, sequence))(ours, batch, 10)
    loss.backward()
    torch.testing.assert_close(loss, whole(expected), rtol=1e-12, atol=0)
    if sequence:                             # nobody has summed the parts of the norms' gradients
        for parameter in theirs.parameters():
            if not isinstance(parameter, DTensor):
                dist.all_reduce(parameter.grad)
    assert_equal_to(gradients(ours), gradients(theirs))


def two_dimensions(variant, sequence, changes={}):
    """FSDP2 around the layers of a cut model, on a mesh of two dimensions: each data rank sees other rows."""
    mesh = make_mesh({"fsdp": dist.get_world_size() // 2, "tp": 2})
    alone, cut = small_model(variant, **changes), small_model(variant, **changes)
    split_parts(alone)
    loss = TensorLoss(tensor_parallel(cut, mesh["tp"], sequence))
    for part in (*cut.layers, cut):
        fully_shard(part, mesh=mesh["fsdp"])
    for module in (*cut.layers, cut):
        module.set_gradient_divide_factor(1.0)
    register_fsdp_forward_method(cut, "hidden")
    data_ranks = mesh["fsdp"].size()
    batches = [small_batch((7, 1, 9, 6), alone.config.vocab_size, number) for number in range(2 * data_ranks)]
    for number, batch in enumerate(batches):
        next_token_loss(alone, batch, 50).backward()
        if number % data_ranks == mesh["fsdp"].get_local_rank():
            loss(cut, batch, 50).backward()
    assert_equal_to(gradients(cut), gradients(alone))


def in_bfloat16(sequence):
    """How far the loss under autocast is from float32, on ranks and in one process; gradients are there."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    alone, cut = small_model("tied").float(), small_model("tied").float()
    loss = TensorLoss(tensor_parallel(cut, mesh, sequence))
    batch = small_batch()
    exact = float(next_token_loss(alone, batch, 10))
    with torch.autocast("cpu", torch.bfloat16):
        narrow, found = next_token_loss(alone, batch, 10), loss(cut, batch, 10)
    found.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in cut.parameters())
    return abs(float(found) - exact) / exact, abs(float(narrow) - exact) / exact


def done_again(policy, sequence):
    """Gradients where the layers' forward passes are done again in the backward pass."""
    mesh = make_mesh({"tp": dist.get_world_size()})
    kept, again = small_model("qk norm"), small_model("qk norm")
    for model in (kept, again):
        loss = TensorLoss(tensor_parallel(model, mesh, sequence))
        if model is again:
            recompute(model, policy)
        loss(model, small_batch(), 10).backward()
    assert_equal_to(gradients(again), gradients(kept), 1e-14)
