"""From the shipped captioner to one that corrects itself: scores before, training, scores after, one report.

    python recipes/quickstart.py
    python recipes/quickstart.py --seed 1 --output_dir outputs/seed1 --max_steps 50

Runs the same recipes that a real project runs (each command is printed), on the embedded scenes, and writes
`results.json` and `report.html` into `output_dir`.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import pyarrow.parquet
import yaml

from sc_captioner import CorrectionReward
from sc_captioner.arguments import RewardArguments, run_recipe
from sc_captioner.data import build_scenes, caption_graph
from sc_captioner.evaluation import score_table
from sc_captioner.report import Example, PairedDifference, report_html


@dataclass
class QuickstartArguments:
    """
    The embedded run.

    Args:
        output_dir (`str`): Where model, scores and report go.
        sc_config (`str`): YAML of the training run.
        accelerate_config (`str`): How `accelerate launch` starts it.
        sft_model (`str`): Captioner to start from.
        seed (`int`): Seed of training; the test scenes are drawn with a seed of their own.
        max_steps (`int`, *optional*): Training steps; default: as in the YAML.
        num_samples (`int`): Held-out scenes.
        num_examples (`int`): Pictures in the report.
    """

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Where model, scores and report go."})
    sc_config: str = field(default="recipes/scenes/sc.yaml", metadata={"help": "YAML of the training run."})
    accelerate_config: str = field(
        default="recipes/accelerate/one_process.yaml", metadata={"help": "How `accelerate launch` starts it."}
    )
    sft_model: str = field(default="src/sc_captioner/assets/scenes_sft", metadata={"help": "Captioner to start from."})
    seed: int = field(default=0, metadata={"help": "Seed of training; the test scenes have a seed of their own."})
    max_steps: int | None = field(default=None, metadata={"help": "Training steps; default: as in the YAML."})
    num_samples: int = field(default=512, metadata={"help": "Held-out scenes."})
    num_examples: int = field(default=10, metadata={"help": "Pictures in the report."})


# Far from the seeds that training, fine-tuning and the parser draw their scenes with.
TEST_SEED = 90_000
SHOWN = ("objects_f1", "attributes_f1", "relations_f1", "mean_f1", "broken_grammar", "capture", "relation_qa",
         "standard_errors", "n")  # fmt: skip


def main(args: QuickstartArguments) -> None:
    output = Path(args.output_dir)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", args.accelerate_config]
    train = [*launch, "recipes/sc.py", "--config", args.sc_config, "--model_name_or_path", args.sft_model,
             "--seed", str(args.seed), "--output_dir", str(output / "model")]  # fmt: skip
    if args.max_steps is not None:
        train += ["--max_steps", str(args.max_steps)]
    seconds = {
        "evaluate_before": run("Scores of the shipped captioner", evaluation(args, args.sft_model, "before")),
        "train": run("Training", train),
        "evaluate_after": run("Scores of the trained captioner", evaluation(args, str(output / "model"), "after")),
    }
    results = {stage: stage_results(output / stage) for stage in ("before", "after")}
    results |= {"seed": args.seed, "seconds": {name: round(value, 1) for name, value in seconds.items()}}
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    write_report(args, results)
    turns = [(stage, turn) for stage in ("before", "after") for turn in ("first", "second")]
    shown = {f"{stage}, {turn} turn": {k: results[stage][turn][k] for k in SHOWN} for stage, turn in turns}
    print("\n" + score_table(shown))
    for found in differences(output):
        print(f"{found.name}: {found.mean:+.3f} ± {found.standard_error:.3f} mean F1")
    print(f"\nReport with learning curves and examples: {output / 'report.html'}")


def evaluation(args: QuickstartArguments, model: str, stage: str) -> list[str]:
    """The command that scores both turns of a captioner on the held-out scenes."""
    return [sys.executable, "recipes/evaluate.py", "--model", model, "--dataset", "scenes", "--dataset_seed",
            str(TEST_SEED), "--num_samples", str(args.num_samples), "--max_new_tokens", "96",
            "--output_dir", f"{args.output_dir}/{stage}"]  # fmt: skip


def run(title: str, command: list[str]) -> float:
    """Run one stage, its output on the terminal, and return its seconds."""
    print(f"\n== {title}\n$ {shlex.join(['python', *command[1:]])}", flush=True)
    start = time.perf_counter()
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(f"error: the stage '{title}' failed; its messages stand above.")
    return time.perf_counter() - start


def stage_results(folder: Path) -> dict:
    results = json.loads((folder / "results.json").read_text())
    return {turn: results[turn] for turn in ("first", "second")}


def differences(output: Path) -> list[PairedDifference]:
    """Paired differences of mean F1 on the same scenes."""
    means = {
        (stage, turn): pyarrow.parquet.read_table(output / stage / "per_sample.parquet")[f"{turn}_mean_f1"].to_pylist()
        for stage in ("before", "after")
        for turn in ("first", "second")
    }
    trained = means["after", "second"]
    return [
        PairedDifference.of("Trained second turn against its own first", trained, means["after", "first"]),
        PairedDifference.of("Trained second turn against the untrained second", trained, means["before", "second"]),
        PairedDifference.of("Trained first turn against the untrained first", means["after", "first"],
                            means["before", "first"]),
    ]  # fmt: skip


def write_report(args: QuickstartArguments, results: dict) -> None:
    output = Path(args.output_dir)
    state = json.loads((output / "model" / "trainer_state.json").read_text())
    reward = reward_of(Path(args.sc_config))
    facts = {
        "Captioner before": args.sft_model,
        "Reward": f"preset {reward.preset}, parser {reward.parser.name}, encoder {reward.encoder.name}",
        "Held-out scenes": f"{args.num_samples}, greedy captions",
        "Seed": args.seed,
        "Seconds": ", ".join(f"{name} {value:.0f}" for name, value in results["seconds"].items()),
    }
    page = report_html(
        results, state["log_history"], examples(args, reward), differences=differences(output), facts=facts
    )
    (output / "report.html").write_text(page)


def reward_of(sc_config: Path) -> CorrectionReward:
    """The reward that the training run was told to use."""
    settings = yaml.safe_load(sc_config.read_text())
    names = {setting.name for setting in fields(RewardArguments)}
    return RewardArguments(**{name: value for name, value in settings.items() if name in names}).reward()


def examples(args: QuickstartArguments, reward: CorrectionReward) -> list[Example]:
    """Pictures from all over the test set, those first whose caption was changed."""
    scenes = build_scenes(args.num_samples, TEST_SEED, split="test")
    rows = [json.loads(line) for line in (Path(args.output_dir) / "after" / "predictions.jsonl").open()]
    order = sorted(range(len(rows)), key=lambda i: rows[i]["predict"] == rows[i]["predict_turn2"])
    shown = []
    for i in order[: args.num_examples]:
        first, second, reference = rows[i]["predict"], rows[i]["predict_turn2"], rows[i]["label"]
        explanation = reward.explain(first, second, reference)
        parts = {**explanation.parts, "total": explanation.total}
        shown.append(
            Example(
                scenes[i]["image"], first, second, reference, explanation.revision, parts, caption_graph(reference)
            )
        )
    return shown


if __name__ == "__main__":
    run_recipe(main, (QuickstartArguments,), __doc__)
