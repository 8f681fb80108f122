"""From gold graphs to labels: where in its sentence does each fact of a graph stand?

Used in training only. Words of a graph that do not stand in the sentence (`2` for `two`, `have` for `of`, `wooden` for
`wood`) are traced to a word that goes with them throughout the corpus, as in word alignment of parallel texts.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from .compact_labels import (
    COPY,
    DETERMINERS,
    JOIN,
    PLACE,
    SINGULAR,
    SPELL,
    VERB,
    Labels,
    Predicate,
    Span,
    singular,
)
from .compact_spelling import Spelling
from .compact_words import Token, possible_base_forms, surface, tokens_of
from .graph import SceneGraph


# Words that open a predicate without being its verb, even where their form could be one (`like`, `over`, `near`).
_NOT_VERBS = (
    "on in of with at by to for from near under over above below behind beside between around inside into onto "
    "outside off out up down through across along against among beneath underneath beyond past like as without next "
    "front top towards toward upon within over about after before during have be is opposite via per amid "
    "alongside atop"
)
_FUNCTION_WORDS = "a an the and or are has had was were his her its their two who that this there is it"
NOT_VERBS = frozenset(_NOT_VERBS.split())
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
# A predicate's ending that is as common as this is a pattern of its own, even if it names a place.
FIXED_FROM = 60
# A graph's word that is as common as this may be what a misspelt word means; a sentence's word is right as it stands.
COMMON_FROM, KNOWN_FROM = 5, 4
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence, its tokens, its labels and the number of facts of its graph that no label stands for.

    Args:
        sentence (`str`): The text.
        tokens (`list[Token]`): Its tokens.
        labels ([`Labels`]): What the graph says of them.
        lost (`int`): Facts that no label stands for.
    """

    sentence: str
    tokens: list[Token]
    labels: Labels
    lost: int


@dataclass
class Aligner:
    """Labels sentences with their graphs.

    Args:
        min_count (`int`): A pattern or a rewrite that stands for fewer gold words is not learnt.
        heads, attributes, verbs (`dict[str, dict[str, float]]`): By word of a graph, words of sentences that stand for
            it and how strongly; learnt by [`Aligner.fit`], as is the rest.
        fixed (`frozenset[str]`): Endings of predicates that are patterns as they stand.
        spelling ([`Spelling`]): Puts misspelt words right.
    """

    min_count: int = 3
    heads: dict[str, dict[str, float]] = field(default_factory=dict)
    attributes: dict[str, dict[str, float]] = field(default_factory=dict)
    verbs: dict[str, dict[str, float]] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    spelling: Spelling = field(default_factory=lambda: Spelling({}, ()))

    def fit(self, pairs: Sequence[tuple[str, SceneGraph]], known: Iterable[str] = ()) -> Aligner:
        """Learn from the corpus which words stand for which graph words that are not in their sentence.

        Args:
            pairs (`Sequence[tuple[str, SceneGraph]]`): Sentences with their graphs.
            known (`Iterable[str]`): Words that are right as they stand, beside those that are common in the corpus.
        """
        sentences = [[t.text for t in tokens_of(sentence)] for sentence, _ in pairs]
        counts = Counter(word for words in sentences for word in set(words))
        named = Counter(
            w for _, g in pairs for e in g.entities for text in (e.head, *e.attributes) for w in text.split()
        )
        common = {word: n for word, n in named.items() if n >= COMMON_FROM}
        self.spelling = Spelling(common, {word for word, n in counts.items() if n >= KNOWN_FROM}.union(known))
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
        endings = Counter(
            " ".join(words[k:])
            for _, graph in pairs
            for words in (r.relation.split() for r in graph.relations)
            for k in (0, 1)
        )
        # Common ones with words of their own are patterns as they stand; all others are made of their parts.
        sides = {"left", "right"}
        self.fixed = frozenset(e for e, n in endings.items() if n >= FIXED_FROM and not sides & set(e.split()))
        self.heads, self.attributes, self.verbs = (_translations(part, counts, self.min_count) for part in unseen)
        return self

    def label(self, sentence: str, graph: SceneGraph) -> Example:
        """Labels of one sentence; facts whose words cannot be found are counted as lost.

        Args:
            sentence (`str`): The text.
            graph ([`SceneGraph`]): Its gold graph.
        """
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


