"""The routes: OpenAI's, and what those who run a server ask of it.

    POST /v1/chat/completions   ┐  gate ─> form ─> reception ─> ticket ─> reply
    POST /v1/completions        ┘
    GET  /v1/models                what is served
    GET  /health                   may it live?    503: the engine has failed, start another
    GET  /ready                    send it more?   503: it failed, or it shuts down and finishes its work
    GET  /                         a page to chat with
    GET  /state                    the engine's blocks and requests, which the page shows
    GET  /metrics                  Prometheus' text, under vLLM's names

Notebook 15.
"""

import time
from functools import partial
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from aiinfra.serve.admission import Admission
from aiinfra.serve.chat_page import StateView, chat_page
from aiinfra.serve.complaint import on_invalid
from aiinfra.serve.engine_thread import EngineThread
from aiinfra.serve.gate import Gate
from aiinfra.serve.metrics import Metrics
from aiinfra.serve.protocol import ChatRequest, CompletionRequest
from aiinfra.serve.reception import Reception
from aiinfra.serve.refusal import ErrorAnswer, Refusal, on_crash, on_http_error, on_refusal
from aiinfra.serve.reply import reply
from aiinfra.serve.router_contract import add_router_contract
from aiinfra.serve.wire import ChatAnswer, CompletionAnswer

MAX_BODY_BYTES = 4 << 20
BODY_SECONDS = 60.0
REQUEST_SECONDS = 600.0
_REFUSED: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorAnswer, "description": "Refused"}}
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def make_app(engine_thread: EngineThread, name: str, *, admission: Admission | None = None,
             api_key: str | None = None, request_seconds: float = REQUEST_SECONDS,
             max_body_bytes: int = MAX_BODY_BYTES, body_seconds: float = BODY_SECONDS) -> FastAPI:
    """The server of one engine thread, which must have been started; `name` is its model's on the wire.

    admission: who may wait (None: the usual bounds). api_key: None lets everybody in. request_seconds: an
    answer that takes longer is given up. max_body_bytes: of a request. body_seconds: until it is whole.
    """
    app = FastAPI(title="aiinfra", docs_url=None, redoc_url=None, responses=_REFUSED)
    app.add_middleware(Gate, api_key=api_key, max_body_bytes=max_body_bytes, body_seconds=body_seconds)
    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_crash)
    reception = Reception(engine_thread, admission or Admission(), name)
    _add_answers(app, reception, request_seconds)
    _add_models(app, reception)
    _add_probes(app, engine_thread)
    _add_page(app, engine_thread)
    _add_metrics(app, Metrics(engine_thread, name))
    add_router_contract(app, name)
    return app


def _add_answers(app: FastAPI, reception: Reception, seconds: float) -> None:
    tokenizer = reception.tokenizer

    @app.post("/v1/chat/completions", responses=_STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        ticket = await reception.take_chat(body)
        answer = ChatAnswer(f"chatcmpl-{uuid4().hex}", body, ticket, tokenizer)
        return await reply(answer, request, seconds)

    @app.post("/v1/completions", responses=_STREAMED)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        ticket = await reception.take(body)
        answer = CompletionAnswer(f"cmpl-{uuid4().hex}", body, ticket, tokenizer)
        return await reply(answer, request, seconds)


def _add_models(app: FastAPI, reception: Reception) -> None:
    card = {
        "id": reception.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "aiinfra",
        "max_model_len": reception.thread.context,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        reception.check_model(name)
        return card


def _add_probes(app: FastAPI, thread: EngineThread) -> None:
    async def probe(well: tuple[str, ...]) -> Response:
        if thread.state in well:
            return JSONResponse({"status": thread.state})
        said = thread.said or "requests in flight are finished, others refused."
        return Refusal(503, f"{thread.state}: {said}", code=thread.state).response

    app.add_api_route("/health", partial(probe, ("ready", "draining")), methods=["GET"])
    app.add_api_route("/ready", partial(probe, ("ready",)), methods=["GET"])


def _add_page(app: FastAPI, thread: EngineThread) -> None:
    view = StateView(thread)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        html, headers = chat_page()
        return Response(html, headers=headers, media_type="text/html")

    @app.get("/state")
    async def state() -> dict[str, Any]:
        return await view.read()


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics")
    async def read() -> Response:
        return Response(metrics.text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
