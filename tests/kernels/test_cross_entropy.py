import pytest
import torch
import torch.nn.functional as F
# noqa: F401
from tests.kernels.kernel_checks import DEVICE, doubled, gradients, randn, relative_error, unwritten_is_nan

from aiinfra.environment import triton_interpreted
from aiinfra.kernels import cross_entropy
from aiinfra.kernels.cross_entropy import (
    chunk_rows,
    cost,
    linear_cross_entropy,
    linear_cross_entropy_reference,
)

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")
BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])


def inputs(tokens: int, width: int, vocabulary: int, dtype=torch.float32):
    """hidden, weight, targets; every third target (from the second) is ignored."""
    targets = torch.arange(tokens, device=DEVICE) * 5 % vocabulary
    targets[1::3] = -100
    return (randn(tokens, width, dtype=dtype, grad=True),
            randn(vocabulary, width, dtype=dtype, grad=True, seed=1), targets)


def torchs(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight), targets)


def test_reference_is_torchs():
    args = inputs(7, 5, 33)
    torch.testing.assert_close(linear_cross_entropy_reference(*args), torchs(*args))


@pytest.mark.parametrize("fn", [linear_cross_entropy_reference,
                                lambda h, w, t: linear_cross_entropy(h, w, t, rows=2, backend="torch")])
def test_gradients_in_float64(fn):
    hidden, weight, targets = doubled(*inputs(5, 3, 7))
    assert torch.autograd.gradcheck(lambda h, w: fn(h, w, targets), (hidden, weight))


