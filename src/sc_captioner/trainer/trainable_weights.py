"""Which weights of a captioner are trained, and in what precision."""

from __future__ import annotations

from typing import Any

import torch

from ..data.model_checks import ModelError


def freeze_vision_tower(model: Any) -> None:
    """Keep everything before the language model as it is: vision encoder and projector.

    Architectures call these parts by many names, and some count the projector to the encoder; what they agree on is
    which part decodes text, so all the rest is frozen.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): Image-text-to-text model.

    Raises:
        ModelError: If the model has nothing beside a language model.
    """
    kept = {id(parameter) for parameter in model.get_decoder().parameters()}
    kept |= {id(parameter) for parameter in model.get_output_embeddings().parameters()}
    frozen = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    if not frozen:
        raise ModelError(f"{type(model).__name__} has no vision tower to freeze; set freeze_vision_tower to false.")
    for parameter in frozen:
        parameter.requires_grad_(False)


def keep_adapters_in_float32(model: Any) -> None:
    """Undo what TRL does to the adapters of a quantised model: it rounds them to bfloat16, after the QLoRA paper.

    That fits the paper's learning rate of 2e-4. At 5e-6, that of self-correction, a step is less than half of what
    bfloat16 can tell apart in a weight of 0.01, and nearly all of them never move.

    Args:
        model ([`~peft.PeftModel`]): Quantised model with an adapter.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype is torch.bfloat16:
            parameter.data = parameter.data.float()
