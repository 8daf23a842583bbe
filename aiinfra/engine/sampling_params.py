"""What a request asks of the sampler, under vLLM's names, checked when it is written down.

`RULES` has a line for each field: what it may be, and what to say otherwise. Whoever takes these settings
from elsewhere (a command line, a server) reads limits and messages there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, NamedTuple

from aiinfra.config import config

# The largest temperature and repetition penalty. A higher temperature would change nothing: divided by this
# one, logits that are 0.1 apart differ by no more than float32's rounding. With a higher penalty, large
# logits would overflow: times this one, those of up to 1e32 stay finite.
_FAR = 1e6


class Rule(NamedTuple):
    """What a field may be, and how a value that breaks the rule is explained."""

    kind: type                        # int, float (an int is one too), bool or str
    limit: str                        # "it must be …"; a {name} stands for the value of that field
    remedy: str                       # what helps
    low: float | None = None          # the least value; of a str, its least length
    high: float | str | None = None   # the largest, or the name of the field that holds it
    above_low: bool = False           # `low` itself is too little
    or_none: bool = False             # None is allowed
    several: bool = False             # any number of such values; None is none of them

    def allows(self, value: Any, others: object = None) -> bool:
        """True if `value` may stand in this field of `others`, beside its other fields."""
        if value is None:
            return self.or_none or self.several
        if self.several:
            return isinstance(value, tuple) and all(self._allows_one(one, others) for one in value)
        return self._allows_one(value, others)

    def _allows_one(self, value: Any, others: object) -> bool:
        size = _size_of(value, self.kind)
        if size is None:
            return False
        if self.low is not None and not (size > self.low if self.above_low else size >= self.low):
            return False
        high = getattr(others, self.high) if isinstance(self.high, str) else self.high
        return high is None or size <= high


RULES: dict[str, Rule] = {
    "n": Rule(int, "an integer of at least 1", "1 is one answer", low=1),
    "repetition_penalty": Rule(float, f"between {1 / _FAR:g} and {_FAR:,.0f}",
                               "1 is no penalty, 1.1 is usual", low=1 / _FAR, high=_FAR),
    "temperature": Rule(float, f"at least 0 and at most {_FAR:,.0f}",
                        "0 is greedy, 1 is the model's own distribution", low=0, high=_FAR),
    "top_p": Rule(float, "above 0 and at most 1", "1 keeps every token", low=0, high=1, above_low=True),
    "min_p": Rule(float, "between 0 and 1", "0 keeps every token", low=0, high=1),
    "top_k": Rule(int, "an integer of at least -1", "0 and -1 keep every token", low=-1),
    "max_tokens": Rule(int, "an integer of at least 1", "ask for at least one token", low=1, or_none=True),
    "min_tokens": Rule(int, "between 0 and max_tokens={max_tokens}", "raise max_tokens or lower it",
                       low=0, high="max_tokens"),
    "seed": Rule(int, "None or an integer of at most 64 bits", "None draws anew each time",
                 low=-2**63, high=2**64 - 1, or_none=True),
    "logprobs": Rule(int, "None or an integer of at least 0", "0 reports only the token made",
                     low=0, or_none=True),
    "ignore_eos": Rule(bool, "True or False", "True goes on past the end of sequence"),
    "stop_token_ids": Rule(int, "a list of token ids: integers of at least 0",
                           "leave it out to stop only at the end of sequence", low=0, several=True),
    "stop": Rule(str, "a non-empty string or a list of them",
                 "leave it out to stop only at the end of sequence", low=1, several=True),
}
_N_IF_GREEDY = Rule(int, "1 at temperature 0", "all answers would be the same; raise temperature", high=1)


@config
class SamplingParams:
    """How to choose the next token, and when to stop. Penalty, temperature, top_k, top_p and min_p apply in
    this order.

    Raises ValueError for a value outside its range (see `RULES`), TypeError for an unknown key.
    """

    n: int = 1                                  # so many answers, each drawn for itself
    # Logits of tokens in the prompt or the answer so far are divided by it if above 0, multiplied if below
    # (Keskar et al. 2019). 1: no penalty.
    repetition_penalty: float = 1.0
    temperature: float = 1.0                    # 0 is greedy; 1 samples from the model's own distribution
    top_k: int = 0                              # keep the k likeliest (0 or -1: all)
    top_p: float = 1.0                          # keep the likeliest that together reach this probability
    min_p: float = 0.0                          # keep those at least so likely as min_p times the likeliest
    max_tokens: int | None = 16                 # at most so many new tokens; None: as many as have room
    min_tokens: int = 0                         # no end of sequence and no stop string before so many
    stop: str | Sequence[str] | None = ()       # the text ends before the first of these that appears
    stop_token_ids: Sequence[int] | None = ()   # ids that end the text, beside the model's own
    seed: int | None = None                     # same request, same seed, same tokens
    ignore_eos: bool = False                    # go on past the end of sequence
    # Report the log-probability of each token made and of so many of the likeliest (0: only of the one made;
    # None: report none).
    logprobs: int | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in RULES}
        self._keep_as_tuple("stop", (self.stop,) if isinstance(self.stop, str) else self.stop)
        self._keep_as_tuple("stop_token_ids", self.stop_token_ids)
        for name, rule in RULES.items():
            self._check(name, rule, given[name])
            if rule.kind is int:
                self._keep_as_int(name)
        if self.greedy:
            self._check("n", _N_IF_GREEDY, self.n)

    def within(self, room: int) -> "SamplingParams":
        """The same with max_tokens, and so min_tokens, no larger than `room`."""
        if self.max_tokens is not None and self.max_tokens <= room:
            return self
        return replace(self, max_tokens=room, min_tokens=min(self.min_tokens, room))

    @property
    def greedy(self) -> bool:
        """True if the likeliest token is always taken."""
        return self.temperature == 0

    def stop_ids(self, eos_ids: Iterable[int], vocab_size: int) -> frozenset[int]:
        """The ids that end an answer; those that the model cannot say are left out."""
        ends = set(self.stop_token_ids)
        if not self.ignore_eos:
            ends.update(eos_ids)
        return frozenset(token for token in ends if token < vocab_size)

    def _keep_as_tuple(self, name: str, values: Any) -> None:
        """One form inside: a tuple. What holds no values stays as it is, and is refused by its rule."""
        if values is None:
            values = ()
        elif isinstance(values, Iterable):
            values = tuple(values)
        object.__setattr__(self, name, values)

    def _keep_as_int(self, name: str) -> None:
        """One form inside: Python's own, whatever library the number comes from."""
        value = getattr(self, name)
        if isinstance(value, tuple):
            value = tuple(int(one) for one in value)
        elif value is not None:
            value = int(value)
        object.__setattr__(self, name, value)

    def _check(self, name: str, rule: Rule, given: Any) -> None:
        if not rule.allows(getattr(self, name), self):
            limit = rule.limit.format(max_tokens=self.max_tokens)
            raise ValueError(f"{name}={given!r}; it must be {limit} ({rule.remedy}).")


def _size_of(value: Any, kind: type) -> float | None:
    """What a rule compares: a number itself, a string's length; None if the value is not of this kind."""
    if kind is bool or isinstance(value, bool):
        return int(value) if kind is bool and isinstance(value, bool) else None
    if kind is str:
        return len(value) if isinstance(value, str) else None
    kinds = Integral if kind is int else Real
    return value if isinstance(value, kinds) else None
