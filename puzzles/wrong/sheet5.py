"""Sheet 5: wrong answers and how each is caught."""

from puzzles.wrong import wrong

_IEEE = ', input_precision="ieee"'

ANSWERS = [
    wrong("kv_write", "padding is written to the row before the cache", "out_of_bounds_write", "(w < W) & (slot >= 0)", "w < W"),
    wrong("kv_write", "padding goes to the last slot", "extra_write", "(w < W) & (slot >= 0)", "w < W", "slot = tl.load(slot_ptr + n)",
          "slot = (tl.load(slot_ptr + n) + S) % S"),
    wrong("kv_write", "slot is the row", "extra_write", "cache_ptr + slot * W", "cache_ptr + n * W"),
    wrong("kv_write", "no mask along W", "out_of_bounds_read", "row = tl.load(new_ptr + n * W + w, mask=w < W)", "row = tl.load(new_ptr + n * W + w)"),
    wrong("kv_write", "row is moved, not copied", "input_changed", "    tl.store(cache_ptr", "    tl.store(new_ptr + n * W + w, 0.0, mask=w < W)\n    tl.store(cache_ptr"),
    wrong("kv_write", "hard-coded width", "not_written", "w < W", "w < 16"),
    wrong("kv_write", "every token clears the cache's first row", "race", "    tl.store(cache_ptr", "    tl.store(cache_ptr + w, 0.0, mask=w < W)\n    tl.store(cache_ptr"),

    wrong("paged_decode", "ignores the block table", "wrong_value", "page = tl.load(table_ptr + b * T + block)", "page = b * T + block"),
    wrong("paged_decode", "walks over the whole table", "out_of_bounds_read", "tl.cdiv(length, P)", "T", "mask=s[:, None] < length", "mask=s[:, None] < T * P"),
    wrong("paged_decode", "last block counted in full", "wrong_value", "s[None, :] < length", "s[None, :] < T * P"),
    wrong("paged_decode", "masked keys without other=", "masked_lanes", "v = tl.load(v_cache_ptr + at, mask=s[:, None] < length, other=0.0)", "v = tl.load(v_cache_ptr + at, mask=s[:, None] < length)"),
    wrong("paged_decode", "no mask on the heads", "out_of_bounds_read", "q_ptr + mine, mask=heads, other=0.0", "q_ptr + mine"),
    wrong("paged_decode", "stores other heads' rows", "out_of_bounds_write", "acc / total[:, None], mask=heads", "acc / total[:, None]"),
    wrong("paged_decode", "no maximum subtracted", "not_finite", "m_new = tl.maximum(m, tl.max(scores, 1))", "m_new = m * 0.0",
          'tl.full([GROUP], -float("inf"), dtype=tl.float32)', "tl.zeros([GROUP], dtype=tl.float32)"),
    wrong("paged_decode", "the last block is left out", "wrong_value", "range(0, tl.cdiv(length, P))", "range(0, tl.maximum(length // P, 1))"),
    wrong("paged_decode", "always the first row of the table", "wrong_value", "b * T + block", "block"),

    wrong("split_k_decode", "an empty part divides by zero", "not_finite", "tl.where(total > 0, total, 1.0)", "total"),
    wrong("split_k_decode", "every part is the whole", "wrong_value", "range(split * each, tl.minimum((split + 1) * each, blocks))", "range(0, blocks)"),
    wrong("split_k_decode", "parts run past the end", "out_of_bounds_read", "tl.minimum((split + 1) * each, blocks)", "(split + 1) * each",
          "mask=s[:, None] < length", "mask=s[:, None] < T * P"),
    wrong("split_k_decode", "parts cut by the table, not by the length", "wrong_value", "each = tl.cdiv(blocks, SPLITS)", "each = tl.cdiv(T, SPLITS)"),
    wrong("split_k_decode", "all parts into part 0", "race", "row * SPLITS + split", "row * SPLITS"),
    wrong("split_k_decode", "lse without the maximum", "wrong_value", "m + tl.log(total)", "tl.log(total)"),
    wrong("split_k_decode", "TF32", "wrong_value", _IEEE, ""),

    wrong("merge_splits", "plain average", "wrong_value", "w = tl.exp(lse - tl.max(lse, 0))", "w = tl.where(s < S, 1.0, 0.0)"),
    wrong("merge_splits", "no maximum subtracted", "not_finite", "lse - tl.max(lse, 0)", "lse"),
    wrong("merge_splits", "lanes past S count as lse = 0", "wrong_value", 'other=-float("inf")', "other=0.0"),
    wrong("merge_splits", "masked lanes without other=", "masked_lanes", ', other=-float("inf")', ""),
    wrong("merge_splits", "no mask along S", "out_of_bounds_read", ", mask=s[:, None] < S, other=0.0", ""),
    wrong("merge_splits", "every head into head 0", "race", "o_ptr + row * D", "o_ptr + tl.program_id(0) * H * D"),
    wrong("merge_splits", "weights do not sum to 1", "wrong_value", "    w = w / tl.sum(w, 0)\n", ""),

    wrong("topk_route", "softmax over all experts", "wrong_value", "kept / tl.sum(kept, 0)", "kept / total",
          "    kept = tl.zeros", "    total = tl.sum(tl.exp(x - first), 0)\n    kept = tl.zeros"),
    wrong("topk_route", "the same expert every time", "wrong_value", '        x = tl.where(e == at, -float("inf"), x)\n', ""),
    wrong("topk_route", "the last of equals", "wrong_value", "at = tl.argmax(x, 0)", "at = tl.max(tl.where(x == top, e, -1), 0)"),
    wrong("topk_route", "no maximum subtracted", "not_finite", "tl.exp(top - first)", "tl.exp(top)"),
    wrong("topk_route", "lanes past E count as 0", "wrong_value", 'other=-float("inf")', "other=0.0"),
    wrong("topk_route", "hard-coded top 2", "not_written", "range(0, TOP)", "range(0, tl.minimum(TOP, 2))"),
    wrong("topk_route", "weights past TOP are stored", "out_of_bounds_write", "mask=e < TOP", "mask=e < E"),
    wrong("topk_route", "logits loaded in every round", "traffic", "        top = tl.max(x, 0)", "        again = tl.load(logits_ptr + n * E + e, mask=e < E)\n        top = tl.max(x, 0)"),

    wrong("grouped_matmul", "always the first expert's weights", "wrong_value", "(e * D + d)", "d"),
    wrong("grouped_matmul", "tile runs into the next expert", "race", "(n[:, None] < end) & (f[None, :] < F)", "(n[:, None] < N) & (f[None, :] < F)"),
    wrong("grouped_matmul", "tiles counted from row 0", "race", "first = tl.load(offset_ptr + e) + tl.program_id(1)", "first = tl.program_id(1)"),
    wrong("grouped_matmul", "empty programs load x", "traffic", "if first < end:", "if first < N:", "(n[:, None] < end) & (d[None, :] < D)", "(n[:, None] < N) & (d[None, :] < D)"),
    wrong("grouped_matmul", "no mask along D", "out_of_bounds_read", "(d[:, None] < D) & (f[None, :] < F)", "(f[None, :] < F)"),
    wrong("grouped_matmul", "masked lanes without other=", "masked_lanes", "(f[None, :] < F), other=0.0", "(f[None, :] < F)"),
    wrong("grouped_matmul", "the first tile only", "not_written", "if first < end:", "if tl.program_id(1) == 0 and first < end:"),
    wrong("grouped_matmul", "TF32", "wrong_value", _IEEE, ""),
]
