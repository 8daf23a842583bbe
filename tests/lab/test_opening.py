"""start() does what a page needs before its first line, in this order, and shows the key of colours."""

import subprocess
import sys

import pytest
import torch

from aiinfra.device import default_device
from aiinfra.environment import child_environment
from aiinfra.lab import start as start_page
from aiinfra.lab import store
from aiinfra.lab.opening import Opening


@pytest.fixture(autouse=True)
def with_gradients():
    """As it was, whatever a page asks for."""
    yield
    torch.set_grad_enabled(True)


@pytest.fixture
def shown(monkeypatch):
    log = []
    monkeypatch.setattr(sys.modules["aiinfra.lab.opening"], "display", log.append)
    return log


def test_it_returns_the_device_and_shows_the_key_and_the_progress(shown):
    store.write("exercises", "01.shards", {"status": "passed"})
    assert start_page("01") == default_device() and torch.is_grad_enabled()
    [opening] = shown
    assert isinstance(opening, Opening) and "orange = your prediction" in repr(opening)
    assert "01 · Fit a line: 1 of " in repr(opening) and "your prediction" in opening._repr_html_()


def test_a_page_that_trains_nothing_needs_no_gradients(shown):
    start_page("12", grad=False)
    assert not torch.is_grad_enabled()


def test_an_unknown_page_is_refused(shown):
    with pytest.raises(ValueError, match="there is no page '77'"):
        start_page("77")


CODE = """
{first}
from aiinfra import lab
from aiinfra.environment import triton_interpreted
import sys
assert "triton" not in sys.modules or {late}
try:
    lab.start("08", interpret=True)
except RuntimeError as error:
    print(error)
print("interpreted:", triton_interpreted())
"""


@pytest.mark.program
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU kernels are compiled")
@pytest.mark.parametrize(
    "first, said", [("", "interpreted: True"), ("import triton", "Triton was imported before")]
)
def test_the_interpreter_is_chosen_before_triton_is_imported(first, said):
    environment = child_environment()
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", CODE.format(first=first, late=bool(first))], env=environment,
                          capture_output=True, text=True, check=True)
    assert said in done.stdout
