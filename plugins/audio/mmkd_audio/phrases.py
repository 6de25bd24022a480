"""450 short English phrases to be spoken, each with a paraphrase in other words."""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import NamedTuple

EACH = 150
"""Phrases of each pattern."""

THINGS = (
    {"find": "locate", "fix": "repair", "clean": "wash", "move": "shift", "hide": "conceal", "paint": "colour"},
    {
        "lamp": "light", "couch": "sofa", "carpet": "rug", "bike": "bicycle", "cup": "mug", "picture": "photo",
        "box": "carton", "coat": "jacket", "shoes": "boots", "phone": "mobile", "car": "vehicle", "bag": "suitcase",
    },
    {
        "kitchen": "room for cooking", "bedroom": "room for sleeping", "garden": "yard", "office": "workplace",
        "cellar": "basement", "attic": "loft", "hall": "corridor", "bathroom": "room with the shower",
    },
)  # fmt: skip
ANIMALS = (
    {
        "dog": "puppy", "cat": "kitten", "horse": "pony", "rabbit": "bunny", "frog": "toad", "snake": "serpent",
        "pig": "hog", "bird": "sparrow", "fish": "trout", "sheep": "lamb",
    },
    {
        "sleeps": "naps", "runs": "sprints", "jumps": "leaps", "eats": "feeds", "waits": "stays there",
        "drinks": "sips water",
    },
    {
        "near the river": "by the stream", "under the tree": "below the oak", "on the hill": "atop the slope",
        "in the forest": "in the woods", "behind the house": "at the back of the home",
        "beside the road": "along the street",
    },
)  # fmt: skip
PEOPLE = (
    {
        "my sister": "a girl in my family", "my mother": "mum", "my father": "dad", "my friend": "a buddy of mine",
        "the teacher": "the instructor", "the doctor": "the physician", "the king": "his majesty",
        "the farmer": "the man who grows crops",
    },
    {
        "cook dinner": "prepare supper", "play football": "kick a soccer ball", "read a book": "study a novel",
        "drink coffee": "sip espresso", "write a letter": "compose a note", "watch a movie": "see a film",
        "ride a train": "travel by rail", "sing a song": "perform some music",
    },
    {
        "tomorrow": "the next day", "tonight": "this evening", "on sunday": "at the weekend",
        "in summer": "when it is warm", "in winter": "when snow falls", "before lunch": "prior to the noon meal",
    },
)  # fmt: skip
PATTERNS = {
    "{} the {} in the {}": THINGS,
    "the {} {} {}": ANIMALS,
    "{} wants to {} {}": PEOPLE,
}


class Phrase(NamedTuple):
    """What is spoken, and the same in words that none of the phrases has."""

    text: str
    paraphrase: str


@functools.cache
def phrases() -> tuple[Phrase, ...]:
    """The same 450 everywhere, in the same order: of each pattern those whose texts have the smallest checksums."""
    found: list[Phrase] = []
    for pattern, slots in PATTERNS.items():
        every = [
            Phrase(
                pattern.format(*chosen), pattern.format(*(slot[word] for slot, word in zip(slots, chosen, strict=True)))
            )
            for chosen in itertools.product(*slots)
        ]
        found += sorted(every, key=lambda phrase: digest(phrase.text))[:EACH]
    return tuple(found)


def digest(text: str) -> int:
    """A number that is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
