"""The options of a benchmark reach it, and what it measured is kept."""

import json

import pytest

from aiinfra.__main__ import main, parser
from aiinfra.bench import throughput
from aiinfra.bench.row import Row


def test_options_of_the_engine_from_the_command_line(capsys) -> None:
    line = [
        "bench",
        "latency",
        "--set",
        "mode=static",
        "--set",
        "chunk_tokens=64",
        "--set",
        "chunked=False",
        "--rate",
        "2",
    ]
    args = parser(line).parse_args(line)
    assert dict(args.set) == {"mode": "static", "chunk_tokens": 64, "chunked": False} and args.rate == 2.0
    with pytest.raises(SystemExit):
        main(["bench", "engine", "--set", "chunk_token=64"])
    assert "Did you mean 'chunk_tokens'?" in capsys.readouterr().err


def test_saved_with_its_settings(small, tmp_path, capsys) -> None:
    file, out = tmp_path / "trace.jsonl", tmp_path / "out.json"
    file.write_text('{"prompt_tokens": 9, "output_tokens": 3}\n')
    assert (
        main(["bench", "throughput", "--trace", str(file), "--set", "max_running=4", "--save", str(out)]) == 0
    )
    saved = json.loads(out.read_text())
    assert saved["settings"]["trace"] == "trace.jsonl" and saved["settings"]["max_running"] == 4
    assert len(saved["rows"]) == 2 and saved["rows"][0]["target"] == "C3"
    assert "mixed trace" in capsys.readouterr().out


def test_what_was_measured_is_kept_when_a_later_row_fails(small, tmp_path, monkeypatch) -> None:
    def rows(name: str, **options: object):
        yield Row("first", 1.0, "s")
        raise KeyboardInterrupt
    monkeypatch.setattr(throughput, "bench_throughput", rows)
    assert main(["bench", "throughput", "--save", str(tmp_path / "out.json")]) == 130
    saved = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["first"]
