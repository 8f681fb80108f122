"""What a caption dataset must look like, checked before training starts, and the form that TRL expects of it.

Columns: `image` and `reference` (needed), `prompt`, and the optional annotations `extra_objects`, `extra_attributes`
and `questions` in the form of [`~sc_captioner.data.scenes.build_scenes`].
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    DatasetT = TypeVar("DatasetT", Dataset, IterableDataset)

logger = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("image", "reference")

# Below this many rows a check is over before a progress bar is of use.
_ROWS_WITHOUT_BAR = 2000


class DatasetError(ValueError):
    """A dataset cannot be trained on or scored; the message names row, column or setting and the remedy.

    Args:
        message (`str`): One sentence.
        problems (`dict[int, str]`, *optional*): Every bad row by its index, where the check went over rows.
    """

    def __init__(self, message: str, problems: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.problems = dict(problems or {})


def check_caption_dataset(
    dataset: DatasetT,
    *,
    setting: str = "dataset",
    required: Sequence[str] = REQUIRED_COLUMNS,
    num_proc: int | None = None,
    peek: int = 64,
) -> DatasetT:
    """The dataset, known to be usable: every image decodes, every reference and prompt is a text.

    A map-style dataset is read once, image by image, and returned as it is. Of a streamed one the first `peek` rows
    are read; later bad rows are skipped, counted and logged when they come, and images come decoded, as RGB.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Rows with the columns listed on top of this module.
        setting (`str`): How the user calls this dataset; error messages begin with it.
        required (`Sequence[str]`): Columns that must be there, e.g. only `["image"]` for captions without scores.
        num_proc (`int`, *optional*): Processes that check a map-style dataset.
        peek (`int`): Rows of a streamed dataset to check now.

    Raises:
        DatasetError: If the dataset is empty, a column is missing or a row is bad.
    """
    import datasets

    if isinstance(dataset, dict):
        splits = ", ".join(map(str, dataset))
        raise DatasetError(
            f"{setting} is a dictionary of splits ({splits}); choose one of them by the setting dataset_split."
        )
    if isinstance(dataset, datasets.IterableDataset):
        return _checked_stream(dataset, setting, required, peek)
    check_column_names(dataset.column_names, setting, required)
    if len(dataset) == 0:
        raise DatasetError(f"{setting} is empty: check dataset_split and num_samples.")
    problems = _row_problems(with_raw_images(dataset.with_format(None)), required, num_proc)
    if problems:
        raise _error_of(problems, setting, len(dataset))
    return dataset


def row_problem(row: Mapping[str, Any], required: Sequence[str] = REQUIRED_COLUMNS) -> str | None:
    """What is wrong with one row and what to do about it, `None` if nothing is.

    Args:
        row (`Mapping[str, Any]`):
            One row. `image` is a PIL image, or the undecoded `{"bytes": bytes | None, "path": str | None}`, which is
            opened and decoded here.
        required (`Sequence[str]`): Columns that must hold something.
    """
    if "image" in row or "image" in required:
        problem = _image_problem(row.get("image"))
        if problem:
            return f"column 'image' {problem}"
    if "reference" in row or "reference" in required:
        problem = _text_problem(row.get("reference"))
        if problem:
            return f"column 'reference' {problem}; write a reference caption or remove the row"
    if "prompt" in row and not _is_conversation(row["prompt"]):
        problem = _text_problem(row["prompt"])
        if problem:
            return f"column 'prompt' {problem}; write a prompt, or drop the column to use the default one"
    return _annotation_problem(row)


def conversation(prompt: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompt as TRL's conversation of one user turn; what is a conversation already stays as it is.

    The content stays a string: TRL puts the row's image before the text of the first user turn
    (`trl.data_utils.prepare_multimodal_messages`). Content blocks in an Arrow column would all carry the keys of each
    other, with `None` in them, which some chat templates render.

    Args:
        prompt (`str | list[dict[str, Any]]`): A text, or a conversation of messages `{"role", "content"}`.
    """
    return prompt if _is_conversation(prompt) else [{"role": "user", "content": prompt}]  # type: ignore[return-value]


def conversational(dataset: DatasetT) -> DatasetT:
    """The dataset with `prompt` in the form `SCTrainer` and TRL's trainers take; no other column is read or copied.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): A checked dataset with a column `prompt`.
    """
    import datasets

    if isinstance(dataset, datasets.IterableDataset):
        return dataset.map(_conversational_row, features=_conversational_features(dataset.features))
    if not isinstance(dataset.features["prompt"], datasets.Value):
        return dataset
    return with_column(dataset, "prompt", [conversation(prompt) for prompt in dataset["prompt"]])


