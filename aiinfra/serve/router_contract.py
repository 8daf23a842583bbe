"""What routers ask a replica beside OpenAI's routes, so that they know whom they send requests to.

    GET /server_info, /model_info      sglang-router 0.3 reads the model's name from them: without them its
                                       own /v1/models lists a model "unknown", which no replica serves

vllm-router 0.1 asks for /v1/models alone. Both look at the route that --health-check-endpoint names: give
them /ready, which says no as soon as a replica begins to shut down, while /health still says yes. What they
write into each request that passes is in protocol.py.
"""

from typing import Any

from fastapi import FastAPI


def add_router_contract(app: FastAPI, name: str) -> None:
    """Routes that say which model `name` is served, in SGLang's words."""

    @app.get("/server_info")
    async def server_info() -> dict[str, Any]:
        return {"model_id": name, "model_path": name, "served_model_name": name, "version": "aiinfra"}

    @app.get("/model_info")
    async def model_info() -> dict[str, Any]:
        return {"model_path": name, "is_generation": True}
