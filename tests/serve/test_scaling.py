"""More replicas while requests wait, fewer when they fit into fewer."""

import pytest

from aiinfra.serve.scaling import replicas_wanted


@pytest.mark.parametrize("waiting, running, replicas, wanted", [
    (0, 0, 3, 1),
    (0, 16, 1, 1),                                # full, and nobody waits
    (0, 17, 3, 2),
    (1, 16, 1, 2),
    (1, 3, 2, 3),                                 # places are free, the cache is full
    (100, 32, 2, 9),
    (0.2, 10, 1, 1),                              # for the next step
])
def test_replicas(waiting: float, running: float, replicas: int, wanted: int) -> None:
    assert replicas_wanted(waiting, running, replicas, places=16) == wanted
