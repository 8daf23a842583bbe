"""Sheet 2, loops and reductions: one answer to each puzzle. Read as text by the judge."""

import triton
import triton.language as tl


@triton.jit
def long_sum(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, M, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        acc += tl.load(x_ptr + row * M + offsets, mask=offsets < M, other=0.0)
    tl.store(z_ptr + row, tl.sum(acc, 0))


@triton.jit
def online_softmax(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    m, s = -float("inf"), 0.0
    for start in range(0, M, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * M + offsets, mask=offsets < M, other=-float("inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        s = s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), 0)
        m = m_new
    for start in range(0, M, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * M + offsets, mask=offsets < M, other=-float("inf"))
        tl.store(z_ptr + row * M + offsets, tl.exp(x - m) / s, mask=offsets < M)


@triton.jit
def rms_norm(x_ptr, weight_ptr, y_ptr, N, D, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + d, mask=d < D, other=0.0).to(tl.float32)
    y = x / tl.sqrt(tl.sum(x * x, 0) / D + eps) * weight
    tl.store(y_ptr + row * D + d, y, mask=d < D)


@triton.jit
def argmax(x_ptr, token_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    best, at = -float("inf"), 0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        top = tl.max(x, 0)
        at = tl.where(top > best, start + tl.argmax(x, 0), at)
        best = tl.maximum(best, top)
    tl.store(token_ptr + row, at)


@triton.jit
def cross_entropy(x_ptr, target_ptr, loss_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    m, s = -float("inf"), 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        s = s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), 0)
        m = m_new
    target = tl.load(target_ptr + row)
    tl.store(loss_ptr + row, m + tl.log(s) - tl.load(x_ptr + row * V + target))


@triton.jit
def conv2d(x_ptr, k_ptr, z_ptr, B, H, W, KH, KW, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    image = tl.program_id(0) * H * W
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    w = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    acc = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.float32)
    for di in range(0, KH):
        for dj in range(0, KW):
            inside = ((h + di)[:, None] < H) & ((w + dj)[None, :] < W)
            x = tl.load(x_ptr + image + (h + di)[:, None] * W + (w + dj)[None, :], mask=inside, other=0.0)
            acc += tl.load(k_ptr + di * KW + dj) * x
    tl.store(z_ptr + image + h[:, None] * W + w[None, :], acc, mask=(h[:, None] < H) & (w[None, :] < W))
