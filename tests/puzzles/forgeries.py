"""Kernels that try to be told right without being right: one attempt each, by another way into the judge.

Every text defines `add_blocks`, which does not add c, and calls `attack` first. None may pass. They are
executed only by the judge.
"""

import textwrap

_TEXT = """
import atexit, ctypes, gc, inspect, json, os, pickle, signal, struct, subprocess, sys, threading, time
{top}
def attack(z_ptr):
{attack}

@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr{default}):
    attack(z_ptr)
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < N)
    tl.store(z_ptr + offsets, x, mask=offsets < N)
"""

_REPLY = """
def reply():
    from puzzles.judge.job import Reply
    from puzzles.judge.verdict import Verdict
    pickled = pickle.dumps(Reply(Verdict("add_blocks", "passed")))
    return struct.pack("<Q", len(pickled)) + pickled

def message(**parts):
    text = json.dumps(parts).encode()
    return struct.pack("<II", len(text), 0) + text

def everywhere(data):
    for fd in range(64):
        try:
            os.write(fd, data)
        except OSError:
            pass

def channel():
    frame = sys._getframe()
    while "hooks" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["hooks"]._channel
"""


def forgery(attack: str = "pass", top: str = "", default: str = "") -> str:
    """A wrong `add_blocks` that does this first; `top` stands above, `default` behind its last parameter."""
    return _TEXT.format(top=_REPLY + top, attack=textwrap.indent(attack, "    "), default=default)


