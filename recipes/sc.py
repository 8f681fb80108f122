"""Teach a captioner to correct itself: reinforcement learning over two turns.

    accelerate launch recipes/sc.py --config recipes/scenes/sc.yaml
    accelerate launch recipes/sc.py --config recipes/scenes/sc.yaml --learning_rate 1e-4 --resume_from_checkpoint auto

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
from sc_captioner.trainer.progress import TurnProgress


def main(
    dataset_args: DatasetArguments,
    reward_args: RewardArguments,
    processor_args: ProcessorArguments,
    training_args: SCConfig,
    model_args: ModelConfig,
) -> None:
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    processor = processor_args.load_processor(model_args, training_args.trust_remote_code)
    trainer = SCTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=reward_args.reward(),
        args=training_args,
        train_dataset=dataset_args.load(),
        processing_class=processor,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TurnProgress())
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=dataset_args.dataset)
    trainer.accelerator.print(f"Model, processor and log are in {training_args.output_dir}.")
    trainer.end()


if __name__ == "__main__":
    run_recipe(main, (DatasetArguments, RewardArguments, ProcessorArguments, SCConfig, ModelConfig), __doc__)
