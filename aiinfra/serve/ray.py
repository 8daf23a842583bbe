"""Many replicas of this server as one Ray Serve application (`pip install .[ray]`): in place of a router.

    serve run aiinfra.serve.ray:application model=smollm2-135m max_replicas=4 gpus=1

    Ray's proxy ──┬─ replica: app.py on one engine thread    running 16, waiting 3 ─┐
                  └─ replica                                 running 16, waiting 0 ─┴─ policy ─> 3 replicas

A replica is what `python -m aiinfra serve` is, in Ray's process. Ray is told whether it is well, and how many
requests wait. Ongoing requests, Ray's own measure, say little of an engine that batches: sixteen may be no
load, and one long prompt a full cache. Notebook 15.
"""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from starlette.types import ASGIApp

from aiinfra.checkpoint import DEFAULT_MODEL
from aiinfra.engine.llm import LLM
from aiinfra.serve.admission import Admission
from aiinfra.serve.app import make_app
from aiinfra.serve.engine_thread import EngineThread, made_aside
from aiinfra.serve.scaling import replicas_wanted


class RayArguments(BaseModel):
    """What `serve run` takes as NAME=VALUE. An unknown name is an error."""

    model_config = ConfigDict(extra="forbid")
    model: str = DEFAULT_MODEL
    api_key: str | None = Field(None, min_length=8)
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(1, gt=0)                       # of each replica: PyTorch has as many threads
    gpus: float = Field(0, ge=0)
    max_running: int = Field(16, ge=1)                 # answers side by side in one replica
    max_queued_requests: int = Field(256, ge=1)        # waiting in one replica, before it answers 429
    settle_seconds: float = Field(30, ge=0)            # waiting must last so long before a replica is added


class RayReplica:
    """One engine thread and its app."""
    def __init__(self, arguments: RayArguments) -> None:
        self.arguments = arguments
        llm = made_aside(lambda: LLM(arguments.model, max_running=arguments.max_running))
        self.thread = EngineThread(llm).start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray asks for the app once the replica is there."""
        told, name = self.arguments, Path(self.arguments.model).name
        queue = Admission(told.max_queued_requests)
        return make_app(self.thread, name, admission=queue, api_key=told.api_key)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the policy sees of this replica."""
        return {"waiting": self.thread.waiting, "running": self.thread.running}

    def check_health(self) -> None:
        """Raises RuntimeError if the engine has failed: Ray then starts another replica."""
        if self.thread.state == "failed":
            raise RuntimeError(f"the engine has failed: {self.thread.said}")

    async def __del__(self) -> None:
        """Ray has waited for what was being answered."""
        await asyncio.to_thread(self.thread.stop)


class WaitingPolicy:
    """Ray's policy: `serve.scaling` of what the replicas record. places: that each has."""
    def __init__(self, places: int) -> None:
        self.places = places

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be, and no state."""
        told = context.aggregated_metrics or {}
        waiting, running = (sum(told.get(name, {}).values()) for name in ("waiting", "running"))
        wanted = replicas_wanted(waiting, running, context.current_num_replicas, self.places)
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(wanted, least), most), {}


def application(arguments: RayArguments) -> serve.Application:
    """The application; Ray reads `arguments` from the command line or a config file."""
    least, most, places = arguments.min_replicas, arguments.max_replicas, arguments.max_running
    policy = AutoscalingPolicy(policy_function=WaitingPolicy, policy_kwargs={"places": places})
    scaling = AutoscalingConfig(min_replicas=least, max_replicas=most, policy=policy, metrics_interval_s=1,
                                look_back_period_s=5, upscale_delay_s=arguments.settle_seconds)
    deployment = serve.deployment(
        serve.ingress()(RayReplica),
        name="aiinfra",
        autoscaling_config=scaling,
        max_ongoing_requests=100_000,                  # who must wait is for admission.py to say
        graceful_shutdown_timeout_s=600,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
    )
    return deployment.bind(arguments)
