"""How many warps can wait at the same time on one multiprocessor?

    65,536 registers ─┐
    228 KB shared     ├─► whole programs that fit ─► resident warps ─► requests on their way
    64 warps, 32 slots┘

A warp that waits for memory costs nothing if another can go on, so what is resident decides how much
latency can be hidden (Little's law). Nothing is swapped out: a program's registers and shared memory
are its own until it ends, and a program is resident as a whole or not at all.
Limits per compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability"; allocation units: NVIDIA's occupancy calculator. Notebook 08.
"""

from dataclasses import dataclass

WARP = 32
MAX_REGISTERS = 255            # a thread's limit: 8 bits name a register, and one name means "zero"
_UNIT_REGISTERS = 256          # a warp's registers are handed out in units: 8 a thread
_UNIT_SHARED = 128             # bytes
_RESERVED_SHARED = 1024        # bytes that the system keeps for each program (from capability 8.0)


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor has to give; all have 65,536 registers and 1,024 threads a program."""

    warps: int
    programs: int
    shared_bytes: int
    registers: int = 65_536
    threads_per_program: int = 1024


CHIPS = {
    80: Multiprocessor(warps=64, programs=32, shared_bytes=164 << 10),
    86: Multiprocessor(warps=48, programs=16, shared_bytes=100 << 10),
    89: Multiprocessor(warps=48, programs=24, shared_bytes=100 << 10),
    90: Multiprocessor(warps=64, programs=32, shared_bytes=228 << 10),
    100: Multiprocessor(warps=64, programs=32, shared_bytes=228 << 10),
}


@dataclass(frozen=True)
class Occupancy:
    """Programs resident on a multiprocessor, their warps, and which limit is reached first."""

    programs: int
    warps: int
    share: float               # of the warps that the multiprocessor could hold
    limit: str                 # "registers", "shared memory", "warps" or "programs"


def occupancy(registers: int, shared_bytes: int = 0, num_warps: int = 4, arch: int = 90) -> Occupancy:
    """What fits on one multiprocessor: `registers` per thread, `shared_bytes` and `num_warps` per program.

    Zero programs where not even one fits. Raises ValueError for an unknown arch, for more than 255
    registers and for more threads than a program may have.
    """
    if arch not in CHIPS:
        raise ValueError(f"arch {arch} is not known; use one of {sorted(CHIPS)}.")
    chip = CHIPS[arch]
    if not 1 <= registers <= MAX_REGISTERS:
        raise ValueError(f"{registers} registers per thread; a thread has 1 to {MAX_REGISTERS}.")
    if not 1 <= num_warps * WARP <= chip.threads_per_program:
        most = chip.threads_per_program // WARP
        raise ValueError(f"{num_warps} warps are {num_warps * WARP:,} threads; "
                         f"a program has 1 to {most} warps.")
    per_warp = _up(registers * WARP, _UNIT_REGISTERS)
    per_program = _up(shared_bytes, _UNIT_SHARED) + _RESERVED_SHARED
    fits = {
        "registers": chip.registers // per_warp // num_warps,
        "shared memory": chip.shared_bytes // per_program,
        "warps": chip.warps // num_warps,
        "programs": chip.programs,
    }
    programs = min(fits.values())
    resident = programs * num_warps
    limit = min(reversed(fits), key=fits.get)        # of equals, the one that no program can change
    return Occupancy(programs=programs, warps=resident, share=resident / chip.warps, limit=limit)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
