"""What `plan serve` and `plan check` say: an answer for a terminal, or as JSON."""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from math import inf

from tqdm import tqdm

from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import read_model
from aiinfra.plan.published import CheckedRow, check, median_error, read_rows, roofline_alone
from aiinfra.plan.serving import (GRID, ApartAnswer, Deployment, ServingAnswer, ServingLoad, knee, shortage,
                                  size, size_apart, size_at_rate, sweep, why)
from aiinfra.plan.split import ServingSplit


def print_serve(args: argparse.Namespace) -> None:
    """Print the answer. Raises ValueError for what cannot be together."""
    _check_together(args)
    deployment, load = _deployment(args), _load(args)
    if args.sweep:
        _print_sweep(deployment, load, args)
        return
    if args.apart:
        _print_apart(size_apart(deployment, load), args.json)
        return
    if args.rate is not None:
        found = size_at_rate(deployment, load, args.rate)
    else:
        found = size(deployment, load)
    if args.json:
        print(json.dumps(_as_json(found, args.price), indent=1))
        return
    print("\n".join(serve_lines(found, args.price)))


def _check_together(args: argparse.Namespace) -> None:
    """What is asked for must be answered; nothing is left aside."""
    if args.price is not None and not 0 < args.price < inf:
        raise ValueError(f"--price {args.price:g}; it must be a number above 0: dollars for a GPU and hour.")
    asked = [name for name in ("concurrency", "rate", "sweep") if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]} both say how many are under way: give one of them.")
    for name in ("rate", "sweep", "price", "gpus"):
        if args.apart and getattr(args, name):
            raise ValueError(f"--apart does not answer --{name}. Leave one of them out.")


