"""One request on its way through the engine, as the scheduler sees it: integers.

    tokens    [ prompt ............ | made so far ... ]
    computed   ███████████████░░░░░                       keys and values of tokens[:computed] are in blocks
    waiting ──> running ──> finished
       └── preempted ─┘
"""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

Status = Literal["waiting", "running", "finished"]

UNKNOWN = -1          # stands for a request's newest token while only the device knows it


@dataclass(eq=False)
class Request:
    """What is asked, and how far it has come. Lower `priority` numbers go first; then first come."""

    id: str
    tokens: list[int]                                    # at first the prompt; then also what was made so far
    max_tokens: int                                      # it ends after so many new tokens
    priority: int = 0
    arrival: int | None = None                           # its number in the queue; None: the scheduler counts
    computed: int = 0                                    # keys and values of so many tokens are in its blocks
    blocks: list[int] = field(default_factory=list)      # that hold them, in order
    digests: list[bytes] = field(default_factory=list)   # of its first blocks, as far as anybody asked
    status: Status = "waiting"
    preemptions: int = 0                                 # how often it was pushed out
    cached_tokens: int = 0                               # tokens that its last admission found in the cache
    prompt_tokens: int = field(init=False)               # so many of its tokens were given

    def __post_init__(self) -> None:
        self.tokens = list(self.tokens)
        self.prompt_tokens = len(self.tokens)

    @property
    def prompt(self) -> list[int]:
        """The tokens that were given."""
        return self.tokens[:self.prompt_tokens]

    @property
    def pending(self) -> int:
        """Tokens that must be run before the next one can be made: 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def made(self) -> int:
        """Tokens made so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def age(self) -> tuple[int, int]:
        """Sorting key: who goes first."""
        return self.priority, self.arrival


def check_ids(prompt: list[int], vocab_size: int) -> None:
    """Raise ValueError for a prompt without tokens, or with one that the model does not know."""
    if not prompt:
        raise ValueError("the prompt is empty: the model needs at least one token to continue from.")
    for token in prompt:
        whole = isinstance(token, Integral) and not isinstance(token, bool)
        if not whole or not 0 <= token < vocab_size:
            raise ValueError(f"token id {token!r} is outside the vocabulary of {vocab_size:,}: ids are whole "
                             f"numbers from 0 to {vocab_size - 1:,}. Encode the prompt with the model's own "
                             "tokenizer.")
