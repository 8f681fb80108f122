"""Matching of phrases against phrases, shared by the correction reward and the metrics.

All functions are deterministic and see their arguments as collections without order: what is greedy in the released
code runs over sorted phrases here, so that neither hash seeds nor input order change a result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .scene_graph.encoder import PhraseEncoder
    from .scene_graph.graph import SceneGraph
    from .scene_graph.lexicon import Lexicon

Phrase = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """What a three-stage match of candidates against references found.

    Args:
        exact, synonym (`int`): Pairs of equal phrases and of synonyms or substrings.
        candidate_sum (`float`): Pairs, plus the best cosine of every candidate left over; up to `num_candidates`.
        reference_sum (`float`): The same over references; up to `num_references`.
        num_candidates, num_references (`int`): Sizes of both sides.
    """

    exact: int
    synonym: int
    candidate_sum: float
    reference_sum: float
    num_candidates: int
    num_references: int

    @property
    def precision(self) -> float:
        """Candidate side over `num_candidates + 1e-6`."""
        return self.candidate_sum / (self.num_candidates + EPSILON)

    @property
    def recall(self) -> float:
        """Reference side over `num_references + 1e-6`."""
        return self.reference_sum / (self.num_references + EPSILON)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 where both are 0."""
        return f1_score(self.precision, self.recall)


EPSILON = 1e-6  # the released code's guard against division by zero; it also makes a perfect score 0.999999


def f1_score(precision: float, recall: float) -> float:
    """Harmonic mean with the released guard in the denominator.

    Args:
        precision (`float`): In [0, 1].
        recall (`float`): In [0, 1].
    """
    return 2 * precision * recall / (precision + recall + EPSILON)


def similarities(encoder: PhraseEncoder, rows: Sequence[str], columns: Sequence[str]) -> NDArray[np.float32]:
    """Cosines of every row phrase with every column phrase, shape `(len(rows), len(columns))`, in [-1, 1].

    Args:
        encoder ([`PhraseEncoder`]): Vectors of phrases, each of length 1.
        rows (`Sequence[str]`): Phrases, `N` of them.
        columns (`Sequence[str]`): Phrases, `M` of them.
    """
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)), dtype=np.float32)
    vectors = encoder.encode([*rows, *columns])
    return vectors[: len(rows)] @ vectors[len(rows) :].T


def written(phrase: Phrase) -> str:
    """A phrase as one string; the terms of a triple are joined by blanks.

    Args:
        phrase (`Phrase`): A phrase or a triple.
    """
    return phrase if isinstance(phrase, str) else " ".join(phrase)


def alike(first: Phrase, second: Phrase, lexicon: Lexicon) -> bool:
    """CAPTURE's second stage: one phrase is a substring of the other, or they share a WordNet synonym.

    Triples are alike if all their terms are.

    Args:
        first (`Phrase`): A phrase or a triple.
        second (`Phrase`): Another of the same kind.
        lexicon ([`Lexicon`]): Synonyms.
    """
    if isinstance(first, str) and isinstance(second, str):
        return first in second or second in first or lexicon.are_synonyms(first, second)
    return all(alike(a, b, lexicon) for a, b in zip(first, second))


@dataclass(frozen=True, slots=True)
class Pairing:
    """The first two stages of a match, which need no encoder.

    Args:
        exact, synonym (`int`): Pairs of equal phrases and of phrases that are [`alike`].
        left, free (`list[Phrase]`): Candidates and references without a partner, sorted.
    """

    exact: int
    synonym: int
    left: list[Phrase]
    free: list[Phrase]

    def phrases(self) -> Iterator[str]:
        """What the third stage will compare."""
        if self.left and self.free:
            yield from map(written, self.left)
            yield from map(written, self.free)

    def settled(self, encoder: PhraseEncoder) -> Match:
        """The whole match: leftovers add their best cosine on the other side.

        Args:
            encoder ([`PhraseEncoder`]): Vectors of phrases.
        """
        pairs = self.exact + self.synonym
        candidate_sum = reference_sum = float(pairs)
        if self.left and self.free:
            cosines = similarities(encoder, list(map(written, self.left)), list(map(written, self.free)))
            # Below 0 the released sums would run out of [0, 1], and an F1 of opposite signs has no bound.
            cosines = cosines.astype(np.float64).clip(0, 1)
            candidate_sum += float(cosines.max(axis=1).sum())
            reference_sum += float(cosines.max(axis=0).sum())
        sizes = pairs + len(self.left), pairs + len(self.free)
        return Match(self.exact, self.synonym, candidate_sum, reference_sum, *sizes)


def pair_off(candidates: Collection[Phrase], references: Collection[Phrase], lexicon: Lexicon) -> Pairing:
    """The first two stages of a match: equal phrases pair off one to one, then phrases that are [`alike`].

    Where a phrase has several partners the released code takes whichever comes first in its set; here both sides are
    sorted, and each candidate takes the first free reference.

    Args:
        candidates (`Collection[Phrase]`): Phrases or triples of the caption to score; one that occurs twice counts
            twice.
        references (`Collection[Phrase]`): Those of the reference.
        lexicon ([`Lexicon`]): Synonyms.
    """
    ours, theirs = Counter(candidates), Counter(references)
    exact = (ours & theirs).total()
    free = sorted((theirs - ours).elements())
    rest = sorted((ours - theirs).elements())
    left: list[Phrase] = []
    for candidate in rest:
        partner = next((i for i, reference in enumerate(free) if alike(candidate, reference, lexicon)), None)
        if partner is None:
            left.append(candidate)
        else:
            del free[partner]
    return Pairing(exact, len(rest) - len(left), left, free)


