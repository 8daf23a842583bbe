"""The interface of `LLM`: vLLM's shapes, text that only grows, and calls that leave nothing behind."""

import pytest
import torch

from aiinfra import LLM, SamplingParams
from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_naive
from aiinfra.engine.output import cut_at_stop

GREEDY = SamplingParams(temperature=0, max_tokens=12)


def test_outputs_have_vllm_shapes(llm: LLM) -> None:
    [first, second] = llm.generate(["The capital of France is", llm.tokenizer.encode("1, 2, 3,")], GREEDY)
    assert first.outputs[0].text.startswith(" Paris") and first.prompt == "The capital of France is"
    assert second.prompt is None and second.prompt_token_ids == llm.tokenizer.encode("1, 2, 3,")
    assert first.request_id != second.request_id and first.finished
    for output in (first.outputs[0], second.outputs[0]):
        assert output.text == llm.tokenizer.decode(output.token_ids)
        assert output.finish_reason in ("length", "stop") and len(output.token_ids) <= 12


def test_one_prompt_without_a_list(llm: LLM) -> None:
    [one], [other] = llm.generate("Hello", GREEDY), llm.generate(["Hello"], [GREEDY])
    assert one.outputs[0].token_ids == other.outputs[0].token_ids


def test_end_of_sequence_ends_and_can_be_ignored(llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is 2+2? Answer with one number."}]
    out = llm.chat(messages, SamplingParams(temperature=0, max_tokens=60))[0].outputs[0]
    assert out.finish_reason == "stop" and out.token_ids[-1] in llm.tokenizer.eos_ids
    assert "<|im_end|>" not in out.text
    longer = llm.chat(messages, SamplingParams(temperature=0, max_tokens=60, ignore_eos=True))[0].outputs[0]
    assert longer.finish_reason == "length" and len(longer.token_ids) == 60
    held = llm.chat(messages, SamplingParams(temperature=0, max_tokens=60,
                                             min_tokens=len(out.token_ids) + 5))[0].outputs[0]
    assert len(held.token_ids) >= len(out.token_ids) + 5
    assert not set(held.token_ids[:len(out.token_ids) + 5]) & set(llm.tokenizer.eos_ids)


def test_stop_string_ends_before_itself(llm: LLM) -> None:
    whole = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=40))[0].outputs[0].text
    stop = whole[30:37]                          # spans token boundaries
    out = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=40,
                                                          stop=stop))[0].outputs[0]
    assert out.text == whole[:whole.index(stop)] and out.finish_reason == "stop"


def test_stop_token_id(llm: LLM) -> None:
    free = llm.generate("Count: 1, 2,", SamplingParams(temperature=0, max_tokens=10))[0].outputs[0].token_ids
    out = llm.generate("Count: 1, 2,", SamplingParams(temperature=0, max_tokens=10,
                                                      stop_token_ids=[free[3]]))[0].outputs[0]
    assert out.token_ids == free[:free.index(free[3]) + 1] and out.finish_reason == "stop"


@pytest.mark.parametrize("stop", [(), ("the", ".")])
def test_stream_only_grows_and_ends_as_generate(stop: tuple, llm: LLM) -> None:
    params = SamplingParams(temperature=0.9, seed=5, max_tokens=40, stop=stop)
    texts = [request.outputs[0].text for request in llm.stream("Emoji: 👋🏽 and then", params)]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:]))
    assert texts[-1] == llm.generate("Emoji: 👋🏽 and then", params)[0].outputs[0].text


def test_same_seed_same_text(llm: LLM) -> None:
    def text(seed: int | None) -> str:
        return llm.generate("Once", SamplingParams(seed=seed, max_tokens=16))[0].outputs[0].text
    assert text(1) == text(1) != text(2)


