"""What `plan fleet` answers: the fleet that its words describe, run on its traffic, and what that costs."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from aiinfra.errors import plural
from aiinfra.plan.fleet import Autoscale, Failure, FleetPlan, FleetRun, serve_fleet
from aiinfra.plan.fleet_report import check_price, machines_for, report
from aiinfra.plan.latency import LatencyTarget
from aiinfra.plan.leap import DecodeCost
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import read_model
from aiinfra.plan.serving import Deployment
from aiinfra.plan.split import ServingSplit
from aiinfra.plan.traffic import TrafficShape, Turn, draw
from aiinfra.plan.turns import read_turns


def print_fleet(args: argparse.Namespace) -> None:
    """Serve the traffic, with as many replicas as are asked for or as the target needs; print what came of
    it. Raises ValueError for what cannot be together, and for a target that no number of replicas keeps."""
    target = LatencyTarget(ttft_seconds=args.target_ttft, tpot_seconds=args.target_itl, share=args.share)
    check_price(args.price)
    deployment = _deployment(args)
    plan, cost = _plan(args, deployment), deployment.cost()
    turns = _turns(args)
    _check_context(turns, args.model, deployment.model.config.max_position_embeddings)
    one_less = None
    with tqdm(desc="requests", unit="req", unit_scale=True, disable=None) as bar:
        if args.replicas is None and args.autoscale is None:
            run = machines_for(turns, plan, cost, target, bar.update)
            one_less = _one_less(turns, run.plan, cost, bar)
        else:
            bar.reset(total=len(turns))
            run = serve_fleet(turns, plan, cost, bar.update)
    found = report(run, target, args.price)
    less = None if one_less is None else report(one_less, target, args.price)
    if args.json:
        told = {"replicas": run.plan.replicas, **found.as_json()}
        if less is not None:
            told["one_less"] = {"in_time": less.in_time, "binds": less.binds}
        print(json.dumps(told, indent=1))
        return
    replicas, each = plural(run.plan.replicas, "replica"), plural(args.tp, "GPU")
    hours = turns[-1].arrival_seconds / 3600
    print(f"{args.model} on {replicas} of {each} ({args.gpu}, {args.precision}), {args.router}; "
          f"{plural(len(turns), 'request')} in {hours:,.2f} hours")
    print("\n".join(found.lines()))
    if less is not None:
        print(f"with one less    {less.in_time:.2%} in time; {less.binds}")


def _one_less(turns: Sequence[Turn], plan: FleetPlan, cost: DecodeCost, bar: tqdm) -> FleetRun | None:
    """What keeps a smaller fleet from it; None if there is none."""
    if plan.replicas == 1:
        return None
    return serve_fleet(turns, replace(plan, replicas=plan.replicas - 1), cost, bar.update)


def _turns(args: argparse.Namespace) -> Sequence[Turn]:
    if args.trace is not None:
        for name in ("hours", "rate", "seed"):
            if getattr(args, name) is not None:
                raise ValueError(f"--trace and --{name}: the file says who comes when. Leave one of them "
                                 "out.")
        return read_turns(args.trace)
    hours = 1.0 if args.hours is None else args.hours
    rate = 2.0 if args.rate is None else args.rate
    turns = draw(TrafficShape(seconds=3600 * hours, per_second=rate), args.seed or 0)
    if not turns:
        raise ValueError(f"nobody comes in --hours {hours:g} at --rate {rate:g}. Raise one of them.")
    return turns


def _check_context(turns: Sequence[Turn], model: str, context: int) -> None:
    """Raise ValueError for a turn that is longer than the context."""
    longest = max(turn.prompt_tokens + turn.output_tokens for turn in turns)
    if longest > context:
        raise ValueError(f"a request of the traffic has {longest:,} tokens; the context of {model} is "
                         f"{context:,}. Shorten it, or choose another model.")


def _deployment(args: argparse.Namespace) -> Deployment:
    return Deployment(
        model=read_model(args.model),
        machine=read_machine(args.gpu),
        split=ServingSplit(tp=args.tp),
        precision=args.precision,
        kv=args.kv,
        token_budget=args.token_budget,
        max_running=args.max_running)


def _plan(args: argparse.Namespace, deployment: Deployment) -> FleetPlan:
    """The fleet. Raises ValueError for a model that does not fit."""
    holding = deployment.holding
    blocks = holding.kv_tokens // FleetPlan.block_size
    if blocks < 1:
        gpus, weights = f"{plural(args.tp, 'GPU')} of {args.gpu}", holding.weight_bytes / 1e9
        raise ValueError(f"{args.model} does not fit on {gpus}: weights of {weights:,.0f} GB on each, "
                         f"{holding.usable_bytes / 1e9:,.0f} GB to use. Raise --tp, or choose fewer bits or "
                         "a larger GPU.")
    scale = None
    if args.autoscale is not None:
        scale = Autoscale(*args.autoscale)
    least = 1 if scale is None else scale.least
    return FleetPlan(
        replicas=least if args.replicas is None else args.replicas,
        blocks=blocks,
        gpus_each=args.tp,
        router=args.router,
        token_budget=args.token_budget,
        chunk_tokens=args.chunk_tokens,
        max_running=args.max_running,
        start_seconds=args.start,
        autoscale=scale,
        failures=tuple(map(Failure, args.fail)))
