"""Captions of both turns of a dataset, as JSON lines in the released form (prompt, label, predict, predict_turn2).

    python recipes/predict.py --config recipes/qwen2_vl_7b/predict.yaml
    python recipes/predict.py --config recipes/qwen2_vl_7b/predict.yaml --load_in_4bit true
    accelerate launch --num_processes 8 recipes/predict.py --config recipes/qwen2_vl_7b/predict.yaml

The model is a folder or Hub id of a captioner or of an adapter. Several processes caption a part of the images each.
Captioning that was stopped goes on with the images that have no caption yet. What this writes is scored by
`recipes/evaluate.py --predictions`.
"""

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from trl import ModelConfig, get_quantization_config

from sc_captioner.arguments import DatasetArguments, SamplingArguments, required_model, run_recipe
from sc_captioner.data import CORRECTION_INSTRUCTION as SCENES_INSTRUCTION
from sc_captioner.inference import load_captioner, predictions_of
from sc_captioner.prompts import CORRECTION_INSTRUCTION


@dataclass
class PredictionArguments(SamplingArguments):
    """
    Where captions go, beside the sampling settings.

    Args:
        output_dir (`str`): Folder for `predictions.jsonl`.
    """

    output_dir: str = field(default="outputs/predictions", metadata={"help": "Folder for predictions.jsonl."})


def main(args: PredictionArguments, dataset_args: DatasetArguments, model_args: ModelConfig) -> None:
    name, dataset = required_model(model_args), dataset_args.load()
    # Processes wait for the slowest one at the end.
    processes = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))
    rank, world = processes.process_index, processes.num_processes
    model, processor = load_captioner(
        name,
        device=str(processes.device),
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
    )
    default_instruction = SCENES_INSTRUCTION if dataset_args.dataset == "scenes" else CORRECTION_INSTRUCTION
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    parts = [output / f"predictions.{i}-of-{world}.jsonl" for i in range(world)]
    path = output / "predictions.jsonl"
    predictions_of(
        model,
        processor,
        dataset.shard(world, rank, contiguous=True),
        parts[rank] if world > 1 else path,
        settings={**asdict(args), **asdict(dataset_args), **asdict(model_args)},
        instruction=args.instruction or default_instruction,
        batch_size=args.batch_size,
        seed=args.seed,
        **args.generation(),
    )
    processes.wait_for_everyone()
    if processes.is_main_process:
        if world > 1:
            path.write_text("".join(part.read_text(encoding="utf-8") for part in parts), encoding="utf-8")
        print(f"Captions of {len(dataset)} images are in {path}.")


if __name__ == "__main__":
    run_recipe(main, (PredictionArguments, DatasetArguments, ModelConfig), __doc__, dataset_split="test", dtype="auto")
    PartialState().destroy_process_group()
