"""HOW MANY MACHINES? Asked before anything runs.

The engine's own scheduler driven by a clock and a cost in place of a GPU; whether a training step fits into
memory, how large its batch may be, and what helps.
"""
