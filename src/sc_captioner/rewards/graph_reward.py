"""What rewards over scene graphs share: what they read captions with, and samples that cannot be scored."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..scene_graph.encoder import PhraseEncoder, load_encoder
from ..scene_graph.graph import SceneGraph
from ..scene_graph.lexicon import Lexicon, LexiconName, load_lexicon
from ..scene_graph.parser import SceneGraphParser, load_parser, parse_captions


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


class GraphReward:
    """Parser, encoder and lexicon of a reward, and the number of samples it could not score.

    Args:
        parser ([`SceneGraphParser`], `str` or `Path`): See [`load_parser`].
        encoder ([`PhraseEncoder`], `SentenceTransformer`, `str` or `Path`, *optional*): See [`load_encoder`].
        lexicon (`"auto"`, `"nltk"`, `"bundled"`): See [`load_lexicon`].
    """

    def __init__(
        self,
        parser: SceneGraphParser | str | Path = "compact",
        encoder: PhraseEncoder | SentenceTransformer | str | Path | None = None,
        lexicon: LexiconName | Lexicon = "auto",
    ) -> None:
        self.lexicon = load_lexicon(lexicon)
        self.parser = load_parser(parser)
        self.encoder = load_encoder(encoder)
        self.num_failed = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Where its numbers come from, for model cards: parser, encoder and lexicon with their versions."""
        told: dict[str, Any] = {}
        for role in ("parser", "encoder", "lexicon"):
            used: Any = getattr(self, role)
            version = getattr(used, "version", None)
            told[role] = f"{used.name} (version {version})" if version else used.name
        return told

    def _parse(self, samples: Sequence[tuple[str, ...]], names: tuple[str, ...]) -> list[list[SceneGraph] | Exception]:
        """Graphs of every sample's captions, all parsed at once; sample by sample only where that fails."""
        valid = {i: sample for i, sample in enumerate(samples) if all(isinstance(text, str) for text in sample)}
        graphs: dict[int, list[SceneGraph] | Exception] = {
            i: TypeError(f"{name} is no string: {text!r:.80}")
            for i, sample in enumerate(samples)
            for name, text in zip(names, sample)
            if not isinstance(text, str)
        }
        captions = list(dict.fromkeys(text for sample in valid.values() for text in sample))
        try:
            parsed = dict(zip(captions, parse_captions(self.parser, self.lexicon, captions)))
            graphs.update((i, [parsed[text] for text in sample]) for i, sample in valid.items())
        except Exception as error:
            logger.info("The batch did not parse (%s); parsing sample by sample.", error)
            for i, sample in valid.items():
                try:
                    graphs[i] = parse_captions(self.parser, self.lexicon, sample)
                except Exception as error:
                    graphs[i] = error
        return [graphs[i] for i in range(len(samples))]

    def _count_failures(self, outcomes: Sequence[Any], what: str) -> None:
        failures = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
        if not failures:
            return
        index, error = failures[0]
        message = (
            f"{len(failures)} of {len(outcomes)} {what} could not be scored and get no reward; the first is sample "
            f"{index} ({type(error).__name__}: {error}). reward.num_failed counts them."
        )
        if self.num_failed == 0:
            warnings.warn(message, stacklevel=4)
        else:
            logger.info(message)
        self.num_failed += len(failures)
