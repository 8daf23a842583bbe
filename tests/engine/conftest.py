"""For all tests of this folder: one engine on the real model, float32, on the CPU; and one small random
model."""

import pytest
from tests.engine.small_model import random_model

from aiinfra import LLM
from aiinfra.model import Transformer


@pytest.fixture(scope="session")
def llm(real_model: str) -> LLM:
    return LLM(real_model, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def small() -> Transformer:
    return random_model()
