"""Annotations of test images beyond the reference caption, in the files that DOCCI500 and COCO-LN500 come in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .columns import DatasetError


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known of images, by image id.

    Args:
        captions (`dict[str, str]`): Reference captions.
        objects (`dict[str, list[str]]`): Objects annotated beyond the reference.
        attributes (`dict[str, dict[str, list[str]]]`): Annotated attributes by object.
        questions (`dict[str, dict[str, str]]`): Yes/no questions on relations and their answers.
    """

    captions: dict[str, str]
    objects: dict[str, list[str]]
    attributes: dict[str, dict[str, list[str]]]
    questions: dict[str, dict[str, str]]

    @classmethod
    def load(cls, folder: str | Path) -> Annotations:
        """Read `captions.json`, `objects.jsonl`, `attributes.json` and `relation_questions.json` of a folder.

        Only the captions must be there.

        Args:
            folder (`str | Path`): Where the files are.

        Raises:
            DatasetError: If the captions are missing or a file is not in its form; the message names file and line.
        """
        folder = Path(folder).expanduser()
        if not (folder / "captions.json").is_file():
            raise DatasetError(f"annotations {str(folder)!r} hold no captions.json; name a folder that does.")
        captions = _by_id(folder / "captions.json", str)
        objects: dict[str, list[str]] = {}
        for number, line in enumerate(_lines(folder / "objects.jsonl"), 1):
            objects |= _checked(_parsed(line, f"{folder / 'objects.jsonl'}, line {number},"), list, "objects.jsonl")
        attributes = _by_id(folder / "attributes.json", dict)
        return cls(captions, objects, attributes, _by_id(folder / "relation_questions.json", dict))

    def rows(self) -> list[dict[str, Any]]:
        """One row per image: `id`, `label` (the reference) and the annotations, named as datasets name them."""
        return [{"id": key, "label": caption, **self._of(key)} for key, caption in self.captions.items()]

    def added_to(self, predictions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predictions with the reference and annotations of their image.

        A prediction belongs to the image that its `id` names, or, where there are no ids, to the one whose reference
        its `label` is (blanks apart); images with equal references are taken in their order.

        Args:
            predictions (`Sequence[Mapping[str, Any]]`): Rows with `id` or `label`.

        Raises:
            DatasetError: If a prediction belongs to no image; the message names its row.
        """
        by_caption: dict[str, list[str]] = {}
        for image, caption in reversed(self.captions.items()):
            by_caption.setdefault(_plain(caption), []).append(image)
        rows = []
        for index, row in enumerate(predictions):
            keys = by_caption.get(_plain(row.get("label", "")), [])
            # The last one stays: several runs' predictions of one image may stand in one file.
            key = row["id"] if "id" in row else keys.pop() if len(keys) > 1 else keys[0] if keys else None
            if key is None or key not in self.captions:
                named = f"the id {row['id']!r}" if "id" in row else "its label"
                raise DatasetError(
                    f"predictions, row {index}: {named} is not in captions.json; predictions and annotations must be "
                    "of the same images, by id or by label."
                )
            rows.append({"id": key, **row, "label": row.get("label", self.captions[key]), **self._of(key)})
        return rows

    def _of(self, key: str) -> dict[str, Any]:
        annotations: dict[str, dict[str, Any]] = {
            "extra_objects": self.objects,
            "extra_attributes": self.attributes,
            "questions": self.questions,
        }
        return {name: values[key] for name, values in annotations.items() if key in values}


def _plain(caption: str) -> str:
    return " ".join(caption.split())


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    # Not splitlines: a caption may hold other line separators than the file's.
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"annotations {where} is no JSON ({error}).") from error


def _by_id(path: Path, kind: type) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return _checked(_parsed(path.read_text(encoding="utf-8"), str(path)), kind, path.name)


def _checked(entries: Any, kind: type, name: str) -> dict[str, Any]:
    if not isinstance(entries, dict):
        raise DatasetError(f"annotations {name} must map image ids, not hold {type(entries).__name__}.")
    for key, value in entries.items():
        if not isinstance(value, kind):
            raise DatasetError(
                f"annotations {name}: image {key!r} has {type(value).__name__} where {kind.__name__} is needed."
            )
    return entries
