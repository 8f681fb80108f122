"""What the compact parser learns per sentence, and the way back from such labels to a scene graph.

A sentence is labelled with spans of entities, spans of attributes, links attribute -> entity, and relations between
two entity spans whose predicate is a pattern (`on`, `V on`, `have`, `on P of`, ...) with V filled by a word of the
sentence in its base form and P by a span that names a place (`upper left corner`). A span is copied as it stands
unless it carries a rewrite (`two` -> `2`, `wood` -> `wooden`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .compact_spelling import Spelling
from .compact_words import Token, base_form, surface
from .graph import Entity, Relation, SceneGraph


COPY = ""
JOIN = "<join>"  # without blanks: `side walk` -> `sidewalk`
SINGULAR = "<singular>"  # `blues` -> `blue`
SPELL = "<spell>"  # `buidling` -> `building`
RULES = (COPY, JOIN, SINGULAR, SPELL)
VERB = "V"
PLACE = "P"
DETERMINERS = frozenset(["the", "a", "an", "its", "his", "her", "their"])


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `first` to `last` inclusive, and their writing in the graph: one of `RULES` or a text.

    Args:
        first (`int`): Index of a token.
        last (`int`): Index of a token, `first` or later.
        rewrite (`str`, *optional*): A rule or a text.
    """

    first: int
    last: int
    rewrite: str = COPY


@dataclass(frozen=True, slots=True)
class Predicate:
    """A relation between two entity spans: pattern, the token that fills its `V` and the place that fills its `P`.

    Args:
        subject, object (`int`): Indices of entity spans.
        pattern (`str`): Template such as `V on`.
        verb, place (`int`): Index of a token and of a span in `Labels.places`, -1 where the pattern has no such slot.
    """

    subject: int
    object: int
    pattern: str
    verb: int = -1
    place: int = -1


