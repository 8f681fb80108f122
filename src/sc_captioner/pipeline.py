"""transformers' `pipeline("self-correcting-image-to-text", ...)`; importing this module registers the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoModelForImageTextToText, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .captioner import SelfCorrectingCaptioner
from .model_card import RunSettings
from .prompts import CORRECTION_INSTRUCTION


TASK = "self-correcting-image-to-text"


class SelfCorrectingImageToTextPipeline(Pipeline):
    """[`SelfCorrectingCaptioner`] in the shape of a transformers pipeline.

        import sc_captioner.pipeline
        from transformers import pipeline

        captioner = pipeline("self-correcting-image-to-text", model="my-name/qwen2-vl-2b-sc")
        captioner("photo.jpg", num_corrections=1, max_new_tokens=128)
        # {"first": "...", "corrections": ["..."], "revisions": [{"added_objects": [...], ...}]}

    Args:
        args, kwargs: Of [`~transformers.Pipeline`], and `prompt`, `instruction` (`str`, *optional*), `parser` and
            `lexicon` as in [`SelfCorrectingCaptioner`]. transformers loads an adapter as its base model, so that the
            texts of an adapter are to be given.
    """

    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = ("prompt", "instruction", "parser", "lexicon")
        asked: dict[str, Any] = {name: kwargs.pop(name) for name in names if name in kwargs}
        super().__init__(*args, **kwargs)
        processor: Any = self.processor
        trained = RunSettings.of(self.model.name_or_path or "")
        texts = {"prompt": trained.prompt, "instruction": trained.instruction or CORRECTION_INSTRUCTION}
        self.captioner = SelfCorrectingCaptioner(self.model, processor, **{**texts, **asked})

    def __call__(self, inputs: Any, *args: Any, batch_size: Any = None, **kwargs: Any) -> Any:
        """Caption one image or an iterable of them; the arguments are those of [`SelfCorrectingCaptioner`]'s call."""
        if isinstance(inputs, (Image.Image, str, Path, Mapping)):
            return super().__call__({"images": [inputs]}, **kwargs)[0]
        size, rest = batch_size or self._batch_size or 1, iter(inputs)

        def batches() -> Iterator[dict[str, Any]]:
            while batch := list(islice(rest, size)):
                yield {"images": batch}

        # Images of a batch are padded together by the processor, not by the pipeline's own collation.
        return [result for batch in super().__call__(batches(), batch_size=1, **kwargs) for result in batch]

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, generation, {}

    def preprocess(self, input_: Any, **unused: Any) -> Any:
        """As in [`~transformers.Pipeline`]: a batch of images, passed on as it is."""
        return input_

    def _forward(self, input_tensors: Any, **generation: Any) -> Any:
        return self.captioner(input_tensors["images"], batch_size=len(input_tensors["images"]), **generation)

    def postprocess(self, model_outputs: Any, **unused: Any) -> list[dict[str, Any]]:
        """As in [`~transformers.Pipeline`]: results as dictionaries."""
        return [result.to_dict() for result in model_outputs]


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=SelfCorrectingImageToTextPipeline, pt_model=AutoModelForImageTextToText, type="multimodal"
)
