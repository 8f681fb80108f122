"""Misspelt words of captions and the words that were meant: FACTUAL's graphs have them spelt right."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import lru_cache

from .compact_words import possible_base_forms


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST, LONGEST = 4, 20  # letters of a word that can be told to be misspelt


class Spelling:
    """Corrects words that are one slip away from a common word of graphs.

    A slip is a letter too many, too few, wrong, or two that changed places (Damerau, 1964).

    Args:
        common (`Mapping[str, int]`): Words that may have been meant, with how often graphs have them.
        known (`Iterable[str]`): Words that are right as they stand.
    """

    def __init__(self, common: Mapping[str, int], known: Iterable[str]):
        self.common, self.known = dict(common), frozenset(known)
        self._word = lru_cache(maxsize=65536)(self._corrected_word)

    def corrected(self, phrase: str) -> str:
        """The phrase with its misspelt words put right; unchanged where nothing is wrong or nothing is near.

        Args:
            phrase (`str`): One or more words.

        Examples:
            `corrected("red buidling")` -> `"red building"`
        """
        return " ".join(map(self._word, phrase.split()))

    def _corrected_word(self, word: str) -> str:
        if not (SHORTEST <= len(word) <= LONGEST and word.isascii() and word.isalpha()):
            return word
        if any(form in self.known for form in possible_base_forms(word)):
            return word
        near = self.common.keys() & slips(word)
        return max(near, key=lambda w: (self.common[w], w), default=word)


def slip(word: str, rng: random.Random) -> str:
    """The word with one random slip; the first letter stays, as it mostly does where people mistype.

    Args:
        word (`str`): One word.
        rng (`random.Random`): Chooses the slip.
    """
    i = rng.randrange(1, max(len(word), 2))
    kinds = (
        word[:i] + word[i + 1 :],
        word[:i] + word[i : i + 2][::-1] + word[i + 2 :],
        word[:i] + word[i - 1] + word[i:],
    )
    letter = rng.choice(_LETTERS)
    return rng.choice([*kinds, word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :]])


def slips(word: str) -> set[str]:
    """All strings one slip away from a word of `n` letters, about `54 n` of them.

    Args:
        word (`str`): In lower case.
    """
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    found = {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    return found.union(*({a + c + b, a + c + b[1:]} for a, b in cuts for c in _LETTERS))
