"""Which limit binds follows from the sheet."""

import pytest
import torch

from aiinfra.perf import SHEETS, Cost, Hardware, attainable, least_time, ridge

BOX = Hardware("box", 1e9, bandwidth=10.0, float32=100.0, bfloat16=200.0)


def test_the_roofline_bends_at_the_ridge() -> None:
    assert ridge(BOX) == 10 and ridge(BOX, torch.bfloat16) == 20
    for intensity in (1, 9.9, 10, 11, 1000):
        least = least_time(Cost(intensity * 50, 50), BOX)
        assert least.bound == ("memory" if intensity <= 10 else "compute")
        assert intensity * 50 / least.seconds == pytest.approx(attainable(intensity, BOX))
    with pytest.raises(ValueError, match="H100 SXM: its sheet has no figure for torch.int8"):
        SHEETS["H100 SXM"].peak(torch.int8)
