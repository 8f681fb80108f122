"""A captioner for users: images in, captions with their corrections and what each correction changed out."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import transformers
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm
from transformers.generation.streamers import TextStreamer

from .data.model_checks import check_captioner
from .inference import captions_by_turn, load_captioner
from .model_card import RunSettings
from .prompts import CAPTION_PROMPT, CORRECTION_INSTRUCTION
from .rewards.revision import facts_of, revision_of
from .scene_graph.reader import CaptionReader


if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.generation.streamers import BaseStreamer

    from .scene_graph import Revision, SceneGraphParser
    from .scene_graph.lexicon import Lexicon, LexiconName

    ImageInput = Image.Image | str | Path | Mapping[str, Any]

EMBEDDED = str(Path(__file__).parent / "assets" / "scenes_sft")


class ImageError(ValueError):
    """An image that cannot be read; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class SelfCorrection:
    """Captions of one image, turn by turn.

    Args:
        first (`str`): Caption of the first turn.
        corrections (`tuple[str, ...]`): Captions of the turns after it, each a correction of the one before.
        revisions (`tuple[Revision, ...]`): What each correction added and removed, as [`Revision`].
    """

    first: str
    corrections: tuple[str, ...]
    revisions: tuple[Revision, ...]

    @property
    def caption(self) -> str:
        """The last word on the image."""
        return self.corrections[-1] if self.corrections else self.first

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form in a stable order."""
        return {
            "first": self.first,
            "corrections": list(self.corrections),
            "revisions": [revision.to_dict() for revision in self.revisions],
        }


class SelfCorrectingCaptioner:
    """Captions images and corrects its own captions.

        captioner = SelfCorrectingCaptioner.from_pretrained("my-name/qwen2-vl-2b-sc")
        result = captioner("photo.jpg")
        print(result.first, result.caption, result.revisions[0].added_objects)

    Args:
        model ([`~transformers.PreTrainedModel`]), processor ([`~transformers.ProcessorMixin`]): A vision-language
            model that takes several turns.
        prompt (`str`): What asks for the first caption.
        instruction (`str`): What asks for every correction.
        parser ([`SceneGraphParser`], `str` or `Path`, defaults to `"compact"`): Reads the revisions out of the
            captions; loaded when first needed, see [`load_parser`].
        lexicon (`"auto"`, `"nltk"`, `"bundled"`): See [`load_lexicon`].

    Raises:
        ModelError: If model and processor cannot carry an image through a conversation of two turns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        prompt: str = CAPTION_PROMPT,
        instruction: str = CORRECTION_INSTRUCTION,
        parser: SceneGraphParser | str | Path = "compact",
        lexicon: LexiconName | Lexicon = "auto",
    ) -> None:
        check_captioner(model.config, processor)
        self.model, self.processor = model, processor
        self.prompt, self.instruction = prompt, instruction
        self._parser, self._lexicon = parser, lexicon

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = EMBEDDED,
        *,
        prompt: str | None = None,
        instruction: str | None = None,
        parser: SceneGraphParser | str | Path = "compact",
        lexicon: LexiconName | Lexicon = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        **model_kwargs: Any,
    ) -> SelfCorrectingCaptioner:
        """Load a model with its processor, or a PEFT adapter on the base model that it names.

        Args:
            name_or_path (`str` or `Path`, *optional*): Folder or Hub id. The default ships with the package: a tiny
                model that knows only the small drawn scenes of [`build_scenes`] and errs on purpose, for trying things
                out without a download. It calls every photo a scene. The better one that `make quickstart` trains
                from it is written to `outputs/quickstart/model`.
            prompt, instruction (`str`, *optional*): What the model is asked. Default: what it was trained with, which
                our trainers keep beside the weights (`training_settings.json`), else the texts of the released system.
            parser, lexicon: See the class.
            device (`str`, *optional*): Default: the accelerator where there is one.
            trust_remote_code (`bool`): Run code that the repository brings along.
            model_kwargs: For transformers' `from_pretrained`: `dtype="bfloat16"`, `device_map="auto"`,
                `quantization_config=BitsAndBytesConfig(load_in_4bit=True)`, `attn_implementation`, `revision`.

        Raises:
            ModelError: If model or processor cannot be loaded or used; the message names the remedy.
        """
        name = str(name_or_path)
        model, processor = load_captioner(name, device=device, trust_remote_code=trust_remote_code, **model_kwargs)
        trained = RunSettings.of(name, model_kwargs.get("revision"))
        return cls(
            model,
            processor,
            prompt=prompt or trained.prompt,
            instruction=instruction or trained.instruction or CORRECTION_INSTRUCTION,
            parser=parser,
            lexicon=lexicon,
        )

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput],
        num_corrections: int = 1,
        *,
        batch_size: int = 8,
        progress: bool = False,
        revisions: bool = True,
        streamer: BaseStreamer | None = None,
        **generation: Any,
    ) -> Any:
        """Caption images and correct the captions.

        Args:
            images: A PIL image, a path, an address, a `datasets` image (`{"bytes", "path"}`), or an iterable of them
                such as a list or a column of a dataset, of which one batch at a time is in memory.
            num_corrections (`int`, defaults to `1`): Corrections in a row, each of the caption before it.
            batch_size (`int`, defaults to `8`): Images per batch.
            progress (`bool`): Show a progress bar.
            revisions (`bool`, defaults to `True`): Whether to read the revisions out of the captions; `False` leaves
                them empty and saves the parser's time, some 20 ms per image of one core.
            streamer ([`~transformers.generation.streamers.BaseStreamer`], *optional*): Gets the tokens of all turns as
                they come, as a `TextStreamer` does; for a single image. [`stream`] hands text out instead.
            generation: Fields of [`~transformers.GenerationConfig`] for every turn, e.g. `max_new_tokens=128`,
                `do_sample=True`, `temperature=0.7`. Default: greedy, 512 new tokens.

        Returns:
            [`SelfCorrection`] for a single image, else a list of them in order.

        Raises:
            ImageError: If an image cannot be read; `sc-captioner caption` skips such images.
            ValueError: If `num_corrections` is negative, or a streamer is given for several images.
        """
        if num_corrections < 0:
            raise ValueError(f"num_corrections is 0 or more, not {num_corrections}.")
        single = isinstance(images, (Image.Image, str, Path, Mapping))
        if streamer is not None and not single:
            raise ValueError("A streamer takes a single image; give one, or leave the streamer out.")
        given: Any = [images] if single else images
        results: list[SelfCorrection] = []
        total = len(given) if hasattr(given, "__len__") else None
        with tqdm(total=total, desc="Captioning", unit="image", disable=not progress) as bar:
            rest = iter(given)
            while batch := [load_image(image) for image in islice(rest, batch_size)]:
                results += self._corrected(batch, num_corrections, revisions, streamer, generation)
                bar.update(len(batch))
        return results[0] if single else results

    def stream(self, image: ImageInput, num_corrections: int = 1, **generation: Any) -> Iterator[tuple[int, str]]:
        """Text of one image's captions while it is generated.

        Args:
            image: As in the call.
            num_corrections (`int`, defaults to `1`), generation: As in the call.

        Yields:
            `tuple[int, str]`: The turn (0 is the first caption) and the next piece of its text. Generation ends when
            the iterator is closed.

        Raises:
            Exception: Whatever ends the generation.
        """
        streamer = _Pieces(self.processor.tokenizer)
        outcome: SimpleQueue[Exception | None] = SimpleQueue()

        def generate() -> None:
            try:
                self._captions([load_image(image)], num_corrections, streamer, generation)
                outcome.put(None)
            except Exception as error:
                outcome.put(error)
            streamer.pieces.put(None)

        thread = Thread(target=generate, daemon=True)
        thread.start()
        try:
            while (piece := streamer.pieces.get()) is not None:
                yield piece
        finally:
            streamer.closed.set()
            thread.join()
        if error := outcome.get():
            raise error

    @cached_property
    def _reader(self) -> CaptionReader:
        return CaptionReader(self._parser, lexicon=self._lexicon)

    def _captions(self, images: list[Image.Image], num_corrections: int, streamer: Any, generation: Any) -> Any:
        return captions_by_turn(
            self.model,
            self.processor,
            images,
            [self.prompt] * len(images),
            instruction=self.instruction,
            num_corrections=num_corrections,
            streamer=streamer,
            **generation,
        )

    def _corrected(
        self, images: list[Image.Image], num_corrections: int, revisions: bool, *options: Any
    ) -> Iterator[SelfCorrection]:
        turns = self._captions(images, num_corrections, *options)
        if num_corrections == 0 or not revisions:
            return (SelfCorrection(captions[0], captions[1:], ()) for captions in turns)
        graphs, lexicon = self._reader.graphs(*turns), self._reader.lexicon
        facts = [[facts_of(g, c, lexicon) for g, c in zip(*sample)] for sample in zip(graphs, turns)]
        return (
            SelfCorrection(captions[0], captions[1:], tuple(map(revision_of, said, said[1:])))
            for captions, said in zip(turns, facts)
        )


