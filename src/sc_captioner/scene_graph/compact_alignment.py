"""From gold graphs to labels: where in its sentence does each fact of a graph stand?

Used in training only. Words of a graph that do not stand in the sentence (`2` for `two`, `have` for `of`, `wooden` for
`wood`) are traced to a word that goes with them throughout the corpus, as in word alignment of parallel texts.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .compact_labels import COPY, JOIN, SINGULAR, VERB, Labels, Predicate, Span, Vocabulary, singular
from .compact_words import Token, base_form, possible_base_forms, tokens_of
from .graph import SceneGraph


# Words that open a predicate without being its verb, even where their form could be one (`like`, `over`, `near`).
NOT_VERBS = frozenset(
    [
        "on",
        "in",
        "of",
        "with",
        "at",
        "by",
        "to",
        "for",
        "from",
        "near",
        "under",
        "over",
        "above",
        "below",
        "behind",
        "beside",
        "between",
        "around",
        "inside",
        "into",
        "onto",
        "outside",
        "off",
        "out",
        "up",
        "down",
        "through",
        "across",
        "along",
        "against",
        "among",
        "beneath",
        "underneath",
        "beyond",
        "past",
        "like",
        "as",
        "without",
        "next",
        "front",
        "top",
        "towards",
        "toward",
        "upon",
        "within",
        "over",
        "about",
        "after",
        "before",
        "during",
        "have",
        "be",
        "is",
        "opposite",
        "via",
        "per",
        "amid",
        "alongside",
        "atop",
    ]
)
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "are",
        "has",
        "had",
        "was",
        "were",
        "his",
        "her",
        "its",
        "their",
        "two",
        "who",
        "that",
        "this",
        "there",
        "is",
        "it",
    ]
)
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence, its tokens, its labels and the number of facts of its graph that no label stands for."""

    sentence: str
    tokens: list[Token]
    labels: Labels
    lost: int


@dataclass
class Aligner:
    """Labels sentences with their graphs.

    Args:
        min_count (`int`): A pattern or a rewrite that stands for fewer gold words is not learnt.
    """

    min_count: int = 3
    heads: dict[str, dict[str, float]] = field(default_factory=dict)
    attributes: dict[str, dict[str, float]] = field(default_factory=dict)
    verbs: dict[str, dict[str, float]] = field(default_factory=dict)

    def fit(self, pairs: Sequence[tuple[str, SceneGraph]]) -> Aligner:
        """Learn from the corpus which words stand for which graph words that are not in their sentence."""
        sentences = [[t.text for t in tokens_of(sentence)] for sentence, _ in pairs]
        counts = Counter(word for words in sentences for word in set(words))
        unseen: tuple[list, list, list] = ([], [], [])
        for words, (_, graph) in zip(sentences, pairs):
            for entity in graph.entities:
                if not _occurrences(words, entity.head):
                    unseen[0].append((entity.head, words))
                unseen[1].extend((a, words) for a in entity.attributes if not _occurrences(words, a))
            for relation in graph.relations:
                verb = relation.relation.split()[0]
                if verb not in NOT_VERBS and not any(verb in possible_base_forms(word) for word in words):
                    unseen[2].append((verb, words))
        self.heads, self.attributes, self.verbs = (_translations(part, counts, self.min_count) for part in unseen)
        return self

    def label(self, sentence: str, graph: SceneGraph) -> Example:
        """Labels of one sentence; facts whose words cannot be found are counted as lost."""
        return _Alignment(self, sentence, graph).example()


def _translations(unseen: list[tuple[str, list[str]]], counts: Counter, least: int) -> dict[str, dict[str, float]]:
    """Source words per graph word with their strength `c(graph word, word)^2 / c(word)`, from co-occurrence."""
    together: dict[str, Counter] = defaultdict(Counter)
    for target, words in unseen:
        together[target].update(set(words))
    return {
        target: {word: n * n / counts[word] for word, n in found.items() if n >= least and n * n / counts[word] > 0.2}
        for target, found in together.items()
    }


def _occurrences(words: Sequence[str], phrase: str) -> list[Position]:
    """All places where a phrase stands in a sentence; hyphens count as blanks."""
    wanted = [t.text for t in tokens_of(phrase) if t.text != "-"]
    if not wanted:
        return []
    places = [i for i, word in enumerate(words) if word != "-"]
    plain = [words[i] for i in places]
    return [
        (places[i], places[i + len(wanted) - 1])
        for i in range(len(plain) - len(wanted) + 1)
        if plain[i : i + len(wanted)] == wanted
    ]


