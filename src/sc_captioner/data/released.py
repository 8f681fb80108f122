"""The files captions are released in, entry by entry in our columns: ShareGPT JSON and DOCCI's descriptions.

ShareGPT (SC-Captioner-data, folder llamafactory_json): `conversations` with one question and one answer, `images`, and
in the files for preference training `chosen` (the reference caption) and `rejected`. DOCCI: `image_file`,
`description`, `example_id` and `split`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .columns import DatasetError


ReleasedForm = Literal["sharegpt", "docci"]

_SUFFIXES = (".json", ".jsonl", ".jsonlines")
_IMAGE_MARK = "<image>"
_ASKING, _ANSWERING = ("human", "user"), ("gpt", "assistant")


def released_form(path: str | Path) -> ReleasedForm | None:
    """Which of the released forms a file has, by its first entry; `None` if neither, or if it is no file of JSON.

    Args:
        path (`str`): A file.

    Raises:
        DatasetError: If the file holds predictions: they have no images to train on.
    """
    path = Path(path).expanduser()
    if path.suffix not in _SUFFIXES or not path.is_file():
        return None
    first = next(_entries(path), None)
    if not isinstance(first, Mapping):
        return None
    if "conversations" in first:
        return "sharegpt"
    if {"image_file", "description"} <= first.keys():
        return "docci"
    if "predict" in first:
        raise DatasetError(
            f"{str(path)!r} holds predictions, which have no images; score them as they are by "
            f"recipes/evaluate.py --predictions {path}."
        )
    return None


def released_rows(path: str | Path, form: ReleasedForm, split: str) -> Iterator[dict[str, Any] | str]:
    """The entries of a released file as rows with `image` (its path as written), `prompt` (ShareGPT), `reference` and,
    where the file has them, `rejected` and `id`; instead of a row, what is wrong with an entry that gives none.

    A JSON array is read whole (it holds texts only), JSON lines one by one.

    Args:
        path (`str`): The file.
        form (`str`): From [`released_form`].
        split (`str`): DOCCI keeps all splits in one file; only the entries of this one are taken.

    Raises:
        DatasetError: If the file cannot be read as JSON at all.
    """
    row_of = _sharegpt_row if form == "sharegpt" else _docci_row
    for entry in _entries(Path(path).expanduser()):
        if form == "docci" and isinstance(entry, Mapping) and entry.get("split", split) != split:
            continue
        if isinstance(entry, Mapping):
            yield row_of(entry)
        else:
            yield entry if isinstance(entry, str) else f"is {type(entry).__name__} where a JSON object is needed"


def found_image(path: str, root: str | Path) -> str:
    """Where an image lies: as written (a relative path counts from `root`), or in `root` by its name alone.

    Released files name images by paths of the machine they were made on, of which only the last part can be trusted.
    A path that is found nowhere comes back as written.

    Args:
        path (`str`): As the file writes it.
        root (`str | Path`): Folder to look in.
    """
    if "://" in path:
        return path
    given, root = Path(path).expanduser(), Path(root).expanduser()
    candidates = (root / given, root / given.name)
    return str(next((file for file in candidates if file.is_file()), candidates[0]))


def _sharegpt_row(entry: Mapping[str, Any]) -> dict[str, Any] | str:
    turns = [_turn(turn) for turn in entry.get("conversations") or ()]
    asked = [text for role, text in turns if role in _ASKING]
    answered = [text for role, text in turns if role in _ANSWERING]
    if "chosen" in entry:
        answered.append(_turn(entry["chosen"])[1])
    if len(asked) != 1 or len(answered) != 1 or len(turns) > 2:
        return f"has {len(asked)} questions and {len(answered)} answers where one of each is needed"
    images = entry.get("images")
    images = [images] if isinstance(images, str) else images or []
    if len(images) != 1 or not isinstance(images[0], str):
        return f"column 'images' holds {len(images)} paths where one is needed"
    prompt = asked[0].replace(_IMAGE_MARK, "").strip() if isinstance(asked[0], str) else asked[0]
    row = {"image": images[0], "prompt": prompt, "reference": answered[0]}
    if "rejected" in entry:
        row["rejected"] = _turn(entry["rejected"])[1]
    return row if "id" not in entry else {**row, "id": str(entry["id"])}


def _turn(turn: Any) -> tuple[Any, Any]:
    """Role and text of a message, in ShareGPT's words or in those of chat templates."""
    if not isinstance(turn, Mapping):
        return None, turn
    return turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))


def _docci_row(entry: Mapping[str, Any]) -> dict[str, Any] | str:
    if not isinstance(entry.get("image_file"), str):
        return "column 'image_file' names no image"
    return {
        "id": str(entry.get("example_id", entry["image_file"])),
        "image": entry["image_file"],
        "reference": entry.get("description"),
    }


def _entries(path: Path) -> Iterator[Any]:
    """What stands in a JSON array or in JSON lines; a line that is no JSON comes as a sentence that says so."""
    with path.open("rb") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == b"[":
            try:
                yield from json.load(file)
            except ValueError as error:  # also what is no UTF-8
                raise DatasetError(f"{str(path)!r} is no JSON ({error}); get the file again.") from error
            return
        for line in file:
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                yield f"is no JSON ({error})"
