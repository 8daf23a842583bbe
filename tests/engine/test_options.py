"""The settings of an engine: what they may be, what is chosen where nothing was said, and that they need no
PyTorch."""

import subprocess
import sys

import pytest
from tests.engine.small_model import engine_with

from aiinfra import LLM
from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.engine import Engine
from aiinfra.engine.options import EngineOptions
from aiinfra.engine.scheduler import Scheduler
from aiinfra.engine.speculative import PromptLookup
from aiinfra.model import Transformer


@pytest.mark.parametrize("setting, message", [
    ({"speculative": True}, "speculative=True is no proposer"),
    ({"speculative": PromptLookup}, "is no proposer"),
    ({"max_running": 2.5}, "max_running=2.5; it must be a whole number"),
    ({"token_budget": 64.0}, "token_budget=64.0"),
    ({"max_running": None}, "max_running=None; it must be a whole number"),
    ({"max_running": True}, "max_running=True; it must be a whole"),
    ({"max_model_len": 12.5}, "max_model_len=12.5; it must be a whole number"),
    ({"max_model_len": 0}, "max_model_len=0; .* choose 1 to 128"),
    ({"max_model_len": 400}, "max_model_len=400; the model's context is 128 tokens"),
    ({"chunked": "no"}, "chunked='no'; it must be True or False"),
    ({"prefix_caching": None}, "prefix_caching=None; it must be True or False"),
    ({"overlap": "no"}, "overlap='no'; .* or None for what suits"),
    ({"cuda_graphs": "off"}, "cuda_graphs='off'; it must be True or False, or None"),
])
def test_settings_that_are_no_settings(setting: dict, message: str, small) -> None:
    with pytest.raises(ValueError, match=message):
        engine_with(small, blocks=9, **setting)


@pytest.mark.parametrize("settings_, message", [
    ({"cache_bytes": 10}, "cache_bytes=10; it must be a whole number, and one block of 16 tokens is"),
    ({"block_size": 0}, "block_size=0"),
])
def test_a_cache_of_nothing(settings_: dict, message: str, small: Transformer) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(small, **settings_)


@pytest.mark.parametrize("settings_, message", [
    ({"mode": "batch"}, "mode='batch' is not known"), ({"max_running": 0}, "max_running=0"),
    ({"token_budget": 3, "max_running": 4}, "token_budget=3, max_running=4"),
    ({"chunk_tokens": 0}, "chunk_tokens=0"),
])
def test_settings_that_cannot_work(settings_: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(BlockPool(4, 4), **settings_)


def test_an_unknown_option_is_named_before_anything_is_loaded() -> None:
    with pytest.raises(TypeError, match="LLM has no option 'max_runing'. Did you mean 'max_running'"):
        LLM("no such model", max_runing=3)


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"max_model_len": "long"}, {"chunked": 1}])
def test_a_value_that_cannot_work_is_refused_before_anything_is_loaded(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LLM("no such model", **wrong)


def test_an_engine_names_the_nearest_option(small: Transformer) -> None:
    with pytest.raises(TypeError, match="no key 'max_runing'. Did you mean 'max_running'"):
        Engine(small, max_runing=3)


def test_what_suits_a_cpu() -> None:
    found = EngineOptions().resolve(context=1000, block_bytes=100, free_bytes=None)
    assert (found.max_model_len, found.cache_bytes, found.chunk_tokens) == (1000, 1 << 30, 128)
    assert (found.cuda_graphs, found.overlap) == (False, False)
    assert EngineOptions().resolve(context=1000, block_bytes=1 << 25, free_bytes=None).cache_bytes == 63 << 25


def test_what_suits_a_gpu() -> None:
    found = EngineOptions(token_budget=99).resolve(context=1000, block_bytes=100, free_bytes=10_000)
    assert (found.cache_bytes, found.chunk_tokens) == (8000, 99)
    assert (found.cuda_graphs, found.overlap) == (True, True)


def test_what_was_said_stays() -> None:
    said = EngineOptions(max_model_len=7, cache_bytes=500, chunk_tokens=3, cuda_graphs=False, overlap=True)
    for free_bytes in (None, 10_000):
        assert said.resolve(context=1000, block_bytes=100, free_bytes=free_bytes) == said


def test_an_engine_says_what_it_chose(small: Transformer) -> None:
    engine = engine_with(small, 9, max_running=3)
    assert engine.options.max_running == engine.scheduler.max_running == 3
    assert engine.options.chunk_tokens == 128 and engine.options.max_model_len == engine.max_model_len == 128


def test_options_need_no_torch() -> None:
    code = ("import sys; from aiinfra.engine.options import EngineOptions; "
            "print(len(EngineOptions.names()), 'torch' in sys.modules)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["13", "False"]
