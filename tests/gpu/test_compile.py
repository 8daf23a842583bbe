"""Kernels compile for GPUs that are not here, and what they take there is seen."""

import re
from importlib import import_module

import pytest

from aiinfra.environment import triton_interpreted
from aiinfra.gpu import compile as compiler
from aiinfra.gpu import process
from aiinfra.kernels import flash_attention

pytest.importorskip("triton")
pytestmark = pytest.mark.compile


def test_every_kernel_that_is_launched_is_compiled_here():
    """Each file says so, and of each file every kernel."""
    launched = set()
    for path in (compiler.Path(compiler.__file__).parents[1] / "kernels").glob("*.py"):
        found = re.findall(r"^    +launch\((\w+),", path.read_text(), re.MULTILINE)
        launched |= {(path.stem, name) for name in found}
    compiled = set()
    for job in compiler.compile_jobs((90,)):
        kernel = import_module(f"aiinfra.kernels.{job.module}").compile_cases(90)[job.index]["kernel"]
        compiled.add((job.module, kernel.fn.__name__))
    assert len(launched) >= 15 and launched <= compiled


def registers_and_stack_of_a_tile_too_large() -> tuple[int, int]:
    case = flash_attention.compile_cases(90)[0]
    case["constexprs"] |= {"BM": 128, "BN": 256}
    usage = compiler.resource_usage(compiler.build(case, 90).asm["cubin"])
    return usage["REG"], usage["STACK"]


def test_a_tile_too_large_is_seen_to_spill():
    registers, stack = process.call(registers_and_stack_of_a_tile_too_large, interpret=False)
    assert registers == 255 and stack > 0


def test_fits_looks_at_spills_and_shared_memory():
    record = dict(module="m", name="n", num_warps=4, num_stages=3, registers=64)
    assert compiler.Compiled(**record, arch=90, shared_bytes=200_000, spill_bytes=0).fits
    assert not compiler.Compiled(**record, arch=80, shared_bytes=200_000, spill_bytes=0).fits
    spilled = compiler.Compiled(**record, arch=90, shared_bytes=0, spill_bytes=8)
    assert not spilled.fits


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"arch 91 is not known; use one of \[75, 80"):
        compiler.compile_report(archs=(91,))
    with pytest.raises(ValueError, match="'flash' has no compile_cases; use one of"):
        compiler.compile_report(modules=["flash"])
    if triton_interpreted():
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
            compiler.build({}, 90)
