"""Occupancy against cases worked out by hand from the published limits."""

import pytest

from aiinfra.gpu.occupancy import CHIPS, MAX_REGISTERS, occupancy


@pytest.mark.parametrize("registers, shared, num_warps, arch, programs, limit", [
    (32, 0, 4, 90, 16, "warps"),                # 65,536 / (32 · 128) = 16 as well: the full house
    (33, 0, 4, 90, 12, "registers"),            # 33 are rounded up to 40 a thread
    (255, 0, 4, 90, 2, "registers"),            # 256 · 128 = 32,768
    (255, 0, 32, 90, 0, "registers"),           # 256 · 1,024 registers do not exist
    (32, 64 << 10, 4, 90, 3, "shared memory"),  # 228 / (64 + 1)
    (32, 64 << 10, 4, 80, 2, "shared memory"),  # 164 / 65
    (16, 0, 1, 90, 32, "programs"),
    (32, 0, 4, 86, 12, "warps")])
def test_cases(registers, shared, num_warps, arch, programs, limit):
    found = occupancy(registers, shared, num_warps, arch)
    assert (found.programs, found.limit) == (programs, limit)
    assert found.warps == programs * num_warps and found.share == found.warps / CHIPS[arch].warps


@pytest.mark.parametrize("arch", CHIPS)
@pytest.mark.parametrize("num_warps", [1, 2, 4, 8, 16, 32])
def test_limits_hold_and_more_registers_never_help(arch, num_warps):
    chip = CHIPS[arch]
    found = [occupancy(registers, 5000, num_warps, arch) for registers in range(1, MAX_REGISTERS + 1)]
    assert [f.warps for f in found] == sorted((f.warps for f in found), reverse=True)
    for registers, f in enumerate(found, 1):
        assert f.warps <= chip.warps and f.programs * 5000 <= chip.shared_bytes
        assert f.warps * 32 * registers <= chip.registers


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(registers=256), "256 registers per thread; a thread has 1 to 255"),
        (dict(registers=0), "1 to 255"),
        (dict(registers=32, num_warps=33), "1,056 threads"),
        (dict(registers=32, arch=91), "arch 91 is not known"),
    ],
)
def test_errors_state_value_and_limit(wrong, words):
    with pytest.raises(ValueError, match=words):
        occupancy(**wrong)
