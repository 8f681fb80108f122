"""The language of the small synthetic scenes: captions from what is said, what is said from captions, grammar errors.

Grammar (words in quotes, `*` any number, `?` optional):

    caption  = sentence*
    sentence = clause ("," "and" clause)* "."
    clause   = opener things (place thing)?            There is a small green heart below a big black star.
             | thing "is" place thing                  The heart is below the star.
             | thing "is" adjective ("and" adjective)? The heart is small and green.
             | place thing ("there")? "is" things      Below the star there is a small green heart.
    opener   = "There is" | "The picture shows" | "In the picture there is" | "We see"
    things   = thing ("," thing)* ("and" thing)?
    thing    = ("a" | "an" | "the") size? color? shape
    place    = "above" | "below" | "to the left of" | "to the right of"

Graphs follow the conventions of FACTUAL for long sentences: heads without determiners, one attribute per fact,
predicates without articles (`to left of`), subject and object as the sentence states them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..scene_graph.graph import Entity, Relation, SceneGraph


SHAPES = ("circle", "diamond", "heart", "square", "star", "triangle")
# No two colours, and not the two sizes, are closer than 0.7 in all-MiniLM-L6-v2: a reward that takes near phrases for
# equal ones (hits above 0.7) still tells them apart. Red, blue, large would fail that.
COLORS = ("black", "brown", "green", "orange", "purple", "yellow")
SIZES = ("small", "big")
PLACES = {"to left of": "to the left of", "to right of": "to the right of", "above": "above", "below": "below"}
OPENERS = ("There is", "The picture shows", "In the picture there is", "We see")

_ARTICLES = ("a", "an", "the")
_TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|\S")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORDS = frozenset(
    [*SHAPES, *COLORS, *SIZES, *_ARTICLES, "and", "is", ",", "."]
    + [word for phrase in (*OPENERS, *PLACES.values()) for word in phrase.lower().split()]
)


@dataclass(frozen=True, slots=True)
class Mention:
    """What a caption says of one thing; `None` where it leaves the size or the colour out.

    Args:
        shape (`str`): Its noun, as in `star`.
        size (`str`, *optional*): `small` or `big`.
        color (`str`, *optional*): Name of the colour.
    """

    shape: str
    size: str | None = None
    color: str | None = None

    def phrase(self, definite: bool = False) -> str:
        """Noun phrase with its article: `the star` or `a big black star`.

        Args:
            definite (`bool`, defaults to `False`): The noun alone, with `the`.
        """
        if definite:
            return f"the {self.shape}"
        words = [word for word in (self.size, self.color, self.shape) if word]
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


@dataclass(frozen=True, slots=True)
class Description:
    """The content of a caption, wording apart.

    Args:
        things (`tuple[Mention, ...]`): Things in order of mention, at least one, with distinct shapes.
        relations (`tuple[tuple[int, str, int], ...]`): Subject index, predicate (a key of `PLACES`), object index.
    """

    things: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...] = ()

    def graph(self) -> SceneGraph:
        """The graph that every caption of this description has, one entity per thing."""
        entities = (
            Entity(thing.shape, frozenset(word for word in (thing.size, thing.color) if word)) for thing in self.things
        )
        return SceneGraph(tuple(entities), tuple(Relation(*relation) for relation in self.relations))


def caption_of(description: Description, rng: random.Random) -> str:
    """A caption that says all of `description` and nothing else; `rng` chooses among the ways of wording it.

    Args:
        description ([`Description`]): What to say.
        rng (`random.Random`): Chooses the words.
    """
    styles = [_chain_sentences, _listing_sentences]
    if len(description.things) <= 2:  # for more things this style is far longer than the others
        styles.append(_describing_sentences)
    return " ".join(rng.choice(styles)(description, rng))


def caption_sentences(num_captions: int, seed: int = 0) -> list[tuple[str, SceneGraph]]:
    """Sentences of the language with gold graphs, to teach a parser or to test one.

    They come from captions of random content, right and wrong ones alike: one to four things, sizes and colours now
    and then left out, any relation between any two things. Equal seeds give equal lists.

    Args:
        num_captions (`int`): Captions that the sentences come from, 0 or more.
        seed (`int`, defaults to `0`): Of their content.
    """
    rng = random.Random(f"sentences-{seed}")
    pairs = []
    for _ in range(num_captions):
        shapes = rng.sample(SHAPES, rng.choice((1, 2, 3, 3, 4, 4)))
        things = tuple(
            Mention(s, rng.choice((None, *SIZES, *SIZES)), rng.choice((None, *COLORS, *COLORS))) for s in shapes
        )
        links = []
        for i in range(1, len(things)):
            ends = (i, rng.randrange(i)) if rng.random() < 0.5 else (rng.randrange(i), i)
            if rng.random() < 0.85:
                links.append((ends[0], rng.choice(sorted(PLACES)), ends[1]))
        caption = caption_of(Description(things, tuple(links)), rng)
        pairs += [(sentence, caption_graph(sentence)) for sentence in split_sentences(caption)]
    return pairs


def caption_graph(caption: str) -> SceneGraph:
    """Gold graph of a caption of this language, sentence graphs side by side as a sentence parser would give them.

    Args:
        caption (`str`): A caption of this language.

    Raises:
        ValueError: If the caption is not of the language; the message holds the first grammar error.
    """
    graphs = []
    for sentence in split_sentences(caption):
        graph, error = _read(sentence)
        if graph is None:
            raise ValueError(f"Not a caption of the scenes' language: {error} in {sentence!r}.")
        graphs.append(graph)
    return SceneGraph.union(graphs)


def grammar_errors(caption: str) -> list[str]:
    """What is wrong with the English of a caption, one message per error; an empty list for a good caption.

    Every caption of `caption_of` and every recombination of its phrases that the grammar allows is accepted; truth
    does not matter. Reported are missing or wrong articles, missing subjects and other fragments, repeated words,
    words from outside the language, sentences without a capital or a full stop, and an empty caption.

    Args:
        caption (`str`): Any text.
    """
    sentences = split_sentences(caption)
    errors = [] if sentences else ["the caption is empty"]
    for number, sentence in enumerate(sentences, start=1):
        tokens = _TOKEN.findall(sentence)
        found = [f"unknown word {token!r}" for token in tokens if token.lower() not in _WORDS]
        found += [f"repeated {a!r}" for a, b in zip(tokens, tokens[1:]) if a.lower() == b.lower()]
        if not sentence[0].isupper():
            found.append("no capital at the start")
        if any(token != token.lower() for token in tokens[1:]):
            found.append("a capital inside the sentence")
        error = _read(sentence)[1]
        if error and not found:
            found.append(error)
        errors += [f"sentence {number}: {message}" for message in found]
    return errors


def is_grammatical(caption: str) -> bool:
    """Whether `grammar_errors` finds nothing.

    Args:
        caption (`str`): Any text.
    """
    return not grammar_errors(caption)


def split_sentences(caption: str) -> list[str]:
    """Sentences of a caption, by end marks followed by a space.

    Args:
        caption (`str`): Any text.
    """
    return [sentence for sentence in _SENTENCE_END.split(caption.strip()) if sentence]


# --- Writing ---------------------------------------------------------------------------------------------------------


def _chain_sentences(description: Description, rng: random.Random) -> list[str]:
    """Things are introduced inside the relations: `A small green heart is above a big black star.`"""
    known: set[int] = set()
    clauses = []
    for subject, predicate, obj in description.relations:
        clauses.append(_relation_clause(description, (subject, predicate, obj), known, rng))
        known |= {subject, obj}
    rest = [thing.phrase() for i, thing in enumerate(description.things) if i not in known]
    if rest:
        clauses.append(f"{rng.choice(OPENERS)} {_listed(rest)}")
    return _joined(clauses, rng)


def _listing_sentences(description: Description, rng: random.Random) -> list[str]:
    """All things first, then how they stand: `There is a green heart and a star. The heart is above the star.`"""
    opening = f"{rng.choice(OPENERS)} {_listed([thing.phrase() for thing in description.things])}"
    known = set(range(len(description.things)))
    clauses = [_relation_clause(description, relation, known, rng) for relation in description.relations]
    return [*_joined([opening], rng), *_joined(clauses, rng)]


def _describing_sentences(description: Description, rng: random.Random) -> list[str]:
    """Bare things first, then what they are like, then how they stand."""
    opening = f"{rng.choice(OPENERS)} {_listed([Mention(thing.shape).phrase() for thing in description.things])}"
    clauses = []
    for thing in description.things:
        words = [word for word in (thing.size, thing.color) if word]
        if words:
            clauses.append(f"the {thing.shape} is {' and '.join(words)}")
    known = set(range(len(description.things)))
    relations = [_relation_clause(description, relation, known, rng) for relation in description.relations]
    return [*_joined([opening], rng), *_joined(clauses, rng), *_joined(relations, rng)]


def _relation_clause(
    description: Description, relation: tuple[int, str, int], known: set[int], rng: random.Random
) -> str:
    subject, predicate, obj = relation
    subject_phrase = description.things[subject].phrase(definite=subject in known)
    object_phrase = description.things[obj].phrase(definite=obj in known)
    place = PLACES[predicate]
    if subject in known:  # "There is the star below the heart" would be odd
        return f"{subject_phrase} is {place} {object_phrase}"
    forms = [
        f"{subject_phrase} is {place} {object_phrase}",
        f"{rng.choice(OPENERS)} {subject_phrase} {place} {object_phrase}",
    ]
    if obj in known:
        forms += [f"{place} {object_phrase} is {subject_phrase}", f"{place} {object_phrase} there is {subject_phrase}"]
    return rng.choice(forms)


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _joined(clauses: list[str], rng: random.Random) -> list[str]:
    """Sentences out of clauses; now and then two neighbours share one."""
    sentences: list[str] = []
    i = 0
    while i < len(clauses):
        pair = i + 1 < len(clauses) and rng.random() < 0.25
        second = clauses[i + 1] if pair else ""
        text = f"{clauses[i]}, and {second[0].lower()}{second[1:]}" if pair else clauses[i]
        sentences.append(f"{text[0].upper()}{text[1:]}.")
        i += 2 if pair else 1
    return sentences


# --- Reading ---------------------------------------------------------------------------------------------------------

_Thing = tuple[str, tuple[str, ...]]  # shape, attributes
_Facts = tuple[tuple[_Thing, ...], tuple[tuple[str, str, str], ...]]  # things in order of mention, relations


class _Reader:
    """All readings of one sentence by recursive descent; remembers where and why the longest one stopped."""

    def __init__(self, tokens: list[str]):
        self.tokens = [token.lower() for token in tokens]
        self.furthest = 0
        self.expected: set[str] = set()

    def word(self, at: int, words: tuple[str, ...], what: str) -> bool:
        """Whether one of `words` stands at `at`; otherwise notes that `what` was expected there."""
        if at < len(self.tokens) and self.tokens[at] in words:
            return True
        if at > self.furthest:
            self.furthest, self.expected = at, set()
        if at == self.furthest:
            self.expected.add(what)
        return False

    def phrase(self, at: int, phrase: str, what: str) -> int | None:
        """Position after `phrase` if it stands at `at`."""
        for word in phrase.lower().split():
            if not self.word(at, (word,), what):
                return None
            at += 1
        return at

    def thing(self, at: int) -> Iterator[tuple[int, _Thing]]:
        if not self.word(at, _ARTICLES, "an article"):
            return
        article, at = self.tokens[at], at + 1
        following = self.tokens[at] if at < len(self.tokens) else ""
        if article != "the" and (article == "an") != following.startswith(tuple("aeiou")):
            self.word(at, (), f"a word that goes with {article!r}")
            return
        attributes = []
        for words, what in ((SIZES, "a size"), (COLORS, "a color")):
            if self.word(at, words, what):
                attributes.append(self.tokens[at])
                at += 1
        if self.word(at, SHAPES, "a shape"):
            yield at + 1, (self.tokens[at], tuple(attributes))

    def things(self, at: int) -> Iterator[tuple[int, tuple[_Thing, ...]]]:
        for after, thing in self.thing(at):
            yield after, (thing,)
            for mark, last in (((",",), False), (("and",), True)):
                if self.word(after, mark, f"{mark[0]!r}"):
                    rest = self.thing(after + 1) if last else self.things(after + 1)
                    for end, more in rest:
                        yield end, (thing, more) if last else (thing, *more)  # type: ignore[misc]

    def place(self, at: int) -> Iterator[tuple[int, str]]:
        for predicate, phrase in PLACES.items():
            after = self.phrase(at, phrase, "a place")
            if after is not None:
                yield after, predicate

    def clause(self, at: int) -> Iterator[tuple[int, _Facts]]:
        for opener in OPENERS:
            after = self.phrase(at, opener, "an opening")
            if after is not None:
                for end, things in self.things(after):
                    yield end, (things, ())
                    for end_of_place, (predicate, landmark) in self.placed(end):
                        relations = tuple((thing[0], predicate, landmark[0]) for thing in things)
                        yield end_of_place, ((*things, landmark), relations)
        for after, subject in self.thing(at):
            if self.word(after, ("is",), "'is'"):
                for end, (predicate, landmark) in self.placed(after + 1):
                    yield end, ((subject, landmark), ((subject[0], predicate, landmark[0]),))
                for end, words in self.adjectives(after + 1):
                    yield end, (((subject[0], (*subject[1], *words)),), ())
        for after, (predicate, landmark) in self.placed(at):
            after += self.word(after, ("there",), "'there'")
            if self.word(after, ("is",), "'is'"):
                for end, things in self.things(after + 1):
                    relations = tuple((thing[0], predicate, landmark[0]) for thing in things)
                    yield end, ((*things, landmark), relations)

    def placed(self, at: int) -> Iterator[tuple[int, tuple[str, _Thing]]]:
        for after, predicate in self.place(at):
            for end, thing in self.thing(after):
                yield end, (predicate, thing)

    def adjectives(self, at: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        for words, others in ((SIZES, COLORS), (COLORS, SIZES)):
            if self.word(at, words, "a size or color"):
                yield at + 1, (self.tokens[at],)
                if self.word(at + 1, ("and",), "'and'") and self.word(at + 2, others, "a size or color"):
                    yield at + 3, (self.tokens[at], self.tokens[at + 2])

    def sentence(self, at: int = 0) -> Iterator[_Facts]:
        for after, (things, relations) in self.clause(at):
            if self.word(after, (".",), "a full stop") and after + 1 == len(self.tokens):
                yield things, relations
            elif self.word(after, (",",), "','") and self.word(after + 1, ("and",), "'and'"):
                for more_things, more_relations in self.sentence(after + 2):
                    yield (*things, *more_things), (*relations, *more_relations)


def _read(sentence: str) -> tuple[SceneGraph | None, str]:
    """Graph of one sentence, or `None` and why there is none."""
    reader = _Reader(_TOKEN.findall(sentence))
    facts = next(reader.sentence(), None)
    if facts is None:
        here = reader.tokens[reader.furthest] if reader.furthest < len(reader.tokens) else "the end"
        return None, f"at {here!r}: expected {' or '.join(sorted(reader.expected))}"
    attributes: dict[str, set[str]] = {}
    for shape, words in facts[0]:
        attributes.setdefault(shape, set()).update(words)
    index = {shape: i for i, shape in enumerate(attributes)}
    relations = (Relation(index[s], predicate, index[o]) for s, predicate, o in dict.fromkeys(facts[1]))
    return SceneGraph(tuple(Entity(s, frozenset(a)) for s, a in attributes.items()), tuple(relations)), ""
