"""How many replicas should there be? What every autoscaler is told, whoever runs the replicas."""

import math

_FEW = 0.5                        # requests waiting, on average: fewer wait for the next step alone


def replicas_wanted(waiting: float, running: float, replicas: int, places: int) -> int:
    """As many as have a place for each request, and one more than there are while any wait: a replica whose
    cache is full has places that nobody can take. At least 1.

    waiting, running: requests of all `replicas` together, on average. places: that a replica runs side by
    side.
    """
    enough = max(1, math.ceil((waiting + running) / places))
    if waiting > _FEW:
        return max(enough, replicas + 1)
    return enough
