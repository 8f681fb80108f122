"""What a scene-graph parser is, the one that looks graphs up, and how captions go through any of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .graph import SceneGraph


if TYPE_CHECKING:
    from .lexicon import Lexicon


@runtime_checkable
class SceneGraphParser(Protocol):
    """Sentences in, scene graphs out. `name` says in every result which parser made it."""

    name: str

    def parse(self, sentences: list[str]) -> list[SceneGraph]:
        """One graph per sentence, in order; equal sentences get equal graphs.

        Args:
            sentences (`list[str]`): What to parse, one sentence each.
        """
        ...


class StoredParser:
    """Looks sentences up instead of parsing them: fixed graphs for tests, goldens and shared annotations.

    Args:
        graphs (`Mapping[str, Mapping | SceneGraph]`): Sentence to graph, as a [`SceneGraph`] or in the form of
            `SceneGraph.from_dict`.
        name (`str`, *optional*, defaults to `"stored"`): What results call it.

    Raises:
        ValueError: If a graph is malformed.
    """

    def __init__(self, graphs: Mapping[str, Mapping[str, Any] | SceneGraph], name: str = "stored") -> None:
        self.name = name
        self._graphs = {s: g if isinstance(g, SceneGraph) else SceneGraph.from_dict(g) for s, g in graphs.items()}

    def __repr__(self) -> str:
        return f"StoredParser({len(self._graphs)} sentences)"

    def __contains__(self, sentence: str) -> bool:
        return sentence in self._graphs

    @classmethod
    def from_json(cls, path: str | Path) -> StoredParser:
        """Read graphs by sentence from a JSON object, or from its member `graphs`.

        Args:
            path (`str | Path`): The file.

        Raises:
            ValueError: If the file holds no graphs; the message names it.
        """
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        graphs = stored.get("graphs", stored) if isinstance(stored, dict) else None
        try:
            return cls(graphs, name=Path(path).stem)  # type: ignore[arg-type]
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} does not hold scene graphs by sentence: {error}") from error

    def parse(self, sentences: list[str]) -> list[SceneGraph]:
        """Stored graphs of `sentences`.

        Args:
            sentences (`list[str]`): What to look up, one sentence each.

        Raises:
            KeyError: If a sentence has no stored graph; the message quotes it.
        """
        for sentence in sentences:
            if sentence not in self._graphs:
                raise KeyError(f"StoredParser has no graph of the sentence {sentence!r}.")
        return [self._graphs[sentence] for sentence in sentences]


def load_parser(parser: SceneGraphParser | str | Path = "compact", **options: Any) -> SceneGraphParser:
    """The parser of that name.

    Args:
        parser (`str`, `Path` or [`SceneGraphParser`]): `"compact"` (shipped with the package, no download),
            `"factual"` (FACTUAL's Flan-T5 from the Hub), a folder that holds either kind, the Hub id of a T5 trained
            on FACTUAL, a JSON file of stored graphs by sentence, or a parser, which is handed back.
        options: Passed to [`CompactParser`] or [`FactualParser`], for instance `device`, `batch_size`, `beam_size`.

    Raises:
        ValueError: If options are given beside a parser that is already built.
    """
    if not isinstance(parser, (str, Path)):
        if options:
            raise ValueError(f"Options {sorted(options)} have no effect on a parser that is already built.")
        return parser
    if Path(parser).suffix == ".json" and Path(parser).is_file():
        return StoredParser.from_json(parser, **options)
    if str(parser) == "compact" or _is_compact(Path(parser)):
        from .compact import CompactParser

        return CompactParser.from_pretrained(None if str(parser) == "compact" else parser, **options)
    from .factual import FACTUAL_T5, FactualParser

    return FactualParser(FACTUAL_T5 if str(parser) == "factual" else str(parser), **options)


def _is_compact(folder: Path) -> bool:
    # A T5 folder brings its tokenizer; the compact parser keeps its vocabularies inside config.json.
    if not (folder / "config.json").is_file():
        return False
    return not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model"))


def parse_captions(parser: SceneGraphParser, lexicon: Lexicon, captions: Sequence[str]) -> list[SceneGraph]:
    """Graphs of whole captions: split into sentences, every distinct sentence parsed once, united per caption.

    Args:
        parser ([`SceneGraphParser`]): Called once, with all distinct sentences in order of first appearance.
        lexicon ([`Lexicon`]): Splits the sentences.
        captions (`Sequence[str]`): Captions; an empty one has the empty graph.

    Returns:
        `list[SceneGraph]`: One graph per caption, in order.
    """
    sentences = [lexicon.sentences(caption) for caption in captions]
    distinct = list(dict.fromkeys(sentence for caption in sentences for sentence in caption))
    graphs = dict(zip(distinct, parser.parse(distinct))) if distinct else {}
    return [SceneGraph.union(graphs[sentence] for sentence in caption) for caption in sentences]
