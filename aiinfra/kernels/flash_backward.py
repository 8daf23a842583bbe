"""The backward pass of flash attention, in three kernels without atomics.

    P  = 2^(scale log2(e) q kᵀ - LSE)      recomputed, tile by tile; nothing of size T x S was saved
    dV = Pᵀ dO        dP = dO vᵀ      dS = P * (dP - delta),  delta[row] = sum(o * dO)
    dQ = scale * dS k                 dK = scale * dSᵀ q

      delta kernel      one pass over o and dO
      column kernel     a program owns BN keys, walks down the rows (and the heads of its group)
      row kernel        a program owns BM rows, walks along the keys

Each sum belongs to one program, so two runs agree to the bit. The price is that P and dP are computed
twice, 7 products a tile instead of 5. Dao 2023, arXiv 2307.08691, section 3.1. Notebook 10.
"""

import math

import torch
from torch import Tensor

from aiinfra.kernels.chip import arch_of, large_shared
from aiinfra.kernels.lang import tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.kernels.tiles import head_sizes, load_tile, row_head_strides, row_limits, store_tile


@triton.jit(do_not_specialize=["tokens"])
def _delta_kernel(o_ptr, do_ptr, delta_ptr, o_row, o_head, do_row, do_head, tokens,
                  DH: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr):
    """delta[h, n] = sum(o * dO): what the softmax's backward subtracts from each dP of the row."""
    row0, head = tl.program_id(0) * BM, tl.program_id(1)
    first, row = row0.to(tl.int64), tl.arange(0, BM)
    o = load_tile(o_ptr + first * o_row + head * o_head, o_row, row, tokens - row0, True, DH, DP)
    do = load_tile(do_ptr + first * do_row + head * do_head, do_row, row, tokens - row0, True, DH, DP)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta_ptr + head.to(tl.int64) * tokens + first + row, delta, mask=row0 + row < tokens)


@triton.jit(do_not_specialize=["lse_head"])
def _dk_dv_kernel(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, cu_q_ptr, cu_k_ptr,
                  q_row, q_head, k_row, k_head, v_row, v_head, do_row, do_head, dk_row, dk_head,
                  lse_head, scale_log2, scale,
                  GROUP: tl.constexpr, CAUSAL: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
                  BM: tl.constexpr, BN: tl.constexpr):
    col0, kv_head, seq = tl.program_id(0) * BN, tl.program_id(1), tl.program_id(2)
    q0, k0 = tl.load(cu_q_ptr + seq), tl.load(cu_k_ptr + seq)
    rows, keys = tl.load(cu_q_ptr + seq + 1) - q0, tl.load(cu_k_ptr + seq + 1) - k0
    if col0 >= keys:
        return
    first, col, row = (k0 + col0).to(tl.int64), tl.arange(0, BN), tl.arange(0, BM)
    k = load_tile(k_ptr + first * k_row + kv_head * k_head, k_row, col, keys - col0, True, DH, DP)
    v = load_tile(v_ptr + first * v_row + kv_head * v_head, v_row, col, keys - col0, True, DH, DP)
    dk = tl.zeros([BN, DP], tl.float32)
    dv = tl.zeros([BN, DP], tl.float32)
    hidden = keys - rows                      # keys that row 0 sees before its own
    lo = tl.maximum(col0 - hidden, 0) // BM * BM if CAUSAL else 0
    blocks = tl.cdiv(tl.maximum(rows - lo, 0), BM)
    # One loop over the group's query heads and their row blocks: two loops would need twice the registers.
    for step in tl.range(0, GROUP * blocks):
        head, start = kv_head * GROUP + step // blocks, lo + step % blocks * BM
        at, left = (q0 + start).to(tl.int64), rows - start
        q = load_tile(q_ptr + at * q_row + head * q_head, q_row, row, left, True, DH, DP)
        do = load_tile(do_ptr + at * do_row + head * do_head, do_row, row, left, True, DH, DP)
        # Rows past the end come in as zeros: q, dO and delta, so whatever p is they add nothing.
        at += head.to(tl.int64) * lse_head
        lse = tl.load(lse_ptr + at + row, mask=row < left, other=0.0)
        s = tl.dot(k, tl.trans(q), input_precision="ieee")                               # [BN, BM]
        p = tl.math.exp2(s * scale_log2 - lse[None, :])
        if CAUSAL:
            p = tl.where((start + row)[None, :] >= (col0 - hidden + col)[:, None], p, 0.0)
        dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
        dp = tl.dot(v, tl.trans(do), input_precision="ieee")                             # [BN, BM]
        delta = tl.load(delta_ptr + at + row, mask=row < left, other=0.0)
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    at = first * dk_row + kv_head * dk_head
    store_tile(dk_ptr + at, dk_row, col, keys - col0, dk * scale, DH, DP)
    store_tile(dv_ptr + at, dk_row, col, keys - col0, dv, DH, DP)


