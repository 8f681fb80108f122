"""Caption datasets by name: the embedded scenes, local files and folders, the Hub; all with the same columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts import CAPTION_PROMPT
from .columns import REQUIRED_COLUMNS, DatasetError, check_caption_dataset, with_column


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_READERS = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
}


def load_caption_dataset(
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
    streaming: bool = False,
    required: Sequence[str] = REQUIRED_COLUMNS,
    num_proc: int | None = None,
) -> Dataset | IterableDataset:
    """A checked dataset with the columns `image` (RGB, decoded when a row is read), `prompt`, and all the source has.

    The checks are those of [`~sc_captioner.data.columns.check_caption_dataset`]. For a trainer, pass the result
    through [`~sc_captioner.data.columns.conversational`].

    Args:
        name_or_path (`str`):
            `"scenes"` (the embedded world), a file (JSON, JSON lines, Parquet, Arrow, CSV, TSV), a folder (of such
            files, of `Dataset.save_to_disk`, or of images with `metadata.jsonl`), or the id of a dataset on the Hub.
        split (`str`): Split; a single file is its own split and ignores it.
        config (`str`, *optional*): Configuration of a Hub dataset; world of `"scenes"`: `"plain"` (default), `"seen"`
            or `"hard"`, see [`~sc_captioner.data.scenes.build_scenes`].
        revision (`str`, *optional*): Revision of a Hub dataset.
        num_samples (`int`, *optional*): Rows to take from the start; for `"scenes"` the number of scenes, and needed.
        seed (`int`): Seed of `"scenes"`; others keep their order.
        columns (`Mapping[str, str]`, *optional*): Our name to the source's, e.g. `{"reference": "caption"}`.
        prompt (`str`): Captioning prompt where the source has no column `prompt`.
        image_root (`str`, *optional*): Folder that relative image paths start from. Default: that of the data file.
        streaming (`bool`): Read rows as they are needed; nothing is prepared on disk.
        required (`Sequence[str]`): Columns that must be there, e.g. only `["image"]` for captions without scores.
        num_proc (`int`, *optional*): Processes that check the rows of a dataset that is not streamed.

    Raises:
        DatasetError: If the source cannot be found or read, `columns` names a column that it does not have, the
            dataset is empty, a required column is missing or a row is bad.
    """
    dataset = open_source(name_or_path, split, config, revision, num_samples, seed, streaming)
    if num_samples is not None and num_samples < 1:
        raise DatasetError(f"num_samples={num_samples} leaves no row; set it to 1 or more, or leave it out.")
    if num_samples is not None:
        dataset = dataset.take(num_samples) if streaming else dataset.take(min(num_samples, len(dataset)))
    dataset = _renamed(dataset, columns or {}, name_or_path)
    dataset = _with_images(dataset, Path(image_root) if image_root else _folder_of(name_or_path))
    dataset = _with_prompt(dataset, prompt)
    return check_caption_dataset(dataset, setting=f"dataset {name_or_path!r}", required=required, num_proc=num_proc)


def open_source(
    name: str,
    split: str,
    config: str | None,
    revision: str | None,
    num_samples: int | None,
    seed: int,
    streaming: bool,
) -> Any:
    """The rows of a source by name, as they are.

    Args:
        name (`str`): As `name_or_path` of [`load_caption_dataset`].
        split, config, revision, num_samples, seed, streaming: As there.

    Raises:
        DatasetError: If the source cannot be found or read.
    """
    import datasets

    if name == "scenes":
        return _scenes(num_samples, seed, split, config, streaming)
    path = Path(name).expanduser()
    if not path.exists() and (path.suffix in _READERS or name.startswith(("/", ".", "~"))):
        raise DatasetError(f"dataset {name!r} does not exist; check the path (it counts from {Path.cwd()}).")
    try:
        if path.is_file():
            if path.suffix not in _READERS:
                raise DatasetError(f"dataset {name!r} has a form that is not read; use one of {', '.join(_READERS)}.")
            reader, options = _READERS[path.suffix]
            return datasets.load_dataset(reader, data_files=str(path), split="train", streaming=streaming, **options)
        if (path / "dataset_dict.json").is_file():
            return _streamed(datasets.load_from_disk(str(path))[split], streaming)
        if (path / "state.json").is_file():
            return _streamed(datasets.load_from_disk(str(path)), streaming)
        return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)
    except DatasetError:
        raise
    except KeyError:
        raise DatasetError(
            f"dataset {name!r} has no split {split!r}; choose another one by the setting dataset_split."
        ) from None
    except StopIteration:  # what the JSON reader raises on a file without a row
        raise DatasetError(f"dataset {name!r} is empty; check the setting dataset.") from None
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "check the setting dataset" if path.exists() else "check the name, the network and your Hub login"
        raise DatasetError(f"dataset {name!r}, split {split!r}, cannot be read ({reason}); {remedy}.") from error


def _scenes(num_samples: int | None, seed: int, split: str, world: str | None, streaming: bool) -> Any:
    from .scenes import build_scenes

    if num_samples is None:
        raise DatasetError("dataset 'scenes' is made to any size; set num_samples.")
    try:
        scenes = build_scenes(num_samples, seed, split, world or "plain")  # type: ignore[arg-type]
        return _streamed(scenes, streaming)
    except ValueError as error:
        raise DatasetError(f"dataset 'scenes' cannot be built: {error}") from error


def _streamed(dataset: Any, streaming: bool) -> Any:
    return dataset.to_iterable_dataset() if streaming else dataset


def _renamed(dataset: Any, columns: Mapping[str, str], name: str) -> Any:
    for ours, theirs in columns.items():
        present = dataset.column_names
        if present is not None and theirs not in present:
            raise DatasetError(
                f"columns maps {ours!r} to {theirs!r}, which dataset {name!r} does not have; "
                f"choose among {', '.join(map(repr, present))}."
            )
        if ours == theirs:
            continue
        if present is not None and ours in present:
            dataset = dataset.remove_columns(ours)
        dataset = dataset.rename_column(theirs, ours)
    return dataset


def _folder_of(name: str) -> Path | None:
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve().parent
    return path.resolve() if path.is_dir() else None


def _with_images(dataset: Any, root: Path | None) -> Any:
    """Paths become images that are read when their row is; every image is handed out as RGB."""
    import datasets

    if dataset.column_names is not None and "image" not in dataset.column_names:
        return dataset
    stream = isinstance(dataset, datasets.IterableDataset)
    feature = (dataset.features or {}).get("image")
    if root is not None and isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
        if stream:
            return dataset.map(_row_from, fn_kwargs={"root": str(root)}, features=dataset.features)
        dataset = with_column(dataset, "image", [_path_from(str(root), path) for path in dataset["image"]])
    if not stream and isinstance(feature, (datasets.Image, datasets.Value, dict)):
        return dataset.cast_column("image", datasets.Image(mode="RGB"))
    return dataset


def _row_from(row: dict[str, Any], root: str) -> dict[str, Any]:
    return {"image": _path_from(root, row["image"])}


def _path_from(root: str, path: str | None) -> str | None:
    # An absolute path and an address stay as they are.
    return path if not path or "://" in path else os.path.join(root, os.path.expanduser(path))


def _with_prompt(dataset: Any, prompt: str) -> Any:
    import datasets

    if dataset.column_names is not None and "prompt" in dataset.column_names:
        return dataset
    if not isinstance(dataset, datasets.IterableDataset):
        return with_column(dataset, "prompt", [prompt] * len(dataset))
    features = dataset.features
    if features is not None:
        features = datasets.Features({**features, "prompt": datasets.Value("string")})
    return dataset.map(_row_with_prompt, fn_kwargs={"prompt": prompt}, features=features)


def _row_with_prompt(row: dict[str, Any], prompt: str) -> dict[str, Any]:
    return {"prompt": row.get("prompt") or prompt}
