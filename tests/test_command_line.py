"""The command line as a user meets it: real processes, exit statuses, one line for an error."""

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from aiinfra import __main__ as command_line
from aiinfra.engine import command as engine_command

pytestmark = pytest.mark.program


def run(*args: str, stdin: str | bytes = "") -> subprocess.CompletedProcess:
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = subprocess.run(
        [sys.executable, "-m", "aiinfra", *args], input=data, capture_output=True, timeout=300
    )
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


@pytest.mark.model
def test_generate() -> None:
    done = run("generate", "--prompt", "The capital of France is", "--max-tokens", "5")
    assert done.returncode == 0 and done.stdout.startswith(" Paris") and done.stderr == ""


@pytest.mark.model
def test_generate_from_standard_input_and_seed() -> None:
    args = ("generate", "--prompt", "-", "--max-tokens", "8", "--temperature", "1", "--seed", "4")
    assert run(*args, stdin="Once").stdout == run(*args, stdin="Once").stdout != ""


@pytest.mark.model
def test_several_answers_one_after_another() -> None:
    args = ("generate", "--prompt", "Once", "--max-tokens", "6", "--temperature", "1", "--seed", "4",
            "--min-p", "0.02", "--repetition-penalty", "1.1")
    one, two = run(*args).stdout, run(*args, "--n", "2").stdout
    assert two.startswith(f"--- 1 of 2\n{one}--- 2 of 2\n") and not two.endswith(one)


@pytest.mark.parametrize("args, status, message", [
    (["generate", "--prompt", "x", "--model", "smollm"], 1, "Did you mean 'smollm2-135m'?"),
    (["generate", "--prompt", ""], 1, "the prompt is empty"),
    (["generate", "--prompt", "x", "--temperature", "-1"], 1, "temperature=-1.0; it must be at least 0"),
    (["generate", "--prompt", "x", "--min-p", "2"], 1, "min_p=2.0; it must be between 0 and 1"),
    (["generate", "--prompt", "x", "--repetition-penalty", "0"], 1,
     "repetition_penalty=0.0; it must be between 1e-06 and 1,000,000 (1 is no penalty"),
    (["generate", "--prompt", "x", "--n", "2"], 1, "n=2; it must be 1 at temperature 0"),
    (["generate", "--prompt", "x", "--min-pp=0.1"], 2, "Did you mean '--min-p'?"),
    (["generate", "--prompt", "x", "--dtype", "int7"], 1, "dtype='int7' is not known"),
    (["generat"], 2, "Did you mean 'generate'?"),
    (["generate"], 2, "--prompt"),
    ([], 2, "command"),
    (["bench", "engine", "--set", "mod=static"], 2, "Did you mean 'mode'?"),
    (["bench", "decod"], 2, "Did you mean 'decode'?"),
    (["fetch", "smollm2-135"], 1, "Did you mean 'smollm2-135m'?"),
])
def test_an_error_is_one_line(args: list[str], status: int, message: str) -> None:
    done = run(*args)
    assert done.returncode == status and done.stdout == ""
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("error, status, said", [
    (KeyboardInterrupt(), 130, "\n"), (ImportError("no torch"), 1, "error: no torch\n"),
])
def test_broken_off_while_the_arguments_are_read(
    error: BaseException, status: int, said: str, monkeypatch, capsys
) -> None:
    def reading(text: str) -> None:
        raise error
    monkeypatch.setattr(engine_command, "_engine_setting", reading)
    assert command_line.main(["bench", "throughput", "--set", "mode=static"]) == status
    assert capsys.readouterr().err == said


SLOW_IMPORT = """\
import time
print('importing', flush=True)
try:
    time.sleep(20)
except BaseException:
    print('lost')
"""


@pytest.mark.parametrize("args", [
    ["generate", "--prompt", "x"], ["bench", "engine", "--set", "mode=static"], ["fetch"],
])
def test_ctrl_c_is_not_lost_in_an_import(args: list[str], tmp_path) -> None:
    """PyTorch's C code catches what NumPy's import raises, and goes on; this one does the same in Python."""
    (tmp_path / "torch.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "aiinfra", *args],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"") and process.returncode == -signal.SIGINT


def test_bytes_that_are_not_utf8() -> None:
    done = run("generate", "--prompt", "-", stdin=b"caf\xe9")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "not UTF-8" in done.stderr and "byte 3" in done.stderr


def test_an_argument_that_is_not_utf8() -> None:
    command = [sys.executable, "-m", "aiinfra", "generate", "--prompt", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 1 and b"is not valid Unicode" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("args", [
    [], ["generate"], ["chat"], ["bench"], ["bench", "decode"], ["bench", "load"], ["fetch"], ["info"],
])
def test_help(args: list[str]) -> None:
    done = run(*args, "--help")
    assert done.returncode == 0 and "usage: python -m aiinfra" in done.stdout


@pytest.mark.parametrize("args", [[], ["generate"], ["chat"], ["bench", "throughput"], ["info"]])
def test_help_does_not_wait_for_pytorch(args: list[str]) -> None:
    code = f"""
import sys
from aiinfra.__main__ import main
try:
    main({[*args, "--help"]!r})
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n" and "usage: python -m aiinfra" in done.stdout


@pytest.mark.model
def test_info_and_fetch() -> None:
    assert "models:" in run("info").stdout
    assert run("fetch").stdout.strip().endswith(".gguf")


class Terminal:
    """A chat in a real pseudo-terminal."""

    def __init__(self, *args: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "aiinfra", "chat", *args]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str, seconds: float = 90) -> str:
        """Read until `text` appears after what was already waited for; returns what came before it."""
        end = time.time() + seconds
        while text not in self.seen:
            assert time.time() < end, f"waited for {text!r}, saw {self.seen!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.mark.model
def test_chat_streams_survives_ctrl_c_and_ends() -> None:
    chat = Terminal("--temperature", "0", "--max-tokens", "400")
    try:
        chat.until("> ")
        chat.type("Tell me a long story about a lighthouse.\n")       # some hundred tokens
        chat.until("\n")
        chat.until(" ")                                # the first pieces arrive before the answer is finished
        chat.type("\x03")
        chat.until("…")
        chat.until("> ")
        chat.type("What is 2+2?\n")
        chat.until("\n")
        assert chat.until("> ").strip(), "an answer, although the one before was cut short"
        chat.type("\n")
        assert chat.process.wait(30) == 0
    finally:
        if chat.process.poll() is None:
            os.killpg(chat.process.pid, signal.SIGKILL)


@pytest.mark.model
@pytest.mark.alone
def test_bench_load_keeps_its_promises(tmp_path) -> None:
    """Load to first token within 6 s, and a peak of at most 1.3 times the float32 weights."""
    done = run("bench", "load", "--save", str(tmp_path / "load.json"))
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "load.json").read_text())
    seconds, memory = (row["ours"] for row in saved["rows"])
    assert memory <= 1.3
    assert seconds < 6 * (2 if os.getloadavg()[0] > 2 * os.cpu_count() else 1), (
        "on a machine with nothing else to do"
    )
    assert {"command", "device", "torch", "date"} <= saved["settings"].keys()
