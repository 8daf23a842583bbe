"""Others do the same work as we do, and leave nothing behind."""

import subprocess
import sys
import threading

import pytest
import torch
import transformers
from tests.bench.servers import TRACE

from aiinfra.bench.load import EngineServer, replay
from aiinfra.bench.peers.llama_cpp import LlamaCpp
from aiinfra.bench.peers.transformers import GenerateBatch, StaticBatches, transformers_generate
from aiinfra.bench.trace import TraceRequest, random_trace
from aiinfra.checkpoint.hub import resolve
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer


def test_all_servers_do_the_same_work(model: Transformer, peer) -> None:
    """Padding and the longest neighbour change nothing that counts: every server makes transformers' own
    tokens."""
    alone = [transformers_generate(peer, r.prompt, r.output_tokens) for r in TRACE]
    for server in (StaticBatches(peer, "transformers", 4), EngineServer(Engine(model, max_running=4))):
        answers = replay(server, TRACE)
        assert [a.tokens for a in answers] == alone and server.unfinished == 0
        assert all(a.at_seconds == sorted(a.at_seconds) and a.at_seconds[0] > 0 for a in answers)


def test_generate_batch_leaves_nothing_running(peer) -> None:
    """It makes transformers' own tokens, again and again; its thread ends with each step, and its kind of
    attention."""
    alone = [transformers_generate(peer, r.prompt, r.output_tokens) for r in TRACE]
    kind = peer.config._attn_implementation
    server, before = GenerateBatch(peer, "transformers"), threading.active_count()
    for _ in range(2):
        answers = replay(server, TRACE)
        assert [a.tokens for a in answers] == alone and server.unfinished == 0
        assert all(a.at_seconds == sorted(a.at_seconds) and a.at_seconds[0] > 0 for a in answers)
    assert threading.active_count() == before and peer.config._attn_implementation == kind
    server.close()


def test_llama_cpp_speaks_as_through_its_own_interface() -> None:
    api = pytest.importorskip("llama_cpp", reason="llama.cpp is optional")
    path, sentence = resolve("smollm2-135m"), b"The sea was calm that morning, and the harbour"
    # flash_attn: what llama.cpp itself decides here; the package's own default is without
    high = api.Llama(str(path), n_ctx=256, n_threads=torch.get_num_threads(), verbose=False, flash_attn=True)
    prompt, expected = high.tokenize(sentence, add_bos=False), []
    for token in high.generate(prompt, temp=0.0, repeat_penalty=1.0):
        expected.append(token)
        if len(expected) == 24:
            break
    server = LlamaCpp(api, path, sequences=2, context_tokens=128)
    assert server.generate(prompt, 24) == expected
    answers = replay(
        server, [TraceRequest(prompt, 24), *random_trace(4, 211, prompt_tokens=(1, 60), output_tokens=(1, 9))]
    )
    assert answers[0].tokens[0] == expected[0] and server.unfinished == 0
    server.close()


def test_a_peers_file_does_not_hide_its_package() -> None:
    code = "import aiinfra.bench.peers.transformers, transformers; print(transformers.__version__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == transformers.__version__
