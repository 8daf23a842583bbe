"""How far may a right float32 kernel be from the answer in float64?

A sum of n terms in float32, in any order, is off by at most n u sum(|terms|), with u = 2^-24, half a
unit in the last place (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2).
Roundings are as often up as down, so beyond 6 sqrt(n) u sum(|terms|) lies less than one sum in ten
million (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5)). The smaller bound counts:

    (min(n, 6 sqrt(n)) + amplified + 8) u x sum(|terms|)  +  one rounding to the output's dtype

The puzzle states n, sum(|terms|) where terms can cancel, and what a later exp makes of early errors.
Nothing is a constant such as 1e-3: at 1e-3 a softmax over 1,000 columns may be 100 % wrong.
"""

import math

import torch

from puzzles.puzzle import Expected

_UNIT = {
    torch.float64: 2.0 ** -53,
    torch.float32: 2.0 ** -24,
    torch.float16: 2.0 ** -11,
    torch.bfloat16: 2.0 ** -8,
}
_SIGMAS = 6
_LIBRARY_ULPS = 8       # exp, log, rsqrt and division: a few units each, on a GPU as in NumPy


def allowed_error(expected: Expected, dtype: torch.dtype) -> torch.Tensor:
    """The largest right error of each element, float64, in the shape of `expected.value`."""
    value = expected.value.double()
    if dtype not in _UNIT:
        return torch.zeros_like(value)                   # integers are exact
    size = value.abs()
    if expected.size is not None:
        size = expected.size().double()
    likely_units = _SIGMAS * math.sqrt(expected.terms)
    units = min(expected.terms, likely_units) + expected.amplified + _LIBRARY_ULPS
    sum_error = units * _UNIT[torch.float32] * size
    info = torch.finfo(dtype)
    if dtype == torch.float32:
        return sum_error + info.tiny                     # a GPU may flush what is smaller to zero
    one_rounding = _UNIT[dtype] * value.abs() + info.tiny * info.eps
    return sum_error + one_rounding


def error_ratio(got: torch.Tensor, expected: Expected) -> torch.Tensor:
    """Error over allowed error; at most 1 is right. NaN and infinity count as infinitely wrong."""
    value = expected.value.double()
    error = (got.double() - value).abs()
    same = (got.double() == value) | (got.isnan() & value.isnan())
    ratio = error / allowed_error(expected, got.dtype)
    ratio = torch.where(same, 0.0, ratio)
    return torch.nan_to_num(ratio, nan=torch.inf, posinf=torch.inf)
