"""What a captioner says of the images it is to be trained on: contexts to correct, and captions to do better than."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import get_quantization_config

from .arguments import SettingError, required_model
from .inference import load_captioner, predictions_of
from .prompts import CORRECTION_INSTRUCTION


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin, TrainingArguments
    from trl import ModelConfig


@dataclass
class OwnCaptionArguments:
    """
    How the model is asked for captions of its own before it is trained.

    Args:
        instruction (`str`): User message between a first caption and its correction.
        temperature (`float`): Of sampling, above 0.
        max_new_tokens (`int`): Longest caption.
        sampling_batch_size (`int`): Images per batch.
    """

    instruction: str = field(
        default=CORRECTION_INSTRUCTION, metadata={"help": "User message between a first caption and its correction."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Own captions: temperature of sampling."})
    max_new_tokens: int = field(default=512, metadata={"help": "Own captions: longest caption, in tokens."})
    sampling_batch_size: int = field(default=8, metadata={"help": "Own captions: images per batch."})

    def own_captions(
        self, dataset: Dataset, processor: ProcessorMixin, training_args: TrainingArguments, model_args: ModelConfig
    ) -> list[tuple[str, str]]:
        """First and second caption of every row, sampled by the model as it is before training.

        They are kept in `own_captions.jsonl` of the run's folder batch by batch, so that a run that was stopped goes
        on; the seed is the run's. In a distributed run the main process samples and the others wait.

        Args:
            dataset ([`~datasets.Dataset`]): Columns `image`, `prompt` and `reference`.
            processor ([`~transformers.ProcessorMixin`]): The model's.
            training_args ([`~transformers.TrainingArguments`]): `output_dir` and `seed` of the run.
            model_args ([`~trl.ModelConfig`]): The model.

        Raises:
            ModelError: If the model cannot be loaded.
            SettingError: If the temperature is not above 0.
        """
        if self.temperature <= 0:
            raise SettingError(f"temperature={self.temperature} must be above 0: the model's captions are sampled.")
        output = Path(training_args.output_dir or ".")
        sampling = {"do_sample": True, "temperature": self.temperature, "top_k": 0}
        told = {"model": model_args.model_name_or_path, "instruction": self.instruction, **sampling}
        with training_args.main_process_first(local=False, desc="sampling own captions"):
            output.mkdir(parents=True, exist_ok=True)
            model, _ = load_captioner(required_model(model_args), **_loading(model_args))
            rows = predictions_of(
                model,
                processor,
                dataset,
                output / "own_captions.jsonl",
                settings={**told, "max_new_tokens": self.max_new_tokens},
                batch_size=self.sampling_batch_size,
                seed=training_args.seed,
                instruction=self.instruction,
                max_new_tokens=self.max_new_tokens,
                **sampling,
            )
        return [(row["predict"], row["predict_turn2"]) for row in rows]


def _loading(model_args: ModelConfig) -> dict[str, Any]:
    return {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        "quantization_config": get_quantization_config(model_args),
    }