def with_column(dataset: Dataset, name: str, values: list[Any]) -> Dataset:
    """The dataset with one column set to `values`; the others (images above all) stay where they are, unread.

    Args:
        dataset (`Dataset`): A map-style dataset.
        name (`str`): Column to set; a new one comes last.
        values (`list[Any]`): One value per row.
    """
    if name in dataset.column_names:
        dataset = dataset.remove_columns(name)
    return dataset.add_column(name, values)


def _conversational_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": conversation(row["prompt"])}


def _conversational_features(features: Any) -> Any:
    import datasets

    if features is None or not isinstance(features.get("prompt"), datasets.Value):
        return features
    text = datasets.Value("string")
    return datasets.Features({**features, "prompt": datasets.List({"role": text, "content": text})})


def with_raw_images(dataset: DatasetT, column: str = "image") -> DatasetT:
    """Images as bytes or path: decoding is then ours to try, and a bad one names its row.

    Args:
        dataset (`DatasetT`): Rows with an image column.
        column (`str`, defaults to `"image"`): Name of that column.
    """
    import datasets

    if dataset.features is not None and isinstance(dataset.features.get(column), datasets.Image):
        return dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def _row_problems(dataset: Dataset, required: Sequence[str], num_proc: int | None) -> dict[int, str]:
    if num_proc and num_proc > 1:
        import datasets

        checked = dataset.map(
            _row_with_problem,
            fn_kwargs={"required": tuple(required)},
            remove_columns=dataset.column_names,
            features=datasets.Features({"problem": datasets.Value("string")}),
            num_proc=min(num_proc, len(dataset)),
            # Image files may have changed since a cached result was written.
            keep_in_memory=True,
            load_from_cache_file=False,
            desc="Checking rows",
        )
        found: Iterable[str | None] = checked["problem"]
    else:
        found = _problems_with_bar(dataset, required)
    return {index: problem for index, problem in enumerate(found) if problem}


def _row_with_problem(row: dict[str, Any], required: Sequence[str]) -> dict[str, str | None]:
    return {"problem": row_problem(row, required)}


def _problems_with_bar(dataset: Dataset, required: Sequence[str]) -> Iterator[str | None]:
    from tqdm.auto import tqdm

    for row in tqdm(dataset, desc="Checking rows", unit="row", disable=len(dataset) < _ROWS_WITHOUT_BAR):
        yield row_problem(row, required)


def _checked_stream(dataset: IterableDataset, setting: str, required: Sequence[str], peek: int) -> IterableDataset:
    import datasets

    if dataset.column_names is not None:
        check_column_names(dataset.column_names, setting, required)
    raw = with_raw_images(dataset)
    problems, count = {}, 0
    for index, row in enumerate(raw.take(peek)):
        check_column_names(list(row), setting, required)
        count += 1
        if problem := row_problem(row, required):
            problems[index] = problem
    if not count:
        raise DatasetError(f"{setting} is empty: check dataset_split and num_samples.")
    if problems:
        raise _error_of(problems, setting, count)
    # Decoded by our own step: once a stream has been mapped, `datasets` applies no further cast to it.
    features = dataset.features and datasets.Features({**dataset.features, "image": datasets.Image(mode="RGB")})
    return raw.filter(_GoodRows(setting, tuple(required))).map(_row_with_decoded_image, features=features)


def _row_with_decoded_image(row: dict[str, Any]) -> dict[str, Any]:
    import datasets

    image = row["image"]
    value = {"path": image, "bytes": None} if isinstance(image, str) else image
    return {"image": datasets.Image(mode="RGB").decode_example(value)}


class _GoodRows:
    """Tells good rows from bad ones and counts the latter, per process that reads the stream."""

    def __init__(self, setting: str, required: tuple[str, ...]) -> None:
        self.setting = setting
        self.required = required
        self.skipped = 0

    def __call__(self, row: Mapping[str, Any]) -> bool:
        problem = row_problem(row, self.required)
        if problem is None:
            return True
        self.skipped += 1
        # The first ones one by one, then at 16, 32, 64, ...: a broken source must not fill the log.
        if self.skipped <= 8 or self.skipped & (self.skipped - 1) == 0:
            logger.warning("%s: skipped a row (%d so far): %s.", self.setting, self.skipped, problem)
        return False


