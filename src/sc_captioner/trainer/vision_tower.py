"""Training the language model of a captioner alone."""

from __future__ import annotations

from typing import Any

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
