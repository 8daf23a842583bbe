"""What a request asks of the sampler, under vLLM's names, checked when it is written down."""

from collections.abc import Iterable, Sequence

from aiinfra.config import config

_FAR = 1e6      # as a temperature, logits 0.1 apart are one float32 rounding apart; as a penalty, those up to 1e32 stay finite


@config
class SamplingParams:
    """How to choose the next token, and when to stop.

    n: so many answers, each drawn for itself. repetition_penalty: logits of tokens in the prompt or the answer so
    far are divided by it if above 0, multiplied if below (Keskar et al. 2019; 1: no penalty). temperature: 0 is
    greedy; 1 samples from the model's own distribution. top_k: keep the k likeliest (0 or -1: all). top_p: keep
    the likeliest that together reach this probability. min_p: keep those at least so likely as min_p times the
    likeliest. They apply in this order. seed: same request, same seed, same tokens. max_tokens: at most so many
    new tokens. min_tokens: no end of sequence and no stop string before so many. stop: a string or several; the
    text ends before the first that appears. stop_token_ids: ids that end the text, beside the model's own.
    ignore_eos: go on past the end of sequence. logprobs: report the log-probability of each token made and of so
    many of the likeliest (0: only of the one made; None: report none).

    Raises ValueError for a value outside its range, TypeError for an unknown key.
    """

    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 16
    min_tokens: int = 0
    stop: str | Sequence[str] | None = ()
    stop_token_ids: Sequence[int] | None = ()
    seed: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _check(_integer(self.n) and self.n >= 1, "n", self.n, "an integer of at least 1", "1 is one answer")
        _check(_number(self.repetition_penalty) and 1 / _FAR <= self.repetition_penalty <= _FAR, "repetition_penalty",
               self.repetition_penalty, f"between {1 / _FAR:g} and {_FAR:,.0f}", "1 is no penalty, 1.1 is usual")
        _check(_number(self.temperature) and 0 <= self.temperature <= _FAR, "temperature", self.temperature,
               f"at least 0 and at most {_FAR:,.0f}", "0 is greedy, 1 is the model's own distribution")
        _check(_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1", "1 keeps every token")
        _check(_number(self.min_p) and 0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1", "0 keeps every token")
        _check(_integer(self.top_k) and self.top_k >= -1, "top_k", self.top_k,
               "an integer of at least -1", "0 and -1 keep every token")
        _check(_integer(self.max_tokens) and self.max_tokens >= 1, "max_tokens", self.max_tokens,
               "an integer of at least 1", "ask for at least one token")
        _check(_integer(self.min_tokens) and 0 <= self.min_tokens <= self.max_tokens, "min_tokens",
               self.min_tokens, f"between 0 and max_tokens={self.max_tokens}", "raise max_tokens or lower it")
        _check(self.seed is None or _integer(self.seed) and -2**63 <= self.seed < 2**64, "seed", self.seed,
               "None or an integer of at most 64 bits", "None draws anew each time")
        _check(self.logprobs is None or _integer(self.logprobs) and self.logprobs >= 0, "logprobs", self.logprobs,
               "None or an integer of at least 0", "0 reports only the token made")
        _check(self.n == 1 or not self.greedy, "n", self.n, "1 at temperature 0", "all answers would be the same; raise temperature")
        _check(isinstance(self.ignore_eos, bool), "ignore_eos", self.ignore_eos, "True or False", "True goes on past the end of sequence")
        stop, ids = _several((self.stop,) if isinstance(self.stop, str) else self.stop), _several(self.stop_token_ids)
        _check(ids is not None and all(_integer(i) and i >= 0 for i in ids), "stop_token_ids", self.stop_token_ids,
               "a list of token ids: integers of at least 0", "leave it out to stop only at the end of sequence")
        _check(stop is not None and all(isinstance(s, str) and s for s in stop), "stop", self.stop,
               "a non-empty string or a list of them", "leave it out to stop only at the end of sequence")
        object.__setattr__(self, "stop", stop)                  # one form inside: a tuple of strings
        object.__setattr__(self, "stop_token_ids", ids)

    @property
    def greedy(self) -> bool:
        """True if the likeliest token is always taken."""
        return self.temperature == 0


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _several(values: object) -> tuple | None:
    """As a tuple, empty for None; None for what holds no values."""
    return () if values is None else tuple(values) if isinstance(values, Iterable) else None


def _check(good: bool, name: str, value: object, limit: str, remedy: str) -> None:
    if not good:
        raise ValueError(f"{name}={value!r}; it must be {limit} ({remedy}).")
