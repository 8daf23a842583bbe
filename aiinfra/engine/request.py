"""One request on its way through the engine, as the scheduler sees it: integers.

    tokens    [ prompt ............ | made so far ... ]
    computed   ███████████████░░░░░                       keys and values of tokens[:computed] are in blocks
    waiting ──> running ──> finished
       └── preempted ─┘
"""

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["waiting", "running", "finished"]

UNKNOWN = -1          # stands for a request's newest token while only the device knows it


@dataclass(eq=False)
class Request:
    """What is asked, and how far it has come. Lower `priority` numbers go first; then first come."""

    id: str
    tokens: list[int]                                     # given: the prompt; then also what was made so far
    max_tokens: int
    priority: int = 0
    arrival: int | None = None                            # the how-manieth; the scheduler counts, unless it is given
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)    # of its first blocks of tokens, as far as anybody asked
    status: Status = "waiting"
    preemptions: int = 0
    cached_tokens: int = 0                                # of its last admission: found, not computed
    prompt_tokens: int = field(init=False)

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
