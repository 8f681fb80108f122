"""The closed sets of labels that aligned training data gives the compact parser."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from .compact_alignment import NOT_VERBS, Example
from .compact_labels import PLACE, RULES, VERB, Predicate, Vocabulary, predicate_of
from .compact_spelling import Spelling
from .compact_words import base_form, possible_base_forms
from .graph import SceneGraph


def vocabulary_of(
    pairs: Sequence[tuple[str, SceneGraph]], examples: Sequence[Example], spelling: Spelling, least: int = 3
) -> Vocabulary:
    """The rewrites, patterns and verb forms that occur at least `least` times in aligned examples.

    Args:
        pairs (`Sequence[tuple[str, SceneGraph]]`): Sentences with their graphs.
        examples (`Sequence[Example]`): The same, aligned.
        spelling ([`Spelling`]): Puts misspelt words right.
        least (`int`, defaults to `3`): What occurs less often is left out.
    """
    entity = Counter(span.rewrite for e in examples for span in e.labels.entities)
    attribute = Counter(span.rewrite for e in examples for span in e.labels.attributes)
    patterns = Counter(r.pattern for e in examples for r in e.labels.relations)
    bases: dict[str, Counter] = defaultdict(Counter)
    for example, (_, graph) in zip(examples, pairs):
        predicates = {(r.subject, r.object): r for r in example.labels.relations}
        for word, base in _verbs_of(example, graph, predicates.values()):
            bases[word][base] += 1
    best = {word: max(sorted(forms), key=lambda f: forms[f]) for word, forms in bases.items()}
    known = Counter(base for word, base in best.items() if base in possible_base_forms(word))
    verbs = frozenset(known)
    exceptions = {w: b for w, b in sorted(best.items()) if base_form(w, {}, verbs) != b}
    kept = [p for p, n in patterns.most_common() if n >= least]
    return Vocabulary(
        [*RULES, *(r for r, n in entity.most_common() if n >= least and r not in RULES)],
        [*RULES, *(r for r, n in attribute.most_common() if n >= least and r not in RULES)],
        kept,
        sorted({word for pattern in kept for word in pattern.split()} - {VERB, PLACE}),
        _sources(examples),
        spelling.common,
        sorted(spelling.known),
        exceptions,
        sorted(verbs),
    )


def _sources(examples: Sequence[Example]) -> dict[str, list[str]]:
    """What stands in the sentences where a rewrite stands in the graphs."""
    found: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        for span in (*example.labels.entities, *example.labels.attributes):
            if span.rewrite not in RULES:
                words = (token.text for token in example.tokens[span.first : span.last + 1])
                found[span.rewrite].add(" ".join(words))
    return {rewrite: sorted(texts) for rewrite, texts in sorted(found.items())}


def _verbs_of(example: Example, graph: SceneGraph, relations: Iterable[Predicate]):
    """Pairs (word in the sentence, base form in the graph) of the predicates that have a verb."""
    texts = [r.relation for r in graph.relations]
    for relation in relations:
        if relation.verb < 0:
            continue
        whole = predicate_of(example.tokens, relation, example.labels.places, {})
        rest = whole.split()[1:]
        word = example.tokens[relation.verb].text
        for text in texts:
            verb, *after = text.split()
            alike = verb in possible_base_forms(word) or verb[:1] == word[:1]
            if after == rest and alike and verb not in NOT_VERBS:
                yield word, verb
