"""Three turns of a captioner on held-out scenes, scored: the rows of the study's table."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data import CORRECTION_INSTRUCTION, build_scenes, caption_graph, grammar_errors, scene_graph_of
from ..data.scene_captions import split_sentences
from ..data.scenes import Scene
from ..inference import captions_by_turn
from ..metrics.correction_scores import correction_scores
from ..metrics.facts import fact_scores
from ..rewards import CorrectionReward
from ..scene_graph.graph import SceneGraph
from ..scene_graph.reader import CaptionReader


TURNS = ("first", "second", "third")
FACTS = ("objects_f1", "attributes_f1", "relations_f1", "mean_f1")


@dataclass(frozen=True)
class Row:
    """One number of the study.

    Args:
        point (`str`): `curve`, `steps` or `time`.
        steps (`int`), seconds (`float`): Of training until then.
        world, turn, metric (`str`): What was captioned, which caption, and by what it is judged.
        value (`float`): Mean over the scenes.
        n (`int`): Number of scenes.
        per_scene (`list[float]`, *optional*): Values of all scenes; kept of the mean F1 alone.
    """

    point: str
    steps: int
    seconds: float
    world: str
    turn: str
    metric: str
    value: float
    n: int
    per_scene: list[float] | None = None

    def at(self, point: str) -> Row:
        """The same number at another point.

        Args:
            point (`str`): `curve`, `steps` or `time`.
        """
        return replace(self, point=point)


def scored(
    model: Any, processor: Any, worlds: Mapping[str, int], test: Mapping[str, Any], *, point: str, steps: int,
    seconds: float,
) -> list[Row]:  # fmt: skip
    """Scores of the turns of a captioner in every world, captions by greedy decoding.

    Args:
        model, processor: The captioner.
        worlds (`Mapping[str, int]`): Worlds of the scenes and how many test scenes of each.
        test (`Mapping`): `seed` of the scenes, `max_new_tokens` and `batch_size`.
        point (`str`), steps (`int`), seconds (`float`): Of every row.
    """
    rows = []
    for world, num_samples in worlds.items():
        scenes = _scenes(num_samples, test["seed"], world)
        turns = _captions_of_scenes(model, processor, scenes, test["max_new_tokens"], test["batch_size"])
        for turn, metrics in turn_scores(turns, scenes["reference"], scenes["scene"]).items():
            for metric, values in metrics.items():
                mean = sum(values) / len(values)
                kept = values if metric == "mean_f1" else None
                rows.append(Row(point, steps, seconds, world, turn, metric, mean, len(values), kept))
    return rows


def _captions_of_scenes(
    model: Any, processor: Any, scenes: Any, max_new_tokens: int, batch_size: int
) -> list[list[str]]:
    """Captions by turn: the first, its correction, and the correction of that."""
    model.eval()
    captions: list[tuple[str, ...]] = []
    for start in range(0, len(scenes), batch_size):
        batch = scenes[start : start + batch_size]
        captions += captions_by_turn(
            model, processor, batch["image"], batch["prompt"], instruction=CORRECTION_INSTRUCTION,
            num_corrections=len(TURNS) - 1, max_new_tokens=max_new_tokens,
        )  # fmt: skip
    return [list(turn) for turn in zip(*captions)]


def turn_scores(
    turns: Sequence[Sequence[str]], references: Sequence[str], scenes: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Scores by turn and metric, one value per scene.

    Args:
        turns (`Sequence[Sequence[str]]`): Captions of every turn.
        references (`Sequence[str]`): Reference captions.
        scenes (`Sequence[str]`): The scenes as JSON.

    Returns:
        `dict` of `first`, `second`, ... with `objects_f1`, `attributes_f1`, `relations_f1`, `mean_f1` (facts, read by
        the compact parser), `exact_mean_f1` (read by the grammar of the language, to which a sentence that is not of
        it says nothing; what is true is taken from the scene), `broken_grammar` (0 or 1), `words`, and of every turn
        but the first what it changed in the one before: `correction_reward`, `unchanged` and counts.
    """
    reader, reward = _judges()
    truth = [scene_graph_of(Scene.from_json(scene)) for scene in scenes]
    graphs = reader.graphs(references, *turns)
    scores: dict[str, dict[str, list[float]]] = {}
    for number, (turn, captions, own) in enumerate(zip(TURNS, turns, graphs[1:])):
        exact = fact_scores([_exact_graph(caption) for caption in captions], truth, reader.lexicon)
        scores[turn] = {
            **_columns(fact_scores(own, graphs[0], reader.lexicon).per_sample),
            "exact_mean_f1": _columns(exact.per_sample)["mean_f1"],
            "broken_grammar": [float(bool(grammar_errors(caption))) for caption in captions],
            "words": [float(len(caption.split())) for caption in captions],
        }
        if number:
            changed = correction_scores(reward, turns[number - 1], captions, [[text] for text in references])
            scores[turn] |= {
                name: values
                for name, values in _columns(changed.per_sample).items()
                if not name.startswith("part_") and not name.endswith("_unclear")
            }
    return scores


def _exact_graph(caption: str) -> SceneGraph:
    graphs = []
    for sentence in split_sentences(caption):
        try:
            graphs.append(caption_graph(sentence))
        except ValueError:
            continue
    return SceneGraph.union(graphs)


def _columns(per_sample: Sequence[Mapping[str, float] | None]) -> dict[str, list[float]]:
    known = [scores or {} for scores in per_sample]
    names = dict.fromkeys(name for scores in known for name in scores)
    return {name: [float(scores.get(name, 0.0)) for scores in known] for name in names}


@functools.cache
def _scenes(num_samples: int, seed: int, world: str) -> Any:
    return build_scenes(num_samples, seed, "test", world)  # type: ignore[arg-type]


@functools.cache
def _judges() -> tuple[CaptionReader, CorrectionReward]:
    # The reward is the same yardstick for all, whatever a method was trained with: the paper's with its own weights.
    reward = CorrectionReward("paper")
    return CaptionReader(reward.parser, reward.encoder, reward.lexicon), reward
