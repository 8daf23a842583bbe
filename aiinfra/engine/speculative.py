"""Several tokens from one pass: guess what comes next, check all guesses at once, keep what was right.

    tokens      … the cat sat on     guess (draft)   the  mat  and
    one pass         runs            on  the  mat  and            1 + k rows: each says what follows it
    the model says                   the  mat  .    It
                                      ✓    ✓   ✗                  3 tokens made for one reading of the weights

Row i counts only if every guess before it was right, so acceptance ends at the first token that the model
chooses otherwise; that choice is itself the next token, and costs nothing.

Invariant: the tokens are those that would have been made anyway. Each row's token is *drawn as ever*, from p
and with the random numbers of its place in the answer; the next row counts if the draw equals the guess x.
That happens with probability p(x); otherwise the draw is distributed as p without x, renormalised. So this
is the accept/reject rule of Leviathan et al. 2023 and Chen et al. 2023 for guesses that are not themselves
drawn, and greedy is its case of p = 1.

Whoever proposes only decides how often a guess is right: prompt lookup (Saxena 2023) costs no model
at all, a draft model costs a small one. Notebook 16.
"""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from aiinfra.engine.generate import up_to_the_context
from aiinfra.engine.request import check_ids
from aiinfra.engine.sampler import NOT_FINITE, Choosing, Sampler, choose
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
    with the one seen last. Good where answers quote (code edits, summaries, retrieval), useless elsewhere,
    and nearly free there.
    """

    def __init__(self, k: int = 4, longest: int = 3, shortest: int = 2) -> None:
        if not (k >= 1 and longest >= shortest >= 1):
            raise ValueError(f"k={k}, longest={longest}, shortest={shortest}; k must be at least 1, "
                             "and longest >= shortest >= 1.")
        self.k = k
        self.longest = longest
        self.shortest = shortest
        self._seen: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}      # n-gram -> the latest place of a token after it

    def propose(self, tokens: list[int], k: int) -> list[int]:
        """See Proposer."""
        self._index(tokens)
        longest = min(self.longest, len(tokens))
        for size in range(longest, self.shortest - 1, -1):
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
        known = len(self._seen)
        if tokens[:known] != self._seen:                  # another text: forget
            known = 0
            self._seen = []
            self._after = {}
        for end in range(max(known, 1), len(tokens)):
            for size in range(self.shortest, min(self.longest, end) + 1):
                ngram = tuple(tokens[end - size:end])
                self._after[ngram] = end
        self._seen += tokens[known:]


class DraftModel:
    """Guesses with a smaller model of the same vocabulary, greedily: k passes of it per guess of k tokens.

    It has a contiguous KV cache of its own per request, which grows by doubling, beside the engine's blocks
    and not counted in its `cache_bytes`. Requests are guessed for one after another: made for few users,
    not for many. Guesses that were refused are cut off it again: `cache.length` goes back to what still
    agrees.
    """

    def __init__(self, model: Transformer, k: int = 4) -> None:
        if k < 1:
            raise ValueError(f"k={k}; a draft has at least 1 token.")
        self.model = model
        self.k = k
        self._held: list[int] = []                        # whose keys and values the cache has
        self._cache: KVCache | None = None                # made when first needed: many requests may wait

    @torch.inference_mode()
    def propose(self, tokens: list[int], k: int) -> list[int]:
        """See Proposer. Fewer than k, or none, where the draft model's context ends."""
        room = self.model.config.max_position_embeddings - len(tokens)
        k = min(k, room + 1)                              # the last guess is made, not run
        if k < 1:
            return []
        self._make_room(len(tokens) + k - 1)
        agreed = _agree(self._held, tokens)
        agreed = min(agreed, len(tokens) - 1)             # the last token must be run, whatever is held
        self._cache.length = agreed
        new = tokens[agreed:]
        draft = []
        for _ in range(k):
            flat = torch.tensor([new], device=self.model.device)              # [1, T]
            hidden = self.model.hidden(flat, kv=self._cache)                  # [1, T, D]
            new = [int(self.model.lm_head(hidden[0, -1]).argmax())]
            draft += new
        self._held = tokens + draft[:-1]
        return draft

    def fresh(self) -> "DraftModel":
        """See Proposer. The weights are shared."""
        return DraftModel(self.model, self.k)

    def _make_room(self, tokens: int) -> None:
        old = self._cache
        if old is not None and tokens <= old.capacity:
            return
        new = KVCache(self.model.config, 2 * tokens, dtype=self.model.dtype, device=self.model.device)
        if old is not None:
            n = old.length
            new.k[:, :, :, :n] = old.k[:, :, :, :n]
            new.v[:, :, :, :n] = old.v[:, :, :, :n]
        self._cache = new


