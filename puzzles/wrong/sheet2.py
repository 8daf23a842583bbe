"""Sheet 2: wrong answers and how each is caught."""

from puzzles.wrong import wrong

_RESCALE = "s = s * tl.exp(m - m_new) + tl.sum"
_OTHER = ', other=-float("inf")'

ANSWERS = [
    wrong("long_sum", "masked lanes without other=", "masked_lanes",
          "mask=offsets < M, other=0.0", "mask=offsets < M"),
    wrong("long_sum", "no mask", "out_of_bounds_read", ", mask=offsets < M, other=0.0", ""),
    wrong("long_sum", "the tail is left out", "wrong_value",
          "range(0, M, BLOCK)", "range(0, M - BLOCK + 1, BLOCK)"),
    wrong(
        "long_sum",
        "running sum in float16",
        "wrong_value",
        "dtype=tl.float32",
        "dtype=tl.float16",
        "mask=offsets < M, other=0.0)",
        "mask=offsets < M, other=0.0).to(tl.float16)",
    ),
    wrong("long_sum", "every row into z[0]", "race", "z_ptr + row", "z_ptr"),
    wrong(
        "long_sum",
        "hard-coded row length",
        "out_of_bounds_read",
        "row * M + offsets, mask=offsets < M",
        "row * 200 + offsets, mask=offsets < 200",
    ),
    wrong(
        "online_softmax",
        "no maximum subtracted",
        "not_finite",
        "tl.exp(x - m) / s",
        "tl.exp(x) / s",
        "m_new = tl.maximum(m, tl.max(x, 0))",
        "m_new = 0.0",
        'm, s = -float("inf"), 0.0',
        "m, s = 0.0, 0.0",
    ),
    wrong(
        "online_softmax",
        "masked lanes count as 0",
        "wrong_value",
        'other=-float("inf"))\n'
        '        m_new',
        "other=0.0)\n        m_new",
    ),
    wrong("online_softmax", "masked lanes without other=", "masked_lanes", _OTHER, ""),
    wrong("online_softmax", "the old sum is not rescaled", "wrong_value", _RESCALE, "s = s + tl.sum"),
    wrong(
        "online_softmax",
        "three walks",
        "traffic",
        "    for start in range(0, M, BLOCK):\n        offsets = start + tl.arange(0, BLOCK)\n        x "
        "= tl.load"
        '(x_ptr + row * M + offsets, mask=offsets < M, other=-float("inf"))\n'
        '        m_new = tl.maximum(m, tl.max(x, '
        '0))\n',
        "    for start in range(0, M, BLOCK):\n        offsets = start + tl.arange(0, BLOCK)\n        x "
        "= tl.load"
        '(x_ptr + row * M + offsets, mask=offsets < M, other=-float("inf"))\n'
        '        m = tl.maximum(m, tl.max(x, '
        '0))\n'
        "    for start in range(0, M, BLOCK):\n        offsets = start + tl.arange(0, BLOCK)\n        x "
        "= tl.load"
        '(x_ptr + row * M + offsets, mask=offsets < M, other=-float("inf"))\n'
        '        m_new = m\n',
    ),
    wrong(
        "online_softmax",
        "no mask in the store",
        "out_of_bounds_write",
        "tl.exp(x - m) / s, mask=offsets < M",
        "tl.exp(x - m) / s",
    ),
    wrong("online_softmax", "wrong by 10 %", "wrong_value", "tl.exp(x - m) / s", "tl.exp(x - m) / (s * 1.1)"),
    wrong(
        "rms_norm",
        "squares in float16",
        "wrong_value",
        "other=0.0).to(tl.float32)\n    weight",
        "other=0.0)\n    weight",
    ),
    wrong("rms_norm", "mean over the block, not the row", "wrong_value", "/ D + eps", "/ BLOCK + eps"),
    wrong("rms_norm", "eps left out", "wrong_value", "/ D + eps", "/ D"),
    wrong(
        "rms_norm",
        "masked lanes without other=",
        "masked_lanes",
        "x_ptr + row * D + d, mask=d < D, other=0.0",
        "x_ptr + row * D + d, mask=d < D",
    ),
    wrong(
        "rms_norm",
        "reads the row twice",
        "traffic",
        "    y = x /",
        "    x = tl.load(x_ptr + row * D + d, mask=d < D, other=0.0).to(tl.float32)\n    y = x /",
    ),
    wrong("rms_norm", "in place", "input_changed", "tl.store(y_ptr", "tl.store(x_ptr"),
    wrong("rms_norm", "hard-coded width", "out_of_bounds_read", "d < D", "d < 100"),
    wrong("argmax", "the last of several", "wrong_value", "top > best", "top >= best"),
    wrong("argmax", "index times 1.0001", "wrong_value",
          "token_ptr + row, at", "token_ptr + row, at * 1.0001"),
    wrong("argmax", "index within the block", "wrong_value", "start + tl.argmax(x, 0)", "tl.argmax(x, 0)"),
    wrong("argmax", "masked lanes count as 0", "wrong_value", _OTHER, ", other=0.0"),
    wrong("argmax", "masked lanes without other=", "masked_lanes", _OTHER, ""),
    wrong("argmax", "no mask", "out_of_bounds_read", ', mask=v < V, other=-float("inf")', ""),
    wrong("argmax", "every row into token[0]", "race", "token_ptr + row", "token_ptr"),
    wrong(
        "cross_entropy",
        "no maximum subtracted",
        "not_finite",
        "m_new = tl.maximum(m, tl.max(x, 0))",
        "m_new = 0.0",
        'm, s = -float("inf"), 0.0',
        "m, s = 0.0, 0.0",
    ),
    wrong(
        "cross_entropy",
        "target's logit of row 0",
        "wrong_value",
        "tl.load(x_ptr + row * V + target)",
        "tl.load(x_ptr + target)",
    ),
    wrong("cross_entropy", "the old sum is not rescaled", "wrong_value", _RESCALE, "s = s + tl.sum"),
    wrong("cross_entropy", "loss without the maximum", "wrong_value", "m + tl.log(s)", "tl.log(s)"),
    wrong("cross_entropy", "masked lanes without other=", "masked_lanes", _OTHER, ""),
    wrong("cross_entropy", "row read past its end", "out_of_bounds_read", "mask=v < V", "mask=v < V + 1"),
    wrong(
        "cross_entropy",
        "reads every logit twice",
        "traffic",
        "m_new = tl.maximum(m, tl.max(x, 0))",
        "m_new = tl.maximum(m, tl.max(tl.load(x_ptr + row * V + v, mask=v < V, other=-float('inf')), 0))",
    ),
    wrong(
        "conv2d",
        "right edge runs into the next row",
        "out_of_bounds_read",
        "((w + dj)[None, :] < W)",
        "(w[None, :] < W)",
    ),
    wrong(
        "conv2d",
        "bottom edge runs into the next image",
        "out_of_bounds_read",
        "((h + di)[:, None] < H)",
        "(h[:, None] < H)",
    ),
    wrong("conv2d", "no mask in the load", "out_of_bounds_read", ", mask=inside, other=0.0", ""),
    wrong("conv2d", "masked lanes without other=", "masked_lanes",
          ", mask=inside, other=0.0", ", mask=inside"),
    wrong("conv2d", "weights transposed", "wrong_value", "di * KW + dj", "dj * KH + di"),
    wrong("conv2d", "always the first image", "race", "tl.program_id(0) * H * W", "0"),
    wrong("conv2d", "hard-coded 2 x 2 weights", "wrong_value", "range(0, KH)", "range(0, 2)"),
]
