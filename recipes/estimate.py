"""Memory and time of a recipe on one GPU, before anything is downloaded or a GPU is rented.

    python recipes/estimate.py --config recipes/qwen2_vl_7b/sc.yaml
    python recipes/estimate.py --config recipes/qwen2_vl_7b/sc.yaml --gpu A100-40GB --load_in_4bit true
    python recipes/estimate.py --all --output docs/training_costs.md

Needs the model's config.json only: of `model_name_or_path` where that is a folder, else beside the YAML, else from the
Hub. Settings of the recipe can be changed as in its own command line. Prints a table, and on its last line JSON.

Memory is that of the longest captions the recipe allows, without the CUDA context and fragmentation (1 to 2 GB).
Time is arithmetic and memory traffic at the given shares of the GPU's peak, for captions of `--caption_tokens`; the
reward's parser is not in it. transformers' own generation is slower than its memory traffic, see
benchmarks/bench_step.py; vLLM comes close.
"""

import argparse
import json
import logging
import warnings
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig
from trl import ModelConfig, SFTConfig

from sc_captioner import SCConfig
from sc_captioner.arguments import ProcessorArguments, SamplingArguments, SettingError
from sc_captioner.estimation import GPUS, ImageSize, estimate, model_cost, stage_of


STAGES = {
    "sft": (SFTConfig, ModelConfig, ProcessorArguments),
    "sc": (SCConfig, ModelConfig, ProcessorArguments),
    "predict": (SamplingArguments, ModelConfig),
}
RECIPES = Path(__file__).parent
HEAD = """# What training costs

Estimates for one GPU, by `python recipes/estimate.py --all --output docs/training_costs.md`: from the models'
configurations and the recipes alone. `python recipes/estimate.py --help` says what is in them and what is not; with
`--config` it shows the parts of one recipe, and its settings, the lengths and the GPU can be changed
({gpus}).

Activations are those with gradient checkpointing, the KV cache that of the second turn with the longest captions; the
peak is the larger of generation and training, beside the weights. Time is a lower bound, of 4-bit models above all:
transformers unpacks their weights for every token.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="a recipe's YAML")
    what.add_argument("--all", action="store_true", help="every recipe beside this file whose model has a config.json")
    parser.add_argument("--stage", choices=STAGES, help="default: what the YAML's name begins with")
    parser.add_argument("--gpu", choices=GPUS, default="H100", help="default: H100")
    parser.add_argument("--image", type=int, nargs=2, default=(640, 480), help="width and height; default: 640 480")
    parser.add_argument("--caption_tokens", type=int, default=200, help="of a usual caption; default: 200")
    parser.add_argument("--samples", type=int, default=6500, help="rows where the recipe has no num_samples")
    parser.add_argument("--utilization", type=float, default=0.4, help="share of peak arithmetic; default: 0.4")
    parser.add_argument("--bandwidth_utilization", type=float, default=0.6, help="of peak bandwidth; default: 0.6")
    parser.add_argument("--output", type=Path, help="file for the table of --all")
    args, changes = parser.parse_known_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        results = [estimate_recipe(path, changes, args) for path in ([args.config] if args.config else recipes())]
    except SettingError as error:
        parser.exit(2, f"error: {error}\n")
    table = overview(results, args) if args.all else parts_table(results[0])
    if args.output:
        args.output.write_text(HEAD.format(gpus=", ".join(GPUS)) + table + "\n", encoding="utf-8")
    print(table)
    print(json.dumps(results if args.all else results[0]))


def recipes() -> list[Path]:
    """Recipes of all models that have their configuration here, those of a model in the order they are run in."""
    folders = sorted(path.parent for path in RECIPES.glob("*/config.json"))
    return [path for folder in folders for stage in STAGES for path in sorted(folder.glob(f"{stage}*.yaml"))]


def estimate_recipe(path: Path, changes: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Sizes of the model, and memory and time of the stage.

    Raises:
        SettingError: If the recipe, a setting or the model's configuration cannot be read.
    """
    stage = args.stage or next((name for name in STAGES if path.stem.startswith(name)), None)
    if stage is None:
        raise SettingError(f"{path} does not say which stage it is; set --stage to one of {', '.join(STAGES)}.")
    settings = settings_of(path, stage, changes)
    model = model_cost(architecture(path, settings), settings, ImageSize(*args.image), train=stage != "predict")
    costs = estimate(
        model,
        stage_of(stage, settings, args.samples),
        GPUS[args.gpu],
        caption_tokens=args.caption_tokens,
        utilization=args.utilization,
        bandwidth_utilization=args.bandwidth_utilization,
    )
    return {"recipe": f"{path.parent.name}/{path.stem}", "gpu": args.gpu, "model": asdict(model), **asdict(costs)}


