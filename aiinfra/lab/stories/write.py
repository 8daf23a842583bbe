"""Offline batch inference: many orders at a time through the engine, each finished batch kept in a file.

    orders ──generate──► opening + body ──ended by itself?──► yes: done
                                         └─ no: cut back to whole sentences, give the first words of a last
                                            sentence, ──generate──► closing

A killed run loses the batch in hand; the same command writes it again, with the same seeds.
Invariant: a line of the file is one whole story, and no number is there twice.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from aiinfra.engine import LLM, SamplingParams
from aiinfra.engine.output import CompletionOutput
from aiinfra.files import write_text
from aiinfra.lab.stories.words import Order, order

_BODY_TOKENS = 160
_CLOSING_TOKENS = 40
_CACHE_BYTES = 2 << 30        # of keys and values: room for a batch, and for the closings' shared prefixes
_SAMPLING = {"temperature": 0.8, "min_p": 0.1, "repetition_penalty": 1.1}
_SENTENCE_ENDS = tuple(mark + after for mark in (".", "!", "?", '."', '!"', '?"') for after in (" ", "\n"))
_SENTENCE_END = re.compile(r'[.!?]"?(?=\s|$)')


@dataclass(frozen=True)
class RawStory:
    """One story as the model wrote it."""

    number: int
    opening: str
    text: str             # all of it, the opening included
    ended: bool           # False: no end came within the limit
    tokens: int           # that the model made for it


def write_stories(path: Path, numbers: Sequence[int], seed: int, batch: int, model: str) -> None:
    """Append the stories of these numbers that are not in `path` yet, `batch` of them at a time."""
    known = {story.number for story in read_raw(path)}
    missing = [number for number in numbers if number not in known]
    if not missing:
        return
    llm = LLM(model, max_running=batch, max_model_len=512, cache_bytes=_CACHE_BYTES, dtype="float32")
    made = 0
    begin = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_off_half_a_line(path)
    done = len(numbers) - len(missing)
    with path.open("a") as lines, tqdm(total=len(numbers), initial=done, unit="story") as bar:
        for together in _batches(missing, batch):
            stories = _write_batch(llm, together, seed)
            lines.write("".join(json.dumps(asdict(story)) + "\n" for story in stories))
            lines.flush()
            made += sum(story.tokens for story in stories)
            seconds = time.perf_counter() - begin
            bar.update(len(stories))
            bar.set_postfix_str(f"{made / seconds:.0f} tokens/s")


def read_raw(path: Path) -> list[RawStory]:
    """The stories of a file, without a last line that was not finished; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [RawStory(**json.loads(line)) for line in lines]


def _cut_off_half_a_line(path: Path) -> None:
    """A program that was killed while it wrote has left one."""
    if path.exists():
        text = path.read_text()
        write_text(path, text[:text.rfind("\n") + 1])


def _batches(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start:start + size]


def _write_batch(llm: LLM, numbers: list[int], seed: int) -> list[RawStory]:
    orders = {number: order(number, seed) for number in numbers}
    openings = {number: one.opening for number, one in orders.items()}
    bodies = _generate(llm, orders, openings, seed=seed, max_tokens=_BODY_TOKENS)
    texts = {number: openings[number] + body.text for number, body in bodies.items()}
    begun = {}
    for number, body in bodies.items():
        if body.finish_reason != "stop":
            begun[number] = f"{whole_sentences(texts[number])} {orders[number].closing}"
    closings = _generate(llm, orders, begun, seed=seed, max_tokens=_CLOSING_TOKENS, stop=_SENTENCE_ENDS)
    for number, closing in closings.items():
        texts[number] = begun[number] + closing.text + (closing.stop_reason or "").strip()
    stories = []
    for number in numbers:
        answers = [made[number] for made in (bodies, closings) if number in made]
        stories.append(RawStory(
            number=number,
            opening=openings[number],
            text=texts[number],
            ended=answers[-1].finish_reason == "stop",
            tokens=sum(len(answer.token_ids) for answer in answers)))
    return stories


def _generate(llm: LLM, orders: dict[int, Order], texts: dict[int, str], seed: int, max_tokens: int,
              stop: tuple[str, ...] = ()) -> dict[int, CompletionOutput]:
    """What the model adds to each story's text, by the story's number."""
    prompts = [_prompt(llm, orders[number].request, text) for number, text in texts.items()]
    fixed = SamplingParams(max_tokens=max_tokens, stop=stop, **_SAMPLING)
    params = [replace(fixed, seed=seed + number) for number in texts]
    answers = llm.generate(prompts, params, use_tqdm=False)
    return {number: answer.outputs[0] for number, answer in zip(texts, answers)}


def _prompt(llm: LLM, request: str, text: str) -> list[int]:
    """The request, and the answer as far as it is known."""
    ids = llm.tokenizer.encode_chat([{"role": "user", "content": request}])
    return ids + llm.tokenizer.encode(text, add_special_tokens=False)


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last sentence that is whole and stands in no open quotation; all of it
    where it has none."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    closed = [end for end in ends if text.count('"', 0, end) % 2 == 0]
    return text[:closed[-1]] if closed else text