@BACKENDS
@pytest.mark.parametrize("tokens, rows", [(1, 1), (2, 3), (9, 8), (8, 8), (7, 8), (8, 1)])
@pytest.mark.parametrize("vocabulary", [1, 3, 31, 64, 65])
def test_is_torchs_cross_entropy(backend, tokens, rows, vocabulary):
    args = inputs(tokens, 6, vocabulary)

    def fused(*args):
        return linear_cross_entropy(*args, rows=rows, backend=backend)
    torch.testing.assert_close(fused(*args).double(), torchs(*doubled(*args)), rtol=1e-6, atol=1e-6)
    for got, wanted in zip(gradients(fused, *args), gradients(torchs, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 3e-6


@pytest.mark.parametrize("vocabulary", [15, 16, 17, 50])
def test_several_blocks_of_vocabulary(monkeypatch, vocabulary):
    monkeypatch.setattr(cross_entropy, "_BLOCK_V", 16)
    args = inputs(5, 6, vocabulary)

    def fused(*args):
        return linear_cross_entropy(*args, backend="triton")
    torch.testing.assert_close(fused(*args).double(), torchs(*doubled(*args)), rtol=1e-6, atol=1e-6)
    for got, wanted in zip(gradients(fused, *args), gradients(torchs, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 3e-6


@BACKENDS
def test_logits_that_overflow_a_naive_softmax(backend):
    hidden, weight, targets = inputs(6, 8, 40)
    args = ((hidden.detach() * 100).requires_grad_(), weight, targets)
    loss = linear_cross_entropy(*args, backend=backend)
    assert relative_error(loss, torchs(*doubled(*args))) < 1e-6 and loss > 88     # exp(88) is float32's end


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")   # NumPy's, in the interpreter
@BACKENDS
def test_all_ignored_is_the_mean_of_nothing(backend):
    hidden, weight, targets = inputs(3, 4, 9)
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100), backend=backend)
    assert loss.isnan() and torchs(hidden, weight, torch.full_like(targets, -100)).isnan()
    assert not any(g.any() for g in torch.autograd.grad(loss, (hidden, weight)))


@BACKENDS
def test_no_tokens(backend):
    hidden, weight, targets = inputs(0, 4, 9)
    loss = linear_cross_entropy(hidden, weight, targets, backend=backend)
    assert loss.isnan() and torch.autograd.grad(loss, hidden)[0].shape == (0, 4)


@BACKENDS
def test_other_ignore_index_and_scaled_loss(backend):
    hidden, weight, targets = inputs(5, 4, 9)
    targets = targets.clamp(min=0)
    wide = doubled(hidden, weight)
    got = torch.autograd.grad(3 * linear_cross_entropy(hidden, weight, targets, 0, backend=backend),
                              (hidden, weight))
    wanted = torch.autograd.grad(3 * F.cross_entropy(F.linear(*wide), targets, ignore_index=0), wide)
    assert all(relative_error(a, b) < 3e-6 for a, b in zip(got, wanted))


@BACKENDS
def test_views(backend):
    hidden = randn(8, 6)[::2].requires_grad_()
    weight = randn(6, 20, seed=1).T.requires_grad_()
    targets = torch.arange(8, device=DEVICE)[::2]

    def fused(*args):
        return linear_cross_entropy(*args, backend=backend)
    for got, wanted in zip(gradients(fused, hidden, weight, targets),
                           gradients(torchs, *doubled(hidden, weight, targets)), strict=True):
        assert relative_error(got, wanted) < 3e-6


def test_only_wanted_gradients_and_none_in_evaluation():
    hidden, weight, targets = inputs(5, 4, 9)
    loss = linear_cross_entropy(hidden, weight.detach(), targets, backend="triton")
    assert relative_error(torch.autograd.grad(loss, hidden)[0],
                          gradients(torchs, *doubled(hidden, weight.detach(), targets), seed=0)[0]
                          / randn(seed=0)) < 3e-6
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets, backend="triton").requires_grad


@BACKENDS
def test_bfloat16(backend):
    args = inputs(40, 16, 50, torch.bfloat16)

    def fused(*args):
        return linear_cross_entropy(*args, rows=8, backend=backend)
    loss = fused(*args)
    assert loss.dtype == torch.float32 and relative_error(loss, torchs(*doubled(*args))) < 0.01
    got = gradients(fused, *args)
    assert [g.dtype for g in got] == [torch.bfloat16] * 2
    for a, b in zip(got, gradients(torchs, *doubled(*args)), strict=True):
        assert relative_error(a, b) < 0.02


def test_target_outside_the_vocabulary():
    hidden, weight, targets = inputs(3, 4, 9)
    targets = torch.where(targets < 0, 9, targets)
    assert linear_cross_entropy(hidden, weight, targets, backend="triton").isinf()
    if DEVICE.type == "cpu":
        with pytest.raises(RuntimeError, match="out of bounds"):
            linear_cross_entropy(hidden, weight, targets, backend="torch")


def test_rows_are_independent():
    logits = randn(5, 70)
    changed = logits.clone()
    changed[2] = 1e4
    targets, count = torch.arange(5, device=DEVICE), torch.ones((), device=DEVICE)
    losses = [cross_entropy._softmax_gradient(t, targets, count, -100, True, "triton")
              for t in (logits, changed)]
    others = [0, 1, 3, 4]
    assert torch.equal(losses[0][others], losses[1][others])
    assert torch.equal(logits[others], changed[others])                            # now the gradients


@BACKENDS
def test_never_more_logits_than_one_chunk(backend, monkeypatch):
    shapes, original = [], cross_entropy._softmax_gradient

    def recorded(logits, *rest):
        shapes.append(tuple(logits.shape))
        return original(logits, *rest)
    monkeypatch.setattr(cross_entropy, "_MIN_ROWS", 16)
    monkeypatch.setattr(cross_entropy, "_softmax_gradient", recorded)
    seen = Largest()
    with seen:
        loss = linear_cross_entropy(*inputs(44, 4, 300), backend=backend)
    loss.backward()
    assert chunk_rows(44, 4, 300) == 16 and shapes == [(16, 300), (16, 300), (12, 300)]
    assert seen.numel == 16 * 300                         # nothing anywhere is larger than a chunk


class Largest(torch.overrides.TorchFunctionMode):
    """Remembers the largest tensor that any PyTorch function returned inside the `with`."""

    numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_chunk_rows():
    assert chunk_rows(8192, 2048, 128_000) == 256         # never below a matmul's useful size
    assert chunk_rows(65536, 4096, 32_000) == 8320        # 65 tiles: about as many logits as hidden's values
    assert chunk_rows(10, 4096, 100) == 10 and chunk_rows(0, 4, 4) == 1


def test_errors():
    hidden, weight, targets = inputs(3, 4, 9)
    with pytest.raises(ValueError, match=r"\[V, D\]"):
        linear_cross_entropy(hidden, weight[:, :3], targets)
    with pytest.raises(ValueError, match="not known"):
        linear_cross_entropy(hidden, weight, targets, backend="liger")


def test_cost():
    forward, both = cost(10, 8, 100, gradient=False), cost(10, 8, 100)
    assert forward.flops == 2 * 10 * 8 * 100 + 5 * 1000
    assert both.flops == 3 * 2 * 10 * 8 * 100 + 5 * 1000 and both.bytes > forward.bytes


@pytest.mark.skipif(not triton_interpreted(), reason="counts the loads of Triton's interpreter")
def test_no_thread_reads_what_another_one_writes(monkeypatch):
    """Every load of the logits is a block laid out as the stores are: a thread reads what it will write.

    Old code: the target's logit had a load of its own, and a warp ahead might have overwritten it."""
    from triton.runtime.interpreter import interpreter_builder as builder
    logits, targets = randn(3, 40), torch.tensor([0, 17, 39], device=DEVICE)
    start, end = logits.data_ptr(), logits.data_ptr() + logits.nbytes
    loads, stores = set(), set()

    def watch(name, shapes):
        plain = getattr(builder, name)

        def watched(pointers, *rest):
            if ((pointers.data >= start) & (pointers.data < end)).any():
                shapes.add(pointers.data.shape)
            return plain(pointers, *rest)
        monkeypatch.setattr(builder, name, watched)
    watch("create_masked_load", loads)
    watch("create_load", loads)
    watch("create_masked_store", stores)
    losses = cross_entropy._softmax_gradient(logits, targets, torch.tensor(3.0), -100, True, "triton")
    assert losses.isfinite().all() and loads == stores == {(64,)}
