"""Scores of both turns of a captioner: per sample, in sum, and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..judges import judged, load_judge
from ..metrics import MetricResult, bootstrap, capture, fact_scores, paired_bootstrap
from ..metrics.correction import COUNTS
from ..metrics.correction_scores import correction_scores
from ..metrics.inputs import attributes, objects
from ..metrics.refined_capture import WithoutAttributes, refined_capture
from ..metrics.relation_qa import questions_of
from ..rewards import CorrectionReward
from ..scene_graph.lexicon import LexiconName
from ..scene_graph.reader import CaptionReader


if TYPE_CHECKING:
    from ..judges import Judge
    from ..scene_graph import PhraseEncoder, SceneGraph, SceneGraphParser

TURNS = {"first": "predict", "second": "predict_turn2"}
METRICS = ("facts", "capture", "refined_capture", "relation_qa", "correction")

# Scores that are shares of something counted: a sample weighs as much as it has of it.
WEIGHTED = {"relation_qa": "num_questions"}


@dataclass(frozen=True)
class TurnScores:
    """Scores of one turn's captions.

    Args:
        per_sample (`dict[str, list[float | None]]`): By name of a score one value per sample, in order; `None` for
            samples that do not enter its mean.
        counts (`dict[str, float]`): What else belongs to the corpus, as `refined_skipped`.
        made_with (`dict[str, str]`): Parser, lexicon and, where they were needed, encoder and judge.
    """

    per_sample: dict[str, list[float | None]]
    counts: dict[str, float] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)

    def values(self, name: str) -> list[float | None]:
        """Values of a score, scaled so that their plain mean is the corpus value.

        Args:
            name (`str`): Name of a score.
        """
        values = self.per_sample[name]
        weights = self.per_sample.get(WEIGHTED.get(name, ""))
        if weights is None:
            return values
        known = [weight for weight, value in zip(weights, values) if value is not None and weight is not None]
        size = math.fsum(known) / max(len(known), 1)
        return [None if v is None or w is None else v * w / size for v, w in zip(values, weights)]

    @property
    def names(self) -> list[str]:
        """Scores, as opposed to numbers of changes and the like, that have a value for at least one sample."""
        scores = [name for name in self.per_sample if name not in WEIGHTED.values() and name not in COUNTS]
        return [name for name in scores if any(value is not None for value in self.per_sample[name])]

    def summary(self, intervals: bool = True) -> dict[str, Any]:
        """Means by name, `n`, the counts, and by name under `standard_errors` and `intervals` (95 %, bootstrap).

        Args:
            intervals (`bool`, defaults to `True`): Whether to resample for errors and intervals, which takes most of
                the time.
        """
        means: dict[str, float] = {}
        errors: dict[str, float] = {}
        bounds: dict[str, list[float]] = {}
        for name in self.names:
            values = [value for value in self.values(name) if value is not None]
            means[name] = math.fsum(values) / len(values)
            errors[name] = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            if intervals:
                found = bootstrap(values)
                bounds[name] = [found.low, found.high]
        n = len(next(iter(self.per_sample.values()), []))
        told: dict[str, Any] = {"intervals": bounds} if bounds else {}
        told |= {"made_with": self.made_with} if self.made_with else {}
        return {**means, **self.counts, "n": n, "standard_errors": errors, **told}


def scores_of_turns(
    predictions: Sequence[Mapping[str, Any]],
    *,
    parser: SceneGraphParser | str = "compact",
    encoder: PhraseEncoder | str | None = None,
    lexicon: LexiconName = "auto",
    metrics: Collection[str] = ("facts",),
    without_attributes: WithoutAttributes = "skip",
    judge: Judge | str = "graph",
    judge_options: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    grammar_errors: Callable[[str], list[str]] | None = None,
) -> dict[str, TurnScores]:
    """Scores of each turn against the references.

    Args:
        predictions (`Sequence[Mapping]`): Rows with `label` (reference), `predict` and, where there is a second turn,
            `predict_turn2`; optional are the annotations `extra_objects`, `extra_attributes` and `questions`.
        parser ([`SceneGraphParser`] or `str`): Reads captions and references alike.
        encoder ([`PhraseEncoder`], `str`, *optional*), lexicon (`str`): See [`CaptionReader`].
        metrics (`Collection[str]`): Of `"facts"` (exact agreement: `objects_f1`, `attributes_f1`, `relations_f1`,
            `mean_f1`), `"capture"` (`capture` and `capture_*`), `"refined_capture"` (`refined_*`), `"relation_qa"`
            (where there are questions) and `"correction"` (the key `correction` of the result).
        without_attributes (`str`): See [`refined_capture`].
        judge ([`Judge`] or `str`), judge_options (`Mapping`): Who answers the questions, see [`load_judge`]. The
            judge `graph` reads captions with the same parser and lexicon.
        batch_size (`int`, *optional*), device (`str`, *optional*): Of parser and encoder.
        grammar_errors (`Callable`, *optional*): Errors of a caption, for worlds whose grammar is known; gives
            `broken_grammar`, 0 or 1.

    Returns:
        `dict` with the keys `first`, `second` where there is a second turn, and `correction` where it was asked for.

    Raises:
        ValueError: If a metric is unknown.
    """
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise ValueError(f"Unknown metrics {unknown}: choose among {', '.join(METRICS)}.")
    reader = _Reader(predictions, CaptionReader(parser, encoder, lexicon, batch_size, device))
    turns = {turn: column for turn, column in TURNS.items() if column in predictions[0]}
    scores = {}
    for turn, column in turns.items():
        results: dict[str, MetricResult] = {}
        made_with = {"parser": reader.reader.parser.name, "lexicon": reader.reader.lexicon.name}
        if "facts" in metrics:
            results[""] = reader.facts(column)
        if "capture" in metrics:
            results["capture_"] = reader.capture(column)
        if "refined_capture" in metrics:
            results["refined_"] = reader.refined_capture(column, without_attributes)
        if "relation_qa" in metrics and any(row.get("questions") for row in predictions):
            judge = reader.judge(judge, judge_options or {})
            results["qa_"] = reader.relation_qa(column, judge)
            made_with["judge"] = judge.name
        if {"capture", "refined_capture"} & set(metrics):
            made_with = {**reader.reader.names, **made_with}
        scores[turn] = _turn_scores(results, made_with)
        if grammar_errors is not None:
            broken = [float(bool(grammar_errors(row[column]))) for row in predictions]
            scores[turn].per_sample["broken_grammar"] = list(broken)
    if "correction" in metrics and "second" in turns:
        scores["correction"] = reader.correction()
    return scores


def differences(scores: Mapping[str, TurnScores]) -> dict[str, dict[str, float]]:
    """Second turn minus first, score by score: mean, 95 % interval and p-value of the paired bootstrap.

    Args:
        scores (`Mapping[str, TurnScores]`): Of the turns `first` and `second`.
    """
    first, second = scores["first"], scores["second"]
    names = [name for name in second.names if name in first.names]
    return {name: paired_bootstrap(first.values(name), second.values(name)).to_dict() for name in names}


def results_of(scores: Mapping[str, TurnScores]) -> dict[str, Any]:
    """Summaries by turn and, where there are two, their difference as `second_minus_first`; JSON-serialisable.

    Args:
        scores (`Mapping[str, TurnScores]`): By turn, see [`scores_of_turns`].
    """
    results: dict[str, Any] = {name: turn.summary() for name, turn in scores.items()}
    if "second" in scores:
        results["second_minus_first"] = differences(scores)
    return results


class _Reader:
    """Predictions with the graphs of all their captions, read once for all metrics."""

    def __init__(self, predictions: Sequence[Mapping[str, Any]], reader: CaptionReader) -> None:
        self.reader = reader
        self.rows = predictions
        names = ["label", *(column for column in TURNS.values() if column in predictions[0])]
        self.captions = {name: [row[name] for row in predictions] for name in names}
        self.graphs: dict[str, list[SceneGraph]] = dict(zip(names, reader.graphs(*self.captions.values())))

    def facts(self, column: str) -> MetricResult:
        return fact_scores(self.graphs[column], self.graphs["label"], self.reader.lexicon)

    def capture(self, column: str) -> MetricResult:
        references = [[graph] for graph in self.graphs["label"]]
        captions = [[caption] for caption in self.captions["label"]]
        graphs, texts = self.graphs[column], self.captions[column]
        return capture(graphs, references, texts, captions, self.reader.lexicon, self.reader.encoder)

    def refined_capture(self, column: str, without_attributes: WithoutAttributes) -> MetricResult:
        return refined_capture(
            self.graphs[column],
            self.graphs["label"],
            self.captions[column],
            self.captions["label"],
            [objects("extra_objects", i, row.get("extra_objects")) for i, row in enumerate(self.rows)],
            [attributes("extra_attributes", i, row.get("extra_attributes")) for i, row in enumerate(self.rows)],
            self.reader.lexicon,
            self.reader.encoder,
            without_attributes,
        )

    def judge(self, judge: Judge | str, options: Mapping[str, Any]) -> Judge:
        if not isinstance(judge, str):
            return judge
        ours = {"parser": self.reader.parser, "lexicon": self.reader.lexicon} if judge == "graph" else {}
        return load_judge(judge, **{**ours, **options})

    def relation_qa(self, column: str, judge: Judge) -> MetricResult:
        return judged(judge, self.captions[column], questions_of([row.get("questions") for row in self.rows]))

    def correction(self) -> TurnScores:
        reward = CorrectionReward("paper", self.reader.parser, self.reader.encoder, self.reader.lexicon)
        references = [[caption] for caption in self.captions["label"]]
        result = correction_scores(reward, self.captions["predict"], self.captions["predict_turn2"], references)
        return TurnScores(_columns(result), {**result.corpus, "skipped": result.skipped}, self.reader.names)


def _columns(result: MetricResult) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for scores in result.per_sample if scores for name in scores)
    return {name: [None if s is None else s.get(name) for s in result.per_sample] for name in names}


def _turn_scores(results: Mapping[str, MetricResult], made_with: dict[str, str]) -> TurnScores:
    """One [`TurnScores`] of several metrics, whose scores get the prefix that is their key."""
    per_sample: dict[str, list[float | None]] = {}
    counts: dict[str, float] = {}
    for prefix, result in results.items():
        own = ("capture", "relation_qa", "num_questions")
        for name, values in _columns(result).items():
            per_sample[name if name in own else f"{prefix}{name}"] = values
        if prefix == "refined_":
            counts["refined_skipped"] = result.skipped
        if prefix == "qa_":
            counts |= {name: value for name, value in result.corpus.items() if name != "relation_qa"}
    return TurnScores(per_sample, counts, made_with)
