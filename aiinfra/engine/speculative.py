"""Several tokens from one pass: guess what comes next, check all guesses at once, keep what was right.

    tokens      … the cat sat on     guess (draft)   the  mat  and
    one pass         runs            on  the  mat  and            1 + k rows: each says what follows it
    the model says                   the  mat  .    It
                                      ✓    ✓   ✗                  3 tokens made for one reading of the weights

Row i counts only if every guess before it was right, so acceptance ends at the first token that the model
chooses otherwise; that choice is itself the next token, and costs nothing.

Invariant: the tokens are those that would have been made anyway. Each row's token is *drawn as ever*, from p
and with the random numbers of its place in the answer; the next row counts if the draw equals the guess x. That
happens with probability p(x); otherwise the draw is distributed as p without x, renormalised. So this is the
accept/reject rule of Leviathan et al. 2023 and Chen et al. 2023 for guesses that are not themselves drawn, and
greedy is its case of p = 1.

Whoever proposes only decides how often a guess is right: prompt lookup (Saxena 2023) costs no model
at all, a draft model costs a small one. Notebook 16.
"""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from aiinfra.engine.generate import check_ids, stop_ids_of
from aiinfra.engine.sampler import NOT_FINITE, Row, Sampler, choose
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.errors import nearest
from aiinfra.model import KVCache, Transformer


class Proposer(Protocol):
    """Guesses what follows, for one request. `k`: guesses at most per pass."""

    k: int

    def propose(self, tokens: list[int], k: int) -> list[int]:
        """At most k tokens that may follow `tokens`; none is a good answer too. May remember what it saw."""
        ...

    def fresh(self) -> "Proposer":
        """One with the same settings for another request: nothing remembered is shared."""
        ...


class PromptLookup:
    """Guesses by looking back: what followed the last n tokens when they stood there before?

    The longest ending of `longest` down to `shortest` tokens that occurred earlier counts, at its latest
    place. If that place is so near that fewer than k tokens followed, the text is taken to go on repeating.
    All n-grams seen are kept in a dictionary, so a token costs a few look-ups, and one comparison of the text
    with the one seen last.
    Good where answers quote (code edits, summaries, retrieval), useless elsewhere, and nearly free there.
    """

    def __init__(self, k: int = 4, longest: int = 3, shortest: int = 2) -> None:
        if not (k >= 1 and longest >= shortest >= 1):
            raise ValueError(f"k={k}, longest={longest}, shortest={shortest}; k must be at least 1, "
                             "and longest >= shortest >= 1.")
        self.k, self.longest, self.shortest = k, longest, shortest
        self._seen: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}      # n-gram -> where the token after it stands, at the latest

    def propose(self, tokens: list[int], k: int) -> list[int]:
        """See Proposer."""
        self._index(tokens)
        for size in range(min(self.longest, len(tokens)), self.shortest - 1, -1):
            after = self._after.get(tuple(tokens[-size:]))
            if after is not None:
                period = len(tokens) - after
                return [tokens[after + i % period] for i in range(k)]
        return []

    def fresh(self) -> "PromptLookup":
        """See Proposer."""
        return PromptLookup(self.k, self.longest, self.shortest)

    def _index(self, tokens: list[int]) -> None:
        """Enter every n-gram that has a token behind it."""
        if tokens[:len(self._seen)] != self._seen:        # another text: forget
            self._seen, self._after = [], {}
        for end in range(max(len(self._seen), 1), len(tokens)):
            for size in range(self.shortest, min(self.longest, end) + 1):
                self._after[tuple(tokens[end - size:end])] = end
        self._seen += tokens[len(self._seen):]


class DraftModel:
    """Guesses with a smaller model of the same vocabulary, greedily: k passes of it per guess of k tokens.

    It has a contiguous KV cache of its own per request, which grows by doubling, beside the engine's blocks and
    not counted in its `cache_bytes`. Requests are guessed for one after another: made for few users, not for many.
    Guesses that were refused are cut off it again: `cache.length` goes back to what still agrees.
    """

    def __init__(self, model: Transformer, k: int = 4) -> None:
        if k < 1:
            raise ValueError(f"k={k}; a draft has at least 1 token.")
        self.model, self.k = model, k
        self._held: list[int] = []                        # whose keys and values the cache has
        self._cache: KVCache | None = None                # made when first needed: many requests may wait

    @torch.inference_mode()
    def propose(self, tokens: list[int], k: int) -> list[int]:
        """See Proposer. Fewer than k, or none, where the draft model's context ends."""
        k = min(k, self.model.config.max_position_embeddings - len(tokens) + 1)
        if k < 1:
            return []
        self._make_room(len(tokens) + k - 1)
        self._cache.length = agreed = min(_agree(self._held, tokens), len(tokens) - 1)   # the last one must be run
        new, draft = tokens[agreed:], []
        for _ in range(k):
            hidden = self.model.hidden(torch.tensor([new], device=self.model.device), kv=self._cache)     # [1, T, D]
            new = [int(self.model.lm_head(hidden[0, -1]).argmax())]
            draft += new
        self._held = tokens + draft[:-1]                  # the last guess was made, not run
        return draft

    def fresh(self) -> "DraftModel":
        """See Proposer. The weights are shared."""
        return DraftModel(self.model, self.k)

    def _make_room(self, tokens: int) -> None:
        old = self._cache
        if old is not None and tokens <= old.capacity:
            return
        self._cache = new = KVCache(self.model.config, 2 * tokens, dtype=self.model.dtype, device=self.model.device)
        if old is not None:
            n = old.length
            new.k[:, :, :, :n], new.v[:, :, :, :n] = old.k[:, :, :, :n], old.v[:, :, :, :n]


