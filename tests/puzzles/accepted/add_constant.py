"""Right answers to add_constant in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the lanes from the last to the first
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    at = BLOCK - 1 - tl.arange(0, BLOCK)
    tl.store(z_ptr + at, c + tl.load(x_ptr + at))


# --- one element at a time, with masks that are always true
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    for i in range(BLOCK):
        x = tl.load(x_ptr + i, mask=i < BLOCK, other=0.0)
        tl.store(z_ptr + i, x + c, mask=i < BLOCK)


# --- tensor descriptors of one dimension
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    if BLOCK < 4:
        i = tl.arange(0, BLOCK)
        tl.store(z_ptr + i, tl.load(x_ptr + i) + c)
    else:
        x = tl.make_tensor_descriptor(x_ptr, shape=[BLOCK], strides=[1], block_shape=[BLOCK])
        z = tl.make_tensor_descriptor(z_ptr, shape=[BLOCK], strides=[1], block_shape=[BLOCK])
        z.store([0], x.load([0]) + c)


# --- a column of BLOCK rows, by static_range over a single column
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)[:, None]
    for column in tl.static_range(1):
        x = tl.load(x_ptr + rows + column)
        tl.store(z_ptr + rows + column, x + tl.full([BLOCK, 1], 1.0, tl.float32) * c)
