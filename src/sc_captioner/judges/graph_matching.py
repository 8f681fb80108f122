"""The judge that needs nothing: caption and question become scene graphs, and the facts are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..scene_graph import SceneGraph, load_lexicon, load_parser, parse_captions
from ..scene_graph.lexicon import Lexicon, LexiconName
from ..scene_graph.parser import SceneGraphParser
from .predicates import Predicate
from .statements import Statement, segments_with_regions


# Whom a caption that says "man" speaks of as well.
_PEOPLE = frozenset(("man", "woman", "boy", "girl", "child", "kid", "lady", "guy", "baby", "player", "rider", "skier"))


@dataclass(frozen=True, slots=True)
class _Caption:
    """What is known of a caption.

    Args:
        graph ([`SceneGraph`]): Its graph.
        relations (`list[tuple[str, Predicate, str]]`): Its relations, heads lemmatised.
        heads (`frozenset[str]`): Lemmas of its entities.
        segments (`list[tuple[frozenset[str], frozenset[str]]]`): Lemmas and regions of the parts of its sentences.
    """

    graph: SceneGraph
    relations: list[tuple[str, Predicate, str]]
    heads: frozenset[str]
    segments: list[tuple[frozenset[str], frozenset[str]]]


class GraphJudge:
    """Says yes where at least half of what a question states is in the caption's graph.

    The question becomes a phrase (`Is the star above the heart?` -> `The star above the heart.`) and is parsed like
    the caption. A relation counts if the caption states it of the same things by their lemmas or synonyms, in the same
    words or others of one meaning, or turned around (the heart below the star); a relation whose opposite is stated
    makes the answer no. Places in the picture (`on the left side of the image`), which scene graphs leave out, are
    compared in the text near the thing. What the caption does not say is answered with no.

    Deterministic, and as good as the parser: use it to compare runs, not to compare with scores that a language model
    gave.

    Args:
        parser (`str`, `Path` or [`SceneGraphParser`]): See [`~sc_captioner.scene_graph.load_parser`].
        lexicon (`str` or [`Lexicon`]): See [`~sc_captioner.scene_graph.load_lexicon`].
        batch_size (`int`, *optional*), device (`str`, *optional*): Of a parser given by name.
    """

    def __init__(
        self,
        parser: SceneGraphParser | str | Path = "compact",
        lexicon: LexiconName | Lexicon = "auto",
        *,
        batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        self._parser = load_parser(parser, **{name: value for name, value in options.items() if value is not None})
        self._lexicon = load_lexicon(lexicon)
        self.name = f"graph/{self._parser.name}"

    def __repr__(self) -> str:
        return f"GraphJudge(parser={self._parser.name!r}, lexicon={self._lexicon.name!r})"

    def answers(self, captions: Sequence[str], questions: Sequence[Sequence[str]]) -> list[list[str | None]]:
        """`"yes"` or `"no"` per question.

        Args:
            captions (`Sequence[str]`): One caption per sample.
            questions (`Sequence[Sequence[str]]`): Questions per sample.
        """
        statements = {question: Statement.of(question) for asked in questions for question in asked}
        phrases = list(dict.fromkeys(statement.phrase for statement in statements.values() if statement.phrase))
        graphs = dict(zip(phrases, self._parser.parse(phrases))) if phrases else {}
        captions_with_graphs = zip(captions, parse_captions(self._parser, self._lexicon, captions))
        read = {caption: self._read(caption, graph) for caption, graph in captions_with_graphs}
        return [
            [
                "yes"
                if self._holds(statements[q], graphs.get(statements[q].phrase, SceneGraph()), read[caption])
                else "no"
                for q in asked
            ]
            for caption, asked in zip(captions, questions)
        ]

    def _read(self, caption: str, graph: SceneGraph) -> _Caption:
        lexicon = self._lexicon
        relations = [
            (self._lemma(subject), Predicate.read(predicate, lexicon), self._lemma(other))
            for subject, predicate, other in sorted(graph.triples)
        ]
        segments = [
            (frozenset(self._lemma(token) for token in lexicon.tokens(segment.lower())), regions)
            for sentence in lexicon.sentences(caption)
            for segment, regions in segments_with_regions(sentence)
        ]
        return _Caption(graph, relations, frozenset(map(self._lemma, graph.objects)), segments)

    def _holds(self, statement: Statement, asked: SceneGraph, caption: _Caption) -> bool:
        """Whether a caption says what a question asks."""
        verdicts: list[bool] = []
        for subject, predicate, other in sorted(asked.triples):
            verdict = self._relation(
                self._lemma(subject), Predicate.read(predicate, self._lexicon), self._lemma(other), caption
            )
            if verdict is None:
                return False
            verdicts.append(verdict)
        if statement.regions:
            # Where it is in the picture is what is asked; the rest only says which thing is meant.
            head = self._first_head(statement.phrase, asked)
            return head is not None and self._is_placed(head, statement.regions, caption)
        if not verdicts:
            verdicts = self._described(asked, caption)
        return bool(verdicts) and sum(verdicts) >= len(verdicts) / 2

    def _relation(self, subject: str, predicate: Predicate, other: str, caption: _Caption) -> bool | None:
        """Whether a caption states a relation; `None` if it states the opposite instead."""
        stated = denied = False
        for first, said, second in caption.relations:
            if self._same_thing(subject, first) and self._same_thing(other, second):
                stated |= predicate.is_stated_by(said, self._lexicon)
                denied |= predicate.is_denied_by(said)
            if self._same_thing(subject, second) and self._same_thing(other, first):
                stated |= predicate.is_turned_in(said, self._lexicon)
                denied |= predicate.is_denied_by(said, turned=True)
        return None if denied and not stated else stated

    def _described(self, asked: SceneGraph, caption: _Caption) -> list[bool]:
        """Whether a caption names each entity, and whether it gives each attribute to such an entity."""
        verdicts: list[bool] = []
        for entity in asked.entities:
            named = [
                e for e in caption.graph.entities if self._same_thing(self._lemma(entity.head), self._lemma(e.head))
            ]
            said = {self._lexicon.adjective_lemma(attribute) for e in named for attribute in e.attributes}
            verdicts.append(bool(named))
            verdicts += [self._lexicon.adjective_lemma(attribute) in said for attribute in sorted(entity.attributes)]
        return verdicts

    def _is_placed(self, head: str, regions: frozenset[str], caption: _Caption) -> bool:
        """Whether a caption names a thing where it speaks of a place in the picture."""
        last = head.rsplit(" ", 1)[-1]
        return any(
            regions <= there and any(self._same_thing(last, word) for word in words)
            for words, there in caption.segments
            if there
        )

    def _same_thing(self, asked: str, said: str) -> bool:
        if asked == said or asked.replace(" ", "") == said.replace(" ", ""):
            return True
        if asked in ("person", "people") and said in _PEOPLE:
            return True
        if asked.endswith(f" {said}") or said.endswith(f" {asked}"):
            return True
        return self._lexicon.are_synonyms(asked, said)

    def _first_head(self, phrase: str, asked: SceneGraph) -> str | None:
        """The thing that a phrase names first."""
        words = f" {phrase.lower()}"
        places = [(place, e.head) for e in asked.entities if (place := words.find(f" {e.head}")) >= 0]
        return self._lemma(min(places)[1]) if places else None

    def _lemma(self, head: str) -> str:
        lemma = self._lexicon.head_lemma(head)
        return "person" if lemma == "people" else lemma
