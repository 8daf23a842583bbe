"""Where does a request go? The policies of routers, over what a router can know.

    round robin      the next one, whoever it is
    least loaded     where the fewest tokens of prompts are unread; among equals, the fewest requests
    prefix aware     where its conversation was last, unless others have far less to read

A router sees requests go out and answers come back; it does not see how long answers will become. The third
is that of SGLang's gateway (cache_aware) in short. Notebook 18.
"""

from collections.abc import Callable, Sequence

from aiinfra.plan.replica import Replica, Visit

Route = Callable[[Visit, Sequence[Replica]], Replica]     # one of those that are ready, at least one


class RoundRobin:
    """One after another."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, visit: Visit, ready: Sequence[Replica]) -> Replica:
        """The one that follows the last, by number; replicas may come and go."""
        after = [replica for replica in ready if replica.number > self._last]
        chosen = min(after or ready, key=_number)
        self._last = chosen.number
        return chosen


class LeastLoaded:
    """Where a new prompt is read soonest."""

    def __call__(self, visit: Visit, ready: Sequence[Replica]) -> Replica:
        """By unread tokens, then by requests."""
        return min(ready, key=_load)


class PrefixAware:
    """Back to where the conversation's keys and values are. `patience` tokens more to read than elsewhere
    are waited for."""

    def __init__(self, patience: int = 8192) -> None:
        self.patience = patience
        self._was_at: dict[int, Replica] = {}

    def __call__(self, visit: Visit, ready: Sequence[Replica]) -> Replica:
        """Its last replica if that is still there and not overrun."""
        chosen = min(ready, key=_load)
        was_at = self._was_at.get(visit.conversation)
        near = was_at is not None and was_at.unread_tokens - chosen.unread_tokens <= self.patience
        if near and not was_at.draining:
            chosen = was_at
        self._was_at[visit.conversation] = chosen
        return chosen


ROUTERS: dict[str, Callable[[], Route]] = {
    "round robin": RoundRobin,
    "least loaded": LeastLoaded,
    "prefix aware": PrefixAware,
}


def _number(replica: Replica) -> int:
    return replica.number


def _load(replica: Replica) -> tuple[int, int]:
    return replica.unread_tokens, len(replica.visits)
