"""The quality of one caption as a TRL reward function: captions in, their CAPTURE scores out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..metrics.capture import KINDS, capture
from ..scene_graph.encoder import PhraseEncoder
from ..scene_graph.graph import SceneGraph
from ..scene_graph.lexicon import Lexicon, LexiconName
from ..scene_graph.parser import SceneGraphParser
from .graph_reward import GraphReward


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Turn = Literal["first", "second"]


class CaptionReward(GraphReward):
    """Scores one caption by its CAPTURE F1 against a reference caption, whatever was said before it.

    A reward function as TRL calls it. In two turns it looks at the caption of one of them: two of these are the
    rewards of SCoRe (arXiv 2409.12917), and the first turn's stands beside a [`CorrectionReward`] where both turns are
    to get better. In training of one turn (`trl.GRPOTrainer`, `trl.RLOOTrainer`) it scores the completion. A caption
    that cannot be scored gets `None`; it is counted in `num_failed`, and the first one is warned about.

    Args:
        turn (`"first"` or `"second"`, *optional*, defaults to `"second"`): Whose caption is scored.
        parser, encoder, lexicon (*optional*): As in [`CorrectionReward`].

    Raises:
        ValueError: If the turn is unknown.
    """

    def __init__(
        self,
        turn: Turn = "second",
        parser: SceneGraphParser | str | Path = "compact",
        encoder: PhraseEncoder | SentenceTransformer | str | Path | None = None,
        lexicon: LexiconName | Lexicon = "auto",
    ) -> None:
        if turn not in get_args(Turn):
            raise ValueError(f"Unknown turn {turn!r}: choose 'first' or 'second'.")
        super().__init__(parser, encoder, lexicon)
        self.turn = turn
        self.__name__ = f"{turn}_caption_reward"  # TRL logs a reward under its name

    def __repr__(self) -> str:
        return f"CaptionReward(turn={self.turn!r}, parser={self.parser.name!r}, encoder={self.encoder.name!r})"

    @property
    def settings(self) -> dict[str, Any]:
        """Where its numbers come from, for model cards: turn, parser, encoder, lexicon."""
        return {"turn": self.turn} | super().settings

    def __call__(
        self,
        *,
        reference: Sequence[str],
        completions: Sequence[Any] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of a rollout batch, each between 0 and 1, `None` for captions that could not be scored.

        Reads the column `first_caption` or `second_caption`, which [`SCTrainer`] gives; where there is none, the
        completions. `log_metric` comes from TRL's trainers: F1s are logged as the mean `<turn>_turn/<kind>_f1`.
        """
        captions = columns.get(f"{self.turn}_caption")
        if captions is None:
            captions = [_text(completion) for completion in completions or ()]
        scored = self.scores_of(captions, reference)
        known = [scores for scores in scored if scores is not None]
        if log_metric is not None and known:
            for kind in KINDS:
                log_metric(f"{self.turn}_turn/{kind}_f1", sum(scores[f"{kind}_f1"] for scores in known) / len(known))
        return [None if scores is None else scores["capture"] for scores in scored]

    def scores_of(self, captions: Sequence[str], references: Sequence[str]) -> list[dict[str, float] | None]:
        """Per caption `capture` and precision, recall and F1 of objects, attributes and relations.

        Args:
            captions (`Sequence[str]`): What is scored.
            references (`Sequence[str]`): What is right, one text per caption.

        Raises:
            ValueError: If the lists differ in length.
        """
        if len(captions) != len(references):
            raise ValueError(f"There are {len(captions)} captions but {len(references)} references.")
        samples = list(zip(captions, references))
        outcomes = self._outcomes(samples, self._parse(samples, ("caption", "reference")))
        self._count_failures(outcomes, "captions")
        return [None if isinstance(outcome, Exception) else outcome for outcome in outcomes]

    def _outcomes(
        self, samples: list[tuple[str, str]], graphs: Sequence[list[SceneGraph] | Exception]
    ) -> list[dict[str, float] | Exception]:
        """Scores per sample, or the exception that kept it from being scored."""
        outcomes: dict[int, Any] = {i: found for i, found in enumerate(graphs) if isinstance(found, Exception)}
        parsed = [i for i in range(len(samples)) if i not in outcomes]
        outcomes |= zip(parsed, self._capture([samples[i] for i in parsed], [graphs[i] for i in parsed]))
        return [outcomes[i] for i in range(len(samples))]

    def _capture(self, samples: list[tuple[str, str]], graphs: list[Any]) -> Sequence[Any]:
        """Scores of all samples at once; sample by sample, with the exceptions, only where that fails."""
        ours, theirs = [pair[0] for pair in graphs], [[pair[1]] for pair in graphs]
        captions, references = [sample[0] for sample in samples], [[sample[1]] for sample in samples]
        try:
            return capture(ours, theirs, captions, references, self.lexicon, self.encoder).per_sample
        except Exception as error:
            if len(samples) == 1:
                return [error]
            return [self._capture([sample], [pair])[0] for sample, pair in zip(samples, graphs)]


def _text(completion: Any) -> Any:
    """What a completion of TRL says: a text, or the last message of a conversation."""
    message = completion[-1] if isinstance(completion, list) and completion else completion
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        content = "".join(block.get("text", "") for block in content)
    return content.strip() if isinstance(content, str) else content
