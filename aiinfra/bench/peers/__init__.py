"""OTHERS' ENGINES on the same model, so that ours can be measured against them: one file a peer, all
optional.

A peer gets token ids and is made to write exactly as many tokens as asked, greedily. As a `Server` (see
`load.py`) it has three methods. Whoever adds one writes a file here, with a function that returns None where
it is not installed.
"""
