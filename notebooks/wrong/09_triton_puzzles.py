"""Known-wrong answers of notebook 09: each section names words of the message it must get."""

# %% setup
import triton
import triton.language as tl

from aiinfra.lab import check

# %% 09.add_constant | out of bounds read
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, 32)                  # the size of the first case
    tl.store(z_ptr + offsets, tl.load(x_ptr + offsets) + c)

check("09.add_constant", add_constant)

# %% 09.add_constant | times what is right
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(z_ptr + offsets, (tl.load(x_ptr + offsets) + c) * 1.1)

check("09.add_constant", add_constant)

# %% 09.add_constant | plain Python function
def add_constant(x_ptr, z_ptr, c, BLOCK):
    return x_ptr + c

check("09.add_constant", add_constant)

# %% 09.add_blocks | out of bounds write
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < N)
    tl.store(z_ptr + offsets, x + c)

check("09.add_blocks", add_blocks)

# %% 09.add_blocks | race
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)               # every program takes the first block
    mask = offsets < N
    x = tl.load(x_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + c, mask=mask)

check("09.add_blocks", add_blocks)

# %% 09.outer_sum | out of bounds write
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)
    y = tl.load(y_ptr + m, mask=m < M)
    tl.store(z_ptr + n[:, None] * M + m[None, :], x[:, None] + y[None, :], mask=m[None, :] < M)

check("09.outer_sum", outer_sum)

# %% 09.outer_sum | wrong value
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)
    y = tl.load(y_ptr + m, mask=m < M)
    mask = (n[:, None] < N) & (m[None, :] < M)
    tl.store(z_ptr + m[None, :] * N + n[:, None], x[:, None] + y[None, :], mask=mask)     # transposed

check("09.outer_sum", outer_sum)

# %% 09.launch | round up
def launch(shape, block):
    return tuple(n // b for n, b in zip(shape, block)), 0

check("09.launch", launch)

# %% 09.launch | own nothing
def launch(shape, block):
    return tuple(n // b + 1 for n, b in zip(shape, block)), sum(b - n % b for n, b in zip(shape, block))

check("09.launch", launch)

# %% 09.launch | BOTH directions
def launch(shape, block):
    grid, cut = tuple(-(-n // b) for n, b in zip(shape, block)), 1
    for n, b, g in zip(shape, block, grid):
        cut *= g * b - n
    return grid, cut

check("09.launch", launch)

# %% 09.bytes | keeps nothing for its neighbours
def bytes_moved(N, M, BLOCK_N, BLOCK_M):
    return 4 * (N + M), 4 * N * M

check("09.bytes", bytes_moved)

# %% 09.bytes | mixed up
def bytes_moved(N, M, BLOCK_N, BLOCK_M):
    return 4 * (N * -(-N // BLOCK_N) + M * -(-M // BLOCK_M)), 4 * N * M

check("09.bytes", bytes_moved)

# %% 09.bytes | move no bytes
def bytes_moved(N, M, BLOCK_N, BLOCK_M):
    return 4 * -(-N // BLOCK_N) * -(-M // BLOCK_M) * (BLOCK_N + BLOCK_M), 4 * N * M

check("09.bytes", bytes_moved)

# %% 09.bytes | 4 bytes
def bytes_moved(N, M, BLOCK_N, BLOCK_M):
    return N * -(-M // BLOCK_M) + M * -(-N // BLOCK_N), N * M

check("09.bytes", bytes_moved)

# %% 09.races | write, then read
def races(log):                                 # only lost updates
    writers = {}
    for program, kind, element in log:
        if kind == "write":
            writers.setdefault(element, set()).add(program)
    return {element for element, who in writers.items() if len(who) > 1}

check("09.races", races)

# %% 09.races | only READ
def races(log):                                 # sharing is not racing
    touched = {}
    for program, _, element in log:
        touched.setdefault(element, set()).add(program)
    return {element for element, who in touched.items() if len(who) > 1}

check("09.races", races)

# %% 09.races | no particular order
def races(log):                                 # believes that the log is a history
    found, last = set(), {}
    for program, kind, element in log:
        if element in last and last[element][0] != program and "write" in (kind, last[element][1]):
            found.add(element)
        last[element] = program, kind
    return found

check("09.races", races)

# %% 09.fool | because it is right
@triton.jit
def fool(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < N)
    tl.store(z_ptr + offsets, x + c, mask=offsets < N)

check("09.fool", fool)

# %% 09.fool | both judges reject it
@triton.jit
def fool(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < N)
    tl.store(z_ptr + offsets, x + c + 1, mask=offsets < N)

check("09.fool", fool)
