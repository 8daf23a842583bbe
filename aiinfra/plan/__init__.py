"""HOW MANY MACHINES? The engine's own scheduler, driven by a clock and a cost in place of a GPU."""
