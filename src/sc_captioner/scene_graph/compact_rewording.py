"""More training sentences from those there are: the same structure with other things and other attributes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from .compact_alignment import Example
from .compact_labels import COPY, SPELL, Span
from .compact_spelling import Spelling, slip


class Rewording:
    """Puts words of the corpus in the place of a sentence's heads and attributes; labels stay as they are.

    Heads change for heads of the same number, attributes for attributes, both only where they are one word that the
    graph has as it stands. What a parser then learns of a sentence is how it is built, not what it happens to name.

    Args:
        corpus (`Iterable[Example]`): Where the words come from, the common ones as often as they occur.
        spelling (`Spelling`): Tells which slips of a word can be put right.
        share (`float`): Share of the words that change in a sentence that is reworded.
    """

    def __init__(self, corpus: Iterable[Example], spelling: Spelling, share: float = 0.4):
        self.share, self.spelling = share, spelling
        self.heads: dict[bool, list[str]] = {False: [], True: []}
        self.attributes: list[str] = []
        for example in corpus:
            for word in (example.tokens[s.first].text for s in example.labels.entities if _one_copied_word(s)):
                self.heads[_is_plural(word)].append(word)
            self.attributes += [example.tokens[s.first].text for s in example.labels.attributes if _one_copied_word(s)]

    def reworded(self, example: Example, rng: random.Random) -> Example:
        """The example with some of its words changed.

        Args:
            example ([`Example`]): Stays as it is.
            rng (`random.Random`): Chooses the words.
        """
        tokens = list(example.tokens)
        taken = {i for s in (*example.labels.entities, *example.labels.places) for i in range(s.first, s.last + 1)}
        verbs = {r.verb for r in example.labels.relations}
        for span in example.labels.entities:
            if _one_copied_word(span) and rng.random() < self.share:
                choices = self.heads[_is_plural(tokens[span.first].text)]
                if choices:
                    tokens[span.first] = replace(tokens[span.first], text=rng.choice(choices))
        for span in example.labels.attributes:
            free = span.first not in taken and span.first not in verbs
            if free and _one_copied_word(span) and self.attributes and rng.random() < self.share:
                tokens[span.first] = replace(tokens[span.first], text=rng.choice(self.attributes))
        return replace(example, tokens=tokens)

    def misspelt(self, example: Example, rng: random.Random) -> Example:
        """The example with a slip in one of its heads or attributes, if it has one that can be put right again.

        Args:
            example ([`Example`]): Stays as it is.
            rng (`random.Random`): Chooses word and slip.
        """
        named = [*example.labels.entities, *example.labels.attributes]
        spans = [span for span in named if _one_copied_word(span)]
        if not spans:
            return example
        span = rng.choice(spans)
        word = example.tokens[span.first].text
        wrong = slip(word, rng)
        alone = sum(s.first <= span.first <= s.last for s in (*named, *example.labels.places)) == 1
        if not alone or wrong == word or self.spelling.corrected(wrong) != word:
            return example
        tokens = list(example.tokens)
        tokens[span.first] = replace(tokens[span.first], text=wrong)
        meant = replace(span, rewrite=SPELL)
        labels = replace(
            example.labels,
            entities=tuple(meant if s == span else s for s in example.labels.entities),
            attributes=tuple(meant if s == span else s for s in example.labels.attributes),
        )
        return replace(example, tokens=tokens, labels=labels)


def _one_copied_word(span: Span) -> bool:
    return span.first == span.last and span.rewrite == COPY


def _is_plural(word: str) -> bool:
    return word.endswith("s") and not word.endswith("ss")
