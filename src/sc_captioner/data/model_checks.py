"""What a model and its processor must be able to do before training: see an image and take a second turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any


# Words that no chat template adds by itself.
_CAPTION, _INSTRUCTION = "zebra crossing", "correct that"


class ModelError(ValueError):
    """A model or processor cannot be trained to correct captions; the message names what is missing and the remedy."""


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Configuration of a model.

    Args:
        name (`str`): Folder or Hub id of a model.
        revision (`str`, *optional*): Revision on the Hub.
        trust_remote_code (`bool`): Run code that the repository brings along.

    Raises:
        ModelError: If there is no such model, or it is an adapter that has not been merged.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise cannot_be_loaded(name, error) from error


def load_processor(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False, **processor_kwargs: Any
) -> Any:
    """Processor of a model, ready for generation.

    Args:
        name, revision, trust_remote_code: As in [`load_config`].
        processor_kwargs: Settings that differ from the processor's own, e.g. `max_pixels=262144`.

    Raises:
        ModelError: If there is no such processor, or a package that it needs is missing.
    """
    from transformers import AutoProcessor

    options = {"revision": revision, "trust_remote_code": trust_remote_code, **processor_kwargs}
    try:
        return AutoProcessor.from_pretrained(name, padding_side="left", truncation_side="left", **options)
    except (OSError, ValueError, ImportError) as error:
        raise cannot_be_loaded(name, error) from error


def cannot_be_loaded(name: str, error: Exception, setting: str = "model_name_or_path") -> ModelError:
    """The error that tells a user why there is no model of this name, and what to do.

    Args:
        name (`str`): Folder or Hub id that was asked for.
        error (`Exception`): What loading it raised.
        setting (`str`, defaults to `"model_name_or_path"`): The setting that the user has to change.
    """
    path = Path(name).expanduser()
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return ModelError(
            f"model {name!r} is an adapter; merge it into its base model first (python recipes/merge.py --adapter "
            f"{name} --output_dir ...) and set {setting} to the result."
        )
    # A Hub id has one slash at most.
    if not path.exists() and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        return ModelError(
            f"model {name!r} does not exist; run the stage that writes it first ('make paper' lists the stages), or "
            f"set {setting} to another one."
        )
    if "Unrecognized configuration class" in str(error):  # which names some hundred classes
        return ModelError(
            f"model {name!r} takes no images with a text; set {setting} to a vision-language model, such as "
            "Qwen/Qwen2-VL-2B-Instruct."
        )
    if "cannot be loaded with `safetensors`" in str(error):
        return ModelError(
            f"model {name!r} has no weights as safetensors, and pickles are not loaded; set {setting} to a model that "
            "has them, or save this one again by save_pretrained."
        )
    return ModelError(f"model {name!r} cannot be loaded ({_line_of(error)}); check {setting}.")


def check_captioner(config: Any, processor: Any, *, name: str | None = None) -> None:
    """Checks that a model and its processor fit together and carry an image through a conversation of two turns.

    Args:
        config (`transformers.PretrainedConfig`): Configuration of the model (`model.config`).
        processor (`transformers.ProcessorMixin`): What `AutoProcessor.from_pretrained` gave for it.
        name (`str`, *optional*): How the user calls the model; default: the name that it was loaded by.

    Raises:
        ModelError: If there is no image processor, chat template or image token, if the tokenizer is larger than the
            model's vocabulary, or if the chat template drops the image or the second turn.
    """
    label = f"model {name or getattr(config, '_name_or_path', '') or type(config).__name__!r}"
    if getattr(processor, "image_processor", None) is None:
        raise ModelError(
            f"{label} comes without an image processor ({type(processor).__name__} only); set model_name_or_path to a "
            "vision-language model."
        )
    tokenizer = processor.tokenizer
    if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
        raise ModelError(
            f"{label} has no chat template; use its instruction-tuned version, or put a chat_template.jinja into its "
            "folder."
        )
    image_token_id = _image_token_id(config, label)
    _check_vocabulary(config, tokenizer, image_token_id, label)
    _check_first_turn(processor, image_token_id, label)
    _check_second_turn(processor, label)


def _image_token_id(config: Any, label: str) -> int:
    # Older configurations call the same number `image_token_index`.
    for key in ("image_token_id", "image_token_index"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    raise ModelError(
        f"{label} names no image token (image_token_id in its config.json); set model_name_or_path to a model that "
        "takes images as placeholder tokens, such as Qwen2-VL or LLaVA-1.5."
    )


def _check_vocabulary(config: Any, tokenizer: Any, image_token_id: int, label: str) -> None:
    known = tokenizer.convert_ids_to_tokens(image_token_id) if image_token_id < len(tokenizer) else None
    if known is None:
        raise ModelError(
            f"{label}: image_token_id={image_token_id} is unknown to the tokenizer ({len(tokenizer)} tokens); load "
            "the tokenizer and processor from the same folder as the model."
        )
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and len(tokenizer) > size:
        raise ModelError(
            f"{label}: the tokenizer has {len(tokenizer)} tokens, the model embeds {size}; load both from the same "
            "folder, or call model.resize_token_embeddings and save the model again."
        )


def _check_first_turn(processor: Any, image_token_id: int, label: str) -> None:
    from PIL import Image

    image = {"type": "image", "image": Image.new("RGB", (64, 64))}
    text = {"type": "text", "text": _CAPTION}
    without, with_image = [{"role": "user", "content": [text]}], [{"role": "user", "content": [image, text]}]
    try:
        seen = processor.apply_chat_template(without, tokenize=False) != processor.apply_chat_template(
            with_image, tokenize=False
        )
        inputs = seen and processor.apply_chat_template(
            with_image, add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except Exception as error:  # templates are programs of their own and raise what they like
        raise ModelError(
            f"{label}: its processor fails on a message with an image and a text ({_line_of(error)}); "
            "use the processor and chat template that belong to the model."
        ) from error
    if not seen or image_token_id not in _flat(inputs["input_ids"]):
        raise ModelError(
            f"{label}: its chat template leaves the image out (no token {image_token_id} in the prompt); "
            "use the chat template that belongs to the model."
        )


def _check_second_turn(processor: Any, label: str) -> None:
    def said(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}]}

    messages = [said("user", "describe"), said("assistant", _CAPTION), said("user", _INSTRUCTION)]
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # as above
        raise ModelError(
            f"{label}: its chat template does not take a second user turn ({_line_of(error)}); use one that does."
        ) from error
    if _CAPTION not in text or _INSTRUCTION not in text:
        raise ModelError(
            f"{label}: its chat template drops earlier turns, so that a correction could not see the caption; use one "
            "that keeps them."
        )


def _flat(ids: Any) -> list[int]:
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return list(values[0]) if values and isinstance(values[0], (list, tuple)) else values


def _line_of(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:200].rstrip(".")
