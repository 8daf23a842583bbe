"""What stands between a kernel and Triton's interpreter."""

import re

from tests.puzzles.judge.probe import probe


def test_program_order_is_shuffled(workers):
    verdict = probe(
        workers,
        "n = tl.program_id(0)\ntl.device_print('', n)\ntl.store(z_ptr + n, tl.load(x_ptr + n))",
        grid=("N",),
        sizes=(16,),
    )
    seen = [int(number) for number in re.findall(r"\[(\d+)\]", verdict.printed)]
    assert sorted(seen) == list(range(16)) and seen != list(range(16))
