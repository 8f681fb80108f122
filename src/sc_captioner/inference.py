"""The two turns for users: load a captioner, caption images, have the captions corrected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, GenerationConfig

from .adapters import processor_source
from .data.columns import conversation
from .data.model_checks import cannot_be_loaded, load_processor
from .generation import correction_bridge, generate_corrections, vision_token_ids
from .prompts import CORRECTION_INSTRUCTION


if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class CorrectedCaption:
    """A caption and its correction.

    Args:
        first (`str`): Caption of the first turn.
        second (`str`): Corrected caption of the second turn.
    """

    first: str
    second: str


def load_captioner(
    name_or_path: str, *, device: str | None = None, trust_remote_code: bool = False, **model_kwargs: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Model and processor, ready to generate; a PEFT adapter is loaded on top of the base model that it names.

    Args:
        name_or_path (`str`): Folder or Hub id of a model or of an adapter.
        device (`str`, *optional*): Default: the accelerator where there is one.
        trust_remote_code (`bool`): Run code that the repository brings along.
        model_kwargs: For `from_pretrained`, e.g. `dtype="bfloat16"` or `quantization_config`.

    Raises:
        ModelError: If model or processor cannot be loaded; the message names the remedy.
    """
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, **model_kwargs
        )
    except (OSError, ValueError) as error:
        raise cannot_be_loaded(name_or_path, error) from error
    source, revision = name_or_path, model_kwargs.get("revision")
    if (base := processor_source(name_or_path, revision)) != name_or_path:
        source, revision = base, None  # the revision is that of the adapter
    processor = load_processor(source, revision=revision, trust_remote_code=trust_remote_code)
    if device is None and "device_map" not in model_kwargs:
        accelerator = torch.accelerator.current_accelerator()
        device = accelerator.type if accelerator and torch.accelerator.is_available() else "cpu"
    if device is not None and not getattr(model, "is_quantized", False):  # quantised weights stay where they are
        model.to(device)
    return model.eval(), processor


