"""Captions of any source under our names, unchecked and one row at a time: what `recipes/prepare_data.py` reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts import CAPTION_PROMPT
from .columns import DatasetError, check_column_names, with_raw_images
from .loading import open_source
from .released import found_image, released_form, released_rows


if TYPE_CHECKING:
    from datasets import Features

# What trainers, evaluation and comparisons of preferences read, by what a row must have and what it may have.
_NEEDED = ("image", "reference")
_OPTIONAL = ("id", "prompt", "first_caption", "rejected", "extra_objects", "extra_attributes", "questions")


@dataclass(frozen=True)
class CaptionSource:
    """Rows of a source under our names.

    Args:
        rows (`Iterable[dict | str]`): Rows, the image as `{"bytes", "path"}`; in place of a row that cannot be one,
            what is wrong with it.
        features (`datasets.Features`): Types of the columns.
        left_out (`list[str]`): Columns of the source that are not taken.
    """

    rows: Iterable[dict[str, Any] | str]
    features: Features
    left_out: list[str]


def open_captions(
    name_or_path: str,
    *,
    split: str = "train",
    config: str | None = None,
    revision: str | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    prompt: str = CAPTION_PROMPT,
    image_root: str | os.PathLike[str] | None = None,
) -> CaptionSource:
    """Rows of a released file (ShareGPT JSON, DOCCI's descriptions) or of what [`load_caption_dataset`] takes.

    Args:
        name_or_path, split, config, revision, num_samples, seed, columns, prompt:
            As in [`load_caption_dataset`]; of a DOCCI file the rows of `split` are taken.
        image_root (`str`, *optional*):
            Folder of the images, for paths that are relative or of another machine. Default: that of the data file.

    Raises:
        DatasetError: If the source cannot be read or a needed column is missing.
    """
    import datasets

    path = Path(name_or_path).expanduser()
    root = Path(image_root or (path if path.is_dir() else path.parent)).expanduser().resolve()
    form = released_form(path)
    left_out: list[str] = []
    if form is not None:
        rows, names = _with_names(released_rows(path, form, split))
        features = {name: datasets.Value("string") for name in names}
    else:
        rows, features, left_out = _of_dataset(name_or_path, split, config, revision, num_samples, seed, columns or {})
    # Images are stored undecoded, and every row has a prompt.
    features = {"image": datasets.Image(), "prompt": datasets.Value("string")} | {
        name: feature for name, feature in features.items() if name != "image"
    }
    return CaptionSource(_Rows(rows, num_samples, prompt, root), datasets.Features(features), left_out)


@dataclass(frozen=True)
class _Rows:
    """Rows with their image in one form and a prompt; can be iterated again, as every reader of a dataset expects."""

    rows: Iterable[dict[str, Any] | str]
    num_samples: int | None
    prompt: str
    root: Path

    def __iter__(self) -> Iterator[dict[str, Any] | str]:
        for row in islice(self.rows, self.num_samples):
            yield row if isinstance(row, str) else self._completed(row)

    def _completed(self, row: dict[str, Any]) -> dict[str, Any]:
        image = row["image"]
        if isinstance(image, str):
            image = {"bytes": None, "path": found_image(image, self.root)}
        elif isinstance(image, bytes):
            image = {"bytes": image, "path": None}
        return {**row, "image": image, "prompt": row.get("prompt") or self.prompt}


def _with_names(rows: Iterator[dict[str, Any] | str]) -> tuple[Iterable[dict[str, Any] | str], list[str]]:
    """Rows, and the columns of the first that is one."""
    read: list[dict[str, Any] | str] = []
    for row in rows:
        read.append(row)
        if isinstance(row, dict):
            return chain(read, rows), list(row)
    return read, list(_NEEDED)


def _of_dataset(
    name: str,
    split: str,
    config: str | None,
    revision: str | None,
    num_samples: int | None,
    seed: int,
    columns: Mapping[str, str],
) -> tuple[Iterable[dict[str, Any]], dict[str, Any], list[str]]:
    dataset = open_source(name, split, config, revision, num_samples, seed, streaming=True)
    try:
        # The types of some sources are known only once their first rows are read.
        features = dataset.features or dataset._resolve_features().features
    except StopIteration:
        raise DatasetError(f"dataset {name!r} is empty; check the settings dataset and dataset_split.") from None
    if absent := [theirs for theirs in columns.values() if theirs not in features]:
        raise DatasetError(
            f"columns names {absent[0]!r}, which dataset {name!r} does not have; "
            f"choose among {', '.join(map(repr, features))}."
        )
    taken = {ours: ours for ours in (*_NEEDED, *_OPTIONAL) if ours in features} | dict(columns)
    check_column_names([*features, *taken], f"dataset {name!r}", _NEEDED)
    dataset = with_raw_images(dataset, taken["image"]).select_columns(list(dict.fromkeys(taken.values())))
    rows = _RenamedRows(dataset, taken)
    left_out = [theirs for theirs in features if theirs not in taken.values()]
    return rows, {ours: features[theirs] for ours, theirs in taken.items()}, left_out


@dataclass(frozen=True)
class _RenamedRows:
    """Not `rename_column`: a stream that was mapped would decode its images again, and fail on a bad one."""

    dataset: Iterable[dict[str, Any]]
    names: Mapping[str, str]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.dataset:
            yield {ours: row[theirs] for ours, theirs in self.names.items()}
