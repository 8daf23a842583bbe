"""HOW FAST SHOULD IT BE? Limits, costs and predictions, written down before anything is timed.

Reading order: cost, hardware, roofline, timing; profile, profiler; training, memory, memory_recorder;
collectives.
"""

from aiinfra.perf.cost import Cost
from aiinfra.perf.hardware import SHEETS, Hardware, measure
from aiinfra.perf.memory import MemoryPlan, predict_memory
from aiinfra.perf.profile import Profile
from aiinfra.perf.profiler import profile_call
from aiinfra.perf.roofline import LeastTime, attainable, least_time, ridge, token_seconds
from aiinfra.perf.timing import Timing, gaps, percentile, time_call

__all__ = ["Cost", "SHEETS", "Hardware", "measure", "LeastTime", "attainable", "least_time", "ridge",
           "token_seconds", "Timing", "gaps", "percentile", "time_call", "MemoryPlan",
           "predict_memory", "Profile", "profile_call"]