def first_layers(model: Transformer, n: int) -> Transformer:
    """A draft model out of the model itself: its first n layers, then its norm and head. Weights are shared,
    not copied. Such a cut was never trained to speak: measure how often it is right before relying on it."""
    if not 1 <= n <= len(model.layers):
        raise ValueError(f"n={n}; the model has layers 1 to {len(model.layers)}.")
    with torch.device("meta"):                            # shapes only: the weights come from the model
        draft = Transformer(replace(model.config, num_hidden_layers=n))
    draft.embed = model.embed
    draft.rotary = model.rotary
    draft.layers = model.layers[:n]
    draft.norm = model.norm
    draft.lm_head = model.lm_head
    return draft.eval()


def as_proposer(speculative: "str | Proposer | None", vocab_size: int) -> "Proposer | None":
    """The proposer that `speculative` asks for: "prompt_lookup", one made by hand, or None. Raises ValueError
    for an unknown name, and for a draft model that has another vocabulary than `vocab_size`."""
    if isinstance(speculative, str):
        if speculative != "prompt_lookup":
            guess = nearest(speculative, ["prompt_lookup"])
            raise ValueError(f"speculative={speculative!r} is not known.{guess} "
                             "Use 'prompt_lookup', PromptLookup(…), DraftModel(…) or None.")
        return PromptLookup()
    if speculative is None:
        return None
    if isinstance(speculative, type) or not hasattr(speculative, "propose"):
        raise ValueError(f"speculative={speculative!r} is no proposer. "
                         "Use 'prompt_lookup', PromptLookup(…), DraftModel(…) or None.")
    if isinstance(speculative, DraftModel):
        known = speculative.model.config.vocab_size
        if known != vocab_size:
            raise ValueError(f"the draft model knows {known:,} tokens and the model {vocab_size:,}: a draft "
                             "needs the same tokenizer. Choose a draft of the same family.")
    return speculative


def rows_ahead(sampler: Sampler, draft: list[int], held: Collection[int], until: int) -> list[Choosing]:
    """How to choose the next token and, if the guesses before them are right, the ones after each guess.
    `held`: ids that must not be chosen before the answer has `until` tokens."""
    rows = []
    for i in range(len(draft) + 1):
        banned = held if sampler.place + i < until else ()
        rows.append(sampler.choosing(banned, ahead=draft[:i]))
    return rows


def accept(chosen: list[int], draft: list[int], stop_ids: Collection[int] = ()) -> list[int]:
    """The tokens made by one pass: `chosen`, the tokens of row after row, up to and with the first that
    differs from its guess or ends the text. At least 1, at most len(draft) + 1."""
    for i, guess in enumerate(draft):
        if chosen[i] != guess or guess in stop_ids:
            return chosen[:i + 1]
    return chosen


@dataclass(frozen=True)
class SpeculativeStep:
    """One pass of the model."""

    token_ids: tuple[int, ...]            # the tokens that came out
    drafted: int                          # guessed before it
    accepted: int                         # of these, right
    tokens_run: int                       # by the model
    step_seconds: float                   # all that it took,
    draft_seconds: float                  # and of this the guessing


def generate_speculative(model: Transformer, prompt: list[int], params: SamplingParams, proposer: Proposer,
                         eos_ids: tuple[int, ...] = (), answer: int = 0) -> Iterator[SpeculativeStep]:
    """As `generate_cached`, and the same tokens, in fewer passes of the model if the guesses are good."""
    check_ids(prompt, model.config.vocab_size)
    params = up_to_the_context(params, prompt, model)
    sampler = Sampler(params, prompt, answer)
    stop_ids = params.stop_ids(eos_ids, model.config.vocab_size)
    end = len(prompt) + params.max_tokens
    # The last token is never run, so it needs no slot.
    cache = KVCache(model.config, end - 1, dtype=model.dtype, device=model.device)
    tokens = list(prompt)
    made = []
    while len(tokens) < end and not stop_ids.intersection(made):
        start = time.perf_counter()
        left = end - len(tokens) - 1                            # one token comes without a guess
        draft = proposer.propose(tokens, min(proposer.k, left))
        guessed = time.perf_counter()
        new = tokens[cache.length:] + draft
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor([new], device=model.device), kv=cache)[0]   # [T, D]
            logits = model.lm_head(hidden[-1 - len(draft):])                           # [1 + drafted, V]
        choices = choose(logits, rows_ahead(sampler, draft, stop_ids, params.min_tokens))
        made = accept([choice.token_id for choice in choices], draft, stop_ids)
        if None in made:
            raise ValueError(NOT_FINITE)
        for token in made:
            sampler.took(token)
        tokens += made
        cache.length = len(tokens) - 1     # refused guesses are forgotten; the newest token is yet to be run
        yield SpeculativeStep(
            token_ids=tuple(made),
            drafted=len(draft),
            accepted=sum(token == guess for token, guess in zip(made, draft)),
            tokens_run=len(new),
            step_seconds=time.perf_counter() - start,
            draft_seconds=guessed - start,
        )


def _agree(a: list[int], b: list[int]) -> int:
    """How many tokens two texts share from their beginning."""
    count = 0
    for x, y in zip(a, b):
        if x != y:
            break
        count += 1
    return count
