"""WHAT WOULD A GPU DO? Compile, list, count and capture, on a machine with or without one.

Reading order: simt and occupancy (models that count); compile and listing (what the compiler makes of a
kernel); traffic and dry_run (what a run would ask for); variants and fake (a whole engine on a GPU that
computes nothing); graph (record once, submit as one). What they stand
on: process (another process, with or without the interpreter), replaced (ours in place of a library's own).
command: `info`.
"""
