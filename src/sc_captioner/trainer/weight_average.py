"""An average of the weights over training, which is what is kept in the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


logger = logging.getLogger(__name__)

AVERAGE_FILE = "weight_average.safetensors"


class WeightAverage(TrainerCallback):
    """
    Average of the trained weights over the last part of training, which the model holds when training has ended.

    Under a constant learning rate the last weights are a draw around what they have reached, and self-correction is
    learned from few samples; the average is the middle of the draws. Rollouts and losses are those of the weights
    themselves. Checkpoints hold both, so that a resumed run goes on with either. As a callback it serves any trainer:

    ```python
    trainer.add_callback(WeightAverage(0.5))
    ```

    The average decays polynomially (Shamir and Zhang, 2013, arXiv 1212.1824): after step t it moves by
    `(1 + eta) / (t + eta)` of the way towards the weights, `eta = 1 / last - 1`. So its memory grows with the run,
    which may end at any step; with `last = 1` it is the mean of all. It is kept in float32 beside the model: for an
    adapter next to nothing, for full training four bytes per weight.

    Args:
        last (`float`): In (0, 1]; about the last so much of the steps counts.

    Raises:
        ValueError: If `last` is outside of its range, or, when training starts, if weights are sharded or
            `load_best_model_at_end` would be overwritten.
    """

    def __init__(self, last: float) -> None:
        if not 0.0 < last <= 1.0:
            raise ValueError(f"average_last={last} must lie in (0, 1], as 0.5 does; leave it out for no average.")
        self.eta = 1.0 / last - 1.0
        self.average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """As [`~transformers.TrainerCallback.on_train_begin`]: start from the weights, or from a checkpoint's.

        Raises:
            ValueError: If weights are sharded, or another setting decides what is kept.
        """
        weights = _trained(model)
        if any(isinstance(weight, DTensor) or hasattr(weight, "ds_shape") for weight in weights.values()):
            raise ValueError("average_last needs whole weights in every process; leave it out with ZeRO-3 or FSDP.")
        if args.load_best_model_at_end:
            raise ValueError("average_last and load_best_model_at_end both decide what is kept; leave one out.")
        self.average = {name: weight.detach().float().clone() for name, weight in weights.items()}
        if not state.global_step:
            return
        saved = _file(args.output_dir, state.global_step)
        if not saved.is_file():
            logger.warning("%s is missing: the average of the weights starts at step %d.", saved, state.global_step)
            return
        device = {name: weight.device for name, weight in self.average.items()}
        self.average = {name: w.to(device[name]) for name, w in safetensors.torch.load_file(saved).items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """As [`~transformers.TrainerCallback.on_step_end`]: move the average towards the weights."""
        share = (1.0 + self.eta) / (state.global_step + self.eta)
        for name, weight in _trained(model).items():
            self.average[name].lerp_(weight.detach().float(), share)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """As [`~transformers.TrainerCallback.on_save`]: the checkpoint gets the average."""
        saved = _file(args.output_dir, state.global_step)
        if state.is_world_process_zero and saved.parent.is_dir():
            safetensors.torch.save_file({name: w.contiguous() for name, w in self.average.items()}, saved)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """As [`~transformers.TrainerCallback.on_train_end`]: the model gets the average."""
        _put(model, self.average)

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Inside, the model holds the average; behind, its own weights again.

        Args:
            model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The one in training.
        """
        own = {name: weight.detach().clone() for name, weight in _trained(model).items()}
        _put(model, self.average)
        try:
            yield
        finally:
            _put(model, own)


def _file(output_dir: str, step: int) -> Path:
    return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}" / AVERAGE_FILE


def _trained(model: Any) -> dict[str, torch.Tensor]:
    model = getattr(model, "module", model)  # of DistributedDataParallel
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def _put(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    for name, weight in _trained(model).items():
        weight.copy_(weights[name])
