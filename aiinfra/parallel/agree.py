"""Do all ranks mean the same run? They compare before they exchange anything else.

    rank 0   torch 2.13.0, library 3f9a…, {"steps": 100}  ─┐
    rank 1   torch 2.13.0, library 3f9a…, {"steps": 100}  ─┼─ store ─► all the same, or all raise:
    rank 2   torch 2.11.0, library 3f9a…, {"steps": 200}  ─┘           rank 2 has torch 2.11.0, …

Collectives do not check this: ranks of different settings compute together, wrongly, or wait for ever.
"""

import functools
import hashlib
import json
import platform
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from aiinfra.errors import plural

_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0          # then a warning says who is waited for


class Disagreement(RuntimeError):
    """Ranks have different versions or settings. Names the ranks, and what differs."""


class RanksMissing(TimeoutError):
    """Some ranks have not come in time. Names them."""


def meet(store: dist.Store, rank: int, ranks: int, configuration: Mapping[str, Any],
         timeout_seconds: float) -> None:
    """Wait for all ranks, and compare versions and configuration with those of rank 0.

    configuration: JSON values. Raises RanksMissing or Disagreement, on every rank alike.
    """
    mine = versions() | dict(configuration)
    store.set(_key(rank), json.dumps(mine, sort_keys=True))
    _wait_for_all(store, ranks, timeout_seconds)
    told = [json.loads(store.get(_key(other))) for other in range(ranks)]
    found = [f"rank {other} has {difference}" for other in range(1, ranks)
             for difference in differences(told[0], told[other])]
    if found:
        raise Disagreement(f"the ranks do not mean the same run: {'; '.join(found)}. Start all of them with "
                           "the same versions and settings.")


def versions() -> dict[str, str]:
    """What must be alike on all machines beside the settings."""
    major, minor, *_ = platform.python_version_tuple()
    return {"Python": f"{major}.{minor}", "torch": torch.__version__, "library": library_digest()}


@functools.cache
def library_digest() -> str:
    """A name for this library's source as it is on this machine."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In words, what `other` has otherwise than `first`, which is rank 0's."""
    found = []
    for key in sorted({*first, *other}):
        theirs, zeros = other.get(key), first.get(key)
        if theirs != zeros:
            found.append(f"{key}={theirs!r} where rank 0 has {zeros!r}")
    return found


def _wait_for_all(store: dist.Store, ranks: int, timeout_seconds: float) -> None:
    start = time.monotonic()
    warned = False
    while missing := [rank for rank in range(ranks) if not store.check([_key(rank)])]:
        waited = time.monotonic() - start
        names = f"{plural(len(missing), 'rank')} of {ranks}: {', '.join(map(str, missing))}"
        if waited > timeout_seconds:
            raise RanksMissing(f"waited {timeout_seconds:.0f} s for {names}. Start them, or look whether "
                               "their machines reach this one.")
        if waited > _PATIENCE_SECONDS and not warned:
            warnings.warn(f"waiting for {names}", stacklevel=4)
            warned = True
        time.sleep(_LOOK_SECONDS)


def _key(rank: int) -> str:
    return f"who/{rank}"
