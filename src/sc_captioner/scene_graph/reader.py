"""Parser, lexicon and phrase encoder that belong together: all that turns captions into what metrics compare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .encoder import PhraseEncoder, load_encoder
from .graph import SceneGraph
from .lexicon import Lexicon, LexiconName, load_lexicon
from .parser import SceneGraphParser, load_parser, parse_captions


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class CaptionReader:
    """Reads captions for a metric.

    Args:
        parser ([`SceneGraphParser`], `str` or `Path`, *optional*, defaults to `"compact"`): See [`load_parser`].
        encoder ([`PhraseEncoder`], `SentenceTransformer`, `str` or `Path`, *optional*): See [`load_encoder`].
        lexicon (`str` or [`Lexicon`], *optional*, defaults to `"auto"`): See [`load_lexicon`].
        batch_size (`int`, *optional*), device (`str`, *optional*): Of a parser and an encoder given by name; one that
            is already built keeps its own.

    Raises:
        ValueError: If `batch_size` or `device` is given where both parser and encoder are already built.
    """

    def __init__(
        self,
        parser: SceneGraphParser | str | Path = "compact",
        encoder: PhraseEncoder | SentenceTransformer | str | Path | None = None,
        lexicon: LexiconName | Lexicon = "auto",
        batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is 1 or more, not {batch_size}.")
        options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        options = {name: value for name, value in options.items() if value is not None}
        parser_is_named, encoder_is_built = isinstance(parser, (str, Path)), isinstance(encoder, PhraseEncoder)
        if options and not parser_is_named and encoder_is_built:
            raise ValueError(f"Options {sorted(options)} have no effect: parser and encoder are already built.")
        self.parser = load_parser(parser, **(options if parser_is_named else {}))
        self.lexicon = load_lexicon(lexicon)
        self._encoder = encoder
        self._encoder_options = {} if encoder_is_built else options

    def __repr__(self) -> str:
        return f"CaptionReader(parser={self.parser.name!r}, lexicon={self.lexicon.name!r})"

    @cached_property
    def encoder(self) -> PhraseEncoder:
        """The phrase encoder, loaded when it is first needed: not every metric does."""
        return load_encoder(self._encoder, **self._encoder_options)

    @property
    def names(self) -> dict[str, str]:
        """Names of parser, encoder and lexicon, which belong beside every score."""
        return {"parser": self.parser.name, "encoder": self.encoder.name, "lexicon": self.lexicon.name}

    def graphs(self, *columns: Sequence[str]) -> list[list[SceneGraph]]:
        """Graphs of several columns of captions, column by column; all are parsed in one call of the parser."""
        parsed = parse_captions(self.parser, self.lexicon, [caption for column in columns for caption in column])
        graphs, start = [], 0
        for column in columns:
            graphs.append(parsed[start : start + len(column)])
            start += len(column)
        return graphs
