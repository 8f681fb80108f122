"""The closed sets of labels that aligned training data gives the compact parser."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from .compact_alignment import NOT_VERBS, Example
from .compact_labels import COPY, JOIN, PLACE, SINGULAR, VERB, Predicate, Vocabulary, predicate_of
from .compact_words import base_form, possible_base_forms
from .graph import SceneGraph


def vocabulary_of(pairs: Sequence[tuple[str, SceneGraph]], examples: Sequence[Example], least: int = 3) -> Vocabulary:
    """The rewrites, patterns and verb forms that occur at least `least` times in aligned examples."""
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
    fixed = [COPY, JOIN, SINGULAR]
    return Vocabulary(
        fixed + [r for r, n in entity.most_common() if n >= least and r not in fixed],
        fixed + [r for r, n in attribute.most_common() if n >= least and r not in fixed],
        [p for p, n in patterns.most_common() if n >= least],
        _needed_words(examples),
        exceptions,
        sorted(verbs),
    )


def _needed_words(examples: Sequence[Example], share: float = 0.95, least: int = 5) -> list[str]:
    """Words of patterns that stand in nearly every sentence whose relations have them."""
    seen: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for example in examples:
        words = {token.text for token in example.tokens}
        for relation in example.labels.relations:
            for word in set(relation.pattern.split()) - {VERB, PLACE}:
                seen[word] += 1
                there[word] += word in words
    return sorted(word for word, n in seen.items() if n >= least and there[word] / n >= share)


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