class _Pieces(TextStreamer):
    """Puts pieces of text with their turn into a queue; ends the generation once nobody reads them."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.pieces: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
        self.closed = Event()
        self.turn = 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self.closed.is_set():
            raise InterruptedError("The stream was closed.")
        if text:
            self.pieces.put((self.turn, text))
        self.turn += stream_end


def load_image(image: ImageInput) -> Image.Image:
    """The image in RGB and upright, whatever form it comes in.

    Args:
        image: A PIL image, a path, an address (`https://...`), or a `datasets` image `{"bytes", "path"}`.

    Raises:
        ImageError: If it cannot be read.
    """
    named = image.get("path") if isinstance(image, Mapping) else image
    try:
        if isinstance(image, Mapping):
            image = Image.open(io.BytesIO(image["bytes"])) if image.get("bytes") else str(image["path"])
        if isinstance(image, Path):
            image = str(image)
        if isinstance(image, str) and not image.startswith(("http://", "https://")):
            image = Image.open(Path(image).expanduser())
        return transformers.image_utils.load_image(image, timeout=30)
    except UnidentifiedImageError as error:  # whose own message names an object in memory, not the image
        raise ImageError(f"the image {str(named)!r:.300} cannot be read: it has no known image format") from error
    except Exception as error:  # PIL's plugins raise anything from SyntaxError to struct.error on broken files
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
        raise ImageError(f"the image {str(named)!r:.300} cannot be read: {reason}") from error
