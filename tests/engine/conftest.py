"""One engine for all tests of this folder: the real model, float32, on the CPU."""

import pytest

from aiinfra import LLM


@pytest.fixture(scope="session")
def llm() -> LLM:
    return LLM("smollm2-135m", dtype="float32", device="cpu")
