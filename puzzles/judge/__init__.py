"""The judge: runs a kernel where every address is watched, and says what it did.

    process.py    the notebook's side of another process, service.py; job.py is what travels there and back
    service.py    one stage of a job, of these three, with a learner's process of its own
    interpret.py  all cases of a puzzle -> findings
    compiled.py   the same kernel compiled for GPUs
    gpu.py        ... and run on one if there is one
    runner.py     the learner's process, and the trust boundary; wire.py is what passes through it

    child.py      in the learner's process: rebuild the kernel, and do what it is asked
    hooks.py      there: every load, store and atomic of Triton's interpreter is asked of ...
    memory_server.py  ... the memory, which is on the judge's side
    on_gpu.py     there: a launch on a GPU

    reach.py      a kernel that reaches outside of itself is told so
    accesses.py   who, where, which line: legal or not
    memory.py     every tensor in an address range of its own, between guard zones
    races.py      two programs, one element
    launch.py     what a kernel is launched with
    values.py     the outputs against the answer; tolerance.py says how far float32 may be from float64
    facts.py      what is known about a case that failed, and what is new in it
    explain.py    an exception as a line of the reader's kernel
    verdict.py    the data that comes back

Only child.py, hooks.py and on_gpu.py see the learner's kernel; nothing of theirs can say "passed".
"""
