"""Captions of any number of image files: batch by batch, kept as they come, continued after a stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import SettingError


if TYPE_CHECKING:
    from PIL import Image

    from .captioner import ImageError, SelfCorrectingCaptioner, SelfCorrection

# What is looked for in folders; a file that is named itself is tried whatever its name.
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def image_sources(names: Iterable[str]) -> Iterator[str]:
    """Files and addresses as they are given, folders searched through, in a fixed order.

    Args:
        names (`Iterable[str]`): Image files, folders, addresses (`https://...`).

    Raises:
        SettingError: If there is no such file or folder.
    """
    for name in names:
        if name.startswith(("http://", "https://")) or os.path.isfile(name):
            yield name
            continue
        if not os.path.isdir(name):
            raise SettingError(f"there is no file or folder {name!r}.")
        for folder, subfolders, files in os.walk(name):
            subfolders.sort()
            for file in sorted(files):
                if Path(file).suffix.lower() in SUFFIXES:
                    yield os.path.join(folder, file)


def caption_images(
    captioner: SelfCorrectingCaptioner,
    sources: Iterable[str | tuple[str, Any]],
    *,
    batch_size: int = 8,
    **options: Any,
) -> Iterator[list[tuple[str, SelfCorrection | ImageError]]]:
    """Captions by batch; the next batch of images is read while one is captioned, and no more are in memory.

    Args:
        captioner ([`SelfCorrectingCaptioner`]): Captions them.
        sources (`Iterable[str]`, `Iterable[tuple[str, Any]]`): Files and addresses, or names with images in any form
            that the captioner takes, or with an `ImageError` that is handed on.
        batch_size (`int`): Images per batch.
        options: Of the captioner's call.

    Yields:
        `list[tuple[str, SelfCorrection | ImageError]]`: Every image of a batch with its captions, or with the error
        that keeps it from being captioned.
    """
    for batch in _read_ahead(sources, batch_size):
        try:
            yield _captioned(captioner, batch, options)
        except ValueError:
            # Image processors refuse some images that can be read, such as very narrow ones.
            tried = [(source, _prepared(captioner, source, image)) for source, image in batch]
            if all(new is old for (_, new), (_, old) in zip(tried, batch)):
                raise
            yield _captioned(captioner, tried, options)


def _captioned(
    captioner: SelfCorrectingCaptioner,
    batch: Sequence[tuple[str, Image.Image | ImageError]],
    options: Mapping[str, Any],
) -> list[tuple[str, SelfCorrection | ImageError]]:
    from .captioner import ImageError

    images = [image for _, image in batch if not isinstance(image, ImageError)]
    results: Iterator[SelfCorrection] = iter(captioner(images, batch_size=len(batch), **options))
    return [(source, image if isinstance(image, ImageError) else next(results)) for source, image in batch]


def _prepared(captioner: SelfCorrectingCaptioner, source: str, image: Any) -> Any:
    from .captioner import ImageError

    processor: Any = captioner.processor
    try:
        if not isinstance(image, ImageError):
            processor.image_processor(images=[image], return_tensors="pt")
    except ValueError as error:
        return ImageError(f"the image {source!r} cannot be captioned: {error}")
    return image


def _read_ahead(
    sources: Iterable[str | tuple[str, Any]], size: int
) -> Iterator[list[tuple[str, Image.Image | ImageError]]]:
    rest = iter(sources)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(_read, list(islice(rest, size)))
        while batch := ahead.result():
            ahead = pool.submit(_read, list(islice(rest, size)))
            yield batch


def _read(sources: Sequence[str | tuple[str, Any]]) -> list[tuple[str, Image.Image | ImageError]]:
    from .captioner import ImageError, load_image

    batch: list[tuple[str, Any]] = []
    for source in sources:
        name, image = (source, source) if isinstance(source, str) else source
        try:
            batch.append((name, image if isinstance(image, ImageError) else load_image(image)))
        except ImageError as error:
            batch.append((name, error))
    return batch


def caption_row(source: str, result: SelfCorrection) -> dict[str, Any]:
    """One JSON line: the image as `id`, its captions by the names that `load_predictions` reads, revisions if read.

    Args:
        source (`str`): Path or address of the image.
        result ([`SelfCorrection`]): Its captions.
    """
    told = result.to_dict()
    row: dict[str, Any] = {"id": source, "first_caption": result.first}
    if result.corrections:
        row["second_caption"] = result.caption
    if len(result.corrections) > 1:
        row["corrections"] = told["corrections"]
    if result.revisions:
        row["revisions"] = told["revisions"]
    return row


def check_same_settings(output: str, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to go on with captions of other settings.

    Args:
        output (`str`): What holds the captions.
        before (`Mapping[str, Any]`), settings (`Mapping[str, Any]`): What it was begun with, and what is asked now.

    Raises:
        SettingError: If they differ.
    """
    if changed := [name for name in settings if settings[name] != before.get(name)]:
        was = ", ".join(f"{name} {before.get(name)!r}" for name in changed)
        raise SettingError(f"{output!r} was begun with {was}; use the same, name another output, or remove it.")


class CaptionFile:
    """JSON lines, one per image, that a later run with the same settings goes on with.

    Args:
        path (`Path`): The file; its settings stand beside it in `<name>.settings.json`.
        settings (`Mapping[str, Any]`): What the captions depend on.

    Raises:
        SettingError: If the file was begun with other settings, or holds something else than captions.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._begin(path.with_name(f"{path.name}.settings.json"), settings)
        self.done = frozenset(self._complete()) if path.is_file() else frozenset()

    def write(self, captions: Iterable[tuple[str, SelfCorrection]]) -> None:
        """Put captions at the end of the file; they stay if the process is killed right after.

        Args:
            captions (`Iterable[tuple[str, SelfCorrection]]`): Images by path or address, each with its captions.
        """
        lines = [json.dumps(caption_row(*caption), ensure_ascii=False) + "\n" for caption in captions]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def _begin(self, begun: Path, settings: Mapping[str, Any]) -> None:
        if self._path.is_file() and begun.is_file():
            check_same_settings(str(self._path), json.loads(begun.read_text(encoding="utf-8")), settings)
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def _complete(self) -> Iterator[str]:
        """Images that have a line; half a line at the end, as a killed run leaves it, is cut off."""
        end = 0
        with self._path.open("rb+") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and line.startswith(b'{"id": '[: len(line)]):
                    break
                try:
                    yield json.loads(line)["id"]
                except (ValueError, KeyError, TypeError) as error:
                    raise SettingError(
                        f"{str(self._path)!r}, line {number}, holds no caption of ours; name another output."
                    ) from error
                end += len(line)
            file.truncate(end)


class CaptionsBeside:
    """The last caption of every image in a text file beside it, `photo.jpg.txt`; one that is there already stays."""

    def __init__(self) -> None:
        self.done = _HaveTexts()

    def write(self, captions: Iterable[tuple[str, SelfCorrection]]) -> None:
        """Write captions; each file is there as a whole or not at all.

        Args:
            captions (`Iterable[tuple[str, SelfCorrection]]`): Image files, each with its captions.
        """
        for source, result in captions:
            whole = Path(f"{source}.txt.part")
            whole.write_text(result.caption + "\n", encoding="utf-8")
            os.replace(whole, f"{source}.txt")


class _HaveTexts:
    def __contains__(self, source: str) -> bool:
        return os.path.exists(f"{source}.txt")
