"""Right answers to add_blocks in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- one element at a time: scalar masked loads with other=0.0
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    first = tl.program_id(axis=0) * BLOCK
    for i in range(0, BLOCK):
        x = tl.load(x_ptr + first + i, mask=first + i < N, other=0.0)
        tl.store(z_ptr + first + i, x + c, mask=first + i < N)


# --- no mask in the load: the last elements stand for those past the end
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + tl.minimum(at, N - 1))
    tl.store(z_ptr + at, x + c, mask=at < N)


# --- block pointers
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    x = tl.make_block_ptr(x_ptr, shape=(N,), strides=(1,), offsets=(first,), block_shape=(BLOCK,), order=(0,))
    z = tl.make_block_ptr(z_ptr, shape=(N,), strides=(1,), offsets=(first,), block_shape=(BLOCK,), order=(0,))
    tl.store(z, tl.load(x, boundary_check=(0,), padding_option="zero") + c, boundary_check=(0,))


# --- tensor descriptors of one dimension
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    x = tl.make_tensor_descriptor(x_ptr, [N], [1], [BLOCK])
    z = tl.make_tensor_descriptor(z_ptr, [N], [1], [BLOCK])
    z.store([first], x.load([first]) + c)


# --- two ways out: full blocks need no mask
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    first = tl.program_id(0) * BLOCK
    at = first + tl.arange(0, BLOCK)
    if first + BLOCK <= N:
        tl.store(z_ptr + at, tl.load(x_ptr + at) + c)
        return
    tl.store(z_ptr + at, tl.load(x_ptr + at, mask=at < N, other=0) + c, at < N)


# --- a helper that returns two values, and float64 on the way
@triton.jit
def lanes(first, end, BLOCK: tl.constexpr):
    at = first + tl.arange(0, BLOCK).to(tl.int64)
    return at, at < end


@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    at, inside = lanes(tl.program_id(0) * BLOCK, N, BLOCK)
    x = tl.load(x_ptr + at, mask=inside, other=float("nan")).to(tl.float64)
    tl.store(z_ptr + at, (x + c).to(tl.float32), mask=inside)
