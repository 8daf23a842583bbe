"""What each story is about, from its number alone.

    number ──► Order   hero, place, thing, subject ──► a request to the model
                       the story's first sentence       (the model goes on from it)
                       the first words of its last      (given where it does not end by itself)

All words here are our own. A model of 135M parameters that is asked for a story rambles; one that has been
given the first sentence goes on in its tone.
"""

from dataclasses import dataclass
from random import Random

_GIRLS = ("Mia", "Ada", "Lena", "Rosa", "Nina", "Ella", "Ivy", "Tess", "Cora", "June", "Kate", "Sara")
_BOYS = ("Tim", "Ben", "Noah", "Finn", "Sam", "Omar", "Jack", "Leo", "Max", "Paul", "Theo", "Hugo")
_NICKNAMES = ("Pip", "Bo", "Dot", "Zip", "Rusty", "Momo", "Fizz", "Nell", "Tuck", "Poppy", "Bean", "Coco",
              "Wim", "Pearl", "Button", "Moss")
_GIRL_KINDS = ("a girl", "a little girl", "a brave girl", "a shy girl", "a clever girl", "a young princess",
               "an old woman", "a kind grandmother")
_BOY_KINDS = ("a boy", "a little boy", "a brave boy", "a shy boy", "a clever boy", "a young prince",
              "an old farmer", "a kind grandfather")
_OTHER_KINDS = (
    "a little hen", "an old fox", "a shy mouse", "a baby elephant", "a small robot", "a brown bear",
    "a small dog", "a lazy cat", "a white rabbit", "a young owl", "a green frog", "a tiny ant", "a fat pig",
    "a little goat", "a hungry wolf", "a gentle horse", "a slow turtle", "a funny monkey", "a small dragon",
    "a little duck", "a busy bee", "a quiet deer", "a proud lion", "a baby bird")
_PLACES = (
    "in a garden", "by the sea", "in a snowy forest", "at the market", "on a farm", "in a big kitchen",
    "on a hill", "in a small village", "by a river", "in an old house", "at school", "in the park",
    "under a big tree", "on a boat", "in a barn", "at the top of a mountain", "in a busy town",
    "near a lake", "in a cave", "in a green meadow")
_THINGS = (
    "a red ball", "a lost key", "a broken cup", "a long rope", "a loud drum", "a blue kite", "a warm scarf",
    "a paper boat", "a shiny stone", "a little bell", "a big box", "a yellow hat", "a magic seed",
    "a small lamp", "an old map", "a wooden spoon", "a golden egg", "a soft blanket", "a basket of apples",
    "a chocolate cake", "a jar of honey", "a toy car", "a pair of boots", "a book of stories",
    "a sweet pear", "a silver coin", "a green umbrella", "a round mirror", "a feather", "a music box")
_SUBJECTS = (
    "a happy surprise", "learning to share", "being brave", "saying sorry", "helping a friend",
    "finding the way home", "making a new friend", "telling the truth", "a big storm", "working together",
    "being kind", "a funny mistake", "waiting for spring", "a birthday", "a lost toy", "a small adventure")
_OPENINGS = (
    "Once upon a time, there was {hero}.",
    "Once upon a time, there was {hero}. {name} lived {place}.",
    "One day, {hero} was {place}.",
    "It was a sunny morning {place}. {Hero} woke up early.",
    "There once lived {hero}. One day {name} found {thing}.",
    "{name} was {kind}. {name} had {thing}.",
    "Far away, {place}, lived {hero}.",
    "Everyone {place} knew {hero}.",
    "{Hero} looked for {thing}. It was gone!",
    "It was a cold day {place}. {name} saw {thing}.",
    "\"Look!\" said {name}. \"I found {thing}!\"",
    "{name} was sad. {name} had lost {thing}.",
    "One evening, {hero} heard a sound. It came from {thing}.",
    "{Hero} wanted to play {place}.",
    "{name} was {kind} who lived {place}. Every day {name} played with {thing}.",
    "It was raining {place}. {name} was not happy.")
_CLOSINGS = (
    "In the end, {name}", "That evening, {name}", "From that day on, {name}",
    "When the sun went down, {name}", "At last, {name}", "And so {name}", "That night, {name}",
    "After that, {name}",
    "At the end of the day, {name}", "Then {name} smiled and", "{name} was happy because", "Now {name}")
_REQUEST = ("Tell a story for a small child in one short paragraph. Use simple words and short sentences. "
            "The story is about {hero} {place}, {thing}, and {subject}.")


@dataclass(frozen=True)
class Order:
    """What the model is told of one story."""

    request: str
    opening: str          # whole sentences; the story's text begins with them
    closing: str          # the first words of a last sentence


def order(number: int, seed: int) -> Order:
    """The order of story `number`: the same for the same seed, and unlike its neighbours'."""
    draw = Random(f"{seed}/{number}")
    kinds, names = draw.choice((
        (_GIRL_KINDS, _GIRLS),
        (_BOY_KINDS, _BOYS),
        (_OTHER_KINDS, _NICKNAMES),
        (_OTHER_KINDS, _NICKNAMES)))
    kind = draw.choice(kinds)
    name = draw.choice(names)
    hero = f"{kind} named {name}"
    words = {
        "kind": kind,
        "name": name,
        "hero": hero,
        "Hero": hero[0].upper() + hero[1:],
        "place": draw.choice(_PLACES),
        "thing": draw.choice(_THINGS),
        "subject": draw.choice(_SUBJECTS),
    }
    return Order(
        request=_REQUEST.format(**words),
        opening=draw.choice(_OPENINGS).format(**words),
        closing=draw.choice(_CLOSINGS).format(**words))
