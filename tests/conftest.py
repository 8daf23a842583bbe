"""Shared by all tests. Without a GPU, Triton kernels run in its interpreter.

Triton reads TRITON_INTERPRET when a kernel's module is imported, so it is set here, first. OpenMP's setting
is read when PyTorch is imported, so it is made before.
"""

import os
import sys

import hypothesis
import pytest

from aiinfra.environment import calm_threads

calm_threads()

import torch                                           # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from aiinfra.checkpoint import load                    # noqa: E402  only now: see above
from aiinfra.checkpoint.hub import resolve             # noqa: E402

hypothesis.settings.register_profile("quick", max_examples=10)     # make quick: a tenth of the random cases
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
if WORKERS:
    threads = max(1, (os.cpu_count() or 1) // WORKERS)             # the workers share the cores
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))         # and so do the processes that they start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who needs the real model is marked so; other marks stand in the files. Pages are long and go first."""
    for item in items:
        if "real_model" in getattr(item, "fixturenames", ()):
            item.add_marker("model")
    items.sort(key=lambda item: item.get_closest_marker("page") is None)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """A test leaves no figure open, which the next may count, and gradients on, where they are by default."""
    yield
    torch.set_grad_enabled(True)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def real_model() -> str:
    """The name of the model that every test of real weights loads; who asks for it is marked `model`."""
    return "smollm2-135m"


@pytest.fixture(scope="session")
def gguf_path(real_model):
    """The file of the real model."""
    return resolve(real_model)


@pytest.fixture(scope="session")
def ours(real_model):
    """The real model and its tokenizer, read by us."""
    return load(real_model, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def reference(gguf_path):
    """The same file, read by transformers."""
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def reference_tokenizer(gguf_path):
    """Its tokenizer, read by transformers."""
    import transformers
    return transformers.AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
