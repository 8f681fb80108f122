"""Supervised fine-tuning of a captioner, the stage before self-correction.

    accelerate launch recipes/sft.py --config recipes/scenes/sft.yaml

Rows need the columns `image`, `prompt` and `reference`. Where a row also has a non-empty `first_caption`, it becomes a
conversation of two turns: prompt, first caption, instruction, reference. Trained on is what the assistant says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import datasets
import torch
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config

from sc_captioner.data.scene_errors import build_conversations
from sc_captioner.prompts import CAPTION_PROMPT, CORRECTION_INSTRUCTION


@dataclass
class SFTArguments:
    """Data, and which part of the model stays as it is."""

    dataset_name: str = field(
        default="scenes", metadata={"help": "'scenes' (built in), a dataset on the Hub, or a folder of save_to_disk."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset on the Hub."})
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    num_samples: int | None = field(default=None, metadata={"help": "Rows to take; all by default, 16000 scenes."})
    dataset_seed: int = field(default=0, metadata={"help": "Seed of the scenes."})
    two_turn: float = field(default=0.35, metadata={"help": "Scenes: share of conversations of two turns."})
    errors: bool = field(default=False, metadata={"help": "Scenes: captions with a captioner's systematic errors."})
    corrected: float = field(default=0.2, metadata={"help": "Scenes with errors: share of right second captions."})
    prompt: str | None = field(default=None, metadata={"help": "Captioning prompt instead of the column's."})
    instruction: str = field(
        default=CORRECTION_INSTRUCTION, metadata={"help": "User message between first caption and reference."}
    )
    freeze_vision_tower: bool = field(default=False, metadata={"help": "Train the language model alone."})


def main(args: SFTArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = SFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=conversations(args),
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    if args.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=args.dataset_name)


def conversations(args: SFTArguments) -> datasets.Dataset:
    """Rows of `images` and `messages`, as TRL takes them."""
    if args.dataset_name == "scenes":
        dataset = build_conversations(
            args.num_samples or 16000,
            args.dataset_seed,
            args.dataset_split,
            two_turn=args.two_turn,
            errors=args.errors,
            corrected=args.corrected,
        )
    else:
        dataset = stored_rows(args)
    missing = {"image", "reference"} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"Dataset {args.dataset_name!r} lacks the column {sorted(missing)[0]!r} (it has "
            f"{', '.join(dataset.column_names)}); rename one of its columns to it."
        )

    def conversation(row: dict) -> dict:
        first = row.get("first_caption") or ""
        prompt = args.prompt or row.get("prompt") or CAPTION_PROMPT
        turns = [("user", prompt), ("assistant", row["reference"])]
        if first:
            turns[1:1] = [("assistant", first), ("user", args.instruction)]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    # The image column is renamed, not mapped, so that pictures are neither decoded nor written again.
    texts = dataset.select_columns([c for c in ("prompt", "first_caption", "reference") if c in dataset.column_names])
    messages = texts.map(conversation, remove_columns=texts.column_names)
    return datasets.concatenate_datasets([dataset.select_columns(["image"]), messages], axis=1)


def stored_rows(args: SFTArguments) -> datasets.Dataset:
    """A dataset from a folder that `save_to_disk` wrote, or from the Hub."""
    try:
        dataset = datasets.load_from_disk(args.dataset_name)
    except FileNotFoundError:
        dataset = datasets.load_dataset(args.dataset_name, args.dataset_config)
    if isinstance(dataset, datasets.DatasetDict):
        dataset = dataset[args.dataset_split]
    return dataset if args.num_samples is None else dataset.select(range(min(args.num_samples, len(dataset))))


def freeze_vision_tower(model: torch.nn.Module) -> None:
    """Keep everything before the language model as it is.

    Raises:
        ValueError: If the model has no part of a known name.
    """
    towers = ("visual", "vision_tower", "vision_model", "connector", "multi_modal_projector")
    frozen = [p for name, p in model.named_parameters() if any(part in towers for part in name.split("."))]
    if not frozen:
        raise ValueError(f"{type(model).__name__} has no vision tower that could be frozen; unset freeze_vision_tower.")
    for parameter in frozen:
        parameter.requires_grad_(False)


if __name__ == "__main__":
    main(*TrlParser((SFTArguments, SFTConfig, ModelConfig)).parse_args_and_config())
