"""Every kernel compiles for GPUs that are not here, and none spills its registers."""

import re

import pytest

from aiinfra.environment import triton_interpreted
from aiinfra.gpu import compile as compiler
from aiinfra.gpu import process
from aiinfra.kernels import flash_attention

pytest.importorskip("triton")
pytestmark = pytest.mark.compile


@pytest.mark.alone
def test_every_kernel_compiles_fits_and_does_not_spill(capsys):
    records = compiler.compile_report(archs=(80, 90, 100))
    with capsys.disabled():
        print("\n" + compiler.table(records))
    assert {r.module for r in records} == set(compiler.kernel_modules()) and {r.arch for r in records} == {
        80,
        90,
        100,
    }
    assert all(r.registers > 0 for r in records)
    wrong = [r for r in records if not r.fits]
    assert not wrong, "\n" + compiler.table(wrong)


def test_every_file_that_launches_a_kernel_says_what_to_compile():
    files = (compiler.Path(compiler.__file__).parents[1] / "kernels").glob("*.py")
    launching = {
        path.stem for path in files if re.search(r"^    +launch\(", path.read_text(), re.MULTILINE)
    }
    assert len(launching) >= 8 and launching <= set(compiler.kernel_modules())


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
    assert not spilled.fits and "does not fit" in compiler.table([spilled])


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"arch 91 is not known; use one of \[75, 80"):
        compiler.compile_report(archs=(91,))
    with pytest.raises(ValueError, match="'flash' has no compile_cases; use one of"):
        compiler.compile_report(modules=["flash"])
    if triton_interpreted():
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
            compiler.build({}, 90)
