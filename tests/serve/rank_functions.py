"""What rank 0 does with its LLM in test_ranks.py; the other ranks help."""

import os
import signal
import threading
import time

import torch.distributed as dist

from aiinfra.engine import SamplingParams
from aiinfra.serve.pulse import RankLost
from aiinfra.serve.ranks import run_on_ranks

PROMPTS = ["the sea is quiet", "the sea is", "a", "one two three four five six seven eight nine", "the sea"]


def all_tokens(llm):
    """Of greedy and of drawn answers, of several an answer and with guesses seen before."""
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    drawn = SamplingParams(temperature=0.9, top_p=0.9, seed=5, n=2, max_tokens=9, ignore_eos=True)
    unseeded = SamplingParams(temperature=1.0, max_tokens=5, ignore_eos=True)
    found = []
    for params in (greedy, drawn, greedy, unseeded):
        for output in llm.generate(PROMPTS, params, use_tqdm=False):
            found.append([answer.token_ids for answer in output.outputs])
    assert llm.idle
    return found


def tokens_and_health(llm):
    return all_tokens(llm), llm.health


def refused(folder, **options):
    """What every rank is told."""
    try:
        run_on_ranks(all_tokens, folder, **options)
    except (ValueError, TypeError) as error:
        return str(error)


def a_follower_hangs(folder, idle, errors):
    """Rank 1 hangs from a moment on, while rank 0 generates or while nobody asks. What rank 0 writes to its
    stderr goes to a file."""
    if dist.get_rank() == 0:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    if dist.get_rank() == 1:
        threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    return run_on_ranks(watch_idle if idle else watch_busy, folder, patience_seconds=1.5)


def answer_until_lost(llm):
    print("answering", flush=True)
    watch_busy(llm)


def watch_idle(llm):
    deadline = time.monotonic() + 60
    while llm.health.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    return after_the_loss(llm)


def watch_busy(llm):
    llm.generate("a", SamplingParams(max_tokens=1), use_tqdm=False)
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            llm.generate("a", SamplingParams(max_tokens=50, ignore_eos=True), use_tqdm=False)
    except RankLost:
        pass
    return after_the_loss(llm)


def after_the_loss(llm):
    """The health tells, and nothing is asked of the others any more."""
    assert not llm.health.alive and "rank 1 of 2 was not heard of for" in llm.health.said
    begun = time.monotonic()
    try:
        llm.generate("a", SamplingParams(max_tokens=2), use_tqdm=False)
    except RankLost as error:
        assert str(error) == llm.health.said and time.monotonic() - begun < 1
