"""HOW MANY MACHINES? Asked before anything runs.

The engine's own scheduler driven by a clock and a cost in place of a GPU: one replica, or a fleet of them on
a day of traffic, beside the engine and beside what others have measured; whether a training step fits into
memory, how large its batch may be, and what helps.
"""
