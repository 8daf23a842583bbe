"""Compiled training is the same training: losses of eager's within rounding, and to the last bit its own when
it is resumed."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from aiinfra.train.compiled import compile_layers
from aiinfra.train.data import PackedStream
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw
from aiinfra.train.recompute import recompute
from aiinfra.train.run import TrainingRun
from tests.train.stories import corpus, stories, tiny_model
from tests.train.test_run import SMALL, finish, same_end

pytestmark = [pytest.mark.compile, pytest.mark.program]


def test_the_losses_of_eager_whatever_the_texts_and_nothing_is_compiled_twice() -> None:
    """Texts end elsewhere in each micro-batch, and the last row of an epoch is shorter. With dropout and
    with recomputation: what is computed again drops the same values."""
    text, results = corpus(), []
    for compiled in (False, True):
        model = tiny_model()
        for layer in model.layers:
            layer.mlp.register_forward_hook(lambda module, args, y: nn.functional.dropout(y, 0.2))
        torch.manual_seed(7)
        recompute(model, "block" if compiled else "none")
        if compiled:
            compile_layers(model)
        records = loop(model, PackedStream(text, 40, 3, seed=0), adamw(model), Schedule(peak=1e-2, steps=20))
        found = list(islice(records, 3))
        made = counters["stats"]["unique_graphs"]
        found += islice(records, 17)
        assert counters["stats"]["unique_graphs"] == made, "every step has the code of the first"
        results.append(found)
    eager, same = results
    assert len({record.tokens for record in eager}) > 1
    for a, b in zip(eager, same, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-4) and b.tokens == a.tokens
    assert eager[-1].loss < eager[0].loss - 1


def test_resumed_to_the_last_bit(tmp_path: Path) -> None:
    data = tmp_path / "stories.txt"
    data.write_text("\n\n".join(stories(120)))
    options = replace(SMALL, steps=6, compile=True)
    finish(data, tmp_path / "whole", options)
    for record in TrainingRun(data, tmp_path / "parts", options):
        if record.step == 4:
            break
    torch._dynamo.reset()                                   # as in another process
    finish(data, tmp_path / "parts", options, resume=True)
    same_end(tmp_path / "whole", tmp_path / "parts")


def test_without_a_compiler_it_says_so() -> None:
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        with pytest.raises(RuntimeError, match="nothing can be compiled .*C.. compiler.* without --compile"):
            compile_layers(tiny_model())