def _joined(words: Sequence[str], phrase: str) -> list[Position]:
    """Places where two or three words written together give the phrase, or the phrase's words stand as one."""
    wanted = phrase.replace(" ", "").replace("-", "")
    found = []
    for i in range(len(words)):
        for j in range(i, min(i + 3, len(words))):
            if "".join(words[i : j + 1]).replace("-", "") == wanted:
                found.append((i, j))
    return found


class _Alignment:
    """The search for one sentence; spans already taken by longer phrases are not used again."""

    def __init__(self, aligner: Aligner, sentence: str, graph: SceneGraph):
        self.aligner, self.sentence, self.graph = aligner, sentence, graph
        self.tokens = tokens_of(sentence)
        self.words = [t.text for t in self.tokens]
        self.taken = [False] * len(self.words)
        self.entities: list[Span] = []
        self.attributes: list[Span] = []
        self.mentions: dict[int, list[int]] = defaultdict(list)
        self.lost = 0

    def example(self) -> Example:
        self._place_entities()
        links = self._place_attributes()
        relations = self._place_relations()
        labels = Labels(tuple(self.entities), tuple(self.attributes), tuple(links), tuple(relations))
        return Example(self.sentence, self.tokens, _in_order(labels), self.lost)

    def _free(self, places: Iterable[Position]) -> list[Position]:
        return [(a, b) for a, b in places if not any(self.taken[a : b + 1])]

    def _place_entities(self) -> None:
        order = sorted(range(len(self.graph.entities)), key=lambda i: -len(self.graph.entities[i].head))
        for search in (self._literal_head, self._changed_head):
            for i in order:
                if self.mentions[i]:
                    continue
                for span in search(self.graph.entities[i].head):
                    self.mentions[i].append(len(self.entities))
                    self.entities.append(span)
                    self.taken[span.first : span.last + 1] = [True] * (span.last - span.first + 1)
        self.lost += sum(not self.mentions[i] for i in order)

    def _literal_head(self, head: str) -> list[Span]:
        return [Span(a, b) for a, b in self._free(_occurrences(self.words, head))]

    def _changed_head(self, head: str) -> list[Span]:
        return self._rewritten(head, self.aligner.heads, self._free)

    def _rewritten(
        self, phrase: str, learnt: dict[str, dict[str, float]], allowed: Callable[[Iterable[Position]], list[Position]]
    ) -> list[Span]:
        """Spans that stand for a phrase in another spelling or in other words, none where nothing is near."""
        if found := allowed(_joined(self.words, phrase)):
            return [Span(a, b, JOIN) for a, b in found]
        words = phrase.split()
        for i in range(len(self.words) - len(words) + 1):
            last = i + len(words) - 1
            if singular(" ".join(self.words[i : last + 1])) == phrase and allowed([(i, last)]):
                return [Span(i, last, SINGULAR)]
        strengths = learnt.get(phrase, {})
        candidates = [i for i, w in enumerate(self.words) if w in strengths and allowed([(i, i)])]
        if candidates:
            best = max(candidates, key=lambda i: (strengths[self.words[i]], -i))
            return [Span(best, best, phrase)]
        size = len(words)
        near = [
            (difflib.SequenceMatcher(None, " ".join(self.words[i : i + size]), phrase).ratio(), i)
            for i in range(len(self.words) - size + 1)
            if allowed([(i, i + size - 1)])
        ]
        ratio, i = max(near, default=(0.0, 0), key=lambda pair: (pair[0], -pair[1]))
        return [Span(i, i + size - 1, phrase)] if ratio >= 0.7 else []

    def _place_attributes(self) -> list[tuple[int, int]]:
        links: list[tuple[int, int]] = []
        wanted = [(i, a) for i, entity in enumerate(self.graph.entities) for a in _said_of(entity)]
        for i, attribute in sorted(wanted, key=lambda pair: (-len(pair[1]), pair)):
            if not self.mentions[i]:
                self.lost += 1
                continue
            spans = [Span(a, b) for a, b in _occurrences(self.words, attribute)]
            spans = spans or self._rewritten(attribute, self.aligner.attributes, list)
            choices = [(self._far(span, m), n, m) for n, span in enumerate(spans) for m in self.mentions[i]]
            for _, n, mention in sorted(choices):
                span = spans[n]
                if span not in self.attributes:
                    if any(span.first <= s.last and s.first <= span.last for s in self.attributes):
                        continue  # two attributes cannot share a word in one layer of tags
                    self.attributes.append(span)
                links.append((self.attributes.index(span), mention))
                break
            else:
                self.lost += 1
        return links

    def _far(self, span: Span, mention: int) -> float:
        """How far an attribute is from a mention; other things between them and coming after it count extra."""
        entity = self.entities[mention]
        before = span.first <= entity.first
        low, high = (span.last, entity.first) if before else (entity.last, span.first)
        between = sum(low < other.first < high for other in self.entities)
        inside = any(o.first <= span.first <= o.last for k, o in enumerate(self.entities) if k != mention)
        return abs(high - low) + 4 * between + (0 if before else 1.5) + 6 * inside

    def _place_relations(self) -> list[Predicate]:
        found: dict[tuple[int, int], Predicate] = {}
        for relation in self.graph.relations:
            options = [
                (cost, subject, target, pattern, verb)
                for subject in self.mentions[relation.subject]
                for target in self.mentions[relation.object]
                if subject != target and (subject, target) not in found
                for cost, pattern, verb in self._predicates(relation.relation, subject, target)
            ]
            if not options:
                self.lost += 1
                continue
            _, subject, target, pattern, verb = min(options)
            found[subject, target] = Predicate(subject, target, pattern, verb)
        return list(found.values())

    def _predicates(self, text: str, subject: int, target: int) -> list[tuple[float, str, int]]:
        """Readings of a predicate between two mentions, each with its cost, pattern and verb."""
        words = text.split()
        s, o = self.entities[subject], self.entities[target]
        gap = abs(s.last - o.last) + (0.5 if o.first < s.first else 0)
        if words[0] not in NOT_VERBS:
            places = [i for i, w in enumerate(self.words) if self._is_form(w, words[0])]
            places = places or self._likely_verbs(words[0])
            if places:
                pattern = " ".join([VERB, *words[1:]])
                return [(gap + abs(s.last - i) + abs(o.last - i), pattern, i) for i in places]
        places = [i for i, w in enumerate(self.words) if w == words[0]]
        nearest = min((abs(s.last - i) + abs(o.last - i) for i in places), default=0)
        return [(gap + nearest, text, -1)]

    @staticmethod
    def _is_form(word: str, base: str) -> bool:
        return word == base or (word[:1] == base[:1] and base in possible_base_forms(word))

    def _likely_verbs(self, base: str) -> list[int]:
        """Places of irregular or misspelt forms of a verb."""
        strengths = self.aligner.verbs.get(base, {})
        named = {i for span in self.attributes for i in range(span.first, span.last + 1)}
        ratios = [
            (strengths.get(w, 0.0) * 0.1 + difflib.SequenceMatcher(None, w, base).ratio() * (w[:1] == base[:1]), i)
            for i, w in enumerate(self.words)
            if w not in NOT_VERBS | FUNCTION_WORDS and not self.taken[i] and i not in named and len(w) > 2
        ]
        best, place = max(ratios, default=(0.0, 0), key=lambda pair: (pair[0], -pair[1]))
        return [place] if best >= 0.65 else []


