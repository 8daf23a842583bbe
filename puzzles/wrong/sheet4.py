"""Sheet 4: wrong answers and how each is caught."""

from puzzles.wrong import wrong

_IEEE = ', input_precision="ieee"'

ANSWERS = [
    wrong("scalar_flash", "keys past S count as 0", "wrong_value", 'tl.where(j[None, :] < S, q[:, None] * k[None, :], -float("inf"))', "q[:, None] * k[None, :]"),
    wrong("scalar_flash", "the average of v", "wrong_value", "q[:, None] * k[None, :]", "0.0 * q[:, None] * k[None, :]"),
    wrong("scalar_flash", "no maximum subtracted", "not_finite", "m_new = tl.maximum(m, tl.max(s, 1))", "m_new = m * 0.0",
          'tl.full([BLOCK_N], -float("inf"), dtype=tl.float32)', "tl.zeros([BLOCK_N], dtype=tl.float32)"),
    wrong("scalar_flash", "the weighted sum is not rescaled", "wrong_value", "acc = acc * fix +", "acc = acc +"),
    wrong("scalar_flash", "v's masked lanes without other=", "masked_lanes", "v_ptr + j, mask=j < S, other=0.0", "v_ptr + j, mask=j < S"),
    wrong("scalar_flash", "every query walks alone", "traffic", "        m_new = tl.max", "        k = tl.load(k_ptr + j, mask=j < S, other=0.0)\n        m_new = tl.max"),
    wrong("scalar_flash", "no mask along S", "out_of_bounds_read", "k_ptr + j, mask=j < S, other=0.0", "k_ptr + j"),

    wrong("flash_attention", "not causal", "wrong_value", "(t[:, None] >= j[None, :]) & ", ""),
    wrong("flash_attention", "query does not see itself", "not_finite", "t[:, None] >= j[None, :]", "t[:, None] > j[None, :]"),
    wrong("flash_attention", "key head modulo instead of group", "wrong_value", "h // (H // K) * T", "h % K * T"),
    wrong("flash_attention", "one key head a query head", "out_of_bounds_read", "h // (H // K) * T", "h * T"),
    wrong("flash_attention", "walks over all keys", "traffic", "range(0, (i + 1) * BLOCK, BLOCK)", "range(0, T, BLOCK)"),
    wrong("flash_attention", "lse without the maximum", "wrong_value", "m + tl.log(total)", "tl.log(total)"),
    wrong("flash_attention", "no maximum subtracted", "not_finite", "m_new = tl.maximum(m, tl.max(s, 1))", "m_new = m * 0.0",
          'm = tl.full([BLOCK], -float("inf"), dtype=tl.float32)', "m = tl.zeros([BLOCK], dtype=tl.float32)"),
    wrong("flash_attention", "TF32", "wrong_value", _IEEE, ""),
    wrong("flash_attention", "scale forgotten", "wrong_value", " * sm_scale", ""),

    wrong("rope", "neighbours are pairs", "wrong_value", "h * stride_xh + i * stride_xd", "h * stride_xh + 2 * i * stride_xd",
          "(i + D // 2) * stride_xd", "(2 * i + 1) * stride_xd"),
    wrong("rope", "turned backwards", "wrong_value", "low * c - high * s", "low * c + high * s", "high * c + low * s", "high * c - low * s"),
    wrong("rope", "position is the row", "wrong_value", "tl.load(position_ptr + n) * (D // 2)", "(n % P) * (D // 2)"),
    wrong("rope", "assumes contiguous heads", "out_of_bounds_read", "h * stride_xh", "h * D"),
    wrong("rope", "no mask along H", "out_of_bounds_read", "* stride_xd, mask=h < H)", "* stride_xd)"),
    wrong("rope", "cos once for every head", "traffic", "c = tl.load(cos_ptr + row + i)", "c = tl.load(cos_ptr + row + i) + 0.0 * tl.load(cos_ptr + row + i)"),
    wrong("rope", "in place", "input_changed", "y = y_ptr + (n * H + h) * D + i", "y = x_ptr + n * stride_xn + h * stride_xh + i * stride_xd"),

    wrong("flash_dq", "delta forgotten", "wrong_value", "p * (dp - delta[:, None])", "p * dp"),
    wrong("flash_dq", "not causal", "wrong_value", "t[:, None] >= j[None, :]", "t[:, None] >= 0"),
    wrong("flash_dq", "scale forgotten at the end", "wrong_value", "dq * sm_scale", "dq"),
    wrong("flash_dq", "lse's masked lanes without other=, and unmasked store", "out_of_bounds_write", "dq * sm_scale, mask=t[:, None] < T", "dq * sm_scale"),
    wrong("flash_dq", "k's masked lanes without other=", "masked_lanes", "k = tl.load(k_ptr + h * T * D + j[:, None] * D + d, mask=j[:, None] < T, other=0.0)",
          "k = tl.load(k_ptr + h * T * D + j[:, None] * D + d, mask=j[:, None] < T)"),
    wrong("flash_dq", "a head too far", "out_of_bounds_read", "v_ptr + h * T * D", "v_ptr + (h + 1) * T * D"),
    wrong("flash_dq", "TF32", "wrong_value", _IEEE, ""),
    wrong("flash_dq", "every head into the first", "race", "tl.store(dq_ptr + mine", "tl.store(dq_ptr + t[:, None] * D + d"),

    wrong("flash_dkdv", "walk begins at the first query", "wrong_value", "t[:, None] >= j[None, :]", "t[:, None] >= 0", "range(i * BLOCK, T, BLOCK)", "range(0, T, BLOCK)"),
    wrong("flash_dkdv", "walk begins after the diagonal", "wrong_value", "range(i * BLOCK, T, BLOCK)", "range((i + 1) * BLOCK, T, BLOCK)"),
    wrong("flash_dkdv", "dk and dv exchanged", "wrong_value", "tl.store(dk_ptr", "tl.store(d_ptr", "tl.store(dv_ptr", "tl.store(dk_ptr", "tl.store(d_ptr", "tl.store(dv_ptr"),
    wrong("flash_dkdv", "masked queries take part", "masked_lanes", "lse = tl.load(lse_ptr + h * T + t, mask=t < T, other=0.0)", "lse = tl.load(lse_ptr + h * T + t, mask=t < T)",
          " & (t[:, None] < T)\n", "\n"),
    wrong("flash_dkdv", "keys reloaded in the walk", "traffic", "        s = tl.dot(", "        k = tl.load(k_ptr + mine, mask=j[:, None] < T, other=0.0)\n        s = tl.dot("),
    wrong("flash_dkdv", "by query, with plain stores", "race", "    tl.store(dk_ptr + mine", "    tl.store(dv_ptr + h * T * D + tl.arange(0, BLOCK)[:, None] * D + d, dv, "
          "mask=tl.arange(0, BLOCK)[:, None] < T)\n    tl.store(dk_ptr + mine"),
    wrong("flash_dkdv", "delta of the keys", "wrong_value", "delta_ptr + h * T + t, mask=t < T", "delta_ptr + h * T + j, mask=j < T"),
    wrong("flash_dkdv", "no mask along T", "out_of_bounds_read", "do_ptr + at, mask=t[:, None] < T, other=0.0", "do_ptr + at"),

    wrong("hstu_attention", "half of the score instead of SiLU", "wrong_value", "s * tl.sigmoid(s)", "s / 2"),
    wrong("hstu_attention", "divided by the length", "wrong_value", "0.0) / N", "0.0) / length"),
    wrong("hstu_attention", "no position bias", "wrong_value", "tl.load(position_bias_ptr + (i[:, None] - j[None, :]), mask=seen, other=0.0)", "0.0"),
    wrong("hstu_attention", "reads into the next sequence", "wrong_value", "(i[:, None] >= j[None, :]) & (i[:, None] < length)", "(i[:, None] >= 0) & (i[:, None] < length) & (j[None, :] <= i[:, None] + 1) "
          "& (first + j[None, :] < L)", "(i[:, None] - j[None, :])", "tl.maximum(i[:, None] - j[None, :], 0)", "mask=j[:, None] < length", "mask=(first + j)[:, None] < L",
          "tl.minimum((time_i", "tl.maximum(0, tl.minimum((time_i", "M - 1)", "M - 1))"),
    wrong("hstu_attention", "bucket is not capped", "out_of_bounds_read", "tl.minimum((time_i[:, None] - time_j[None, :]) // WIDTH, M - 1)", "(time_i[:, None] - time_j[None, :]) // WIDTH"),
    wrong("hstu_attention", "future bias is loaded", "out_of_bounds_read", "(i[:, None] - j[None, :]), mask=seen", "(i[:, None] - j[None, :]), mask=i[:, None] < length"),
    wrong("hstu_attention", "writes the next sequence's rows", "race", "tl.store(o_ptr + mine, acc, mask=i[:, None] < length)", "tl.store(o_ptr + mine, acc, mask=(first + i)[:, None] < L)"),
    wrong("hstu_attention", "softmax instead of SiLU", "wrong_value", "tl.where(seen, s * tl.sigmoid(s), 0.0) / N", "tl.where(seen, tl.exp(s), 0.0) / N"),
]
