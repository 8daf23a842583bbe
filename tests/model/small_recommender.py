"""A recommender with its default sizes, and one thread: for the tests of the model and of its training."""

import pytest
import torch

from aiinfra.model.recommender import Recommender, RecommenderConfig


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices of 24 rows are too small to share between threads, and other work may run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(**sizes) -> Recommender:
    torch.manual_seed(0)
    return Recommender(RecommenderConfig(**sizes))
