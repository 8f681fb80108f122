"""Supervised fine-tuning of a captioner, the stage before self-correction.

    accelerate launch recipes/sft.py --config recipes/scenes/sft.yaml

Rows need the columns `image` and `reference`. Where a row also has a non-empty `first_caption`, it becomes a
conversation of two turns: prompt, first caption, instruction, reference. Trained on is what the assistant says.

    accelerate launch recipes/sft.py --config recipes/scenes/sft_more.yaml

With `own_first_captions` first captions are the model's own, sampled before training, and the reference alone is
trained on: the correction that self-correction by reinforcement learning has to be better than.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from transformers import ProcessorMixin
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from sc_captioner.adapters import adapter_to_train, base_model_of
from sc_captioner.arguments import (
    DatasetArguments,
    ProcessorArguments,
    SettingError,
    TuningArguments,
    checkpoint_to_resume,
    model_init_kwargs,
    required_model,
    run_recipe,
)
from sc_captioner.data.columns import with_column
from sc_captioner.data.model_checks import check_captioner, load_config
from sc_captioner.data.scene_errors import build_conversations
from sc_captioner.model_card import changed_settings
from sc_captioner.own_captions import OwnCaptionArguments
from sc_captioner.trainer.hub_trainer import HubTrainer
from sc_captioner.trainer.trainable_weights import freeze_vision_tower


@dataclass
class ConversationArguments(OwnCaptionArguments, DatasetArguments):
    """What the assistant is taught to say.

    Args:
        own_first_captions (`bool`): Conversations of two turns begin with a caption that the model itself samples.
        two_turn (`float`): Share of conversations of two turns, of the scenes and where first captions are own ones.
        errors, corrected: Of the scenes, see [`~sc_captioner.data.scene_errors.build_conversations`].
    """

    own_first_captions: bool = field(
        default=False, metadata={"help": "First captions are sampled from the model; only references are trained on."}
    )
    two_turn: float = field(
        default=0.35, metadata={"help": "Share of conversations of two turns: of scenes, and with own_first_captions."}
    )
    errors: bool = field(default=False, metadata={"help": "Scenes: captions with a captioner's systematic errors."})
    corrected: float = field(default=0.2, metadata={"help": "Scenes with errors: share of right second captions."})


class CaptionTrainer(HubTrainer, SFTTrainer):
    """TRL's trainer, whose pushes to the Hub end no run and whose card tells of captioners."""


ARGUMENTS = (ConversationArguments, TuningArguments, ProcessorArguments, SFTConfig, ModelConfig)


def main(*parsed) -> None:
    training_args = parsed[3]
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    trainer = trainer_of(*parsed)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()  # and pushes it, if push_to_hub is set
    trainer.end()


def trainer_of(
    data_args: ConversationArguments,
    tuning_args: TuningArguments,
    processor_args: ProcessorArguments,
    training_args: SFTConfig,
    model_args: ModelConfig,
) -> CaptionTrainer:
    """The trainer with model and conversations loaded; one of each of `ARGUMENTS`."""
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    processor = checked_processor(processor_args, training_args, model_args)
    quantization, peft = get_quantization_config(model_args), get_peft_config(model_args)
    if data_args.own_first_captions:
        dataset = own_conversations(data_args, processor, training_args, model_args)
    else:
        dataset = conversations(data_args)
    adapter = adapter_to_train(required_model(model_args), training_args, peft, quantization)
    trainer = CaptionTrainer(
        model=adapter or model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset,
        processing_class=processor,
        quantization_config=None if adapter else quantization,
        peft_config=peft,
        callbacks=tuning_args.callbacks,
    )
    if tuning_args.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    settings = changed_settings(data_args, tuning_args, processor_args, model_args)
    trainer.run_settings = {"dataset": data_args.dataset, **settings}
    return trainer


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
    base = base_model_of(name, model_args.model_revision)
    config = load_config(base or name, revision=None if base else model_args.model_revision, **options)
    check_captioner(config, processor, name=name)
    return processor


def conversations(args: ConversationArguments) -> datasets.Dataset:
    """Rows of `image` and `messages`, as TRL takes them.

    Raises:
        DatasetError: If the dataset cannot be read or used.
        SettingError: If a share is not one, or rows are missing.
    """
    dataset = scene_conversations(args) if args.dataset == "scenes" else rows_to_shuffle(args)
    firsts = dataset["first_caption"] if "first_caption" in dataset.column_names else [""] * len(dataset)
    messages = []
    for prompt, first, reference in zip(dataset["prompt"], firsts, dataset["reference"]):
        turns = [("user", prompt), ("assistant", reference)]
        if first:
            turns[1:1] = [("assistant", first), ("user", args.instruction)]
        messages.append([{"role": role, "content": text} for role, text in turns])
    return with_column(dataset.select_columns(["image"]), "messages", messages)


def own_conversations(
    args: ConversationArguments, processor: ProcessorMixin, training_args: SFTConfig, model_args: ModelConfig
) -> datasets.Dataset:
    """Rows of `image`, `prompt` and `completion`: first caption and instruction are context, the reference is not.

    Raises:
        DatasetError: If the dataset cannot be read or used.
        SettingError: If a setting contradicts another one.
    """
    if not 0 <= args.two_turn <= 1:
        raise SettingError(f"two_turn={args.two_turn} is a share: between 0 and 1.")
    if training_args.assistant_only_loss:
        raise SettingError("own_first_captions trains on references alone; set assistant_only_loss to false.")
    dataset = rows_to_shuffle(args)
    captions = args.own_captions(dataset, processor, training_args, model_args)
    rng = random.Random(training_args.seed)
    prompts = []
    for prompt, (first, _) in zip(dataset["prompt"], captions):
        turns = [("user", prompt)]
        if rng.random() < args.two_turn:
            turns += [("assistant", first), ("user", args.instruction)]
        prompts.append([{"role": role, "content": text} for role, text in turns])
    completions = [[{"role": "assistant", "content": text}] for text in dataset["reference"]]
    dataset = with_column(dataset.select_columns(["image"]), "prompt", prompts)
    return with_column(dataset, "completion", completions)


def rows_to_shuffle(args: ConversationArguments) -> datasets.Dataset:
    """The dataset, which must not be a stream."""
    if args.streaming:
        raise SettingError("streaming is not available here: fine-tuning takes its rows in a new order every epoch.")
    return args.load()


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
            world=args.dataset_config or "plain",
        )
    except ValueError as error:
        raise SettingError(str(error)) from error


if __name__ == "__main__":
    run_recipe(main, ARGUMENTS, __doc__)
