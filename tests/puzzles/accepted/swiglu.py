"""Right answers to swiglu in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the logistic function by hand
@triton.jit
def swiglu(x_ptr, w_gate_ptr, w_up_ptr, h_ptr, M, D, F,
           BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    gate = tl.zeros([BLOCK_M, BLOCK_F], dtype=tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_F], dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + m * D + d[None, :], mask=(m < M) & (d[None, :] < D), other=0.0)
        inside = (d[:, None] < D) & (f < F)
        w_gate = tl.load(w_gate_ptr + d[:, None] * F + f, mask=inside, other=0.0)
        w_up = tl.load(w_up_ptr + d[:, None] * F + f, mask=inside, other=0.0)
        gate += tl.dot(x, w_gate, input_precision="ieee")
        up += tl.dot(x, w_up, input_precision="ieee")
    tl.store(h_ptr + m * F + f, gate / (1.0 + tl.exp(-gate)) * up, mask=(m < M) & (f < F))


# --- block pointers, and up before gate
@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def swiglu(x_ptr, w_gate_ptr, w_up_ptr, h_ptr, M, D, F,
           BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    i, j = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_F
    x = tl.make_block_ptr(x_ptr, (M, D), (D, 1), (i, 0), (BLOCK_M, BLOCK_D), (1, 0))
    w_up = tl.make_block_ptr(w_up_ptr, (D, F), (F, 1), (0, j), (BLOCK_D, BLOCK_F), (1, 0))
    w_gate = tl.make_block_ptr(w_gate_ptr, (D, F), (F, 1), (0, j), (BLOCK_D, BLOCK_F), (1, 0))
    up = tl.full([BLOCK_M, BLOCK_F], 0.0, dtype=tl.float32)
    gate = tl.full([BLOCK_M, BLOCK_F], 0.0, dtype=tl.float32)
    for _ in range(tl.cdiv(D, BLOCK_D)):
        tile = tl.load(x, boundary_check=(0, 1), padding_option="zero")
        u = tl.load(w_up, boundary_check=(0, 1), padding_option="zero")
        g = tl.load(w_gate, boundary_check=(0, 1), padding_option="zero")
        up = tl.dot(tile, u, up, input_precision="ieee")
        gate = tl.dot(tile, g, gate, input_precision="ieee")
        x = tl.advance(x, [0, BLOCK_D])
        w_up, w_gate = tl.advance(w_up, [BLOCK_D, 0]), tl.advance(w_gate, [BLOCK_D, 0])
    h = tl.make_block_ptr(h_ptr, (M, F), (F, 1), (i, j), (BLOCK_M, BLOCK_F), (1, 0))
    tl.store(h, up * silu(gate), boundary_check=(0, 1))


# --- one dimension of D at a time, without tl.dot
@triton.jit
def swiglu(x_ptr, w_gate_ptr, w_up_ptr, h_ptr, M, D, F,
           BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    gate = tl.zeros([BLOCK_M, BLOCK_F], dtype=tl.float32)
    up = tl.zeros_like(gate)
    for start in range(0, D, BLOCK_D):
        for d in range(start, min(start + BLOCK_D, D)):
            x = tl.load(x_ptr + m * D + d, mask=m < M, other=0.0)[:, None]
            gate += x * tl.load(w_gate_ptr + d * F + f, mask=f < F, other=0.0)[None, :]
            up += x * tl.load(w_up_ptr + d * F + f, mask=f < F, other=0.0)[None, :]
    h = tl.fdiv(gate * up, 1 + tl.exp(-gate))
    tl.store(h_ptr + m[:, None] * F + f[None, :], h, mask=(m < M)[:, None] & (f < F)[None, :])
