"""How good both turns of a captioner are: captions of a dataset, or predictions that exist already, scored.

    python recipes/evaluate.py --model outputs/scenes_sc --dataset scenes --dataset_split test --num_samples 512 \
        --output_dir outputs/scores
    python recipes/evaluate.py --predictions generated_predictions.jsonl --annotations ../shared/data/docci500 \
        --output_dir outputs/docci500

Predictions are read in the released form (JSON lines with prompt, label, predict, predict_turn2), in ours, or from a
dataset on the Hub. Annotations are a folder with captions.json, objects.jsonl, attributes.json and
relation_questions.json; a dataset may carry them as the columns extra_objects, extra_attributes and questions.

Writes into `output_dir`: `predictions.jsonl`, `results.json` (means, standard errors, 95 % intervals), `scores.md`,
`per_sample.parquet`, `scores.png` and `changes.png`, and prints the tables. Captioning that was stopped goes on with
the images that have no prediction yet. `recipes/predict.py` does it for large models: quantised, with settings from
YAML. `recipes/compare.py` sets several runs side by side.

FACTUAL's parser takes most of the time; started by `accelerate`, several GPUs share the sentences:

    accelerate launch --num_processes 8 recipes/evaluate.py --predictions generated_predictions.jsonl \
        --parser factual --parser_options '{"across_processes": true, "cache_file": "graphs.sqlite"}'
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from sc_captioner.arguments import (
    DatasetArguments,
    SamplingArguments,
    ScoringArguments,
    SettingError,
    run_recipe,
)
from sc_captioner.data import CORRECTION_INSTRUCTION as SCENES_INSTRUCTION
from sc_captioner.data import grammar_errors
from sc_captioner.data.annotations import Annotations
from sc_captioner.data.predictions import load_predictions
from sc_captioner.evaluation import (
    METRICS,
    plot_changes,
    plot_scores,
    result_tables,
    results_of,
    scores_of_turns,
)
from sc_captioner.judges import JudgeError
from sc_captioner.prompts import CORRECTION_INSTRUCTION


@dataclass
class EvaluationArguments(SamplingArguments):
    """
    What to evaluate, beside the sampling settings.

    Args:
        model (`str`, *optional*): Folder or Hub id of a captioner or of an adapter.
        predictions (`str`, *optional*): Captions to score instead: a file, a folder of ours, or a Hub dataset.
        annotations (`str`, *optional*): Folder with annotations of the images.
        output_dir (`str`): Where predictions and scores go.
        dtype (`str`, *optional*): Type of the weights, as in `bfloat16`; default: as stored.
    """

    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a captioner or of an adapter."})
    predictions: str | None = field(
        default=None, metadata={"help": "Captions to score instead: a file, a folder of ours, or a Hub dataset."}
    )
    annotations: str | None = field(
        default=None, metadata={"help": "Folder with captions.json, objects.jsonl, attributes.json, questions."}
    )
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "Where predictions and scores go."})
    dtype: str | None = field(
        default=None, metadata={"help": "Type of the weights, as in bfloat16; default: as stored."}
    )


@dataclass
class MetricArguments(ScoringArguments):
    """
    Which scores, beside the scoring settings.

    Args:
        metrics (`list[str]`): Of facts, capture, refined_capture, relation_qa and correction.
        without_attributes (`str`): How refined CAPTURE takes samples without attributes.
        judge (`str`): Who answers relation questions: `graph`, `openai`, `local`, or a text model.
        judge_options (`dict`, *optional*): Options of the judge.
        scoring_batch_size (`int`, *optional*), scoring_device (`str`, *optional*): Of parser and encoder.
    """

    metrics: list[str] = field(default_factory=lambda: list(METRICS), metadata={"help": "Which scores."})
    without_attributes: Literal["skip", "zero", "objects"] = field(
        default="skip", metadata={"help": "How refined CAPTURE takes samples without attributes; released: skip."}
    )
    judge: str = field(
        default="graph", metadata={"help": "Who answers relation questions: 'graph', 'openai', 'local' or a model."}
    )
    judge_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Options of the judge, as in \'{"model": "my-model", "base_url": "..."}\'.'}
    )
    scoring_batch_size: int | None = field(default=None, metadata={"help": "Batch size of parser and encoder."})
    scoring_device: str | None = field(default=None, metadata={"help": "Device of parser and encoder."})

    def for_scoring(self) -> dict[str, Any]:
        """Arguments of `scores_of_turns`."""
        options = json.loads(self.judge_options) if isinstance(self.judge_options, str) else self.judge_options
        names = ("encoder", "lexicon", "metrics", "without_attributes", "judge")
        given = {"batch_size": self.scoring_batch_size, "device": self.scoring_device}
        parser = self.loaded_parser(**{name: value for name, value in given.items() if value is not None})
        return {"parser": parser, "judge_options": options, **given, **{name: getattr(self, name) for name in names}}


def main(args: EvaluationArguments, dataset_args: DatasetArguments, metric_args: MetricArguments) -> None:
    if (args.model is None) == (args.predictions is None):
        raise SettingError("name either a model to caption with or predictions to score.")
    # Processes of `accelerate launch` score alike, so that the parser can give each its share; the first one writes.
    is_main, several = int(os.environ.get("RANK", "0")) == 0, int(os.environ.get("WORLD_SIZE", "1")) > 1
    if args.model is not None and several:
        raise SettingError("captioning takes one process: start it by python; accelerate can score its predictions.")
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    rows = captioned(args, dataset_args, output) if args.model else read(args, dataset_args)
    predictions = rows if args.annotations is None else Annotations.load(args.annotations).added_to(rows)
    if "label" not in predictions[0]:
        raise SettingError("the predictions have no references (column 'label'); name annotations that have them.")
    is_scenes = args.model is not None and dataset_args.dataset == "scenes"
    if not is_main and metric_args.judge != "graph":
        metric_args.metrics = [name for name in metric_args.metrics if name != "relation_qa"]  # answers may cost money
    try:
        scores = scores_of_turns(
            predictions, **metric_args.for_scoring(), grammar_errors=grammar_errors if is_scenes else None
        )
    except (ValueError, OSError, JudgeError) as error:
        raise SettingError(f"the predictions cannot be scored: {error}") from error
    if not is_main:
        return
    if args.predictions is not None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (output / "predictions.jsonl").write_text(lines, encoding="utf-8")
    write(output, predictions, scores, {**asdict(args), **asdict(dataset_args), **asdict(metric_args)})
    print(f"Predictions, scores and plots are in {output}.")


def captioned(args: EvaluationArguments, dataset_args: DatasetArguments, output: Path) -> list[dict]:
    """Captions of both turns by the model, with what the dataset has annotated of the images."""
    from sc_captioner.inference import load_captioner, predictions_of

    is_scenes = dataset_args.dataset == "scenes"
    if is_scenes and dataset_args.num_samples is None:
        dataset_args = replace(dataset_args, num_samples=512)
    dataset = dataset_args.load()
    # Scoring the same captions with other annotations must not caption again.
    settings = {name: value for name, value in asdict(args).items() if name not in ("annotations", "predictions")}
    model, processor = load_captioner(args.model, **({} if args.dtype is None else {"dtype": args.dtype}))
    rows = predictions_of(
        model,
        processor,
        dataset,
        output / "predictions.jsonl",
        settings={**settings, **asdict(dataset_args)},
        instruction=args.instruction or (SCENES_INSTRUCTION if is_scenes else CORRECTION_INSTRUCTION),
        batch_size=args.batch_size,
        seed=args.seed,
        **args.generation(),
    )
    names = [n for n in ("id", "extra_objects", "extra_attributes", "questions") if n in dataset.column_names]
    annotated = dataset.select_columns(names).to_list() if names else [{}] * len(rows)
    return [{**row, **known} for row, known in zip(rows, annotated)]


def read(args: EvaluationArguments, dataset_args: DatasetArguments) -> list[dict]:
    """Predictions that exist already."""
    columns = dataset_args.columns
    return load_predictions(
        args.predictions,
        split=dataset_args.dataset_split,
        config=dataset_args.dataset_config,
        revision=dataset_args.dataset_revision,
        num_samples=dataset_args.num_samples,
        columns=json.loads(columns) if isinstance(columns, str) else columns,
    )


def write(output: Path, predictions: list[dict], scores: dict, settings: dict) -> None:
    """Scores as JSON, table, per-sample parquet and plots."""
    results = results_of(scores)
    turns = {name: results[name] for name in ("first", "second") if name in results}
    tables = result_tables(results)
    if "correction" in results:
        plot_changes(results["correction"], output / "changes.png")
    (output / "results.json").write_text(json.dumps({**results, "settings": settings}, indent=2) + "\n")
    (output / "scores.md").write_text(tables + "\n", encoding="utf-8")
    columns = {f"{turn}_{name}": values for turn, s in scores.items() for name, values in s.per_sample.items()}
    Dataset.from_dict({"sample": sample_names(predictions), **columns}).to_parquet(output / "per_sample.parquet")
    plot_scores(turns, output / "scores.png")
    print(tables)


def sample_names(predictions: list[dict]) -> list[str]:
    """What images are known by when runs are compared: their ids, else their references, else their places."""
    for column in ("id", "label"):
        names = [row.get(column) for row in predictions]
        if None not in names and len(set(names)) == len(names):
            return names
    return [f"{index}: {row['label']}" for index, row in enumerate(predictions)]


if __name__ == "__main__":
    arguments = (EvaluationArguments, DatasetArguments, MetricArguments)
    run_recipe(main, arguments, __doc__, dataset_split="test")