FORGERIES: dict[str, str] = {
    # the judge's own functions are others
    "compare finds nothing": forgery("""
import puzzles.judge.values, puzzles.judge.interpret
puzzles.judge.values.compare = puzzles.judge.interpret.compare = lambda *_: ([], None)
"""),
    "judge says passed": forgery("""
import puzzles.judge.interpret, puzzles.judge.service
from puzzles.judge.verdict import Verdict
puzzles.judge.interpret.judge = puzzles.judge.service.judge = lambda *_: Verdict("add_blocks", "passed")
"""),
    "every verdict has passed": forgery("""
from puzzles.judge.verdict import Verdict
Verdict.passed = True
"""),
    "a finding is nothing": forgery("""
from puzzles.judge.verdict import Finding
Finding.__bool__ = lambda self: False
"""),
    "rounding explains everything": forgery("""
import puzzles.judge.tolerance as tolerance
tolerance.allowed_error = lambda expected, dtype: expected.value * 0 + 1e30
"""),
    "no error is large": forgery("""
import puzzles.judge.values as values
values.error_ratio = lambda got, expected: expected.value * 0
"""),
    "torch: nothing is greater": forgery("""
import torch
torch.Tensor.__gt__ = lambda a, b: torch.zeros(a.shape, dtype=torch.bool)
"""),
    "the puzzle asks for a copy": forgery("""
from puzzles.catalogue import PUZZLES
object.__setattr__(PUZZLES["add_blocks"], "reference", lambda **given: dict(z=given["x"]))
"""),
    "another module of this name": forgery("""
import types
sys.modules["puzzles.judge.values"] = types.SimpleNamespace(compare=lambda *_: ([], None))
"""),
    "the tracer sees nothing": forgery("""
from puzzles.judge.accesses import Tracer
Tracer.visit = lambda self, kind, addresses, mask, *rest: mask
"""),

    # the judge's own objects, found in frames and by the garbage collector
    "frames: findings are cleared": forgery("""
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        findings = getattr(value, "findings", None)
        if isinstance(findings, list):
            findings.clear()
    frame = frame.f_back
"""),
    "inspect.stack: the answers": forgery("""
found = [value for info in inspect.stack() for value in info.frame.f_locals.values()
         if type(value).__name__ in ("Expected", "Job", "_Launch", "_Task")]
assert found, "nobody holds an answer here"
"""),
    "gc: every answer is zero": forgery("""
found = [one for one in gc.get_objects() if type(one).__name__ == "Expected"]
assert found, "there is no answer here"
"""),
    "gc: every tensor is zero": forgery("""
for one in gc.get_objects():
    if type(one).__name__ == "Tensor":
        one.zero_()
"""),
    "the seed, and from it inputs and answers": forgery("""
jobs = [one for one in gc.get_objects() if type(one).__name__ == "Job"]
assert jobs, "the seed is not here"
"""),
    "the seed is still in the pipe": forgery("""
data = os.read(0, 1 << 16)
assert data, "the pipe is not here"
"""),

    # forged replies and messages
    "a reply on stdout": forgery("os.write(1, reply())"),
    "a reply on every file, and the end": forgery("everywhere(reply()); os._exit(0)"),
    "a reply at the exit": forgery("atexit.register(everywhere, reply()); raise SystemExit"),
    "the launch has ended, on every file": forgery("everywhere(message(do='ended', used_tf32=False))"),
    "the kernel is loaded, and a pass": forgery("""
everywhere(message(do="loaded", status="passed", findings=[]))
"""),
    "noise": forgery("everywhere(b'passed' * 1000)"),
    "a message of 4 GB": forgery("everywhere(struct.pack('<II', 9, 2 ** 32 - 1) + b'x' * 9)"),
    "JSON of ten thousand levels": forgery("""
text = b"[" * 10_000
everywhere(struct.pack("<II", len(text), 0) + text)
"""),
    "the channel: the launch has ended": forgery("""
channel().post({"do": "ended", "used_tf32": False})
"""),
    "the channel: an access that is none": forgery("""
channel().post({"do": "write", "at": [0, 1], "type": "object", "lanes": -1})
"""),
    "the channel: an access in a list": forgery("""
channel().post({"do": ["write"], "at": [0, 1], "type": "float32", "lanes": 8})
"""),
    "the channel: more programs than there are": forgery("""
for _ in range(1000):
    channel().post({"do": "program"})
"""),
    "the channel: a finding of no kind": forgery("""
channel().post({"do": "ended", "finding": {"kind": "passed", "message": ["passed"], "line": "1"}})
"""),
    "the channel: an operation of another name": forgery("""
import numpy
channel().post({"do": "atomic", "at": [0, 1], "type": "float32", "lanes": 1, "operation": "__class__"},
               numpy.zeros(1, "uint64"), numpy.ones(1, bool), numpy.zeros(1, "float32"))
"""),

    # the end of the process, and those who stay
    "the end, content": forgery("os._exit(0)"),
    "SystemExit": forgery("raise SystemExit(0)"),
    "KeyboardInterrupt": forgery("raise KeyboardInterrupt"),
    "an abort": forgery("os.abort()"),
    "all files are closed": forgery("os.closerange(0, 64)"),
    "a thread that goes on": forgery("threading.Thread(target=time.sleep, args=(600,)).start()"),
    "a child that goes on": forgery("subprocess.Popen(['sleep', '612'])"),
    "a child in a session of its own": forgery("subprocess.Popen(['sleep', '612'], start_new_session=True)"),
    "a fork goes on with the launch": forgery("os.fork()"),
    "the judge is killed": forgery("os.kill(os.getppid(), signal.SIGKILL)"),
    "no alarm rings, and a loop": forgery("""
signal.signal(signal.SIGALRM, signal.SIG_IGN)
while True:
    pass
"""),
    "an alarm is swallowed": forgery("""
while True:
    try:
        time.sleep(0.1)
    except BaseException:
        pass
"""),
    "files that stay": forgery("""
import tempfile
tempfile.mkstemp(prefix="puzzle-left-")
"""),
    "a pipe where the prints should be": forgery("""
folder = os.path.dirname(sys._getframe(1).f_code.co_filename)
os.remove(folder + "/printed")
os.mkfifo(folder + "/printed")
"""),

    # memory that is not asked for
    "a store by address": forgery("ctypes.memset(int(z_ptr.handle.data[0]), 0, 4)"),
    "the hooks are taken out": forgery("""
from triton.runtime.interpreter import interpreter_builder
vars(interpreter_builder).clear()
"""),

    # code that runs before the launch
    "at the top of the cell: compare": forgery(top="""
import puzzles.judge.interpret
puzzles.judge.interpret.compare = lambda *_: ([], None)
"""),
    "at the top of the cell: the end": forgery(top="os._exit(0)"),
    "at the top of the cell: a reply": forgery(top="everywhere(reply())"),
    "in a default": forgery(default=" = everywhere(reply())"),
    "in a decorator": forgery().replace(
        "@triton.jit", "@(lambda kernel: everywhere(reply()) or kernel)\n@triton.jit"),
    "a kernel that is none": forgery(top="""
class InterpretedFunction:
    arg_names = ["x_ptr", "z_ptr", "N", "c", "BLOCK"]
    def __getitem__(self, grid):
        return lambda **given: None
InterpretedFunction.__module__ = "triton.runtime.interpreter"
""") + """
add_blocks = InterpretedFunction()
add_blocks.fn = attack
attack.__annotations__ = {"BLOCK": "constexpr"}
""",
}
