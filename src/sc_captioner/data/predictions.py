"""Captions of both turns as the released system, this package or a Hub dataset keep them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .columns import DatasetError


# The released system's names, then those of our datasets and rewards.
NAMES = {
    "id": ("id", "image_id"),
    "prompt": ("prompt",),
    "label": ("label", "reference"),
    "predict": ("predict", "first_caption"),
    "predict_turn2": ("predict_turn2", "second_caption"),
    "extra_objects": ("extra_objects",),
    "extra_attributes": ("extra_attributes",),
    "questions": ("questions",),
}
TEXTS = ("prompt", "label", "predict", "predict_turn2")


def load_predictions(
    source: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    num_samples: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Rows with `predict` and, where the source has them, `predict_turn2`, `label`, `prompt`, `id` and annotations.

    Args:
        source (`str`): JSON lines (`{"prompt", "label", "predict", "predict_turn2"}` as released, or with our names
            `reference`, `first_caption`, `second_caption`), a folder with such a `predictions.jsonl`, any other file
            that `load_caption_dataset` reads, or the id of a dataset on the Hub.
        split, config, revision (`str`): Which part of a Hub dataset.
        num_samples (`int`, *optional*): Rows to take from the start.
        columns (`Mapping[str, str]`, *optional*): Our name to the source's, e.g. `{"predict": "answer"}`.

    Raises:
        DatasetError: If the source cannot be read, is empty, has no first captions, or a row lacks a text that others
            have; the message names the row.
    """
    path = Path(source).expanduser()
    if (path / "predictions.jsonl").is_file():
        path /= "predictions.jsonl"
    if path.is_file() and path.suffix in (".jsonl", ".json"):
        rows = list(_json_rows(path, columns or {}))[:num_samples]
    else:
        rows = _dataset_rows(source, split, config, revision, num_samples, columns or {})
    # Rows of images that could not be captioned, as `sc-captioner caption --engine ray` keeps them, are left out.
    good = [(index, _canonical(row)) for index, row in enumerate(rows) if not row.get("error")]
    if not good:
        raise DatasetError(f"predictions {source!r} hold no row.")
    return [_checked(row, good[0][1], index, source) for index, row in good]


def _json_rows(path: Path, columns: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        entries = [("row", index, entry) for index, entry in enumerate(_parsed(text, f"predictions {str(path)!r}"))]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = [("line", n, _parsed(line, f"predictions {str(path)!r}, line {n},")) for n, line in lines]
    for kind, number, entry in entries:
        if not isinstance(entry, Mapping):
            raise DatasetError(
                f"predictions {str(path)!r}, {kind} {number}: a JSON object is needed, not {entry!r:.80}."
            )
        if absent := [theirs for theirs in columns.values() if theirs not in entry]:
            raise DatasetError(f"predictions {str(path)!r}, {kind} {number}: the column {absent[0]!r} is missing.")
        yield {**entry, **{ours: entry[theirs] for ours, theirs in columns.items()}}


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where} is no JSON ({error}); mend or remove it.") from error


def _dataset_rows(
    source: str,
    split: str,
    config: str | None,
    revision: str | None,
    num_samples: int | None,
    columns: Mapping[str, str],
) -> list[dict[str, Any]]:
    from .loading import load_caption_dataset

    dataset: Any = load_caption_dataset(
        source, split=split, config=config, revision=revision, num_samples=num_samples, columns=columns, required=()
    )
    known = {"error", *(name for names in NAMES.values() for name in names)}
    return dataset.select_columns([name for name in dataset.column_names if name in known]).to_list()


def _canonical(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {ours: next((row[name] for name in names if name in row), None) for ours, names in NAMES.items()}
    return {name: value for name, value in found.items() if value is not None}


def _checked(row: dict[str, Any], first: Mapping[str, Any], index: int, source: str) -> dict[str, Any]:
    where = f"predictions {source!r}, row {index}"
    needed = {"predict", *(name for name in ("label", "predict_turn2") if name in _canonical(first))}
    if "id" in row:
        row["id"] = str(row["id"])
    for name in TEXTS:
        if name not in row and name in needed:
            known = " or ".join(map(repr, NAMES[name]))
            raise DatasetError(f"{where}: no column {known}; name the one to use by the setting columns.")
        if name == "prompt" and not isinstance(row.get(name), str):
            row.pop(name, None)  # a conversation; scores do not depend on it
        if name in row and not isinstance(row[name], str):
            raise DatasetError(f"{where}: column {name!r} holds no text but {type(row[name]).__name__}.")
        if name in row:
            # Half a surrogate pair, as a caption cut off inside an emoji leaves it, has no UTF-8 form.
            row[name] = row[name].encode("utf-8", "replace").decode("utf-8")
    return row