def _said_of(entity) -> list[str]:
    return sorted(entity.attributes | ({entity.quantity} if entity.quantity else set()))


def _in_order(labels: Labels) -> Labels:
    """The same labels with spans in order of the sentence."""
    entities = sorted(range(len(labels.entities)), key=lambda i: labels.entities[i].first)
    attributes = sorted(range(len(labels.attributes)), key=lambda i: labels.attributes[i].first)
    new_entity = {old: new for new, old in enumerate(entities)}
    new_attribute = {old: new for new, old in enumerate(attributes)}
    return Labels(
        tuple(labels.entities[i] for i in entities),
        tuple(labels.attributes[i] for i in attributes),
        tuple(sorted({(new_attribute[a], new_entity[e]) for a, e in labels.links})),
        tuple(
            sorted(
                (Predicate(new_entity[r.subject], new_entity[r.object], r.pattern, r.verb) for r in labels.relations),
                key=lambda r: (r.subject, r.object),
            )
        ),
    )


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
        exceptions,
        sorted(verbs),
    )


def _verbs_of(example: Example, graph: SceneGraph, relations: Iterable[Predicate]):
    """Pairs (word in the sentence, base form in the graph) of the predicates that have a verb."""
    texts = [r.relation for r in graph.relations]
    for relation in relations:
        if relation.verb < 0:
            continue
        rest = relation.pattern.split()[1:]
        word = example.tokens[relation.verb].text
        for text in texts:
            verb, *after = text.split()
            alike = verb in possible_base_forms(word) or verb[:1] == word[:1]
            if after == rest and alike and verb not in NOT_VERBS:
                yield word, verb
