"""Two-turn captions of a dataset, and how good each turn is.

    python recipes/evaluate.py --model outputs/scenes_sc --dataset scenes --dataset_split test --num_samples 512 \
        --output_dir outputs/scores

Writes `predictions.jsonl` (one line per image: prompt, label, predict, predict_turn2, as the released system does),
`results.json`, `per_sample.parquet` and `scores.png` into `output_dir`, and prints a table. A run that was stopped
goes on with the images that have no prediction yet.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import Dataset

from sc_captioner.arguments import DatasetArguments, ScoringArguments, run_recipe
from sc_captioner.data import CORRECTION_INSTRUCTION as SCENES_INSTRUCTION
from sc_captioner.data import grammar_errors
from sc_captioner.evaluation import plot_scores, score_table, scores_of_turns
from sc_captioner.inference import load_captioner, predictions_of
from sc_captioner.prompts import CORRECTION_INSTRUCTION


@dataclass
class EvaluationArguments:
    """
    What to evaluate and how to sample.

    Args:
        model (`str`): Folder or Hub id of a captioner or of an adapter.
        output_dir (`str`): Where predictions and scores go.
        instruction (`str`, *optional*): Correction instruction; default: the scenes' own, else the released one.
        batch_size (`int`): Images per batch.
        max_new_tokens (`int`): Longest caption.
        temperature (`float`): 0 is greedy; the released test setting is 0.95 with top_p 0.7.
        top_p (`float`): Nucleus of sampling.
        dtype (`str`, *optional*): Type of the weights, as in `bfloat16`; default: as stored.
        seed (`int`): Seed of sampling.
    """

    model: str = field(metadata={"help": "Folder or Hub id of a captioner or of an adapter."})
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "Where predictions and scores go."})
    instruction: str | None = field(
        default=None,
        metadata={"help": "Correction instruction; default: the scenes' own for 'scenes', else the released."},
    )
    batch_size: int = field(default=64, metadata={"help": "Images per batch."})
    max_new_tokens: int = field(default=512, metadata={"help": "Longest caption, in tokens."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy; the released test setting is 0.95."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of sampling; the released test setting is 0.7."})
    dtype: str | None = field(
        default=None, metadata={"help": "Type of the weights, as in bfloat16; default: as stored."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of sampling."})

    def generation(self) -> dict:
        """Fields of transformers' `GenerationConfig`."""
        if self.temperature == 0:
            return {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {"max_new_tokens": self.max_new_tokens, **sampling}


def main(args: EvaluationArguments, dataset_args: DatasetArguments, scoring_args: ScoringArguments) -> None:
    dataset = dataset_args.load()
    is_scenes = dataset_args.dataset == "scenes"
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    model, processor = load_captioner(args.model, **({} if args.dtype is None else {"dtype": args.dtype}))
    predictions = predictions_of(
        model,
        processor,
        dataset,
        output / "predictions.jsonl",
        settings={**asdict(args), **asdict(dataset_args)},
        instruction=args.instruction or (SCENES_INSTRUCTION if is_scenes else CORRECTION_INSTRUCTION),
        batch_size=args.batch_size,
        seed=args.seed,
        **args.generation(),
    )
    scores = scores_of_turns(
        predictions,
        parser=scoring_args.parser,
        lexicon=scoring_args.lexicon,
        grammar_errors=grammar_errors if is_scenes else None,
    )
    results = {turn: turn_scores.summary() for turn, turn_scores in scores.items()}
    settings = {**asdict(args), **asdict(dataset_args), **asdict(scoring_args)}
    (output / "results.json").write_text(json.dumps({**results, "settings": settings}, indent=2) + "\n")
    columns = {f"{turn}_{name}": values for turn, s in scores.items() for name, values in s.per_sample.items()}
    Dataset.from_dict(columns).to_parquet(output / "per_sample.parquet")
    plot_scores(results, output / "scores.png")
    print(score_table(results))
    print(f"Predictions, scores and plot are in {output}.")


if __name__ == "__main__":
    arguments = (EvaluationArguments, DatasetArguments, ScoringArguments)
    run_recipe(main, arguments, __doc__, dataset_split="test", num_samples=512)
