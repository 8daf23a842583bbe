"""A loop that never ends gets an answer, too.

    check ──► judge ──► the learner's function ──► while …      (a minute later, an alarm)  ──► StillRunning

The operating system's alarm interrupts the main thread, so nothing has to run elsewhere.
Invariant: only the learner's code is interrupted. While a judge itself is at work (it may wait
for a compiler), the alarm rings in vain and again a second later. Where there is no such alarm
(on Windows, in another thread, beside a timer of somebody else's) there is no limit.
"""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SECONDS = 60.0     # a right answer on a real model, on a busy laptop, must fit
_AGAIN = 1.0                          # also for an answer that swallowed it with a bare `except:`


class StillRunning(BaseException):
    """The time is over. No Exception, so that an `except Exception` in an answer lets it through."""


def _anyones(_: str) -> bool:
    return True


def limited(work: Callable[[], Any], theirs: Callable[[str], bool] = _anyones,
            seconds: float | None = None) -> Any:
    """work(); raises StillRunning if after `seconds` a function from a file for which `theirs` holds is
    under way.

    Without `theirs` everything that `work` does is interrupted; without `seconds` the limit is SECONDS.
    """
    if not _available():
        return work()
    here = sys._getframe()            # the cell that asked is theirs, too, but lies outside

    def ring(_: int, frame: FrameType | None) -> None:
        while frame is not None and frame is not here:
            if theirs(frame.f_code.co_filename):
                raise StillRunning
            frame = frame.f_back

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS if seconds is None else seconds, _AGAIN)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _available() -> bool:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return left == 0
