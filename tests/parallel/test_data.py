"""Copies that see different tokens: buckets against PyTorch's DDP, and copies that are none.

Reported faults of this kind: a sum silently off (verl 7493, VeOmni 1059), a pass after the last one.
"""

import pytest
import torch

from aiinfra.parallel.launch import RankFailed, launch
from tests.parallel import training_functions


@pytest.mark.parametrize("bucket_bytes, buckets", [(1, 5), (600, 2), (1 << 20, 1)])
@pytest.mark.parametrize("passes", [1, 3])
def test_buckets_are_ddps_sums_and_leave_during_the_backward(bucket_bytes, buckets, passes):
    told = launch(training_functions.buckets_against_ddp, 2, bucket_bytes, passes)
    assert told == [(buckets, buckets)] * 2, "every bucket has left before finish is called"


def test_a_parameter_that_one_rank_did_not_use():
    first, second = launch(training_functions.buckets_with_unused_parameters, 2)
    assert all(torch.equal(mine, other) for mine, other in zip(first, second))
    assert all(float(gradient.abs().max()) > 0 for gradient in first)


def test_a_pass_after_the_last_is_refused():
    with pytest.raises(RankFailed, match="a gradient came after its bucket had been sent"):
        launch(training_functions.a_pass_too_many, 2)


def test_sums_are_never_left_out():
    assert launch(training_functions.sync_forgotten, 2) == [(True, True)] * 2


def test_copies_that_differ_are_named_before_the_first_step():
    assert launch(training_functions.copies, 4, [0, 0, 0, 0]) == [""] * 4
    along_dp = launch(training_functions.copies, 4, [0, 0, 1, 1])
    assert all("copies along dp differ in 5 of 5 parameters, such as 0.bias" in told for told in along_dp)
    along_tp = launch(training_functions.copies, 4, [0, 1, 0, 1])
    assert all("copies along tp differ" in told for told in along_tp)
