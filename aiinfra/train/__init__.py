"""HOW IT LEARNS: from a text file to a model that has learnt, in steps that can be stopped and taken up
again.

Reading order: data and corpus (what is read), step and loop (one step, and its record), optimizer, evaluate;
recompute (less memory for more work), compiled (the same in fewer loops); state and checkpoints (all that a
run is at one moment, kept), run and options (all of it in one folder); team (who trains together); command,
events. Beside them, a recommender: histories, recommender.
"""