def match(
    candidates: Collection[Phrase], references: Collection[Phrase], lexicon: Lexicon, encoder: PhraseEncoder
) -> Match:
    """Three-stage match: equal, alike, and for the rest the best cosine on the other side (docs/concepts.md).

    Args:
        candidates, references (`Collection[str]` or `Collection[tuple]`): Phrases or triples; a phrase that occurs
            twice counts twice.
        lexicon ([`Lexicon`]): For the second stage.
        encoder ([`PhraseEncoder`]): For the third.
    """
    return pair_off(candidates, references, lexicon).settled(encoder)


def lemmatised(graph: SceneGraph, lexicon: Lexicon) -> LemmatisedGraph:
    """A graph by lemmas: nouns for heads, adjectives for attributes; attributes with " of" in them are dropped.

    Args:
        graph ([`SceneGraph`]): As parsed.
        lexicon ([`Lexicon`]): Lemmas of nouns and adjectives.
    """
    heads = [lexicon.noun_lemma(entity.head) for entity in graph.entities]
    attributes: dict[str, set[str]] = {}
    for head, entity in zip(heads, graph.entities):
        for attribute in entity.attributes:
            lemma = lexicon.adjective_lemma(attribute)
            if " of" not in lemma:
                attributes.setdefault(head, set()).add(lemma)
    triples = frozenset((heads[r.subject], r.relation, heads[r.object]) for r in graph.relations)
    return LemmatisedGraph(
        frozenset(heads), {head: frozenset(attributes[head]) for head in sorted(attributes)}, triples
    )


@dataclass(frozen=True, slots=True)
class LemmatisedGraph:
    """Objects, attributes by head and triples, heads as noun lemmas, attributes as adjective lemmas.

    Args:
        objects (`frozenset[str]`): Heads.
        attributes (`dict[str, frozenset[str]]`): By head.
        triples (`frozenset[tuple[str, str, str]]`): Head, predicate, head.
    """

    objects: frozenset[str]
    attributes: dict[str, frozenset[str]]
    triples: frozenset[tuple[str, str, str]]


@lru_cache(1)
def stop_words() -> frozenset[str]:
    """Heads that name no object, such as `background` or `image`: `capture_metric.stop_words.stop_words_list`.

    Raises:
        ImportError: If capture_metric is not installed, or holds no such list.
    """
    # Read from its file: importing the package imports torch and tries to download NLTK data.
    import ast
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("capture_metric")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The list of stop words belongs to capture_metric: pip install capture_metric")
    source = (Path(spec.submodule_search_locations[0]) / "stop_words.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "stop_words_list" for t in node.targets):
            return frozenset(ast.literal_eval(node.value))
    raise ImportError("capture_metric.stop_words holds no stop_words_list; version 0.1.13 is known to.")


class Mentions:
    """Which phrases occur in a text: the n-grams of one caption, lemmatised on first use.

    A phrase of n words occurs if an n-gram, lemmatised, equals its lemmas or is [`alike`] them; a phrase of two words
    also if it is written as one, a phrase of one word also if it is written as two.

    Args:
        text (`str`): The caption.
        lexicon ([`Lexicon`]): Tokens, lemmas and synonyms.
    """

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.words = tuple(token.lower() for token in lexicon.tokens(text))
        self._written: dict[tuple[int, str], frozenset[str]] = {}
        self._lemmas: dict[tuple[int, str], frozenset[str]] = {}

    def __contains__(self, phrase: str) -> bool:
        size = len(phrase.split())
        if size == 0:
            return False
        return (
            self._occurs(phrase.lower(), size)
            or (size == 2 and self._occurs(re.sub(r"\s+", "", phrase).lower(), 1))
            or (size == 1 and self._occurs(phrase.lower(), 2, glue=""))
        )

    def _occurs(self, phrase: str, size: int, glue: str = " ") -> bool:
        if phrase in self.ngrams(size, glue):  # equal strings have equal lemmas: most heads end here
            return True
        lemma = self.lexicon.phrase_lemma(phrase)
        grams = self.lemmas(size, glue)
        return lemma in grams or any(alike(gram, lemma, self.lexicon) for gram in grams)

    def ngrams(self, size: int, glue: str = " ") -> frozenset[str]:
        """Runs of `size` words in lower case, joined by `glue`.

        Args:
            size (`int`): Words in a row, 1 or more.
            glue (`str`, defaults to `" "`): What stands between them.
        """
        if (size, glue) not in self._written:
            runs: Iterable[tuple[str, ...]] = zip(*(self.words[i:] for i in range(size)))
            self._written[size, glue] = frozenset(glue.join(run) for run in runs)
        return self._written[size, glue]

    def lemmas(self, size: int, glue: str = " ") -> frozenset[str]:
        """Lemmatised n-grams, each tagged by itself.

        Args:
            size (`int`): Words in a row, 1 or more.
            glue (`str`, defaults to `" "`): What stands between them.
        """
        if (size, glue) not in self._lemmas:
            self._lemmas[size, glue] = frozenset(map(self.lexicon.phrase_lemma, self.ngrams(size, glue)))
        return self._lemmas[size, glue]
