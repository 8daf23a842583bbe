"""Whatever is typed that cannot be: one line with value and remedy, before anything is loaded, started or
written.

The model of most lines does not exist, so that a value which is looked at only after the model is not named.
"""

import subprocess
from pathlib import Path

import pytest

from aiinfra.__main__ import main

GONE = "--model no-such-model"
ABOVE, LEAST_1 = "it must be a number above 0", "it must be a whole number of at least 1"
CASES = [
    ("serve --port x", "--port: 'x'; it must be a whole number from 0 to 65,535"),
    ("serve --port -1", "--port: '-1'; it must be a whole number from 0 to 65,535"),
    ("serve --request-seconds nan", f"--request-seconds: 'nan'; {ABOVE}"),
    ("serve --max-queued-requests 0", f"--max-queued-requests: '0'; {LEAST_1}"),
    ("serve --drain-seconds inf", "of at least 0, and finite"),
    (f"serve --port 0 {GONE}", "no model 'no-such-model'"),
    (f"serve --port 0 {GONE} --set max_running=0", "max_running=0"),
    (f"bench serve {GONE} --sweep inf", "--sweep: 'inf'; it must be a number above 0, and finite"),
    (f"bench serve {GONE} --sweep 1 --users 3", "--users and --sweep: users wait for their answers"),
    (f"bench serve {GONE} --rate 1 --users 3", "--users and --rate: users wait for their answers"),
    (f"bench serve {GONE} --sweep 1 2 --rate 3", "--sweep has its rates, and --rate another one"),
    (f"bench serve {GONE} --trace BAD", "BAD, line 2 has the unknown key 'output_token'"),
    (f"bench serve {GONE} --trace GOOD --requests 4", "--trace and --requests: the file says how many"),
    (f"bench serve {GONE} --trace GOOD --input 16", "--trace and --input: the file says how long"),
    (f"bench serve {GONE} --rate 1e-9", "at most a day"),
    (f"bench serve {GONE} --vocab-size 50", "100 requests; it must be 1 to 50"),
    (f"bench serve {GONE} --requests 30000 --input 100000", "at most 50,000,000 are held"),
    (f"bench serve {GONE} --hang-up 2", "--hang-up: '2'; it must be a number of at least 0 and at most 1"),
    (f"bench serve {GONE} --plot x.txt", "its name must end in .png, .svg, .pdf"),
    (f"bench serve {GONE} --save FOLDER", "is a folder; name a file in it"),
    (f"bench serve {GONE} --set max_running=0", "max_running=0"),
    (f"bench serve {GONE}", "no model 'no-such-model'"),
    ("bench serve --url http://127.0.0.1:9 --set max_running=4", "--url and --set"),
    ("bench serve --url http://127.0.0.1:99999", "'http://127.0.0.1:99999' is not an address"),
    ("bench serve --url=", "'' is not an address"),
    ("bench card --rate 0.01", "nobody comes who asks for two tokens"),
    ("bench card --seconds inf", "--seconds: 'inf'"),
    ("bench card --steps 3", "steps=3; at least 20"),
    ("bench card --data FOLDER", "is a folder; name a file"),
    (f"bench overhead {GONE} --turns 0", f"--turns: '0'; {LEAST_1}"),
    (f"bench overhead {GONE} --trace BAD", "BAD, line 2"),
    (f"bench throughput {GONE} --trace GOOD --requests 4", "--trace and --requests"),
    (f"bench throughput {GONE} --set token_budget=0", "token_budget=0"),
    (f"bench latency {GONE} --rate nan", f"--rate: 'nan'; {ABOVE}"),
    (f"bench latency {GONE} --rate 1e-9", "at most a day"),
    (f"bench load {GONE} --save FOLDER", "is a folder; name a file in it"),
    ("bench train --steps 0", f"--steps: '0'; {LEAST_1}"),
    ("bench overlap --ranks 1", "--ranks: '1'; it must be a whole number from 2 to 64"),
    ("bench kernels --only none", "no bench is called 'none'"),
    ("train --data GOOD --out=", "--out: '' is no name; name a folder (. is the current one)"),
    ("train --data GOOD --out BAD", "is no folder. Choose another place"),
    ("train --data FOLDER --out out", "is a folder; name a file"),
    ("train --data GOOD --out out --steps -1", f"--steps: '-1'; {LEAST_1}"),
    ("train --data GOOD --out out --warmup x", "--warmup: 'x'; it must be a whole number of at least 0"),
    ("train --data GOOD --out out --learning-rate nan", f"--learning-rate: 'nan'; {ABOVE}"),
    ("train --data GOOD --out out --clip-norm inf", "--clip-norm: 'inf'; it must be a number above 0, and"),
    ("plan fleet --replicas 1000000000", "replicas=1,000,000,000; at most 4,096 are simulated"),
    ("plan fleet --autoscale 1:1000000000", "most=1,000,000,000; at most 4,096"),
    ("plan fleet --autoscale ²:3", "is not LEAST:MOST"),
    ("plan fleet --hours 0", "seconds=0.0; it must be above 0"),
    ("plan fleet --hours 1e9", "a trace is at most a year"),
    ("plan fleet --rate 1e9", "at most 20,000,000 requests are drawn"),
    ("plan fleet --start 1e300", "start_seconds=1e+300"),
    ("plan fleet --price nan --hours 24 --rate 200", "dollars_per_gpu_hour=nan"),
    (f"plan fleet {GONE} --hours 24 --rate 200", "model='no-such-model' is not known"),
    ("plan fleet --trace BAD", "BAD, line 2 has the unknown key 'output_token'"),
    ("plan fleet --trace GOOD --hours 2", "--trace and --hours"),
    ("plan fleet --trace FOLDER", "cannot be read"),
    ("plan serve --apart --input 200000", "input and output are 201,024 tokens"),
    ("plan serve --apart --gpus 8", "--apart does not answer --gpus"),
    ("plan serve --concurrency 1000000000", "at most"),
    ("plan serve --rate nan", "rate=nan"),
    ("plan memory --batch 1000000000", "at most 1,048,576 rows"),
    ("plan memory --dp 5000 --fsdp 2 --zero 1", "--fsdp 2 divides everything"),
    ("plan memory --memory 1..2GB", "memory='1..2GB' is not known"),
    ("plan memory --memory 1e999", "memory='1e999'; it must be above 0, and finite"),
    (f"plan fidelity {GONE} --requests 1000000000", "at most 10,000"),
    (f"plan fidelity {GONE} --runs 0", "--runs 0; it must be at least 1"),
    ("plan check --family nobody", "family='nobody' is not known"),
    ("parallel schedule 1f1b --micro-batches 1000000000", "from 1 to 4,096"),
    ("parallel schedule 1f1b --run nan", "--run: 'nan'"),
    ("parallel schedule 1f1b --csv FOLDER", "is a folder; name a file in it"),
    ("parallel check --ranks 0", f"--ranks: '0'; {LEAST_1}"),
]


@pytest.fixture
def places(tmp_path: Path, monkeypatch) -> dict[str, str]:
    """What stands for files in a line. The current folder is empty, and no program can be started."""
    good = '{"prompt_tokens": 5, "output_tokens": 3}\n'
    (tmp_path / "GOOD").write_text(good)
    (tmp_path / "BAD").write_text(good + '{"prompt_tokens": 5, "output_token": 3}\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    return {"GOOD": str(tmp_path / "GOOD"), "BAD": str(tmp_path / "BAD"), "FOLDER": str(tmp_path)}


@pytest.mark.parametrize("line, said", CASES, ids=[line for line, _ in CASES])
def test_one_line_says_what_is_wrong(line: str, said: str, places: dict[str, str], capsys) -> None:
    words = [places.get(word, word) for word in line.split()]
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    out, error = capsys.readouterr()
    assert status in (1, 2) and not out
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not list(Path.cwd().iterdir()), "nothing was written"
