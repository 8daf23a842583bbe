"""Clients that nobody here wrote, unmodified: what they report is what the server did."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.peers import program, python_of
from tests.serve.replicas import Replica, small_folder, wait_for

pytestmark = [pytest.mark.program, pytest.mark.alone]
REQUESTS, TOKENS = 20, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_folder(tmp_path_factory.mktemp("clients") / "small")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    replica = Replica(folder).start()
    try:
        wait_for(f"{replica.url}/ready")
        yield replica.url
    finally:
        replica.end()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_guidellm(url: str, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run(program("guidellm"), "run", "--disable-progress", "--backend", f"kind=openai_http,target={url}",
        "--profile", "kind=poisson,rate=5", "--constraint", f"kind=max_requests,count={REQUESTS}",
        "--tokenizer", f"kind=huggingface_auto,model={folder}",
        "--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={TOKENS}",
        "--output", f"kind=json,path={report}")
    [told] = json.loads(report.read_text())["benchmarks"]
    totals = told["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"], totals["incomplete"]) == (REQUESTS, 0, 0)
    assert told["metrics"]["output_token_count"]["successful"]["mean"] == TOKENS


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_aiperf(kind: str, url: str, folder: Path, tmp_path: Path) -> None:
    run(program("aiperf"), "profile", "-m", folder.name, "-u", url, "--endpoint-type", kind, "--streaming",
        "--tokenizer", str(folder), "--request-rate", "10", "--request-count", str(REQUESTS),
        "--synthetic-input-tokens-mean", "32", "--output-tokens-mean", str(TOKENS), "--ui", "simple",
        "--extra-inputs", "ignore_eos:true", "--use-server-token-count", "--artifact-dir", str(tmp_path))
    told = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    assert told["request_count"]["avg"] == REQUESTS and not told["error_summary"]
    assert told["output_sequence_length"]["avg"] == TOKENS and told["time_to_first_token"]["avg"] > 0


@pytest.mark.parametrize("package", ["litellm", "langchain-openai"])
def test_a_streamed_chat_is_the_whole_one(package: str, url: str) -> None:
    code = {
        "litellm": "import litellm; m = [dict(role='user', content='hi')]\n"
                   f"a = dict(model='openai/small', api_base='{url}/v1', api_key='x', messages=m,\n"
                   "         max_tokens=8, temperature=0)\n"
                   "whole = litellm.completion(**a).choices[0].message.content\n"
                   "chunks = litellm.completion(stream=True, **a)\n"
                   "parts = [c.choices[0].delta.content or '' for c in chunks]\n"
                   "assert whole and whole == ''.join(parts), (whole, parts); print('same')",
        "langchain-openai": "from langchain_openai import ChatOpenAI\n"
                            f"m = ChatOpenAI(model='small', base_url='{url}/v1', api_key='x', max_tokens=8,\n"
                            "               temperature=0)\n"
                            "whole = m.invoke('hi'); parts = list(m.stream('hi'))\n"
                            "assert whole.usage_metadata['output_tokens'] == 8\n"
                            "assert whole.content == ''.join(p.content for p in parts); print('same')",
    }[package]
    assert run(python_of(package), "-c", code).strip().endswith("same")
