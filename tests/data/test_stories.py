"""The stories in data/, and the small model that learnt from them: what their datasheet says is so."""

import re

import pytest
import torch

from aiinfra.checkpoint import load
from aiinfra.engine import LLM, SamplingParams
from aiinfra.lab.source import data_file
from aiinfra.lab.stories.sieve import sieve
from aiinfra.lab.stories.write import RawStory
from aiinfra.train.corpus import read_documents, split_documents, tokenize
from aiinfra.train.evaluate import evaluate

STORIES = read_documents(data_file("stories/stories.txt"))
SPLIT = split_documents(STORIES)
MODEL = data_file("stories/model")
SHEET = data_file("stories/README.md").read_text()


def told(pattern: str) -> float:
    """The number that the datasheet has at this place."""
    return float(re.search(pattern, SHEET).group(1).replace(",", ""))


def test_the_corpus_passes_its_own_sieve():
    """So no two of its stories are alike, and no part of a split can be known from another."""
    raw = [RawStory(number=n, opening="", text=text, ended=True, tokens=1) for n, text in enumerate(STORIES)]
    assert sieve(raw).kept == STORIES


def test_the_corpus_is_as_large_as_its_datasheet_says():
    assert len(STORIES) == told(r"\| stories \| ([\d,]+)")
    assert sum(map(len, STORIES)) == told(r"\| bytes of text \| ([\d,]+)")
    for part in ("train", "validation", "test"):
        assert len(getattr(SPLIT, part)) == told(rf"\| {part} \| ([\d,]+)")
    assert sum(map(len, STORIES)) > 800_000


def test_the_model_has_the_loss_that_its_datasheet_says():
    model, tokenizer = load(MODEL, dtype="float32", device="cpu", packed=False)
    found = evaluate(model, tokenize(SPLIT.validation, tokenizer), length=256)
    assert found.loss == pytest.approx(told(r"shipped model: ([\d.]+) nats"), abs=0.002)
    assert found.bits_per_byte == pytest.approx(told(r"nats a token, ([\d.]+) bits a byte"), abs=0.002)


def test_the_model_is_small_and_answers_like_any_other():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 8e6
    llm = LLM(MODEL, device="cpu", dtype="float32")
    params = SamplingParams(temperature=0.7, top_p=0.95, max_tokens=60, seed=1)
    beginning = "Once upon a time, there was a small dog named Bo."
    text = llm.generate(beginning, params, use_tqdm=False)[0].outputs[0].text
    words = set(re.findall("[a-z]+", " ".join(SPLIT.train).lower()))
    written = re.findall("[a-z]+", text.lower())
    assert len(written) > 20
    assert sum(word in words for word in written) > 0.9 * len(written)


def test_transformers_opens_the_model_with_equal_tokens_and_logits():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ours, our_tokenizer = load(MODEL, dtype="float32", device="cpu", packed=False)
    ids = our_tokenizer.encode(SPLIT.test[0])
    assert tokenizer(SPLIT.test[0])["input_ids"] == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
