"""Sums and norms over a mesh: each value counts once, wherever it is.

Reported faults of this kind: gradients scaled by ranks (torchtitan 2972), norms of parts and copies
under tp and pp (torchtitan 596, Megatron-LM 5916), norms' weights under sequence parallelism (Megatron-LM
1446), a stage without some kinds of parameters (Megatron-LM 3401), a tied table counted twice (Megatron-LM
1447).
"""

import math

import pytest
import torch

from aiinfra.parallel.launch import launch
from tests.parallel import training_functions


@pytest.mark.parametrize("limit", [1e9, 0.5])
def test_a_norm_counts_each_value_once_and_gradients_are_sums(limit):
    gradients = [3 * torch.arange(5.0), 3 * torch.ones(3), 3 * torch.tensor([2.0, 0.0])]
    whole = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    scale = min(1.0, limit / (whole + 1e-6))
    for norm, *found, total in launch(training_functions.norms_on_a_mesh, 4, limit):
        assert norm == pytest.approx(whole, rel=1e-6)
        for mine, one in zip(found, gradients):
            torch.testing.assert_close(mine, one * scale)
        assert total == 1 + 2, "ranks of tp see the same tokens: they count once"


def test_a_gradient_that_is_spread_over_tp_is_made_whole():
    for gradient, norm in launch(training_functions.partial_gradients, 2):
        assert gradient.tolist() == [18.0, 22.0, 26.0]
        assert norm == pytest.approx(math.sqrt(18**2 + 22**2 + 26**2))


def test_a_pipelines_norm_is_of_all_stages_and_its_table_counts_once():
    for norm, table in launch(training_functions.a_stage_without_some_parameters, 2):
        assert table.tolist() == [2.0, 1.0]
        assert norm == pytest.approx(math.sqrt(4 * 2 + 2**2 + 1**2))
