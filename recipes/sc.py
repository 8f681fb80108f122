"""Teach a captioner to correct itself: reinforcement learning over two turns.

    accelerate launch recipes/sc.py --config recipes/scenes/sc.yaml
    accelerate launch recipes/sc.py --config recipes/scenes/sc.yaml --learning_rate 1e-4 --resume_from_checkpoint auto

With `--push_to_hub true --hub_model_id me/name` (and `--hub_private_repo true`) every save is pushed; see also
recipes/push_model.py. The name of an adapter as `--model_name_or_path`, with `--use_peft false`, trains it further.

Every setting of SCConfig, of TRL's ModelConfig, and of the dataset and the reward stands in the YAML or on the
command line; `--help` lists them.
"""

from transformers import ProgressCallback
from trl import ModelConfig, get_peft_config, get_quantization_config

from sc_captioner import SCConfig, SCTrainer
from sc_captioner.arguments import (
    DatasetArguments,
    ProcessorArguments,
    RewardArguments,
    checkpoint_to_resume,
    model_init_kwargs,
    run_recipe,
)
from sc_captioner.model_card import changed_settings
from sc_captioner.trainer.progress import TurnProgress


ARGUMENTS = (DatasetArguments, RewardArguments, ProcessorArguments, SCConfig, ModelConfig)


def main(*parsed) -> None:
    training_args = parsed[3]
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    trainer = trainer_of(*parsed)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    trainer.save_model()  # and pushes it, if push_to_hub is set
    trainer.accelerator.print(f"Model, processor and log are in {training_args.output_dir}.")
    trainer.end()


def trainer_of(
    dataset_args: DatasetArguments,
    reward_args: RewardArguments,
    processor_args: ProcessorArguments,
    training_args: SCConfig,
    model_args: ModelConfig,
) -> SCTrainer:
    """The trainer with model, data and rewards loaded; one of each of `ARGUMENTS`."""
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    processor = processor_args.load_processor(model_args, training_args.trust_remote_code)
    first_turn_counts = training_args.first_turn_weight or training_args.progress_weight
    first_reward, reward = reward_args.rewards_by_turn()
    trainer = SCTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=reward,
        args=training_args,
        train_dataset=dataset_args.load(),
        processing_class=processor,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
        first_turn_reward_funcs=first_reward if first_turn_counts else None,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TurnProgress())
    settings = changed_settings(dataset_args, reward_args, processor_args, model_args)
    trainer.run_settings = {"dataset": dataset_args.dataset, **settings}
    return trainer


if __name__ == "__main__":
    run_recipe(main, ARGUMENTS, __doc__)
