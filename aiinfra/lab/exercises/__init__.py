"""The exercises of each notebook: nb01.py holds those of notebook 01. Loaded by `exercise.find`."""
