"""The buckets of time: kernel and formula agree on every edge."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.kernels.kernel_checks import on_device, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.hstu_attention import hstu_attention
from aiinfra.kernels.hstu_bias import time_buckets

pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


@pytest.mark.slow
def test_time_buckets_match_at_every_edge():
    """Both sides of each bucket's edge, kernel against float64, by a history of one item and its
    successor."""
    starts = [math.exp(0.301 * b) for b in range(1, 128)]       # nearer than 1e-5 either side is right
    edges = [0, 1, 2] + [x for e in starts for x in (math.floor(e * (1 - 1e-5)), math.ceil(e * (1 + 1e-5)))]
    size, count = 16, len(edges)
    q = k = torch.zeros(2 * count, 1, size)
    v = torch.zeros(2 * count, 1, size)
    v[0::2] = 1.0                                               # the second row of each pair sees its first
    times = torch.tensor([t for e in edges for t in (1_000, 1_000 + e)])
    table = torch.arange(1.0, 130.0)                            # SiLU keeps the order
    offsets = torch.arange(0, 2 * count + 1, 2, dtype=torch.int32)
    got = hstu_attention(q, k, v, offsets, times, None, table, max_len=2, backend="triton")[1::2, 0, 0] * 2
    assert torch.allclose(got, F.silu(1.0 + time_buckets(torch.tensor(edges)).float()))
    assert time_buckets(torch.tensor([0, 1, -1, 2 ** 62])).tolist() == [0, 0, 0, 128]