def settings_of(path: Path, stage: str, changes: list[str]) -> dict[str, Any]:
    """Defaults of the stage's dataclasses, the YAML over them, and over it the changes of the command line."""
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SettingError(f"config {str(path)!r} cannot be read ({error}).") from error
    defaults = {f.name: f.default for kind in STAGES[stage] for f in fields(kind) if f.default is not MISSING}
    # Prediction takes the processor that was saved with the model that the first stage began with.
    beside = path.with_name("sft.yaml")
    if stage == "predict" and beside.is_file():
        first = yaml.safe_load(beside.read_text(encoding="utf-8"))
        defaults["processor_kwargs"] = first.get("processor_kwargs")
    settings = defaults | written
    for option in changes[::2]:
        if option.removeprefix("--") not in settings:
            raise SettingError(f"unknown setting {option.removeprefix('--')!r} of {path}.")
    if len(changes) % 2:
        raise SettingError(f"{changes[-1]} needs a value, as in {changes[-1]} true.")
    values = {name.removeprefix("--"): yaml.safe_load(value) for name, value in zip(changes[::2], changes[1::2])}
    return settings | values


def architecture(path: Path, settings: dict[str, Any]) -> Any:
    """The model's configuration: of its folder, else beside the recipe, else from the Hub."""
    name = str(settings["model_name_or_path"])
    here = [folder for folder in (Path(name), path.parent) if (folder / "config.json").is_file()]
    try:
        return AutoConfig.from_pretrained(str(here[0]) if here else name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingError(
            f"the configuration of {name!r} cannot be had ({reason}); put the model's config.json beside {path}."
        ) from error


def parts_table(result: dict[str, Any]) -> str:
    """Everything about one recipe."""
    model, gb = result["model"], 1e9
    rows = [(f"parameters: {name}", f"{model[name] / 1e6:,.1f} M") for name in ("total", "vision", "language")]
    rows.append(("parameters: trainable", f"{model['trainable'] / 1e6:,.1f} M"))
    rows += [(f"memory: {name}", f"{size / gb:,.2f} GB") for name, size in result["memory"].items() if size]
    rows.append(("memory: at most at a time", f"{result['peak'] / gb:,.1f} GB"))
    rows += [(f"time of a step: {name}", f"{seconds:,.2f} s") for name, seconds in result["seconds"].items()]
    rows.append(("arithmetic of a step", f"{result['flops'] / 1e12:,.0f} TFLOP"))
    rows.append(("steps", f"{result['steps']:,}"))
    rows.append((f"time on one {result['gpu']}", f"{result['hours']:,.1f} h"))
    return markdown((result["recipe"], ""), rows)


def overview(results: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """One line per recipe."""
    head = (
        "recipe",
        "parameters",
        "trained",
        "weights",
        "optimizer",
        "activations",
        "KV cache",
        "peak",
        "s/step",
        "h",
    )
    rows = []
    for result in results:
        model, memory = result["model"], result["memory"]
        sizes = [memory["weights"], memory["optimizer"], memory.get("activations, checkpointed", 0)]
        sizes += [memory["kv cache, turn 2"], result["peak"]]
        rows.append(
            (result["recipe"], f"{model['total'] / 1e9:.2f} B", f"{model['trainable'] / 1e6:.1f} M")
            + tuple(f"{size / 1e9:.1f} GB" for size in sizes)
            + (f"{sum(result['seconds'].values()):.2f}", f"{result['hours']:.1f}")
        )
    width, height = args.image
    note = (
        f"One {args.gpu} at {args.utilization:.0%} of its peak arithmetic and {args.bandwidth_utilization:.0%} of its "
        f"bandwidth, images of {width} x {height}, captions of {args.caption_tokens} tokens, {args.samples:,} samples "
        "where the recipe does not say."
    )
    return f"{markdown(head, rows)}\n\n{note}"


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table whose first column is text."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [" | ".join(f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths)))
             for row in (head, *rows)]  # fmt: skip
    rule = " | ".join("-" * widths[0] if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


if __name__ == "__main__":
    main()
