"""How far float32 may be from float64, and no further."""

import torch

from puzzles.judge.tolerance import allowed_error, error_ratio
from puzzles.puzzle import Expected


def test_the_allowed_error_covers_float32_and_little_more():
    x = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    answer = Expected(x.double().sum(1), terms=1000, size=lambda: x.double().abs().sum(1))
    naive = x[:, 0].clone()
    for i in range(1, 1000):
        naive += x[:, i]
    assert error_ratio(naive, answer).max() <= 1 and error_ratio(x.sum(1), answer).max() <= 1
    half = x[:, 0].half()
    for i in range(1, 1000):
        half += x[:, i].half()
    assert (error_ratio(half.float(), answer) > 1).double().mean() > 0.7
    assert allowed_error(answer, torch.float32).max() < 1e-3 * answer.size().max()
    ratio = error_ratio(torch.tensor([3, 4]), Expected(torch.tensor([3, 5])))
    assert torch.equal(ratio, torch.tensor([0.0, torch.inf]).double())


def test_float16_gets_one_rounding():
    value = torch.tensor([1.0 + 2.0 ** -12, 1000.3], dtype=torch.float64)
    assert (error_ratio(value.half(), Expected(value)) <= 1).all()
    assert (error_ratio((value * 1.002).half(), Expected(value)) > 1).all()


def test_nan_is_wrong_unless_it_is_the_answer():
    got = torch.tensor([torch.nan, torch.inf, -torch.inf])
    value = torch.tensor([torch.nan, 1.0, -torch.inf]).double()
    assert error_ratio(got, Expected(value)).tolist() == [0.0, torch.inf, 0.0]