@triton.jit
def _row_step(dq, q, do, lse, delta, k_ptr, v_ptr, k_row, v_row, lo, hi, keys, last_key, scale_log2,
              MASKED: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr, BN: tl.constexpr):
    """Add keys lo:hi to dq [BM, DP]."""
    col = tl.arange(0, BN)
    for start in tl.range(lo, hi, BN):
        at = tl.cast(start, tl.int64)
        k = load_tile(k_ptr + at * k_row, k_row, col, keys - start, MASKED, DH, DP)
        v = load_tile(v_ptr + at * v_row, v_row, col, keys - start, MASKED, DH, DP)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")                               # [BM, BN]
        p = tl.math.exp2(s * scale_log2 - lse[:, None])
        if MASKED:
            p = tl.where(start + col[None, :] <= last_key[:, None], p, 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=["lse_head"])
def _dq_kernel(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, cu_q_ptr, cu_k_ptr,
               q_row, q_head, k_row, k_head, v_row, v_head, do_row, do_head, dq_row, dq_head,
               lse_head, scale_log2, scale,
               GROUP: tl.constexpr, CAUSAL: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
               BM: tl.constexpr, BN: tl.constexpr):
    row0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    head, seq = tl.program_id(1), tl.program_id(2)
    q0, k0 = tl.load(cu_q_ptr + seq), tl.load(cu_k_ptr + seq)
    rows, keys = tl.load(cu_q_ptr + seq + 1) - q0, tl.load(cu_k_ptr + seq + 1) - k0
    if row0 >= rows:
        return
    first, kv_head, row = (q0 + row0).to(tl.int64), head // GROUP, tl.arange(0, BM)
    q = load_tile(q_ptr + first * q_row + head * q_head, q_row, row, rows - row0, True, DH, DP)
    do = load_tile(do_ptr + first * do_row + head * do_head, do_row, row, rows - row0, True, DH, DP)
    at = head.to(tl.int64) * lse_head + first + row
    lse = tl.load(lse_ptr + at, mask=row0 + row < rows, other=0.0)
    delta = tl.load(delta_ptr + at, mask=row0 + row < rows, other=0.0)
    k_ptr += k0.to(tl.int64) * k_row + kv_head * k_head
    v_ptr += k0.to(tl.int64) * v_row + kv_head * v_head
    dq = tl.zeros([BM, DP], tl.float32)
    full, end, last_key = row_limits(row0, rows, keys, CAUSAL, BM, BN)
    dq = _row_step(dq, q, do, lse, delta, k_ptr, v_ptr, k_row, v_row, 0, full, keys, last_key, scale_log2,
                   False, DH, DP, BN)
    dq = _row_step(dq, q, do, lse, delta, k_ptr, v_ptr, k_row, v_row, full, end, keys, last_key,
                   scale_log2, True, DH, DP, BN)
    store_tile(dq_ptr + first * dq_row + head * dq_head, dq_row, row, rows - row0, dq * scale, DH, DP)