def test_a_seed_decides_alone_and_among_eight(llm: LLM) -> None:
    prompts = ["The sea was calm", "x", "def add(a, b):\n    return", "1, 2, 3,", "Dear Sir",
               "Once upon a time " * 4, "Q:", "The sea was calm"]
    settings = [{}, {"top_k": 20}, {"temperature": 0}, {"top_p": 0.9}, {"min_p": 0.05, "temperature": 1.4},
                {"repetition_penalty": 1.2},
                {"temperature": 0, "repetition_penalty": 1.3},
                {"top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 0.7}]
    params = [SamplingParams(seed=i, max_tokens=12, ignore_eos=True, **one) for i, one in enumerate(settings)]
    together = [request.outputs[0].token_ids for request in llm.generate(prompts, params)]
    alone = [llm.generate(prompt, one)[0].outputs[0].token_ids for prompt, one in zip(prompts, params)]
    assert together == alone
    naive = [s.token_id for s in generate_naive(llm.model, llm.tokenizer.encode(prompts[7]), params[7])]
    assert together[7] == naive


def test_n_answers_each_as_if_alone(llm: LLM) -> None:
    params = SamplingParams(n=3, seed=5, max_tokens=14)
    [request] = llm.generate("My favourite place is", params)
    assert [out.index for out in request.outputs] == [0, 1, 2] and request.finished
    assert len({out.text for out in request.outputs}) == 3
    [single] = llm.generate("My favourite place is", SamplingParams(seed=5, max_tokens=14))
    assert request.outputs[0].token_ids == single.outputs[0].token_ids
    last = list(llm.stream("My favourite place is", params))[-1]
    assert [out.text for out in last.outputs] == [out.text for out in request.outputs]
    assert llm.engine.pool.used == 0 and llm.idle


def test_a_stop_string_ends_one_answer_and_not_the_others(llm: LLM) -> None:
    free = llm.generate("My favourite place is", SamplingParams(n=3, seed=5, max_tokens=14))[0].outputs
    stop = next(free[1].text[i:i + 4] for i in range(3, 30)
                if not any(free[1].text[i:i + 4] in o.text for o in (free[0], free[2])))
    outs = llm.generate("My favourite place is", SamplingParams(n=3, seed=5, max_tokens=14,
                                                                stop=stop))[0].outputs
    assert outs[1].finish_reason == "stop" and outs[1].text == free[1].text[:free[1].text.index(stop)]
    assert len(outs[1].token_ids) < 14 and llm.engine.pool.used == 0
    assert [outs[i].text for i in (0, 2)] == [free[i].text for i in (0, 2)]


def test_logprobs_have_vllm_shapes_and_the_models_values(llm: LLM) -> None:
    [request] = llm.generate("The capital of France is",
                             SamplingParams(n=2, seed=1, temperature=1.5, top_k=50, max_tokens=6, logprobs=2))
    for out in request.outputs:
        assert len(out.logprobs) == len(out.token_ids) and out.text == "".join(
            told[token].decoded_token for told, token in zip(out.logprobs, out.token_ids))
        tokens = torch.tensor([request.prompt_token_ids + out.token_ids])
        with torch.inference_mode():
            exact = llm.model(tokens)[0, len(request.prompt_token_ids) - 1:-1].log_softmax(-1)      # [6, V]
        for row, told, token in zip(exact, out.logprobs, out.token_ids):
            likeliest = row.topk(2).indices.tolist()
            assert set(told) == {token, *likeliest} and [told[i].rank for i in likeliest] == [1, 2]
            assert all(abs(one.logprob - row[i]) < 1e-3 for i, one in told.items())
        each = [told[token].logprob for told, token in zip(out.logprobs, out.token_ids)]
        assert out.cumulative_logprob == pytest.approx(sum(each))
    plain = llm.generate("The capital of France is", GREEDY)[0].outputs[0]
    assert plain.logprobs is None and plain.cumulative_logprob is None


def test_an_abandoned_stream_leaves_the_engine_usable(llm: LLM) -> None:
    stream = llm.stream("The sea", GREEDY)
    next(stream)
    stream.close()
    assert llm.generate("The capital of France is", GREEDY)[0].outputs[0].text.startswith(" Paris")


def test_the_context_is_the_limit(llm: LLM) -> None:
    small = LLM.around(Engine(llm.model, max_model_len=10), llm.tokenizer)
    out = small.generate([[504] * 7], SamplingParams(temperature=0, max_tokens=50,
                                                     ignore_eos=True))[0].outputs[0]
    assert len(out.token_ids) == 3 and out.finish_reason == "length"
    with pytest.raises(ValueError, match="the prompt is 10 tokens; the context is 10"):
        small.generate([[504] * 10])
    with pytest.raises(ValueError, match="the prompt is 9,000 tokens; the context is 8,192"):
        llm.generate([[504] * 9000])


@pytest.mark.parametrize("prompt, message", [
    ("", "the prompt is empty"), ([[]], "the prompt is empty"),
    ([[49152]], "token id 49152 is outside the vocabulary of 49,152"),
    ([[-1]], "token id -1"), ([3.5], "a string or a list of token ids; got float"), ([None], "got NoneType"),
    ([b"\xff"], "got bytes"),
])
def test_prompts_that_make_no_sense(prompt, message: str, llm: LLM) -> None:
    with pytest.raises(ValueError, match=message):
        llm.generate(prompt, GREEDY)


def test_a_bad_prompt_among_good_ones_runs_none(llm: LLM, monkeypatch) -> None:
    monkeypatch.setattr(LLM, "_serve", lambda *_: pytest.fail("ran"))
    with pytest.raises(ValueError, match="empty"):
        llm.generate(["fine", ""], GREEDY)


def test_as_many_params_as_prompts(llm: LLM) -> None:
    with pytest.raises(ValueError, match="2 sampling_params for 1 prompts"):
        llm.generate(["x"], [GREEDY, GREEDY])
    for wrong in (0, {}, "greedy", [GREEDY, None]):
        with pytest.raises(ValueError, match="sampling_params must be SamplingParams, or a list of them"):
            llm.generate(["x", "y"], wrong)
    with pytest.raises(ValueError, match="max_model_len=9000; the model's context is 8,192"):
        LLM(max_model_len=9000, device="cpu")


def test_ctrl_c_frees_the_blocks_and_the_engine_goes_on(llm: LLM, monkeypatch) -> None:
    step, calls = llm.engine.step, []

    def interrupted():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step()
    monkeypatch.setattr(llm.engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["One", "Two", "Three"], [GREEDY, SamplingParams(n=3, seed=1, max_tokens=12), GREEDY])
    assert llm.idle and llm.engine.idle
    assert llm.engine.unfinished == 0 and llm.engine.pool.used == 0
    assert llm.generate("The capital of France is", GREEDY)[0].outputs[0].text.startswith(" Paris")


def test_two_streams_at_once(llm: LLM) -> None:
    first, second = llm.stream("The capital of France is", GREEDY), llm.stream("1, 2, 3,", GREEDY)
    next(first), next(second)
    texts = [[r.outputs[0].text for r in stream][-1] for stream in (second, first)]
    alone = [o.outputs[0].text for o in llm.generate(["1, 2, 3,", "The capital of France is"], GREEDY)]
    assert texts == alone


def test_together_is_as_alone(llm: LLM) -> None:
    """On the real model: a batch of mixed prompts gives each request the naive generator's tokens."""
    prompts = ["The capital of France is", "x", "def add(a, b):\n    return", "Once upon a time " * 6,
               "1, 2, 3,", "Dear Sir"]
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    together = llm.generate(prompts, params)
    for output in together:
        naive = [s.token_id for s in generate_naive(llm.model, output.prompt_token_ids, params)]
        assert output.outputs[0].token_ids == naive, output.prompt


def test_stop_strings_wait_for_min_tokens(llm: LLM) -> None:
    free = llm.generate("Count: 1 2 3 4", SamplingParams(temperature=0, max_tokens=12,
                                                         ignore_eos=True))[0].outputs[0]
    stop = free.text[1]
    out = llm.generate("Count: 1 2 3 4", SamplingParams(temperature=0, max_tokens=12, min_tokens=8, stop=stop,
                                                        ignore_eos=True))[0].outputs[0]
    assert out.token_ids[:8] == free.token_ids[:8]
    assert out.text.startswith(llm.tokenizer.decode(free.token_ids[:8]))


def test_vllm_prompt_dicts(llm: LLM) -> None:
    ids = llm.tokenizer.encode("The capital of France is")
    texts = [llm.generate(p, GREEDY)[0].outputs[0].text
             for p in ("The capital of France is", {"prompt": "The capital of France is"},
                                                                  {"prompt_token_ids": ids})]
    assert len(set(texts)) == 1


@pytest.mark.parametrize("call, message", [
    (lambda llm: llm.generate("x", {"temperature": 0}), "sampling_params must be SamplingParams"),
    (lambda llm: llm.chat({"role": "user", "content": "x"}), "messages must be a non-empty list"),
    (lambda llm: llm.chat([]), "messages must be a non-empty list"),
    (lambda llm: llm.chat([{"role": "user", "content": None}]), "message 0 must be a dict with the strings"),
    (lambda llm: llm.chat([{"role": "user", "content": "\ud800"}]), "not valid Unicode"),
    (lambda llm: llm.generate({"text": "x"}), "a prompt must be a string"),
])
def test_calls_of_the_wrong_form(call, message: str, llm: LLM) -> None:
    with pytest.raises(ValueError, match=message):
        call(llm)


@pytest.mark.parametrize("text, stops, final, expected", [
    ("one two three", ("two",), False, ("one ", "two")), ("one two", ("zz",), False, ("one two", None)),
    ("one tw", ("two",), False, ("one ", None)), ("one tw", ("two",), True, ("one tw", None)),
    ("abc", ("c", "b"), False, ("a", "b")), ("x\n", ("\n\n",), False, ("x", None)),
    ("", ("a",), True, ("", None)),
])
def test_cut_at_stop(text: str, stops: tuple, final: bool, expected: tuple) -> None:
    assert cut_at_stop(text, stops, final) == expected
