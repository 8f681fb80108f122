"""What the engine ray captions: files, folders, parquet shards and WebDataset archives as one Ray dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial, reduce
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .arguments import SettingError
from .captioning import SUFFIXES, image_sources


if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem
    from ray.data import Dataset

ENDINGS = {"parquet": ".parquet", "webdataset": ".tar"}
_KINDS = {ending: kind for kind, ending in ENDINGS.items()}


def sources_left(ray: ModuleType, names: Sequence[str], done: list[str], shard_size: int) -> Dataset | None:
    """Images that have no row yet.

    Args:
        ray (`ModuleType`): Ray, started.
        names (`Sequence[str]`): As the `images` of [`caption_corpus`].
        done (`list[str]`): Ids that are left out.
        shard_size (`int`): Files that are opened together.

    Returns:
        `ray.data.Dataset`: Rows with `id`, `image` (bytes) and, where the bytes are not there, `path`, where they are.
        `None` if every input is an image file and has its row.

    Raises:
        SettingError: If there is no such file or folder, or a parquet file has no images.
    """
    import pyarrow as pa

    found: dict[str, dict[str, None]] = {}
    for kind, name in _kinds(names):
        found.setdefault(kind, {})[name] = None
    datasets = []
    left = pa.table({"id": [name for name in found.pop("file", {}) if name not in set(done)]})
    if left.num_rows:
        pieces = [left.slice(start, shard_size) for start in range(0, left.num_rows, shard_size)]
        datasets.append(ray.data.from_arrow(pieces).map_batches(_opened, batch_size=None, batch_format="pyarrow"))
    finished = ray.put(pa.array(done, pa.string()))
    for kind, places in found.items():
        rows = _READERS[kind](ray, list(places))
        datasets.append(rows.map_batches(partial(_left, done=finished), batch_size=None, batch_format="pyarrow"))
    return reduce(lambda one, other: one.union(other), datasets) if datasets else None


def _kinds(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every input as `file` (an image), `parquet`, `webdataset` or `folder` (of images, where only Ray reads them)."""
    for name in names:
        remote = "://" in name and not name.startswith(("http://", "https://"))
        if (kind := _KINDS.get(Path(name).suffix.lower())) and (remote or os.path.isfile(name)):
            yield kind, name if remote else os.path.abspath(name)
        elif shards := _shards_in(name) if remote or os.path.isdir(name) else []:
            yield from shards
        elif remote:
            yield "folder", name
        else:
            yield from (("file", source) for source in image_sources([name]))


def place_of(name: str) -> tuple[FileSystem, str]:
    """Where pyarrow finds a file or folder: its file system and its path there.

    Args:
        name (`str`): A path, or an address such as `s3://bucket/folder`.

    Raises:
        SettingError: If pyarrow knows no such file system.
    """
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(name if "://" in name else os.path.abspath(name))
    except pa.ArrowInvalid as error:
        raise SettingError(f"{name!r} cannot be reached: {error}") from error


def _shards_in(folder: str) -> list[tuple[str, str]]:
    from pyarrow.fs import FileSelector, FileType

    files, path = place_of(folder)
    if files.get_file_info(path).type == FileType.NotFound:
        raise SettingError(f"there is no file or folder {folder!r}.")
    scheme = folder[: folder.index("://") + 3] if "://" in folder else ""
    found = sorted(file.path for file in files.get_file_info(FileSelector(path, recursive=True)))
    return [(kind, scheme + path) for path in found if (kind := _KINDS.get(Path(path).suffix.lower()))]


def _opened(files: pa.Table) -> pa.Table:
    """Contents of files; addresses and what cannot be opened are left to the captioner, which says why."""
    contents: list[bytes | None] = []
    for name in files["id"].to_pylist():
        try:
            contents.append(Path(name).expanduser().read_bytes())
        except OSError:
            contents.append(None)
    return _rows(files["id"], contents, files["id"])


def _parquet(ray: ModuleType, places: list[str]) -> Dataset:
    dataset = ray.data.read_parquet(places, include_paths=True, include_row_hash=True)
    columns = dataset.schema().names
    if "image" not in columns:
        raise SettingError(f"{places[0]!r} has no column 'image'; it has {', '.join(map(repr, columns))}.")
    taken = [column for column in ("id", "image", "path", "row_hash") if column in columns]
    return dataset.select_columns(taken).map_batches(_of_parquet, batch_size=None, batch_format="pyarrow")


def _of_parquet(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    if "id" in table.column_names:
        ids = table["id"].cast(pa.string())
    else:
        places = zip(table["path"].to_pylist(), table["row_hash"].to_pylist())
        ids = [f"{path}#{place:016x}" for path, place in places]
    image = table["image"]
    if not pa.types.is_struct(image.type):
        return _rows(ids, image, None)
    images = image.to_pylist()
    return _rows(ids, [i and i.get("bytes") for i in images], [i and i.get("path") for i in images])


def _webdataset(ray: ModuleType, places: list[str]) -> Dataset:
    dataset = ray.data.read_webdataset(places, decoder=None, suffixes=_is_image)
    return dataset.map_batches(_of_webdataset, batch_size=None, batch_format="pyarrow")


def _is_image(suffix: str) -> bool:
    return f".{suffix.lower()}" in SUFFIXES


def _of_webdataset(table: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = [f"{url}/{key}" for url, key in zip(table["__url__"].to_pylist(), table["__key__"].to_pylist())]
    images = [table[name].cast(pa.binary()) for name in table.column_names if _is_image(name)]
    return _rows(ids, pc.coalesce(*images) if images else None, None)


def _folder(ray: ModuleType, places: list[str]) -> Dataset:
    endings = [suffix[1:] for suffix in SUFFIXES]
    files = ray.data.read_binary_files(places, include_paths=True, file_extensions=endings)
    return files.map_batches(lambda t: _rows(t["path"], t["bytes"], None), batch_size=None, batch_format="pyarrow")


_READERS = {"parquet": _parquet, "webdataset": _webdataset, "folder": _folder}


def _rows(ids: Any, images: Any, paths: Any) -> pa.Table:
    import pyarrow as pa

    nothing = pa.nulls(len(ids))
    columns = {"id": ids, "image": nothing if images is None else images, "path": nothing if paths is None else paths}
    return pa.table(columns).cast(
        pa.schema([("id", pa.string()), ("image", pa.large_binary()), ("path", pa.string())])
    )


def _left(rows: pa.Table, done: Any) -> pa.Table:
    import pyarrow.compute as pc
    import ray

    # One copy per machine, in shared memory.
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=ray.get(done))))
