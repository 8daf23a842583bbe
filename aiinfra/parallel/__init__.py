"""MANY RANKS, SAME MODEL: processes that hold parts of one model and of its work, and together do what one
would.

Reading order: parts (how a model is cut).
"""
