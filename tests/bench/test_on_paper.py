"""What models on paper count is what the code does: the trace, the weights, the passes over scores."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench.gpu import SHAPES, random_model
from aiinfra.bench.on_paper import (
    DENSE_PASSES, QWEN3, READ, PaperTrace, graphs_gain, hstu_gain, training_share)
from aiinfra.bench.trace import random_trace
from aiinfra.kernels.cross_entropy import chunk_rows
from aiinfra.kernels.hstu_attention import naive_hstu
from aiinfra.perf.training import decoder_flops, matrix_weights


def test_the_trace_on_paper_is_the_one_that_is_served() -> None:
    drawn = random_trace(bench_gpu.REQUESTS, 1000, 0, bench_gpu.LENGTHS, bench_gpu.LENGTHS)
    paper = PaperTrace(bench_gpu.REQUESTS, *bench_gpu.LENGTHS)
    keys = strangers = 0
    for step in range(max(one.output_tokens for one in drawn)):
        left = [len(one.prompt) + step for one in drawn if one.output_tokens > step]
        keys += sum(left)
        strangers += len(left) * sum(left)
    prompts = sum(len(one.prompt) for one in drawn)
    assert keys == pytest.approx(paper.keys_read, rel=0.08)
    assert strangers + prompts**2 / 2 == pytest.approx(paper.pairs_of_strangers, rel=0.12)
    longest = [max(len(one.prompt) for one in drawn), max(one.output_tokens for one in drawn)]
    padded = len(drawn) * longest[1] * (longest[0] + longest[1] / 2)
    assert padded == pytest.approx(paper.padded_keys_read, rel=0.03)


def test_the_model_on_paper_is_the_one_that_is_measured() -> None:
    config = SHAPES["Qwen3-0.6B"]
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    model = random_model(config, torch.device("meta"), torch.bfloat16)
    assert model.weight_bytes() == pytest.approx(QWEN3.weight_bytes, rel=0.01)
    assert QWEN3.key_bytes == layers * 2 * config.num_key_value_heads * config.head_dim * 2
    assert QWEN3.pair_flops == layers * 4 * heads * config.head_dim


def test_training_on_paper_counts_the_weights_and_chunks_that_there_are() -> None:
    config = SHAPES["Llama-1B"]
    head = config.hidden_size * config.vocab_size
    assert matrix_weights(config) == pytest.approx(0.973e9 + head, rel=1e-3)
    lengths = [4096] * 4
    attention = decoder_flops(config, lengths) - 6.0 * matrix_weights(config) * sum(lengths)
    assert attention == pytest.approx(6 * 16 * 2048 * 2 * sum(lengths) * 4096 / 2, rel=1e-3)
    assert chunk_rows(sum(lengths), config.hidden_size, config.vocab_size) == 256
    assert training_share(READ["H100"], 0.6) < training_share(READ["H200"], 0.6) < 0.6


class Moved(TorchDispatchMode):
    """Bytes of all large tensors that operations read and write; of a view, nothing."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.nbytes = least, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not func.is_view and func._schema.name != "aten::empty":
            tensors = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, torch.Tensor)]
            self.nbytes += sum(x.nbytes for x in tensors if x.numel() >= self.least)
        return made


def test_a_dense_composition_passes_over_its_scores_as_often_as_it_says() -> None:
    """In bfloat16, with tables a head, forward and backward; but for the sort in its table's gradient."""
    requests, length, heads = 2, 96, 4
    tokens = requests * length
    torch.manual_seed(0)
    q, k, v = (torch.randn(tokens, heads, 4, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")
    tables = [torch.randn(heads, n, dtype=torch.bfloat16, requires_grad=True) for n in (2 * length - 1, 129)]
    offsets = torch.arange(requests + 1, dtype=torch.int32) * length
    seconds = torch.randint(1, 3600, (requests, length)).cumsum(1).flatten()
    with Moved(least=length**2) as moved:
        y = naive_hstu(q, k, v, offsets, seconds, *tables, max_len=length, one_hot=False)
        y.sum().backward()
    passes = moved.nbytes / (2 * requests * heads * length**2)
    assert passes == pytest.approx(DENSE_PASSES, rel=0.03)


def test_what_paper_says_follows_from_its_causes() -> None:
    slow, fast = (graphs_gain(0.269e9, 30, READ["H100"], launch) for launch in (20e-6, 10e-6))
    assert slow > fast > 1
    assert hstu_gain(READ["H100"], waits=True) > 5 * hstu_gain(READ["H100"], waits=False) > 5
    more = replace(PaperTrace(), requests=512)
    assert more.keys_read == 2 * PaperTrace().keys_read
    assert more.pairs_of_strangers == 4 * PaperTrace().pairs_of_strangers
