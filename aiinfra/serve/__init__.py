"""OVER THE NETWORK, and over several ranks: who plans, who runs, and who notices that somebody is gone.

Reading order: pulse, ranks, command.
"""
