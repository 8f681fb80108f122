"""Supervised fine-tuning of a captioner, the stage before self-correction.

    accelerate launch recipes/sft.py --config recipes/scenes/sft.yaml

Rows need the columns `image` and `reference`. Where a row also has a non-empty `first_caption`, it becomes a
conversation of two turns: prompt, first caption, instruction, reference. Trained on is what the assistant says.
"""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
from transformers import ProcessorMixin
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from sc_captioner.arguments import (
    DatasetArguments,
    ProcessorArguments,
    SettingError,
    checkpoint_to_resume,
    model_init_kwargs,
    required_model,
    run_recipe,
)
from sc_captioner.data.columns import with_column
from sc_captioner.data.model_checks import check_captioner, load_config
from sc_captioner.data.scene_errors import build_conversations
from sc_captioner.prompts import CORRECTION_INSTRUCTION
from sc_captioner.trainer.trainable_weights import freeze_vision_tower


@dataclass
class ConversationArguments(DatasetArguments):
    """What the assistant is taught to say.

    Args:
        instruction (`str`): User message between a first caption and the reference.
        two_turn, errors, corrected: Of the scenes, see [`~sc_captioner.data.scene_errors.build_conversations`].
    """

    instruction: str = field(
        default=CORRECTION_INSTRUCTION, metadata={"help": "User message between a first caption and the reference."}
    )
    two_turn: float = field(default=0.35, metadata={"help": "Scenes: share of conversations of two turns."})
    errors: bool = field(default=False, metadata={"help": "Scenes: captions with a captioner's systematic errors."})
    corrected: float = field(default=0.2, metadata={"help": "Scenes with errors: share of right second captions."})


@dataclass
class TuningArguments:
    """Which weights are trained.

    Args:
        freeze_vision_tower (`bool`): Train the language model alone.
    """

    freeze_vision_tower: bool = field(default=False, metadata={"help": "Train the language model alone."})


def main(
    data_args: ConversationArguments,
    tuning_args: TuningArguments,
    processor_args: ProcessorArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
) -> None:
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    processor = checked_processor(processor_args, training_args, model_args)
    trainer = SFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=conversations(data_args),
        processing_class=processor,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    if tuning_args.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=data_args.dataset)
    trainer.end()


def checked_processor(
    processor_args: ProcessorArguments, training_args: SFTConfig, model_args: ModelConfig
) -> ProcessorMixin:
    """The model's processor, known to carry an image through a conversation.

    Raises:
        ModelError: If it does not.
        SettingError: If `chat_template_path` names no file.
    """
    options = {"trust_remote_code": training_args.trust_remote_code}
    processor = processor_args.load_processor(model_args, **options)
    name, template = required_model(model_args), training_args.chat_template_path
    if template is not None and not Path(template).is_file():
        raise SettingError(f"chat_template_path={template!r} is no file (it counts from {Path.cwd()}).")
    check_captioner(load_config(name, revision=model_args.model_revision, **options), processor, name=name)
    return processor


def conversations(args: ConversationArguments) -> datasets.Dataset:
    """Rows of `image` and `messages`, as TRL takes them.

    Raises:
        DatasetError: If the dataset cannot be read or used.
        SettingError: If a share is not one, or rows are missing.
    """
    if args.dataset == "scenes":
        dataset = scene_conversations(args)
    elif args.streaming:
        raise SettingError("streaming is not available here: fine-tuning takes its rows in a new order every epoch.")
    else:
        dataset = args.load()
    firsts = dataset["first_caption"] if "first_caption" in dataset.column_names else [""] * len(dataset)
    messages = []
    for prompt, first, reference in zip(dataset["prompt"], firsts, dataset["reference"]):
        turns = [("user", prompt), ("assistant", reference)]
        if first:
            turns[1:1] = [("assistant", first), ("user", args.instruction)]
        messages.append([{"role": role, "content": text} for role, text in turns])
    return with_column(dataset.select_columns(["image"]), "messages", messages)


def scene_conversations(args: ConversationArguments) -> datasets.Dataset:
    """The built-in scenes with what the assistant says in one or two turns."""
    if args.num_samples is None:
        raise SettingError("num_samples is needed: the scenes are drawn, there is no last one.")
    try:
        return build_conversations(
            args.num_samples,
            args.dataset_seed,
            args.dataset_split,
            two_turn=args.two_turn,
            errors=args.errors,
            corrected=args.corrected,
        )
    except ValueError as error:
        raise SettingError(str(error)) from error


if __name__ == "__main__":
    run_recipe(main, (ConversationArguments, TuningArguments, ProcessorArguments, SFTConfig, ModelConfig), __doc__)
