"""Sheet 3: wrong answers and how each is caught."""

from puzzles.wrong import wrong

_STORE = "acc, mask=(m[:, None] < M) & (n[None, :] < N)"

ANSWERS = [
    wrong("matmul", "TF32", "wrong_value", ', input_precision="ieee"', ""),
    wrong("matmul", "no mask along K", "out_of_bounds_read", "(m[:, None] < M) & (k[None, :] < K)", "(m[:, None] < M)"),
    wrong("matmul", "masked lanes without other=", "masked_lanes", ", other=0.0", ""),
    wrong("matmul", "a's strides exchanged", "wrong_value", "m[:, None] * stride_am + k[None, :] * stride_ak", "m[:, None] * stride_ak + k[None, :] * stride_am"),
    wrong("matmul", "only the first step along K", "wrong_value", "range(0, K, BLOCK_K)", "range(0, BLOCK_K, BLOCK_K)"),
    wrong("matmul", "accumulates in float16", "wrong_value", "        a = tl.load(", "        acc = acc.to(tl.float16).to(tl.float32)\n        a = tl.load("),
    wrong("matmul", "assumes contiguous b", "wrong_value", "k[:, None] * stride_bk + n[None, :] * stride_bn", "k[:, None] * N + n[None, :]"),
    wrong("matmul", "one column of tiles for all", "race", "tl.program_id(1) * BLOCK_N", "0"),
    wrong("matmul", "wrong by 10 %", "wrong_value", _STORE, "1.1 * " + _STORE),

    wrong("matmul_grouped", "plain order", "wrong_program", "first + inside % height", "pid // columns", "inside // height", "pid % columns"),
    wrong("matmul_grouped", "a lower last group is forgotten", "out_of_bounds_read", "tl.minimum(rows - first, GROUP)", "GROUP",
          "(m[:, None] < M) & (k[None, :] < K)", "(k[None, :] < K)"),
    wrong("matmul_grouped", "a lower last group is skipped", "not_written", "tl.minimum(rows - first, GROUP)", "GROUP"),
    wrong("matmul_grouped", "across the group instead of down", "wrong_program", "first + inside % height", "first + inside // columns",
          "inside // height", "inside % columns"),
    wrong("matmul_grouped", "all groups begin at the top", "race", "first = pid // (GROUP * columns) * GROUP", "first = 0"),
    wrong("matmul_grouped", "TF32", "wrong_value", ', input_precision="ieee"', ""),
    wrong("matmul_grouped", "no mask in the store", "out_of_bounds_write", ", mask=(m[:, None] < M) & (n[None, :] < N)", ""),

    wrong("int8_matmul", "bytes read as unsigned", "wrong_value", "w.to(tl.float32)", "(w.to(tl.int32) & 255).to(tl.float32)"),
    wrong("int8_matmul", "scale of another row", "wrong_value", "tl.load(scale_ptr + n, mask=n < N)", "tl.load(scale_ptr + N - 1 - n, mask=n < N)"),
    wrong("int8_matmul", "scale forgotten", "wrong_value", "acc * scale[None, :]", "acc"),
    wrong("int8_matmul", "w read as [K, N]", "wrong_value", "w_ptr + n[:, None] * K + k[None, :]", "w_ptr + n[:, None] + k[None, :] * N"),
    wrong("int8_matmul", "scales loaded in every step", "traffic", "        acc = tl.dot(", "        again = tl.load(scale_ptr + n, mask=n < N)\n        acc = tl.dot("),
    wrong("int8_matmul", "no mask along N", "out_of_bounds_read", "(n[:, None] < N) & (k[None, :] < K)", "(k[None, :] < K)"),
    wrong("int8_matmul", "rounded to float16 on the way", "wrong_value", "acc * scale", "acc.to(tl.float16).to(tl.float32) * scale"),

    wrong("int4_matmul", "nibbles as neighbours", "wrong_value", "block * 32 + j", "block * 32 + 2 * j", "block * 32 + 16 + j", "block * 32 + 1 + 2 * j"),
    wrong("int4_matmul", "nibbles exchanged", "wrong_value", "(q & 15)", "(q >> 4 & 15)", "(q >> 4)", "(q & 15 | 0)"),
    wrong("int4_matmul", "the minimum forgotten", "wrong_value", "* d + lowest", "* d"),
    wrong("int4_matmul", "hard-coded 3 blocks", "out_of_bounds_read", "range(0, K // 32)", "range(0, 3)"),
    wrong("int4_matmul", "no mask along N", "out_of_bounds_read", "block * 16 + j, mask=n < N, other=0", "block * 16 + j"),
    wrong("int4_matmul", "bytes loaded twice", "traffic", "        w_high = (q >> 4)", "        q = tl.load(q_ptr + n * (K // 2) + block * 16 + j, mask=n < N, other=0)\n        w_high = (q >> 4)"),
    wrong("int4_matmul", "unpacks into x", "input_changed", "        acc = tl.dot(x_low", "        tl.store(x_ptr + row * K + block * 32 + j, x_low, mask=row < M)\n        acc = tl.dot(x_low"),
    wrong("int4_matmul", "TF32", "wrong_value", ', input_precision="ieee"', ""),

    wrong("swiglu", "no sigmoid", "wrong_value", "gate * tl.sigmoid(gate) * up", "gate * up"),
    wrong("swiglu", "gate and up exchanged", "wrong_value", "gate * tl.sigmoid(gate) * up", "up * tl.sigmoid(up) * gate"),
    wrong("swiglu", "silu of every step", "wrong_value", "        up = tl.dot", "        gate = gate * tl.sigmoid(gate)\n        up = tl.dot"),
    wrong("swiglu", "x loaded for each product", "traffic", "        up = tl.dot", "        x = tl.load(x_ptr + m[:, None] * D + d[None, :], "
          "mask=(m[:, None] < M) & (d[None, :] < D), other=0.0)\n        up = tl.dot"),
    wrong("swiglu", "masked lanes without other=", "masked_lanes", "mask=inside, other=0.0", "mask=inside",
          "& (d[None, :] < D), other=0.0", "& (d[None, :] < D)"),
    wrong("swiglu", "no mask along D", "out_of_bounds_read", "(m[:, None] < M) & (d[None, :] < D)", "(m[:, None] < M)"),
    wrong("swiglu", "accumulates in the output", "race", "tl.program_id(1) * BLOCK_F", "tl.program_id(1) * 0"),
    wrong("swiglu", "exp overflows", "not_finite", "tl.sigmoid(gate)", "(tl.exp(gate) / (1 + tl.exp(gate)))"),
]