def check_column_names(names: Sequence[str], setting: str, required: Sequence[str]) -> None:
    """Checks that no column is missing.

    Args:
        names (`Sequence[str]`): Columns that the dataset has.
        setting (`str`): How the user calls the dataset.
        required (`Sequence[str]`): Columns that it must have.

    Raises:
        DatasetError: If one is missing; the message names the first and the setting that mends it.
    """
    for column in required:
        if column not in names:
            raise DatasetError(
                f"{setting} has no column {column!r} (it has {', '.join(map(repr, names)) or 'none'}); "
                f"name the one to use by the setting columns, as in columns: {{{column}: {_likely(column, names)}}}."
            )


def _likely(column: str, names: Sequence[str]) -> str:
    """The name that a missing column most likely goes by in this dataset, for the example in the message."""
    usual = {
        "image": ("images", "img", "picture"),
        "reference": ("caption", "captions", "text", "label", "description"),
    }
    return next((name for name in usual.get(column, ()) if name in names), f"my_{column}")


def _error_of(problems: dict[int, str], setting: str, checked: int) -> DatasetError:
    index, problem = next(iter(problems.items()))
    others = f" ({len(problems)} of {checked} rows have problems)" if len(problems) > 1 else ""
    return DatasetError(f"{setting}, row {index}: {problem}{others}.", problems)


def _text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"holds {'nothing' if value is None else type(value).__name__} where a text is needed"
    return None if value.strip() else "is an empty text"


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and m.get("content") and isinstance(m.get("role"), str) for m in value)
    )


def _image_problem(value: Any) -> str | None:
    from PIL import Image

    if isinstance(value, str):  # a streamed path column comes as it is, whatever its feature says
        value = {"path": value}
    if value is None or (isinstance(value, Mapping) and not value.get("bytes") and not value.get("path")):
        return "holds no image; add the image or remove the row"
    if isinstance(value, Image.Image):
        return _decoding_problem(value, "")
    if not isinstance(value, Mapping):
        return f"holds {type(value).__name__} where one image (or its path) is needed; convert the column"
    path = str(value.get("path") or "")
    try:
        data = value.get("bytes") or bytes_of(path)
    except OSError as error:
        reason = error.strerror or error
        return f"points at the file {path}, which cannot be read ({reason}); check image_root or remove the row"
    try:
        # `verify` finds broken check sums, only `load` finds a truncated file; each needs a fresh image.
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        with Image.open(io.BytesIO(data)) as image:
            return _decoding_problem(image, path)
    except Exception as error:  # PIL's plugins raise anything from SyntaxError to struct.error on broken files
        return _corrupt(path, error)


def bytes_of(path: str) -> bytes:
    """What a file holds; `path` may be an address of any file system that fsspec knows.

    Args:
        path (`str`): A path or an address such as `hf://...`.
    """
    if "://" not in path:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read()
    import fsspec

    with fsspec.open(path, "rb") as file:
        return file.read()


def _decoding_problem(image: Any, path: str) -> str | None:
    try:
        image.load()
    except Exception as error:  # as above
        return _corrupt(path, error)
    return None


def _corrupt(path: str, error: Exception) -> str:
    file = f" ({path})" if path else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"holds an image{file} that does not decode: {reason.rstrip('.')}; replace the image or remove the row"


def _annotation_problem(row: Mapping[str, Any]) -> str | None:
    """Problems of the optional columns; `None` in one of them means that the row is not annotated."""
    objects = row.get("extra_objects")
    if objects is not None and not _is_list_of_texts(objects):
        return "column 'extra_objects' is no list of texts; give object names, or drop the column"
    for name, is_entry, form in (
        ("extra_attributes", _is_attribute_entry, "{'object': text, 'attributes': [text]}"),
        ("questions", _is_question_entry, "{'question': text, 'answer': 'yes' or 'no'}"),
    ):
        if not all(isinstance(entry, Mapping) and is_entry(entry) for entry in row.get(name) or ()):
            return f"column {name!r} has an entry that is not {form}; mend it, or drop the column"
    return None


def _is_attribute_entry(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("object"), str) and _is_list_of_texts(entry.get("attributes"))


def _is_question_entry(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("question"), str) and entry.get("answer") in ("yes", "no")


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
