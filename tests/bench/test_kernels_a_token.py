"""Kernels a token: the table in the file is what is counted, and what the paper model reckons with."""

import pytest

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench import kernels_a_token, on_paper
from aiinfra.bench.kernels_a_token import decode_kernels, is_product

pytest.importorskip("triton")


def told() -> dict[str, int]:
    """The last row of the table."""
    lines = kernels_a_token.__doc__.split("\n\n")[1].splitlines()
    names = lines[0].split("for")[1].split()
    counts = map(int, lines[-1].split()[-len(names):])
    return dict(zip(names, counts, strict=True))


@pytest.mark.parametrize("name", bench_gpu.SHAPES)
def test_the_table_is_what_is_counted(name: str) -> None:
    """Old code: two more in every layer, for the sum behind its feed-forward and for the cache write."""
    assert len(decode_kernels(bench_gpu.SHAPES[name])) == told()[name]


def test_no_sum_and_no_cache_write_is_a_kernel_of_its_own() -> None:
    names = [kernel.name for kernel in decode_kernels(bench_gpu.SHAPES["Llama-1B"])]
    assert "add" not in names and "kv_write._kernel" not in names
    assert names.count("rmsnorm._forward_kernel") == 2 * 16 + 1


@pytest.mark.parametrize("name", ["Llama-8B", "Llama-1B"])
def test_the_paper_model_reckons_with_these(name: str) -> None:
    shape = bench_gpu.SHAPES[name]
    small = sum(not is_product(kernel) for kernel in decode_kernels(shape))
    assert on_paper.small_kernels(shape.num_hidden_layers) == small
    assert on_paper.QWEN3.kernels == told()["Qwen3-0.6B"]