@dataclass(frozen=True, slots=True)
class Labels:
    """All labels of one sentence; `links` are pairs (index of attribute, index of entity).

    Args:
        entities (`tuple[Span, ...]`, *optional*): Spans of heads.
        attributes (`tuple[Span, ...]`, *optional*): Spans of attributes.
        links (`tuple[tuple[int, int], ...]`, *optional*): Index of an attribute, index of its entity.
        relations (`tuple[Predicate, ...]`, *optional*): Predicates between entities.
        places (`tuple[Span, ...]`, *optional*): Spans that fill the `P` of a pattern.
    """

    entities: tuple[Span, ...] = ()
    attributes: tuple[Span, ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    relations: tuple[Predicate, ...] = ()
    places: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The closed sets that the model chooses from, and the exceptions of verb spelling.

    Args:
        entity_rewrites, attribute_rewrites (`list[str]`): Rewrites; index 0 is `COPY`.
        patterns (`list[str]`): Patterns of predicates.
        cues (`list[str]`): Words that patterns have as they stand (`left`, `behind`, `of`).
        sources (`dict[str, list[str]]`): What was rewritten so in training, by rewrite; nothing else is.
        common (`dict[str, int]`): Words of graphs with their number, which a misspelt word may stand for.
        known (`list[str]`): Words that are right as they stand.
        base_forms (`dict[str, str]`): Words whose base form the spelling rules get wrong.
        verbs (`list[str]`): Base forms seen in training; they decide between spellings (`hoping` -> `hope`).
    """

    entity_rewrites: list[str] = field(default_factory=lambda: list(RULES))
    attribute_rewrites: list[str] = field(default_factory=lambda: list(RULES))
    patterns: list[str] = field(default_factory=list)
    cues: list[str] = field(default_factory=list)
    sources: dict[str, list[str]] = field(default_factory=dict)
    common: dict[str, int] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    base_forms: dict[str, str] = field(default_factory=dict)
    verbs: list[str] = field(default_factory=list)

    @cached_property
    def spelling(self) -> Spelling:
        """Corrects what is misspelt."""
        return Spelling(self.common, self.known)

    @cached_property
    def known_verbs(self) -> frozenset[str]:
        """The base forms as a set."""
        return frozenset(self.verbs)


def singular(phrase: str) -> str:
    """`phrase` without the plural ending of its last word, by spelling alone.

    Args:
        phrase (`str`): One or more words.
    """
    if phrase.endswith("ies") and len(phrase) > 4:
        return phrase[:-3] + "y"
    if phrase.endswith(("sses", "xes", "ches", "shes")):
        return phrase[:-2]
    return phrase[:-1] if phrase.endswith("s") and not phrase.endswith("ss") else phrase


def written(sentence: str, tokens: list[Token], span: Span, spelling: Spelling) -> str:
    """How a span stands in the graph, `""` where nothing sensible is left.

    Args:
        sentence (`str`): The text.
        tokens (`list[Token]`): Its tokens.
        span ([`Span`]): Which of them.
        spelling ([`Spelling`]): Puts misspelt words right.
    """
    if span.rewrite not in RULES:
        return span.rewrite
    text = surface(sentence, tokens, span.first, span.last)
    # The written form has no way to quote its own signs.
    text = " ".join(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    if span.rewrite == JOIN:
        return text.replace(" ", "")
    if span.rewrite == SPELL:
        return spelling.corrected(text)
    return singular(text) if span.rewrite == SINGULAR else text


def graph_of(
    sentence: str,
    tokens: list[Token],
    labels: Labels,
    vocabulary: Vocabulary,
) -> SceneGraph:
    """The scene graph that labels stand for; spans with equal writing become one entity, as in the written form.

    Args:
        sentence (`str`): The text.
        tokens (`list[Token]`): Its tokens.
        labels ([`Labels`]): What was found in it.
        vocabulary ([`Vocabulary`]): Closed label sets.
    """
    names = [written(sentence, tokens, span, vocabulary.spelling) for span in labels.entities]
    order = list(dict.fromkeys(name for name in names if name))
    index = {name: i for i, name in enumerate(order)}
    attributes: list[dict[str, None]] = [{} for _ in order]
    for attribute, entity in labels.links:
        value = written(sentence, tokens, labels.attributes[attribute], vocabulary.spelling)
        if _is_deed(tokens, labels.attributes[attribute], labels.entities[entity], vocabulary):
            continue
        if value and names[entity]:
            attributes[index[names[entity]]][value] = None
    relations: dict[Relation, None] = {}
    for relation in labels.relations:
        subject, target = names[relation.subject], names[relation.object]
        predicate = predicate_of(tokens, relation, labels.places, vocabulary.base_forms, vocabulary.known_verbs)
        # `is` would read as an attribute in the written form.
        if subject and target and predicate and predicate != "is":
            relations[Relation(index[subject], predicate, index[target])] = None
    entities = tuple(Entity(name, frozenset(values)) for name, values in zip(order, attributes))
    return SceneGraph(entities, tuple(relations))


def _is_deed(tokens: list[Token], attribute: Span, entity: Span, vocabulary: Vocabulary) -> bool:
    """Whether an attribute is the verb of its thing (`a cat sleeps`), which is hardly ever annotated as one."""
    word = tokens[attribute.first].text
    alone = attribute.first == attribute.last == entity.last + 1
    return alone and word.endswith("s") and base_form(word, vocabulary.base_forms) in vocabulary.known_verbs - {word}


def predicate_of(
    tokens: Sequence[Token],
    relation: Predicate,
    places: Sequence[Span],
    base_forms: Mapping[str, str],
    verbs: frozenset[str] = frozenset(),
) -> str:
    """The predicate in words: `V` replaced by the base form of its verb, `P` by its place without determiners.

    Args:
        tokens (`Sequence[Token]`): Tokens of the sentence.
        relation ([`Predicate`]): What was found.
        places (`Sequence[Span]`): Spans that `P` may stand for.
        base_forms (`Mapping[str, str]`): Base forms of irregular verbs.
        verbs (`frozenset[str]`, *optional*): Known base forms.
    """
    words = relation.pattern.split()
    if relation.verb >= 0:
        words[0] = base_form(tokens[relation.verb].text, base_forms, verbs)
    if relation.place >= 0:
        span = places[relation.place]
        named = [t.text for t in tokens[span.first : span.last + 1] if t.text not in DETERMINERS]
        at = words.index(PLACE)
        words[at : at + 1] = named
    return " ".join(words).replace(" - ", "-")
