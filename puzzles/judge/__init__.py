"""The judge: runs a kernel where every address is watched, and says what it did.

    process.py    another process, with a time limit; job.py is what travels there and back
    child.py      what a fork of it does: rebuild the kernel, and one stage of these three
    interpret.py  all cases of a puzzle -> findings
    compiled.py   the same kernel compiled for GPUs
    gpu.py        ... and run on one if there is one

    hooks.py      every load, store and atomic of Triton's interpreter goes through accesses.py
    accesses.py   who, where, which line: legal or not
    memory.py     every tensor in an address range of its own, between guard zones
    races.py      two programs, one element
    launch.py     what a kernel is launched with
    values.py     the outputs against the answer; tolerance.py says how far float32 may be from float64
    facts.py      what is known about a case that failed, and what is new in it
    explain.py    an exception as a line of the reader's kernel
    verdict.py    the data that comes back

A file imports only files that stand below it here, but for verdict.py, which all know.
"""
