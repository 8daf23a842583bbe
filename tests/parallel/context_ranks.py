"""What ranks do in test_context.py: each compares its tokens with one process."""

from dataclasses import replace

import torch
import torch.distributed as dist

from aiinfra.kernels.flash_attention import attention_reference
from aiinfra.parallel.context import Zigzag, cut_batch, ring_documents
from aiinfra.parallel.mesh import make_mesh
from aiinfra.parallel.parts import split_parts
from aiinfra.parallel.tensor import TensorLoss, tensor_parallel
from aiinfra.train.loop import next_token_loss
from tests.parallel.small import assert_equal_to, gradients, small_batch, small_model


def ring_attention(lengths, heads=(4, 2)):
    """Attention and its gradients of one packed row, by the ring and by the formula."""
    mesh = make_mesh({"cp": dist.get_world_size()})
    torch.manual_seed(0)
    borders = torch.tensor([0, *lengths]).cumsum(0)
    N = sum(lengths)
    H, K = heads
    q, k, v = (torch.randn(N, count, 6, dtype=torch.float64, requires_grad=True) for count in (H, K, K))
    do = torch.randn(N, H, 6, dtype=torch.float64)
    expected = attention_reference(q, k, v, borders.tolist(), borders.tolist())
    expected.backward(do)
    mine = Zigzag(N, mesh.size()).rows(mesh.get_local_rank())
    own = [x.detach()[mine].requires_grad_() for x in (q, k, v)]
    found = ring_documents(borders.int(), max(lengths), mesh).attend(0, *own)
    found.backward(do[mine])
    torch.testing.assert_close(found, expected[mine], rtol=1e-10, atol=1e-12)
    for got, want in zip(own, (q, k, v)):
        torch.testing.assert_close(got.grad, want.grad[mine], rtol=1e-10, atol=1e-12)


def equal_one_process(variant, lengths):
    """Loss and every gradient of the model, summed over the ranks; 2 micro-batches."""
    mesh = make_mesh({"cp": dist.get_world_size()})
    alone, cut = small_model(variant), small_model(variant)
    for seed in range(2):
        batch = small_batch(lengths, seed=seed)
        share = cut_batch(batch, mesh)
        sums = torch.tensor([share.valid, share.text_bytes, 0], dtype=torch.float64)
        expected, loss = next_token_loss(alone, batch, 20), next_token_loss(cut, share, 20)
        sums[2] = loss.detach()
        dist.all_reduce(sums)
        assert sums[:2].tolist() == [batch.valid, batch.text_bytes]
        torch.testing.assert_close(sums[2], expected.detach(), rtol=1e-12, atol=0)
        expected.backward()
        loss.backward()
    for parameter in cut.parameters():
        dist.all_reduce(parameter.grad)
    assert_equal_to(gradients(cut), gradients(alone))


def not_filled_up(lengths):
    """What is said of a micro-batch that must stay as it is."""
    try:
        cut_batch(small_batch(lengths), make_mesh({"cp": dist.get_world_size()}), fill=False)
    except ValueError as error:
        return str(error)


def with_tensor_parallel(variant, sequence):
    """Each of two parts of the row on two ranks that share every matrix."""
    mesh = make_mesh({"cp": 2, "tp": 2})
    alone, cut = small_model(variant), small_model(variant)
    split_parts(alone)
    loss = TensorLoss(tensor_parallel(cut, mesh["tp"], sequence))
    batch = small_batch((30, 1, 14, 6))
    next_token_loss(alone, batch, 20).backward()
    loss(cut, cut_batch(batch, mesh["cp"], multiple=2), 20).backward()
    for parameter in cut.parameters():
        dist.all_reduce(parameter.grad.to_local(), group=mesh["cp"].get_group())
    assert_equal_to(gradients(cut), gradients(alone))


def bfloat16(lengths):
    """The error of the ring's loss in bfloat16, and that of one process, against float32."""
    mesh = make_mesh({"cp": dist.get_world_size()})
    model = small_model().float()
    batch = small_batch(lengths)
    exact = float(next_token_loss(model, batch, batch.valid))
    share = cut_batch(replace(batch, text_bytes=9), mesh)
    assert share.text_bytes == (0 if dist.get_rank() else 9)
    with torch.autocast("cpu", torch.bfloat16):
        alone = next_token_loss(model, batch, batch.valid)
        loss = next_token_loss(model, share, batch.valid)
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return abs(float(total) - exact) / exact, abs(float(alone) - exact) / exact
