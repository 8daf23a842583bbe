"""Which raw stories are kept, and why the others are not. Each reason is one short function.

    raw ──tidy──► cut off? too short? foreign? loops? about the story? ──► a copy of one before? ──► kept
                     └─────────┴────────┴────────┴──────────┴──────────────────┘
                                     the first reason found is counted

Invariant: no two kept stories share a tenth of their shingles (runs of five words), so no part of a split can
be learnt by heart from another.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiinfra.files import write_text
from aiinfra.lab.stories.write import RawStory
from aiinfra.train.corpus import END_OF_TEXT

_FEWEST_WORDS = 40
_SHINGLE = 5                  # words
_MOST_SHARED = 0.1            # of a story's shingles, with any one story before it
_RUN = 4                      # words; the same run again and again is a loop
_FEWEST_DISTINCT = 0.85       # of a story's runs
_PLAIN = str.maketrans("‘’“”–—\u00a0", "''\"\"-- ")
_SENTENCE = re.compile(r"[^.!?]+")
_ABOUT_ITSELF = re.compile(
    r"\b(this|the|a|short|bedtime) (story|tale|paragraph) (is|was|has|ends|shows|tells|about)\b"
    r"|\bin this story\b|\bmoral of\b|\bsimple words\b|\bshort sentences\b|\bend of the story\b"
    r"|\bonce upon a time\b.*\bonce upon a time\b|\bnutshell\b|\bAI\b|\bSmolLM\b",
    re.IGNORECASE | re.DOTALL)


@dataclass
class Sieved:
    """The stories that are kept, in the order of their numbers, and how many were refused for which
    reason."""

    kept: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def sieve(stories: Iterable[RawStory]) -> Sieved:
    """Tidy each story, and keep those that nothing speaks against."""
    found = Sieved()
    copies = _Copies()
    for story in sorted(stories, key=lambda story: story.number):
        text = tidy(story.text)
        reason = fault(text, story.ended)
        if reason is None and copies.has_one_like(text):
            reason = "copy"
        if reason is None:
            copies.add(text)
            found.kept.append(text)
        else:
            found.refused[reason] += 1
    return found


def write_corpus(stories: Sequence[str], path: Path) -> None:
    """Write the stories as `aiinfra.train.corpus.read_documents` reads them, whole or not at all. Raises
    ValueError if there are none."""
    if not stories:
        raise ValueError("no story is left: there is nothing to write.")
    between = f"\n{END_OF_TEXT}\n"
    write_text(path, between.join(stories) + "\n")


def tidy(text: str) -> str:
    """Straight quotes, one space between words, one end of line between paragraphs; a quotation that is still
    open at the end is closed."""
    plain = text.replace("…", "...").translate(_PLAIN)
    lines = [" ".join(line.split()) for line in plain.splitlines()]
    tidied = "\n".join(line for line in lines if line)
    if tidied.count('"') % 2 and tidied[-1:] in ".!?":
        tidied += '"'
    return tidied


def fault(text: str, ended: bool) -> str | None:
    """What speaks against a story, looked at alone; None if nothing does."""
    if not ended or not re.search(r'[.!?]"?$', text):
        return "cut off"
    if len(text.split()) < _FEWEST_WORDS:
        return "too short"
    if not all(letter == "\n" or " " <= letter <= "~" for letter in text):
        return "foreign letters"
    if _loops(text):
        return "loop"
    if _ABOUT_ITSELF.search(text):
        return "about itself"
    return None


def _loops(text: str) -> bool:
    """Whether the same words come again and again, or a sentence comes twice."""
    runs = list(_runs(text, _RUN))
    sentences = [" ".join(_words(sentence)) for sentence in _SENTENCE.findall(text)]
    long_ones = [sentence for sentence in sentences if sentence.count(" ") >= _RUN]
    said_twice = len(set(long_ones)) < len(long_ones)
    return said_twice or len(set(runs)) < _FEWEST_DISTINCT * len(runs)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    for start in range(len(words) - length + 1):
        yield tuple(words[start:start + length])


class _Copies:
    """Which shingle has been seen in which stories."""

    def __init__(self) -> None:
        self._homes: dict[tuple[str, ...], list[int]] = {}
        self._stories = 0

    def has_one_like(self, text: str) -> bool:
        """Whether a story before shares too many of this one's shingles."""
        shingles = set(_runs(text, _SHINGLE))
        shared = Counter(home for shingle in shingles for home in self._homes.get(shingle, ()))
        most = max(shared.values(), default=0)
        return most > _MOST_SHARED * len(shingles)

    def add(self, text: str) -> None:
        """Remember a story that is kept."""
        for shingle in set(_runs(text, _SHINGLE)):
            self._homes.setdefault(shingle, []).append(self._stories)
        self._stories += 1
