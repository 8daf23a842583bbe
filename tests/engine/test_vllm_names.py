"""What vLLM's own first examples say, with the import swapped."""

import numpy as np
import pytest

from aiinfra import LLM, SamplingParams
from aiinfra.engine.generate import generate_cached
from tests.checkpoint.corpus_parts import chatml_folder

PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
SMALL = {"dtype": "float32", "device": "cpu", "cache_bytes": 1 << 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chatml_folder(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def llm(folder) -> LLM:
    return LLM(model=str(folder), **SMALL)


def greedy(**more) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "ignore_eos": True, "max_tokens": 8, **more})


def test_the_first_example(folder) -> None:
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95)
    llm = LLM(
        model=str(folder),
        seed=0,
        max_num_seqs=2,
        max_num_batched_tokens=64,
        enable_prefix_caching=True,
        gpu_memory_utilization=0.5,
        max_model_len=np.int64(128),
        **SMALL,
    )
    outputs = llm.generate(PROMPTS, sampling_params)
    for prompt, output in zip(PROMPTS, outputs):
        assert output.prompt == prompt and isinstance(output.outputs[0].text, str)
    assert llm.engine.scheduler.max_running == 2 and llm.engine.scheduler.token_budget == 64
    assert llm.max_model_len == 128


def test_prefix_caching_can_be_switched_off(folder) -> None:
    llm = LLM(folder, enable_prefix_caching=False, **SMALL)
    twice = [llm.generate(PROMPTS[0] * 4, greedy())[0].num_cached_tokens for _ in range(2)]
    assert twice == [0, 0]


def test_cached_tokens_are_counted(llm: LLM) -> None:
    prompt = list(range(100, 140))
    first, second = (llm.generate([prompt], greedy())[0] for _ in range(2))
    assert first.num_cached_tokens == 0 and second.num_cached_tokens == 32  # whole blocks of 16
    longer = llm.generate([prompt[:20] + [7] * 5], greedy())[0]
    assert longer.num_cached_tokens == 16


def test_a_seed_of_the_whole(folder) -> None:
    def texts(seed: int | None) -> list[list[int]]:
        outputs = LLM(folder, seed=seed, **SMALL).generate(PROMPTS, SamplingParams(ignore_eos=True))
        return [output.outputs[0].token_ids for output in outputs]

    assert texts(3) == texts(3) != texts(4)
    assert len({tuple(ids) for ids in texts(3)}) == 4


def test_why_it_stopped(llm: LLM) -> None:
    free = llm.generate("The cat", greedy(max_tokens=20))[0].outputs[0]
    assert free.finish_reason == "length" and free.stop_reason is None
    one = free.token_ids[4]
    by_id = llm.generate("The cat", greedy(max_tokens=20, stop_token_ids=[one]))[0].outputs[0]
    assert by_id.finish_reason == "stop" and by_id.stop_reason == one == by_id.token_ids[-1]
    text = free.text[6:9]
    by_text = llm.generate("The cat", greedy(max_tokens=20, stop=["never this", text]))[0].outputs[0]
    assert by_text.finish_reason == "stop" and by_text.stop_reason == text and text not in by_text.text


def test_an_end_of_sequence_is_no_reason(llm: LLM, monkeypatch) -> None:
    ids = llm.generate("The cat", greedy())[0].outputs[0].token_ids
    monkeypatch.setattr(llm.tokenizer, "eos_ids", (ids[2],))
    out = llm.generate("The cat", greedy(ignore_eos=False))[0].outputs[0]
    assert out.finish_reason == "stop" and out.stop_reason is None and out.token_ids[-1] == ids[2]


def test_as_many_tokens_as_have_room(llm: LLM) -> None:
    params = greedy(max_tokens=None)
    assert SamplingParams(max_tokens=None).max_tokens is None
    request = llm.generate([[5, 6, 7]], params)[0]
    assert len(request.outputs[0].token_ids) == llm.max_model_len - 3
    assert request.outputs[0].finish_reason == "length"
    cached = [step.token_id for step in generate_cached(llm.model, [5, 6, 7], params)]
    assert cached == request.outputs[0].token_ids
    llm.engine.add("by itself", [5, 6, 7], params)
    made = [made.token_id for record in llm.engine.stream() for made in record.made]
    assert made == cached


def test_numpy_integers(llm: LLM) -> None:
    params = SamplingParams(
        temperature=np.float32(0),
        max_tokens=np.int64(4),
        top_k=np.int32(5),
        seed=np.uint8(3),
        stop_token_ids=np.array([99999]),
        min_tokens=np.int16(1),
    )
    assert type(params.max_tokens) is int and type(params.stop_token_ids[0]) is int
    ids = np.array([5, 6, 7])
    prompts = (ids, list(ids), {"prompt_token_ids": ids}, [5, 6, 7])
    answers = [llm.generate([prompt], params)[0] for prompt in prompts]
    assert len({tuple(answer.outputs[0].token_ids) for answer in answers}) == 1
    assert all(type(token) is int for token in answers[0].prompt_token_ids)
    assert llm.generate(ids, params)[0].outputs[0].token_ids == answers[0].outputs[0].token_ids
    for wrong in (np.float64(4.5), True):
        with pytest.raises(ValueError, match="max_tokens="):
            SamplingParams(max_tokens=wrong)


def test_no_prompts_no_outputs(llm: LLM) -> None:
    assert llm.generate([]) == [] and llm.generate([], SamplingParams()) == [] and llm.generate((), []) == []


def test_the_tokenizer(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    assert tokenizer is llm.tokenizer and tokenizer.eos_token_id in tokenizer.eos_ids
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True) == tokenizer.encode_chat(chat)
    assert llm.generate(text, greedy())[0].outputs[0].text == llm.chat(chat, greedy())[0].outputs[0].text


@pytest.mark.parametrize("share", [0, 1.5, "half"])
def test_a_share_that_makes_no_sense(share) -> None:
    with pytest.raises(ValueError, match="gpu_memory_utilization=.*above 0 and at most 1"):
        LLM("smollm2-135m", gpu_memory_utilization=share, device="cpu")
