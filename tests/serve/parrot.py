"""A server whose model says what it is told to, one token a step, and fails or dawdles on demand."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import torch
from fastapi import FastAPI
from tests.checkpoint.corpus_parts import CHATML, byte_level

from aiinfra.checkpoint import Tokenizer
from aiinfra.engine.engine import Engine
from aiinfra.engine.llm import LLM
from aiinfra.engine.request import Request
from aiinfra.engine.runner import PagedCache, Runner
from aiinfra.model import ModelConfig, Transformer
from aiinfra.serve.admission import Admission
from aiinfra.serve.app import make_app
from aiinfra.serve.engine_thread import EngineThread

NAME = "parrot"
CONTEXT = 512
EOS, BOS = "<|im_end|>", "<|begin|>"


class ParrotRunner(Runner):
    """Says `script`, then ends; the first answer of every request alike, others where temperature lets them
    draw from nothing else."""

    script: list[int] = []
    others: dict[str, list[int]] = {}         # of answers that say something else from their second token on
    eos = 0
    seconds = 0.0                             # that a step takes
    fault: Exception | None = None            # what the next step raises
    nan = False
    silence = -1e4                            # the logit of what it does not say
    gate: threading.Event | None = None       # a step waits for it

    def run(self, plan, newest=None) -> torch.Tensor:
        time.sleep(self.seconds)
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        said = [self._next(work.request) for work in plan.work if work.last]
        logits = torch.full((len(said), self.model.config.vocab_size), self.silence)
        for row, token in enumerate(said):
            logits[row, token] = 0.0
        return logits * torch.nan if self.nan else logits

    def _next(self, request: Request) -> int:
        _, _, index = request.id.partition("#")
        script = self.others.get(index, self.script)
        return script[request.made] if request.made < len(script) else self.eos


class Served(NamedTuple):
    """What a test has in its hands."""

    client: httpx.AsyncClient
    app: FastAPI
    thread: EngineThread
    admission: Admission
    runner: ParrotRunner

    @property
    def engine(self) -> Engine:
        return self.thread.llm.engine

    def say(self, text: str) -> None:
        self.runner.script = self.thread.llm.tokenizer.encode(text, add_special_tokens=False)


def parrot_llm(template: str | None = CHATML, **options: Any) -> LLM:
    backend = byte_level("<|im_start|>", EOS, BOS)
    eos = backend.token_to_id(EOS)
    tokenizer = Tokenizer(backend, template, (eos,), eos_token=EOS, bos_token=BOS)
    config = ModelConfig(vocab_size=backend.get_vocab_size(), hidden_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=16,
                         max_position_embeddings=CONTEXT)
    model = Transformer(config).eval().requires_grad_(False)
    blocks = options.pop("blocks", 256)
    block = PagedCache.block_bytes(config, 16, model.dtype)
    engine = Engine(model, make_runner=ParrotRunner, cache_bytes=blocks * block, **options)
    engine.runner.eos = eos
    llm = LLM.around(engine, tokenizer)
    return llm


@asynccontextmanager
async def parrot(say: str = "", admission: Admission | None = None, options: dict[str, Any] | None = None,
                 llm: LLM | None = None, **app_options: Any) -> AsyncIterator[Served]:
    llm = llm or parrot_llm(**(options or {}))
    thread = EngineThread(llm)
    admission = admission or Admission()
    app = make_app(thread, NAME, admission=admission, **app_options)
    thread.start()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server/v1", timeout=60) as client:
        served = Served(client, app, thread, admission, llm.engine.runner)
        served.say(say)
        try:
            yield served
        finally:
            if llm.engine.runner.gate is not None:
                llm.engine.runner.gate.set()
            thread.stop()


def chat(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": "hello"}], **more}


def completion(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "hello", "max_tokens": 100, **more}


def events(response: httpx.Response) -> list[Any]:
    """The objects of a stream; its end as the string [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    found = []
    for line in response.text.split("\n\n"):
        if line:
            assert line.startswith("data: ") and "\n" not in line
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


class Client:
    """One HTTP request straight to the app, which may hang up at any time and reads as slowly as it likes."""

    def __init__(self, app: FastAPI, path: str, body: dict[str, Any]) -> None:
        self.app, self.path = app, path
        self.body = json.dumps(body).encode()
        self.gone = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.messages: list[dict[str, Any]] = []
        self._asked = False

    def start(self) -> "Client":
        self.task = asyncio.create_task(self.app(self._scope(), self._receive, self._send))
        return self

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.messages).decode()

    def _scope(self) -> dict[str, Any]:
        return {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
                "method": "POST", "scheme": "http", "path": f"/v1/{self.path}", "raw_path": b"",
                "query_string": b"", "root_path": "", "server": ("server", 80), "client": ("client", 1),
                "headers": [(b"content-type", b"application/json")]}

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_read.wait()
        self.messages.append(message)


async def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)