def first_layers(model: Transformer, n: int) -> Transformer:
    """A draft model out of the model itself: its first n layers, then its norm and head. Weights are shared,
    not copied. Such a cut was never trained to speak: measure how often it is right before relying on it."""
    if not 1 <= n <= len(model.layers):
        raise ValueError(f"n={n}; the model has layers 1 to {len(model.layers)}.")
    with torch.device("meta"):                            # shapes only: the weights come from the model
        draft = Transformer(replace(model.config, num_hidden_layers=n))
    draft.embed, draft.rotary, draft.layers = model.embed, model.rotary, model.layers[:n]
    draft.norm, draft.lm_head = model.norm, model.lm_head
    return draft.eval()


def as_proposer(speculative: "str | Proposer | None", vocab_size: int) -> "Proposer | None":
    """The proposer that `speculative` asks for: "prompt_lookup", one made by hand, or None. Raises ValueError
    for an unknown name, and for a draft model that has another vocabulary than `vocab_size`."""
    if isinstance(speculative, str):
        if speculative != "prompt_lookup":
            raise ValueError(f"speculative={speculative!r} is not known.{nearest(speculative, ['prompt_lookup'])} "
                             "Use 'prompt_lookup', PromptLookup(…), DraftModel(…) or None.")
        return PromptLookup()
    if speculative is not None and (isinstance(speculative, type) or not hasattr(speculative, "propose")):
        raise ValueError(f"speculative={speculative!r} is no proposer. "
                         "Use 'prompt_lookup', PromptLookup(…), DraftModel(…) or None.")
    if isinstance(speculative, DraftModel) and speculative.model.config.vocab_size != vocab_size:
        raise ValueError(f"the draft model knows {speculative.model.config.vocab_size:,} tokens and the model "
                         f"{vocab_size:,}: a draft needs the same tokenizer. Choose a draft of the same family.")
    return speculative


def rows_ahead(sampler: Sampler, draft: list[int], held: Collection[int], until: int) -> list[Row]:
    """How to choose the next token and, if the guesses before them are right, the ones after each guess.
    `held`: ids that must not be chosen before the answer has `until` tokens."""
    return [sampler.row(held if sampler.place + i < until else (), draft[:i]) for i in range(len(draft) + 1)]


def accept(chosen: list[int], draft: list[int], stop_ids: Collection[int] = ()) -> list[int]:
    """The tokens made by one pass: `chosen`, the tokens of row after row, up to and with the first that differs
    from its guess or ends the text. At least 1, at most len(draft) + 1."""
    for i, guess in enumerate(draft):
        if chosen[i] != guess or guess in stop_ids:
            return chosen[:i + 1]
    return chosen


@dataclass(frozen=True)
class SpeculativeStep:
    """One pass of the model: the tokens that came out, how many were guessed before it and how many of these
    were right, how many tokens it ran, and the time it took, with and of which the guessing."""

    token_ids: tuple[int, ...]
    drafted: int
    accepted: int
    tokens_run: int
    step_seconds: float
    draft_seconds: float


def generate_speculative(model: Transformer, prompt: list[int], params: SamplingParams, proposer: Proposer,
                         eos_ids: tuple[int, ...] = (), answer: int = 0) -> Iterator[SpeculativeStep]:
    """As `generate_cached`, and the same tokens, in fewer passes of the model if the guesses are good."""
    check_ids(prompt, model.config.vocab_size)
    sampler = Sampler(params, prompt, answer)
    stop_ids = stop_ids_of(params, eos_ids, model.config.vocab_size)
    end = len(prompt) + params.max_tokens
    cache = KVCache(model.config, end - 1, dtype=model.dtype, device=model.device)     # the last token is never run
    tokens, made = list(prompt), []
    while len(tokens) < end and not stop_ids.intersection(made):
        start = time.perf_counter()
        draft = proposer.propose(tokens, min(proposer.k, end - len(tokens) - 1))       # one token comes without a guess
        guessed = time.perf_counter()
        new = tokens[cache.length:] + draft
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor([new], device=model.device), kv=cache)[0]       # [T, D]
            logits = model.lm_head(hidden[-1 - len(draft):])                                   # [1 + drafted, V]
        choices = choose(logits, rows_ahead(sampler, draft, stop_ids, params.min_tokens))
        made = accept([choice.token_id for choice in choices], draft, stop_ids)
        if None in made:
            raise ValueError(NOT_FINITE)
        for token in made:
            sampler.took(token)
        tokens += made
        cache.length = len(tokens) - 1                    # forget refused guesses; the newest token is yet to be run
        accepted = sum(a == b for a, b in zip(made, draft))
        yield SpeculativeStep(tuple(made), len(draft), accepted, len(new), time.perf_counter() - start, guessed - start)


def _agree(a: list[int], b: list[int]) -> int:
    """How many tokens two texts share from their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
