"""Preference training of a captioner's second turn (DPO), a baseline of self-correction.

    accelerate launch recipes/dpo.py --config recipes/scenes/dpo.yaml

A pair stands in the context of two turns: image, prompt, a first caption of the model, instruction. Chosen is the
reference caption, rejected what the model itself says there. Where the dataset has the columns `first_caption` and
`rejected` these are taken; otherwise the model samples both before training.
"""

from dataclasses import dataclass

import datasets
from transformers import ProcessorMixin
from trl import DPOConfig, DPOTrainer, ModelConfig, get_peft_config, get_quantization_config

from sc_captioner.adapters import adapter_to_train
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
from sc_captioner.data.columns import DatasetError, with_column
from sc_captioner.model_card import changed_settings
from sc_captioner.own_captions import OwnCaptionArguments
from sc_captioner.trainer.hub_trainer import HubTrainer
from sc_captioner.trainer.trainable_weights import freeze_vision_tower


@dataclass
class PairArguments(OwnCaptionArguments, DatasetArguments):
    """Which pairs are made: the dataset, and how the model is asked for its own captions."""


class PreferenceTrainer(HubTrainer, DPOTrainer):
    """TRL's trainer, whose pushes to the Hub end no run and whose card tells of captioners."""


ARGUMENTS = (PairArguments, TuningArguments, ProcessorArguments, DPOConfig, ModelConfig)


def main(*parsed) -> None:
    training_args = parsed[3]
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    trainer = trainer_of(*parsed)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()  # and pushes it, if push_to_hub is set
    trainer.end()


def trainer_of(
    data_args: PairArguments,
    tuning_args: TuningArguments,
    processor_args: ProcessorArguments,
    training_args: DPOConfig,
    model_args: ModelConfig,
) -> PreferenceTrainer:
    """The trainer with model and pairs loaded; one of each of `ARGUMENTS`."""
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    processor = processor_args.load_processor(model_args, training_args.trust_remote_code)
    pairs = preference_pairs(data_args, processor, training_args, model_args)
    quantization, peft = get_quantization_config(model_args), get_peft_config(model_args)
    adapter = adapter_to_train(required_model(model_args), training_args, peft, quantization)
    trainer = PreferenceTrainer(
        model=adapter or model_args.model_name_or_path,
        args=training_args,
        train_dataset=pairs,
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


def preference_pairs(
    args: PairArguments, processor: ProcessorMixin, training_args: DPOConfig, model_args: ModelConfig
) -> datasets.Dataset:
    """Rows of `image`, `prompt` (the conversation up to the instruction), `chosen` and `rejected`, as TRL takes them.

    Raises:
        DatasetError: If the dataset cannot be read or used, or no row has anything to prefer.
        SettingError: If the dataset is streamed.
    """
    if args.streaming:
        raise SettingError("streaming is not available here: the model captions every image before training.")
    dataset = args.load()
    if {"first_caption", "rejected"} <= set(dataset.column_names):
        captions = list(zip(dataset["first_caption"], dataset["rejected"]))
    else:
        captions = args.own_captions(dataset, processor, training_args, model_args)
    # A caption that is the reference already leaves nothing to prefer.
    kept = [i for i, (reference, (_, second)) in enumerate(zip(dataset["reference"], captions)) if second != reference]
    if not kept:
        raise DatasetError(f"dataset {args.dataset!r}: every rejected caption is its reference; nothing to prefer.")
    dataset, captions = dataset.select(kept), [captions[i] for i in kept]
    contexts = [
        [message("user", prompt), message("assistant", first), message("user", args.instruction)]
        for prompt, (first, _) in zip(dataset["prompt"], captions)
    ]
    columns = {
        "prompt": contexts,
        "chosen": [[message("assistant", text)] for text in dataset["reference"]],
        "rejected": [[message("assistant", second)] for _, second in captions],
    }
    pairs = dataset.select_columns(["image"])
    for name, values in columns.items():
        pairs = with_column(pairs, name, values)
    return pairs


def message(role: str, text: str) -> dict[str, str]:
    """One message of a conversation."""
    return {"role": role, "content": text}


if __name__ == "__main__":
    run_recipe(main, ARGUMENTS, __doc__)