def _occurrences(words: Sequence[str], phrase: str, skipped: frozenset[str] = frozenset("-")) -> list[Position]:
    """All places where a phrase stands in a sentence; hyphens (and what else is `skipped`) count as blanks."""
    wanted = [t.text for t in tokens_of(phrase) if t.text not in skipped]
    if not wanted:
        return []
    places = [i for i, word in enumerate(words) if word not in skipped]
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
        self.places: list[Span] = []
        self.mentions: dict[int, list[int]] = defaultdict(list)
        self.lost = 0

    def example(self) -> Example:
        self._place_entities()
        links = self._place_attributes()
        relations = self._place_relations()
        used = sorted({r.place for r in relations} - {-1}, key=lambda i: self.places[i].first)
        relations = [replace(r, place=used.index(r.place) if r.place >= 0 else -1) for r in relations]
        places = tuple(self.places[i] for i in used)
        labels = Labels(tuple(self.entities), tuple(self.attributes), tuple(links), tuple(relations), places)
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
        return [self._span(a, b, head) for a, b in self._free(_occurrences(self.words, head))]

    def _span(self, first: int, last: int, phrase: str) -> Span:
        """A span whose words are those of a phrase, maybe with other hyphens (`t shirt` for `t-shirt`)."""
        text = surface(self.sentence, self.tokens, first, last)
        return Span(first, last, COPY if text == phrase or " '" in phrase else phrase)

    def _changed_head(self, head: str) -> list[Span]:
        return self._rewritten(head, self.aligner.heads, self._free)

    def _rewritten(
        self, phrase: str, learnt: dict[str, dict[str, float]], allowed: Callable[[Iterable[Position]], list[Position]]
    ) -> list[Span]:
        """Spans that stand for a phrase in another spelling or in other words, none where nothing is near."""
        if found := allowed(_joined(self.words, phrase)):
            texts = [surface(self.sentence, self.tokens, a, b) for a, b in found]
            # `side walk` is joined by rule; what stands apart in the graph (`hotdog` -> `hot dog`) is learnt by heart.
            return [
                Span(a, b, JOIN if text.replace(" ", "") == phrase else phrase) for (a, b), text in zip(found, texts)
            ]
        words = phrase.split()
        for i in range(len(self.words) - len(words) + 1):
            last = i + len(words) - 1
            if singular(" ".join(self.words[i : last + 1])) == phrase and allowed([(i, last)]):
                return [Span(i, last, SINGULAR)]
            text = " ".join(self.words[i : last + 1])
            if text != phrase and self.aligner.spelling.corrected(text) == phrase and allowed([(i, last)]):
                return [Span(i, last, SPELL)]
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
            spans = [self._span(a, b, attribute) for a, b in _occurrences(self.words, attribute)]
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
                (cost, subject, target, pattern, verb, place)
                for subject in self.mentions[relation.subject]
                for target in self.mentions[relation.object]
                if (subject != target or len(self.mentions[relation.subject]) == 1) and (subject, target) not in found
                for cost, pattern, verb, place in self._predicates(relation.relation, subject, target)
            ]
            if not options:
                self.lost += 1
                continue
            _, subject, target, pattern, verb, place = min(options)
            found[subject, target] = Predicate(subject, target, pattern, verb, place)
        return list(found.values())

    def _predicates(self, text: str, subject: int, target: int) -> list[tuple[float, str, int, int]]:
        """Readings of a predicate between two mentions, each with its cost, pattern, verb and place."""
        words = text.split()
        s, o = self.entities[subject], self.entities[target]
        gap = abs(s.last - o.last) + (0.5 if o.first < s.first else 0)

        def far(token: int) -> float:
            return abs(s.last - token) + abs(o.last - token)

        verbs: list[int] = []
        if words[0] not in NOT_VERBS:
            verbs = [i for i, w in enumerate(self.words) if self._is_form(w, words[0])]
            # What is common in other words (`dressed in` for `wear`, `written` for `read`) is a pattern as it stands.
            verbs = verbs or ([] if text in self.aligner.fixed else self._likely_verbs(words[0]))
        start = [VERB] if verbs else []
        rest, place = self._with_place(words[1:] if verbs else words, far)
        pattern = " ".join(start + rest)
        if verbs:
            return [(gap + far(i), pattern, i, place) for i in verbs]
        if place >= 0:
            return [(gap + far(self.places[place].last), pattern, -1, place)]
        nearest = min((far(i) for i, w in enumerate(self.words) if w == words[0]), default=0)
        return [(gap + nearest, pattern, -1, -1)]

    def _with_place(self, words: list[str], far: Callable[[int], float]) -> tuple[list[str], int]:
        """The end of a predicate without its place (`on left side of` -> `on P of`), and the index of the place."""
        if len(words) < 2 or words[-1] != "of" or " ".join(words) in self.aligner.fixed:
            return words, -1
        k = next((k for k, word in enumerate(words) if word not in NOT_VERBS), len(words) - 1)
        named = words[k:-1]
        if DETERMINERS & set(words):  # places are written without them
            return words, -1
        found = [Span(a, b) for a, b in _occurrences(self.words, " ".join(named), DETERMINERS | {"-"})]
        found = [
            span
            for span in found
            if span in self.places or not any(span.first <= p.last and p.first <= span.last for p in self.places)
        ]
        if not named or not found:
            return words, -1
        best = min(found, key=lambda span: far(span.last))
        if best not in self.places:
            self.places.append(best)
        return [*words[:k], PLACE, "of"], self.places.index(best)

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
                (replace(r, subject=new_entity[r.subject], object=new_entity[r.object]) for r in labels.relations),
                key=lambda r: (r.subject, r.object),
            )
        ),
        labels.places,
    )
