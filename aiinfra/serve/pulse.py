"""Is everybody still there? Each rank beats into a store that rank 0 serves, and rank 0 watches.

    rank 1   ♥ ♥ ♥ ♥ ♥ ♥ ♥ ♥ …                   store: beat/1 = 8
    rank 2   ♥ ♥ ♥ ✗                             store: beat/2 = 3, and 3, and 3 …
    rank 0   reads both; after `patience_seconds` without a new beat rank 2 is lost: `health` says so, and
             word goes out to all others, which end themselves

A collective alone does not tell: it waits, perhaps for minutes, and does not say for whom; and between two
requests there is none. Invariant: once somebody is lost, `check` raises at every call.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass

import torch.distributed as dist

from aiinfra.environment import torchrun_place
from aiinfra.parallel.launch import serve_store

_BEAT_SECONDS = 0.2
_GRACE_SECONDS = 2.0
_STORE_SECONDS = 30.0
_DOWN = "down"


class RankLost(RuntimeError):
    """A rank has died or does not answer any more; the text names it. The replica is down."""


@dataclass(frozen=True)
class Health:
    """How a model on several ranks is. said: who was lost, and how that was noticed; "" if nobody."""

    alive: bool
    ranks: int
    said: str = ""


class Pulse:
    """The beat of this rank, and on rank 0 the watch over all others; a thread until `stop`.

    All ranks make one together. A rank other than 0 ends its process, with a message, when rank 0 is gone or
    says that the replica is down: nothing is lost with it. Rank 0 does so only if it is stuck in a step.
    """

    def __init__(self, patience_seconds: float = 5.0) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.patience_seconds = patience_seconds
        self.health = Health(alive=True, ranks=self.ranks)
        self.in_step = False                    # rank 0: it waits for others to compute with it
        self._stopping = threading.Event()
        self._store = _meet_in_a_store()
        work = self._watch if self.rank == 0 else self._beat
        self._thread = threading.Thread(target=work, name="pulse", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RankLost if somebody is lost."""
        if not self.health.alive:
            raise RankLost(self.health.said)

    def who_is_lost(self) -> Health:
        """After a collective has failed: wait until the watch has found out, at most for its patience."""
        deadline = time.monotonic() + self.patience_seconds + 5 * _BEAT_SECONDS
        while self.health.alive and time.monotonic() < deadline:
            time.sleep(_BEAT_SECONDS / 4)
        return self.health

    def take_down(self, said: str) -> None:
        """Rank 0: the replica is down, for a reason of rank 0's own."""
        if self.health.alive:
            self.health = Health(alive=False, ranks=self.ranks, said=said)

    def stop(self) -> None:
        """No more beats. All ranks call it before they part."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        """Rank 0: note when each of the others beat last."""
        now = time.monotonic()
        last = {rank: ("", now) for rank in range(1, self.ranks)}
        while not self._stopping.wait(_BEAT_SECONDS) and self.health.alive:
            now = time.monotonic()
            for rank, (beat, since) in last.items():
                found = self._read(f"beat/{rank}")
                if found != beat:
                    last[rank] = (found, now)
                elif now - since > self.patience_seconds:
                    name = f"rank {rank} of {self.ranks}"
                    self.take_down(f"{name} was not heard of for {now - since:.1f} s: it has died or hangs. "
                                   "The replica is down; start all ranks again.")
        if not self.health.alive:
            self._store.set(_DOWN, self.health.said)
            self._end_if_stuck()

    def _end_if_stuck(self) -> None:
        """A collective with a rank that died fails by itself; with one that hangs it waits, and nobody can
        call it back: then this process ends, too."""
        if self.in_step and self._stopping.wait(_GRACE_SECONDS):
            return
        if self.in_step:
            self._end(self.health.said)

    def _end(self, said: str) -> None:
        print(f"rank {self.rank} of {self.ranks} ends: {said}", file=sys.stderr, flush=True)
        os._exit(1)

    def _beat(self) -> None:
        """The other ranks: beat, and listen."""
        count = 0
        while not self._stopping.wait(_BEAT_SECONDS):
            count += 1
            try:
                self._store.set(f"beat/{self.rank}", str(count))
                down = self._read(_DOWN)
            except (dist.DistError, RuntimeError):
                down = "rank 0 is gone"
            if down and not self._stopping.is_set():
                self._end(down)                 # the main thread may be in a collective that never ends

    def _read(self, key: str) -> str:
        if not self._store.check([key]):
            return ""
        return self._store.get(key).decode()


def _meet_in_a_store() -> dist.TCPStore:
    """A store of our own, served by rank 0: the one of the process group is its own affair."""
    place = torchrun_place()
    host = "127.0.0.1" if place is None else place.host
    found = [None]
    if dist.get_rank() == 0:
        store = serve_store(host, 0, _STORE_SECONDS)
        found = [store.port]
    dist.broadcast_object_list(found, src=0, device="cpu")
    if dist.get_rank() == 0:
        return store
    return dist.TCPStore(host, found[0], is_master=False)