def _tiling(head_size: int, value_bytes: int, arch: int) -> dict[str, dict]:
    """Tile sizes, warps and stages of the column and row kernels."""
    wide = head_size > 64
    if arch == 0:
        column = row = (16, 16, 4, 1)
    elif value_bytes > 2:                     # float32 in full precision: no tensor cores, few values fit
        column = (32, 32, 8, 1)
        row = (16, 32, 4 if large_shared(arch) else 8, 1)            # on gaming chips, registers spill
    elif not large_shared(arch):
        column, row = (32, 64, 8 if head_size > 32 else 4, 2), (64, 32, 4, 2)
    elif arch < 90:                           # accumulators share the registers with their operands
        column, row = (64, 64, 8, 2) if wide else (64, 128, 8, 2), (128, 32 if wide else 64, 8, 2)
    else:
        column, row = (64, 128, 8, 2 if wide else 3), (128, 64, 8, 2)
    names = ("BM", "BN", "num_warps", "num_stages")
    return {"column": dict(zip(names, column)), "row": dict(zip(names, row))}


@operator("flash_attention_backward")
def attention_backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, do: Tensor,
                       cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
                       causal: bool, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv for packed q, o, do [N, H, Dh] and k, v [M, K, Dh], all adjacent along Dh; lse [H, N] in
    base 2, from the forward."""
    (tokens, heads, size), batch = q.shape, cu_q.numel() - 1
    sizes, tiling = head_sizes(q, k, causal), _tiling(size, q.element_size(), arch_of(q))
    column, row, delta_rows = tiling["column"], tiling["row"], 16 if arch_of(q) == 0 else 32
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    delta = torch.empty_like(lse)
    launch(_delta_kernel, (triton.cdiv(tokens, delta_rows), heads),
           o, do, delta, *row_head_strides(o, do), tokens, DH=size, DP=sizes["DP"], BM=delta_rows)
    rest = (tokens, scale * math.log2(math.e), scale)
    launch(_dk_dv_kernel, (triton.cdiv(max_k, column["BN"]), k.shape[1], batch),
           q, k, v, do, lse, delta, dk, dv, cu_q, cu_k, *row_head_strides(q, k, v, do, dk), *rest,
           **sizes, **column)
    launch(_dq_kernel, (triton.cdiv(max_q, row["BM"]), heads, batch),
           q, k, v, do, lse, delta, dq, cu_q, cu_k, *row_head_strides(q, k, v, do, dq), *rest,
           **sizes, **row)
    return dq, dk, dv


def compile_cases(arch: int) -> list[dict]:
    """What this file has to compile; see gpu/compile.py."""
    cases = []
    for kind, value_bytes, size in (("bf16", 2, 64), ("bf16", 2, 128), ("fp32", 4, 128)):
        tiling = _tiling(size, value_bytes, arch)
        types = {f"{name}_ptr": f"*{kind}" for name in ("q", "k", "v", "o", "do", "dq", "dk", "dv")}
        types |= {f"{x}_{axis}": "i32:16" for x in ("q", "k", "v", "o", "do", "dq", "dk")
                  for axis in ("row", "head")}
        types |= {"lse_ptr": "*fp32", "delta_ptr": "*fp32", "cu_q_ptr": "*i32", "cu_k_ptr": "*i32",
                  "scale_log2": "fp32", "scale": "fp32"}
        sizes = {"GROUP": 4, "CAUSAL": True, "DH": size, "DP": size}
        cases.append(dict(name=f"delta {kind} Dh={size}", kernel=_delta_kernel, types=types,
                          constexprs={"DH": size, "DP": size, "BM": 32}))
        for name, kernel in (("column", _dk_dv_kernel), ("row", _dq_kernel)):
            blocks = {x: tiling[name][x] for x in ("BM", "BN")}
            cases.append(dict(name=f"{name} {kind} Dh={size}", kernel=kernel, types=types,
                              constexprs=sizes | blocks, num_warps=tiling[name]["num_warps"],
                              num_stages=tiling[name]["num_stages"]))
    return cases
