"""Solutions of notebook 09, Triton puzzles: one section an exercise, each the whole cell."""

# %% 09.add_constant
@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.store(z_ptr + offsets, x + c)

check("09.add_constant", add_constant)

# %% 09.add_blocks
@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x = tl.load(x_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + c, mask=mask)

check("09.add_blocks", add_blocks)

# %% 09.outer_sum
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)                       # [BLOCK_N]
    y = tl.load(y_ptr + m, mask=m < M)                       # [BLOCK_M]
    mask = (n[:, None] < N) & (m[None, :] < M)               # [BLOCK_N, BLOCK_M]
    tl.store(z_ptr + n[:, None] * M + m[None, :], x[:, None] + y[None, :], mask=mask)

check("09.outer_sum", outer_sum)

# %% 09.launch
def launch(shape, block):                 # two tuples of the same length
    grid = tuple(-(-n // b) for n, b in zip(shape, block))
    lanes = elements = 1
    for g, b, n in zip(grid, block, shape):
        lanes, elements = lanes * g * b, elements * n
    return grid, lanes - elements

check("09.launch", launch)

# %% 09.bytes
def bytes_moved(N, M, BLOCK_N, BLOCK_M):
    down, across = -(-N // BLOCK_N), -(-M // BLOCK_M)        # tiles along each axis
    return 4 * (N * across + M * down), 4 * N * M            # x once per column of tiles, y once per row

check("09.bytes", bytes_moved)

# %% 09.races
def races(log):
    touched, written = {}, set()
    for program, kind, element in log:
        touched.setdefault(element, set()).add(program)
        if kind == "write":
            written.add(element)
    return {element for element in written if len(touched[element]) > 1}

check("09.races", races)

# %% 09.fool
@triton.jit
def fool(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)                             # no mask: reads past the end, and drops it
    tl.store(z_ptr + offsets, x + c, mask=offsets < N)

check("09.fool", fool)