def corrected_captions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    instruction: str = CORRECTION_INSTRUCTION,
    batch_size: int = 8,
    progress: bool = False,
    **generation: Any,
) -> list[CorrectedCaption]:
    """Caption every image, tell the model to correct itself, and return both captions, in order.

    Args:
        model ([`~transformers.PreTrainedModel`]), processor ([`~transformers.ProcessorMixin`]): From `load_captioner`.
        images (`Sequence[PIL.Image.Image]`): Read batch by batch, so a lazy `datasets` column stays lazy.
        prompts (`Sequence[str]`): One captioning prompt per image.
        instruction (`str`): What the model is told between the turns.
        batch_size (`int`): Images per batch.
        progress (`bool`): Show a progress bar.
        generation: Fields of [`~transformers.GenerationConfig`] for both turns. Default: greedy, 512 new tokens.

    Raises:
        ValueError: If there are not as many prompts as images.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts; give one prompt per image.")
    captions: list[CorrectedCaption] = []
    with tqdm(total=len(images), desc="Captioning", unit="image", disable=not progress) as bar:
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            turns = captions_by_turn(
                model, processor, images[rows], prompts[rows], instruction=instruction, **generation
            )
            captions += [CorrectedCaption(first, second) for first, second in turns]
            bar.update(len(captions) - start)
    return captions


def captions_by_turn(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    instruction: str = CORRECTION_INSTRUCTION,
    num_corrections: int = 1,
    streamer: BaseStreamer | None = None,
    **generation: Any,
) -> list[tuple[str, ...]]:
    """First captions of one batch of images and their corrections in a row, each of the caption before it.

    Args:
        model ([`~transformers.PreTrainedModel`]), processor ([`~transformers.ProcessorMixin`]): From `load_captioner`.
        images (`Sequence[PIL.Image.Image]`), prompts (`Sequence[str]`): As many of the one as of the other.
        instruction (`str`): What the model is told between the turns.
        num_corrections (`int`): Turns after the first.
        streamer ([`~transformers.generation.streamers.BaseStreamer`], *optional*): Gets the tokens of a single image.
        generation: Fields of [`~transformers.GenerationConfig`] for every turn. Default: greedy, 512 new tokens.

    Returns:
        `list[tuple[str, ...]]`: Per image `num_corrections + 1` captions.
    """
    config = _generation_config(model, processor, generation)
    bridge = correction_bridge(processor, instruction, config.eos_token_id)
    with _left_padding(processor):
        inputs = _encoded(processor, images, prompts).to(model.device, model.dtype)
        samples = generate_corrections(model, inputs, bridge, config, num_corrections, streamer)
    decoded = [processor.batch_decode(turns, skip_special_tokens=True) for turns in samples]
    return [tuple(caption.strip() for caption in turns) for turns in decoded]


def predictions_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    path: Path,
    *,
    settings: Mapping[str, Any],
    batch_size: int = 8,
    seed: int = 0,
    **options: Any,
) -> list[dict[str, str]]:
    """Two-turn captions of a dataset as the released system writes them, kept on disk batch by batch.

    Args:
        model ([`~transformers.PreTrainedModel`]), processor ([`~transformers.ProcessorMixin`]): From `load_captioner`.
        dataset ([`~datasets.Dataset`]): Columns `image`, `prompt` and `reference`.
        path (`Path`): JSON lines `{"prompt", "label", "predict", "predict_turn2"}` in the order of the dataset.
        settings (`Mapping[str, Any]`): What the captions depend on. A file that was begun with the same settings and
            the same weights is continued, any other is begun again.
        batch_size (`int`): Images per batch.
        seed (`int`): Seed of sampling; with batches of equal size a continued file holds what an unbroken one would.
        options: For `corrected_captions`.
    """
    begun = path.with_suffix(".settings.json")
    run = {"rows": len(dataset), "batch_size": batch_size, "seed": seed, "weights": _weights_of(model)}
    told = json.dumps({**settings, **run}, sort_keys=True)
    if not begun.is_file() or begun.read_text() != told:
        path.unlink(missing_ok=True)
        begun.write_text(told)
    rows = _complete_rows(path)
    del rows[len(rows) - len(rows) % batch_size if len(rows) < len(dataset) else len(rows) :]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    with path.open("a") as file, tqdm(total=len(dataset), initial=len(rows), desc="Captioning", unit="image") as bar:
        for start in range(len(rows), len(dataset), batch_size):
            torch.manual_seed(seed + start)
            batch = dataset[start : start + batch_size]
            captions = corrected_captions(
                model, processor, batch["image"], batch["prompt"], batch_size=batch_size, **options
            )
            for prompt, reference, caption in zip(batch["prompt"], batch["reference"], captions):
                rows.append(
                    {"prompt": prompt, "label": reference, "predict": caption.first, "predict_turn2": caption.second}
                )
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
            file.flush()
            bar.update(len(captions))
    return rows


def _weights_of(model: PreTrainedModel) -> str:
    # The same folder may hold another model after another training run.
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.float().sum(dtype=torch.float64).cpu().numpy().tobytes())
    return digest.hexdigest()


def _complete_rows(path: Path) -> list[dict[str, str]]:
    # A run that was killed while it wrote leaves half a line at the end.
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def _encoded(processor: ProcessorMixin, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    templated: dict[str, str] = {}
    for prompt in prompts:
        if (key := str(prompt)) in templated:  # most often all images have the same one
            continue
        message = conversation(prompt)[0]
        turn = [{**message, "content": [{"type": "image"}, {"type": "text", "text": message["content"]}]}]
        templated[key] = processor.apply_chat_template(turn, add_generation_prompt=True)
    texts = [templated[str(prompt)] for prompt in prompts]
    return processor(images=[[image] for image in images], text=texts, padding=True, return_tensors="pt")


def _generation_config(
    model: PreTrainedModel, processor: ProcessorMixin, generation: dict[str, Any]
) -> GenerationConfig:
    tokenizer = processor.tokenizer
    eos = model.generation_config.eos_token_id
    eos = [] if eos is None else [eos] if isinstance(eos, int) else eos
    if not eos or tokenizer.eos_token_id not in eos:
        eos = [tokenizer.eos_token_id, *eos]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    defaults = {"max_new_tokens": 512, "do_sample": False}
    return GenerationConfig(
        **{**defaults, **generation},
        eos_token_id=eos,
        pad_token_id=pad,
        suppress_tokens=vision_token_ids(model.config) or None,
    )


@contextmanager
def _left_padding(processor: ProcessorMixin) -> Iterator[None]:
    side, processor.tokenizer.padding_side = processor.tokenizer.padding_side, "left"
    try:
        yield
    finally:
        processor.tokenizer.padding_side = side
