"""Sheet 1: wrong answers and how each is caught."""

from puzzles.wrong import wrong

ANSWERS = [
    wrong("add_constant", "hard-coded constant", "wrong_value", "x + c", "x + 10.0"),
    wrong("add_constant", "hard-coded size", "out_of_bounds_read", "tl.arange(0, BLOCK)", "tl.arange(0, 32)"),
    wrong("add_constant", "one element too far", "out_of_bounds_read", "tl.load(x_ptr + offsets)", "tl.load(x_ptr + offsets + 1)"),
    wrong("add_constant", "writes its input", "input_changed", "tl.store(z_ptr + offsets, x + c)",
          "tl.store(z_ptr + offsets, x + c)\n    tl.store(x_ptr + offsets, x + c)"),
    wrong("add_constant", "wrong by 10 %", "wrong_value", "x + c", "(x + c) * 1.1"),
    wrong("add_constant", "first element only", "not_written", "tl.store(z_ptr + offsets, x + c)",
          "tl.store(z_ptr + offsets, x + c, mask=offsets < 1)"),

    wrong("add_blocks", "no mask in the load", "out_of_bounds_read", "x_ptr + offsets, mask=mask", "x_ptr + offsets"),
    wrong("add_blocks", "no mask in the store", "out_of_bounds_write", "x + c, mask=mask", "x + c"),
    wrong("add_blocks", "hard-coded size", "out_of_bounds_read", "offsets < N", "offsets < 200"),
    wrong("add_blocks", "mask off by one", "not_written", "offsets < N", "offsets < N - 1"),
    wrong("add_blocks", "programs overlap", "race", "tl.program_id(0) * BLOCK", "tl.program_id(0) * (BLOCK // 2)"),
    wrong("add_blocks", "x first set to zero", "input_changed", "x = tl.load", "tl.store(x_ptr + offsets, 0.0, mask=mask)\n    x = tl.load"),

    wrong("outer_sum", "no mask in the store", "out_of_bounds_write", "x[:, None] + y[None, :], mask=mask", "x[:, None] + y[None, :]"),
    wrong("outer_sum", "only one of two masks", "out_of_bounds_write", "(n[:, None] < N) & (m[None, :] < M)", "(n[:, None] < N) & (m[None, :] >= 0)"),
    wrong("outer_sum", "row length is the block's", "out_of_bounds_write", "n[:, None] * M", "n[:, None] * BLOCK_M"),
    wrong("outer_sum", "y read through x's pointer", "out_of_bounds_read", "tl.load(y_ptr + m, mask=m < M)", "tl.load(x_ptr + m, mask=m < M)"),
    wrong("outer_sum", "product instead of sum", "wrong_value", "x[:, None] + y[None, :]", "x[:, None] * y[None, :]"),
    wrong("outer_sum", "the last row is missing", "not_written", "(n[:, None] < N) &", "(n[:, None] < tl.maximum(N - 1, 1)) &"),

    wrong("outer_sum_2d", "one program", "not_written",
          'triton.cdiv(meta["N"], meta["BLOCK_N"]), triton.cdiv(meta["M"], meta["BLOCK_M"])', "1, 1"),
    wrong("outer_sum_2d", "too many programs own a tile", "race", "tl.program_id(1) * BLOCK_M", "tl.program_id(1) // 2 * BLOCK_M"),
    wrong("outer_sum_2d", "no mask along M", "out_of_bounds_read", "mask=m < M", "mask=m >= 0"),
    wrong("outer_sum_2d", "axes exchanged", "not_written", "tl.program_id(0)", "tl.program_id(2)",
          "tl.program_id(1)", "tl.program_id(0)", "tl.program_id(2)", "tl.program_id(1)"),
    wrong("outer_sum_2d", "wrong by 10 %", "wrong_value", "x[:, None] + y[None, :]", "x[:, None] + 1.1 * y[None, :]"),

    wrong("mul_relu", "assumes a stride of 1", "wrong_value", "m[None, :] * stride_xm", "m[None, :]"),
    wrong("mul_relu", "z with the strides of x", "out_of_bounds_write", "stride_zn + m[None, :] * stride_zm", "stride_xn + m[None, :] * stride_xm"),
    wrong("mul_relu", "no ReLU", "wrong_value", "tl.maximum(x * y[None, :], 0.0)", "x * y[None, :]"),
    wrong("mul_relu", "no mask along N", "out_of_bounds_read", "(n[:, None] < N) &", "(n[:, None] >= 0) &"),
    wrong("mul_relu", "writes x too", "input_changed", "    tl.store(",
          "    tl.store(x_ptr + n[:, None] * stride_xn + m[None, :] * stride_xm, x, mask=mask)\n    tl.store("),
    wrong("mul_relu", "x is read twice", "traffic", "z = tl.maximum(x",
          "again = tl.load(x_ptr + n[:, None] * stride_xn + m[None, :] * stride_xm, mask=mask)\n    z = tl.maximum(again"),

    wrong("mul_relu_backward", "gradient 1 at zero", "wrong_value", "x * y > 0", "x * y >= 0"),
    wrong("mul_relu_backward", "slope of x, not of x * y", "wrong_value", "tl.where(x * y > 0", "tl.where(x > 0"),
    wrong("mul_relu_backward", "dz with the strides of x", "out_of_bounds_read", "stride_dzn + m[None, :] * stride_dzm", "stride_xn + m[None, :] * stride_xm"),
    wrong("mul_relu_backward", "accumulates into dz", "input_changed", "tl.store(dx_ptr + n[:, None] * M + m[None, :]",
          "tl.store(dz_ptr + n[:, None] * stride_dzn + m[None, :] * stride_dzm"),
    wrong("mul_relu_backward", "no mask in the store", "out_of_bounds_write", "dx, mask=mask", "dx"),
    wrong("mul_relu_backward", "hard-coded row length", "out_of_bounds_write", "n[:, None] * M + m[None, :], dx", "n[:, None] * 37 + m[None, :], dx"),
]
