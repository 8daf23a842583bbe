"""Known-wrong answers of notebook 08: each section names words of the message it must get."""

# %% setup
import triton
import triton.language as tl

from aiinfra.lab import check

# %% 08.order | order of arrival
def order(trips):
    return range(len(trips))

check("08.order", order)

# %% 08.order | balances a thread pool
def order(trips):
    ids, warps = sorted(range(len(trips)), key=lambda i: trips[i]), -(-len(trips) // 32)
    return [i for warp in range(warps) for i in ids[warp::warps]]

check("08.order", order)

# %% 08.order | LONGEST
def order(trips):
    return sorted(range(len(trips)), key=lambda i: trips[i])

check("08.order", order)

# %% 08.order | indices, not lengths
def order(trips):
    return sorted(trips, reverse=True)

check("08.order", order)

# %% 08.transpose | write touches 32 sectors
def addresses(tile_row, tile_col, warp, lane, rows, cols):
    i, j = 32 * tile_row + warp, 32 * tile_col + lane
    return i * cols + j, j * rows + i                        # each lane keeps its own value

check("08.transpose", addresses)

# %% 08.transpose | read touches 32 sectors
def addresses(tile_row, tile_col, warp, lane, rows, cols):
    i, j = 32 * tile_row + lane, 32 * tile_col + warp
    return i * cols + j, j * rows + i

check("08.transpose", addresses)

# %% 08.transpose | does not belong to this tile
def addresses(tile_row, tile_col, warp, lane, rows, cols):   # a row of y has `rows` values, not `cols`
    read = (32 * tile_row + warp) * cols + 32 * tile_col + lane
    return read, (32 * tile_col + warp) * cols + 32 * tile_row + lane

check("08.transpose", addresses)

# %% 08.transpose | does not belong to this tile
def addresses(tile_row, tile_col, warp, lane, rows, cols):   # the tile stays where it was
    read = (32 * tile_row + warp) * cols + 32 * tile_col + lane
    return read, (32 * tile_row + warp) * rows + 32 * tile_col + lane

check("08.transpose", addresses)

# %% 08.leaky | past the end of y
@triton.jit
def leaky_kernel(x_ptr, y_ptr, n, slope, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(y_ptr + at, tl.where(x > 0, x, slope * x))

check("08.leaky", leaky_kernel)

# %% 08.leaky | past the end of y (1 too many)
@triton.jit
def leaky_kernel(x_ptr, y_ptr, n, slope, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, at <= n)
    tl.store(y_ptr + at, tl.where(x > 0, x, slope * x), at <= n)

check("08.leaky", leaky_kernel)

# %% 08.leaky | never written
@triton.jit
def leaky_kernel(x_ptr, y_ptr, n, slope, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)                                 # every program does the first block
    x = tl.load(x_ptr + at, at < n)
    tl.store(y_ptr + at, tl.where(x > 0, x, slope * x), at < n)

check("08.leaky", leaky_kernel)

# %% 08.leaky | slopes below 1
@triton.jit
def leaky_kernel(x_ptr, y_ptr, n, slope, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, at < n)
    tl.store(y_ptr + at, tl.maximum(x, slope * x), at < n)

check("08.leaky", leaky_kernel)

# %% 08.leaky | not a Triton kernel
def leaky_kernel(x_ptr, y_ptr, n, slope, BLOCK):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, at < n), at < n)

check("08.leaky", leaky_kernel)

# %% 08.budget | only
def register_budget(warps, num_warps):
    return min(255, 65536 // (32 * warps))                   # neither whole programs nor units of eight

check("08.budget", register_budget)

# %% 08.budget | name only 255
def register_budget(warps, num_warps):
    programs = -(-warps // num_warps)
    return 65536 // (programs * num_warps * 32) // 8 * 8

check("08.budget", register_budget)

# %% 08.budget | would do as well
def register_budget(warps, num_warps):
    return min(255, 65536 // ((warps // num_warps + 1) * num_warps * 32) // 8 * 8)   # one program too many

check("08.budget", register_budget)

# %% 08.fuse | two passes
def break_even(launch_seconds, bandwidth, itemsize):
    return launch_seconds * bandwidth / itemsize

check("08.fuse", break_even)

# %% 08.fuse | only y's two passes
def break_even(launch_seconds, bandwidth, itemsize):
    return launch_seconds * bandwidth / (4 * itemsize)

check("08.fuse", break_even)

# %% 08.fuse | number of bytes
def break_even(launch_seconds, bandwidth, itemsize):
    return launch_seconds * bandwidth / 2

check("08.fuse", break_even)

# %% 08.fuse | n for a launch
def break_even(launch_seconds, bandwidth, itemsize):
    return 2 * itemsize * launch_seconds / bandwidth

check("08.fuse", break_even)
