"""The judge: runs a kernel where every address is watched, and says what it did.

    memory.py     every tensor in an address range of its own, between guard zones
    trace.py      every load, store and atomic of Triton's interpreter: who, where, which line
    races.py      two programs, one element
    tolerance.py  how far float32 may be from float64
    values.py     the outputs against the answer
    explain.py    an exception as a line of the reader's kernel
    interpret.py  all of these over all cases of a puzzle -> findings
    compiled.py   the same kernel compiled for GPUs, and run on one if there is one
    worker.py     another process, with a time limit
    verdict.py    the object that comes back; render.py shows it
"""
