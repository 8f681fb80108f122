"""PEFT adapters by folder or Hub id: the base model that they name, their processor, and training them further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HfHubHTTPError
from transformers.training_args import ParallelMode
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .data.model_checks import ModelError


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import BitsAndBytesConfig
    from trl import GRPOConfig, SFTConfig


def base_model_of(name_or_path: str, revision: str | None = None) -> str | None:
    """The model that an adapter was trained on; `None` for what is no adapter.

    Args:
        name_or_path (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
    """
    try:
        config = find_adapter_config_file(name_or_path, revision=revision)
    except (OSError, HfHubHTTPError):
        return None  # what loads the model afterwards says what is wrong with the name
    return None if config is None else json.loads(Path(config).read_text())["base_model_name_or_path"]


def processor_source(name_or_path: str, revision: str | None = None) -> str:
    """Where the processor of a model or adapter is: an adapter that brings none uses its base model's.

    Args:
        name_or_path (`str`): Folder or Hub id of the model or adapter.
        revision (`str`, *optional*): Its revision on the Hub.
    """
    base = base_model_of(name_or_path, revision)
    if base is None:
        return name_or_path
    own = cached_file(
        name_or_path, "tokenizer_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return base if own is None else name_or_path


def adapter_to_train(
    name_or_path: str,
    args: GRPOConfig | SFTConfig,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
) -> PeftModel | None:
    """The adapter on its base model, ready to be trained further; `None` for what is no adapter.

    Args:
        name_or_path (`str`): Folder or Hub id.
        args ([`~trl.GRPOConfig`] or [`~trl.SFTConfig`]): `model_init_kwargs` say how the base model is loaded, their
            `revision` is the adapter's. They are used up: TRL has nothing left to load.
        peft_config ([`~peft.PeftConfig`], *optional*): Must not be given beside an adapter.
        quantization_config (*optional*): Of the base model.

    Raises:
        ModelError: If the base model cannot be loaded, or a new adapter is asked for on top of this one.
    """
    kwargs: dict[str, Any] = dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    revision = kwargs.pop("revision", None)
    base = base_model_of(name_or_path, revision)
    if base is None:
        return None
    if peft_config is not None:
        raise ModelError(
            f"model {name_or_path!r} is an adapter already: set use_peft to false to train it further, or merge it "
            f"into {base!r} and name the merged model to train a new adapter on top."
        )
    from peft import PeftModel
    from trl.trainer.utils import create_model_from_path

    if quantization_config is not None:
        kwargs["quantization_config"] = quantization_config
    if args.parallel_mode == ParallelMode.DISTRIBUTED:
        kwargs["device_map"] = None
    try:
        model = create_model_from_path(base, trust_remote_code=args.trust_remote_code, **kwargs)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"the base model {base!r} of {name_or_path!r} cannot be loaded ({reason}).") from error
    args.model_init_kwargs = None
    return PeftModel.from_pretrained(model, name_or_path, is_trainable=True, revision=revision)
