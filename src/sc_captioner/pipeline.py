"""transformers' `pipeline("self-correcting-image-to-text", ...)`; importing this module registers the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoModelForImageTextToText, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .captioner import SelfCorrectingCaptioner, SelfCorrection


TASK = "self-correcting-image-to-text"


class SelfCorrectingImageToTextPipeline(Pipeline):
    """[`SelfCorrectingCaptioner`] in the shape of a transformers pipeline.

        import sc_captioner.pipeline
        from transformers import pipeline

        captioner = pipeline("self-correcting-image-to-text", model="my-name/qwen2-vl-2b-sc")
        captioner("photo.jpg", num_corrections=1, max_new_tokens=128)
        # {"first": "...", "corrections": ["..."], "revisions": [{"added_objects": [...], ...}]}

    Args:
        prompt, instruction (`str`, *optional*), parser, lexicon: As in [`SelfCorrectingCaptioner`].
        kwargs: As in [`~transformers.Pipeline`].
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = ("prompt", "instruction", "parser", "lexicon")
        asked = {name: kwargs.pop(name) for name in names if name in kwargs}
        super().__init__(*args, **kwargs)
        self.captioner = SelfCorrectingCaptioner(self.model, self.processor, **asked)

    def __call__(self, images: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Caption one image or an iterable of them; the arguments are those of [`SelfCorrectingCaptioner`]'s call."""
        if isinstance(images, (Image.Image, str, Path, Mapping)):
            return super().__call__({"images": [images]}, **kwargs)[0]
        size, rest = batch_size or self._batch_size or 1, iter(images)

        def batches() -> Iterator[dict[str, Any]]:
            while batch := list(islice(rest, size)):
                yield {"images": batch}

        # Images of a batch are padded together by the processor, not by the pipeline's own collation.
        return [result for batch in super().__call__(batches(), batch_size=1, **kwargs) for result in batch]

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, generation, {}

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _forward(self, model_inputs: dict[str, Any], **generation: Any) -> list[SelfCorrection]:
        return self.captioner(model_inputs["images"], batch_size=len(model_inputs["images"]), **generation)

    def postprocess(self, model_outputs: list[SelfCorrection]) -> list[dict[str, Any]]:
        return [result.to_dict() for result in model_outputs]


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=SelfCorrectingImageToTextPipeline, pt_model=AutoModelForImageTextToText, type="multimodal"
)
