"""The engine takes the GPU's way in every mode: no step waits, mixes devices, or compiles anything new."""

import pytest
import torch
from tests.engine.fake_traffic import CONFIGS, ENGINES, PLAIN, engine_on, model_on, serve_everything
from tests.engine.small_model import Script

from aiinfra.engine.graphs import DecodeGraphs
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.gpu.compile import variant_report
from aiinfra.gpu.compile_table import as_text
from aiinfra.gpu.fake import fake_gpu

pytest.importorskip("triton")
KINDS = [(kind, None, "as it comes") for kind in CONFIGS if kind != "wide heads"]
KINDS += [("plain", "int4", "as it comes"), ("plain", "int8", "as it comes")]
KINDS += [("plain", None, way) for way in ENGINES if way != "as it comes"]


@pytest.mark.compile                   # it compiles nothing, but a minute of Python is not for `make quick`
@pytest.mark.parametrize("kind, bits, way", KINDS)
def test_every_way_to_serve(kind: str, bits: str | None, way: str) -> None:
    """No step waits. What is compiled is compiled before the first request; without graphs, for the first."""
    with fake_gpu() as gpu:
        engine = engine_on(model_on(gpu, kind, bits), **ENGINES[way])
        known = gpu.variants() | {one.variant for graph in gpu.recordings for one in graph.kernels}
        assert bool(gpu.recordings) == engine.options.cuda_graphs
        before = len(gpu.started)
        serve_everything(engine, seed=0)                     # fills the table that draws are made from, too
        if engine.options.cuda_graphs:
            assert gpu.variants(before) <= known, "compiled for the first requests"
        known |= gpu.variants()
        before = len(gpu.started)
        gpu.complaints.clear()
        assert serve_everything(engine, seed=1) > 5 and serve_everything(engine, seed=2, multiple=16) > 5
        assert gpu.complaints == [] and engine.idle
        assert gpu.variants(before) <= known, "compiled while serving"


@pytest.mark.compile
@pytest.mark.parametrize("arch", [86, 90])
def test_what_serving_would_have_compiled_compiles_and_fits(arch: int) -> None:
    """Not what a table foresees, but what the engine asks for, with this chip's tiles."""
    with fake_gpu(arch=arch) as gpu:
        serve_everything(engine_on(model_on(gpu, "wide heads"), max_running=4), seed=0)
        variants = gpu.variants()
    records = variant_report(variants, arch)
    assert len(records) == len(variants) >= 7
    assert all(record.fits for record in records), as_text(records)


def test_a_decode_beside_a_prompt_is_split() -> None:
    """Old code: one launch for both, in a prompt's tiles: one program read all of a decode's context."""
    with fake_gpu() as gpu:
        engine = engine_on(model_on(gpu, "plain"), overlap=False)
        engine.add("long", [1] * 400, SamplingParams(max_tokens=9, ignore_eos=True))
        while not engine.answers.by_request or not next(iter(engine.answers.by_request)).made:
            engine.step()
        engine.add("new", [2] * 60, SamplingParams(max_tokens=1))
        before = len(gpu.started)
        assert [count for _, _, count in engine.step().ran] == [1, 60]
        launches = [one for one in gpu.started[before:] if one.module == "paged_attention"]
        names = ["_attention_kernel", "_merge_kernel", "_attention_kernel"]
        assert [one.name for one in launches] == names * PLAIN.num_hidden_layers
        decode, _, prompt = launches[:3]
        kinds = [dict(one.variant.constexprs)["DECODE"] for one in (decode, prompt)]
        assert kinds == [True, False]
        assert decode.grid == (2, 3, 1)                  # key heads, parts of 400 keys, requests
        assert prompt.grid == (2, 1)                     # 60 tokens are one tile


def test_steps_with_guesses_are_replays() -> None:
    """Old code: each of them was asked for kernel by kernel."""
    with fake_gpu() as gpu:
        engine = engine_on(model_on(gpu, "plain"), speculative=Script(lambda tokens: [1] * (len(tokens) % 5)))
        for name in "abc":
            engine.add(name, [1] * 20, SamplingParams(max_tokens=40, ignore_eos=True))
        while len(engine.answers.by_request) < 3 or not all(one.made for one in engine.answers.by_request):
            engine.step()
        gpu.complaints.clear()
        guessed = 0
        for _ in range(8):
            before, replays = len(gpu.started), sum(graph.replays for graph in gpu.recordings)
            guessed += sum(drafted for _, drafted, _ in engine.step().guessed)
            assert sum(graph.replays for graph in gpu.recordings) == replays + 1
            ours = [one for one in gpu.started[before:] if one.variant is not None]
            assert ours in [[one for one in graph.kernels if one.variant] for graph in gpu.recordings]
        assert guessed > 20 and gpu.complaints == []


@pytest.mark.parametrize("fault, complaint", [
    (lambda x: x + x.sum().cpu().to(x.device), "to the CPU"),
    (lambda x: x + torch.tensor([1.0, 2.0], device=x.device).sum(), "from the CPU"),
])
def test_a_model_that_waits_is_found_out(fault, complaint: str, monkeypatch) -> None:
    hidden = DecodeGraphs._forward

    def waiting(self, bucket: int, each: int) -> None:
        hidden(self, bucket, each)
        fault(self.logits)
    monkeypatch.setattr(DecodeGraphs, "_forward", waiting)
    with fake_gpu() as gpu:
        engine_on(model_on(gpu, "plain"))
        assert any(complaint in said and said.startswith("in a recording") for said in gpu.complaints)


def test_a_model_on_two_devices_is_found_out() -> None:
    with fake_gpu() as gpu:
        model = model_on(gpu, "plain")
        model.norm.weight = torch.nn.Parameter(torch.ones(128, dtype=torch.bfloat16), requires_grad=False)
        with pytest.raises(Exception, match="device"):
            engine_on(model, cuda_graphs=False)
            serve_everything(engine_on(model, cuda_graphs=False), seed=0)
