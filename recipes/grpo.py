"""Reinforcement learning of single captions with plain `trl.GRPOTrainer`, a baseline of self-correction.

    accelerate launch recipes/grpo.py --config recipes/scenes/grpo.yaml

The reward of a caption is its CAPTURE F1 against the reference. There is no second turn: what a correction is worth
beside simply captioning better shows against `recipes/sc.py`.
"""

from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config, get_quantization_config

from sc_captioner.adapters import adapter_to_train
from sc_captioner.arguments import (
    DatasetArguments,
    ProcessorArguments,
    ScoringArguments,
    TuningArguments,
    checkpoint_to_resume,
    model_init_kwargs,
    required_model,
    run_recipe,
)
from sc_captioner.data.columns import conversational
from sc_captioner.model_card import changed_settings
from sc_captioner.trainer.hub_trainer import HubTrainer
from sc_captioner.trainer.rollout import suppress_vision_tokens
from sc_captioner.trainer.trainable_weights import freeze_vision_tower


class SingleTurnTrainer(HubTrainer, GRPOTrainer):
    """TRL's trainer, whose pushes to the Hub end no run and whose card tells of captioners."""


ARGUMENTS = (DatasetArguments, ScoringArguments, TuningArguments, ProcessorArguments, GRPOConfig, ModelConfig)


def main(*parsed) -> None:
    training_args = parsed[4]
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    trainer = trainer_of(*parsed)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    trainer.save_model()  # and pushes it, if push_to_hub is set
    trainer.end()


def trainer_of(
    dataset_args: DatasetArguments,
    scoring_args: ScoringArguments,
    tuning_args: TuningArguments,
    processor_args: ProcessorArguments,
    training_args: GRPOConfig,
    model_args: ModelConfig,
) -> SingleTurnTrainer:
    """The trainer with model, data and reward loaded; one of each of `ARGUMENTS`."""
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    processor = processor_args.load_processor(model_args, training_args.trust_remote_code)
    quantization, peft = get_quantization_config(model_args), get_peft_config(model_args)
    adapter = adapter_to_train(required_model(model_args), training_args, peft, quantization)
    trainer = SingleTurnTrainer(
        model=adapter or model_args.model_name_or_path,
        reward_funcs=scoring_args.caption_reward("first"),
        args=training_args,
        train_dataset=conversational(dataset_args.load()),
        processing_class=processor,
        quantization_config=None if adapter else quantization,
        peft_config=peft,
        callbacks=tuning_args.callbacks,
    )
    if tuning_args.freeze_vision_tower:
        freeze_vision_tower(trainer.model)
    suppress_vision_tokens(trainer)
    settings = changed_settings(dataset_args, scoring_args, tuning_args, processor_args, model_args)
    trainer.run_settings = {"dataset": dataset_args.dataset, **settings}
    return trainer


if __name__ == "__main__":
    run_recipe(main, ARGUMENTS, __doc__)
