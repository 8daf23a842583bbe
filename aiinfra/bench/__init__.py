"""OURS AGAINST OTHERS: each comparison in one run on one machine, with the peer's version and settings named."""