def _print_apart(found: ApartAnswer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    print(f"a replica that reads     {found.prompt_tokens_per_s:,.0f} tokens/s of prompts")
    print(f"a replica that answers   {found.output_tokens_per_s:,.0f} tokens/s, {found.tpot_ms:,.2f} ms each")
    print(f"readers to an answerer   {found.readers_per_answerer:,.2f}; moving caches is not priced")


def _deployment(args: argparse.Namespace) -> Deployment:
    split = ServingSplit(
        tp=args.tp,
        dp=args.dp,
        ep=args.ep,
        redundant_experts=args.redundant_experts,
        imbalance=args.imbalance,
        two_batches=args.two_batches)
    gpus = args.gpus
    if gpus is None:
        gpus = args.tp * args.dp
    return Deployment(
        model=read_model(args.model),
        machine=read_machine(args.gpu),
        split=split,
        gpus=gpus,
        precision=args.precision,
        kv=args.kv,
        utilization=args.utilization,
        token_budget=args.token_budget,
        max_running=args.max_running,
        drafts=args.drafts,
        accepted=args.accepted)


def _load(args: argparse.Namespace) -> ServingLoad:
    return ServingLoad(
        input_tokens=args.input,
        output_tokens=args.output,
        concurrency=1 if args.concurrency is None else args.concurrency,
        shared_prefix=args.shared_prefix)


def _as_json(found: ServingAnswer, price: float | None) -> dict:
    answer = found.as_json()
    if price is not None and found.fits:
        answer["dollars_per_million_output_tokens"] = found.dollars_per_million(price)
    return answer


def serve_lines(found: ServingAnswer, price: float | None = None) -> Iterator[str]:
    """The answer for a terminal."""
    deployment, load = found.deployment, found.load
    holding, split = deployment.holding, deployment.split
    gpus = deployment.replicas * split.gpus
    yield (f"{deployment.model.name} in {deployment.precision} on {gpus} × {deployment.machine.name}: "
           f"tp {split.tp}, dp {split.dp}, ep {split.ep}, {deployment.replicas} × the model; "
           f"{load.input_tokens:,} tokens in, {load.output_tokens:,} out, {load.concurrency:,} under way")
    yield (f"a GPU holds      {holding.weight_bytes / 1e9:,.1f} GB of weights, and "
           f"{holding.kv_tokens:,} tokens of cache at {holding.kv_bytes / 1e3:,.1f} kB")
    if not found.fits:
        yield f"It does not fit: {shortage(deployment, load)}"
        return
    state, groups = found.state, found.busy_groups
    queued = f"{1e3 * state.queue_seconds:,.0f} in the queue; without front end, network and bursts"
    yield f"first token      {1e3 * state.ttft_seconds:,.0f} ms, of it {queued}"
    yield f"each token       {1e3 * found.tpot_seconds:,.2f} ms"
    into = f"{found.input_tokens_per_s:,.0f} in"
    yield f"throughput       {found.output_tokens_per_s:,.0f} tokens/s out, {into}"
    if state.cached_share:
        yield f"                 {found.computed_input_tokens_per_s:,.0f} in were run, the others were cached"
    yield f"requests         {state.running * groups:,.0f} run, {state.waiting * groups:,.0f} wait"
    if deployment.drafts:
        yield f"guesses          {deployment.accepted:g} of {deployment.drafts} come true, as you stated"
    if price is not None:
        yield f"price            ${found.dollars_per_million(price):,.2f} for a million tokens out"
    yield f"why              {why(found)}"
    yield ""
    yield f"a step, {1e3 * state.step_seconds:,.2f} ms on average"
    for (name, bound), seconds in sorted(state.parts.items(), key=lambda item: -item[1]):
        yield f"  {name:26}{1e3 * seconds:8,.2f} ms   {bound}"


def _print_sweep(deployment: Deployment, load: ServingLoad, args: argparse.Namespace) -> None:
    if not deployment.has_room(load):
        raise ValueError(f"{deployment.model.name} does not fit: {shortage(deployment, load)}")
    found = list(sweep(deployment, load, tqdm(GRID, desc="clients", leave=False, disable=None)))
    best = knee(found)
    if args.json:
        answer = {"rows": [_as_json(one, args.price) for one in found],
                  "knee": best.load.concurrency if best else None}
        print(json.dumps(answer, indent=1))
        return
    print(f"{'clients':>8}{'first token':>14}{'each token':>13}{'tokens/s out':>14}{'run':>7}{'wait':>7}")
    for one in found:
        groups = one.busy_groups
        print(f"{one.load.concurrency:8,}{1e3 * one.state.ttft_seconds:11,.0f} ms"
              f"{1e3 * one.tpot_seconds:10,.2f} ms{one.output_tokens_per_s:14,.0f}"
              f"{one.state.running * groups:7,.0f}{one.state.waiting * groups:7,.0f}")
    if best is None:
        print("Requests wait for room from the first on.")
    elif best is found[-1]:
        print(f"Nobody waits for room up to {best.load.concurrency:,}.")
    else:
        print(f"The knee: {best.load.concurrency:,}. Beyond it requests are queued, and a token takes no "
              "longer.")


def print_check(args: argparse.Namespace) -> None:
    """Print every row with its signed error, and the medians. Raises ValueError for an unknown family."""
    rows = read_rows()
    chosen = [row for row in rows if (args.family or "").lower() in row.family.lower()]
    if not chosen:
        names = sorted({row.family for row in rows})
        raise ValueError(f"family={args.family!r} is not known. Known: {', '.join(names)}.")
    found = list(check(chosen, progress=lambda rows: tqdm(rows, desc="rows", leave=False, disable=None)))
    if args.json:
        answer = {"median_absolute_error": median_error(found), "rows": [one.as_json() for one in found]}
        print(json.dumps(answer, indent=1))
        return
    print("\n".join(check_lines(found)))


def check_lines(found: list[CheckedRow]) -> Iterator[str]:
    """A table by family, each row with its signed error."""
    families: dict[str, list[CheckedRow]] = defaultdict(list)
    for one in found:
        families[one.row.family].append(one)
    for family, checked in families.items():
        yield f"{family}: median of {len(checked)} absolute errors {median_error(checked):.1%}"
        for one in checked:
            yield (f"  {one.row.name:52}{one.row.metric:29}{one.row.measured:12,.1f}{one.predicted:12,.1f}"
                   f"{one.error:+8.1%}")
            if one.row.kind == "loop" and one.row.load == one.row.input == 1:
                alone = roofline_alone(one.row)
                times = alone / one.row.measured
                yield f"    of it a roofline alone would say {alone:,.0f}: {times:.1f} times as much"
    yield ""
    for metric in sorted({one.row.metric for one in found}):
        alike = [one for one in found if one.row.metric == metric]
        yield f"{metric:30}{len(alike):4} figures, median absolute error {median_error(alike):.1%}"
    within = sum(abs(one.error) <= 0.15 for one in found) / len(found)
    yield (f"{len(found)} published figures, predicted: median absolute error {median_error(found):.1%}; "
           f"{within:.0%} are within 15 %. Rows that calibrate a family are not counted.")
