"""Captions of corpora beyond one machine: Ray Data hands images out, each of its workers holds a captioner."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import posixpath
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from .arguments import SettingError, quiet_logs
from .captioning import caption_images, caption_row, check_same_settings
from .ray_reading import ENDINGS, place_of, sources_left


if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

Shards = Literal["parquet", "webdataset"]

# Beside the shards; readers of folders leave out names that begin with an underscore.
_SETTINGS = "_settings.json"


@dataclass(frozen=True)
class CorpusCaptions:
    """What the shards of a folder hold.

    Args:
        ids (`list[str]`): Every image that has a row.
        errors (`dict[str, str]`): Those of them that could not be captioned, with the reason.
        shards (`int`): Number of files.
    """

    ids: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    shards: int = 0


def caption_corpus(
    images: Sequence[str],
    output: str,
    *,
    model: Mapping[str, Any],
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    shards: Shards = "parquet",
    shard_size: int = 256,
    workers: int | None = None,
    worker_gpus: float | None = None,
    seed: int = 0,
) -> CorpusCaptions:
    """Caption a corpus as a Ray Data job; one that was stopped goes on with the images that have no row yet.

    The generator is transformers' in every worker: the captioner has no other, also where vLLM is installed.

    Args:
        images (`Sequence[str]`): Image files and addresses; folders of images, of parquet files (columns `image`, as
            bytes or as `datasets` keeps it, and, if at hand, `id`) or of WebDataset archives; such files themselves;
            also as addresses that Ray reads (`s3://bucket/shards/a.parquet`, `s3://bucket/photos/`).
        output (`str`): Folder of the shards, which all machines see. A row has `id`, the captions as
            [`caption_row`] names them (revisions as JSON), and `error` in place of captions where there are none.
            WebDataset samples are such a row as `json`, beside it the image.
        model (`Mapping`): Arguments of [`SelfCorrectingCaptioner.from_pretrained`].
        options (`Mapping`): Of [`caption_images`]: `batch_size`, `num_corrections`, `revisions`, generation settings.
        settings (`Mapping`): What the captions depend on, kept beside the shards.
        shards (`"parquet"`, `"webdataset"`): What is written.
        shard_size (`int`): Images per shard, which is also what a killed worker does again.
        workers (`int`, *optional*): Captioners. Default: as the GPUs of the cluster allow, else half of its CPUs.
        worker_gpus (`float`, *optional*): GPUs of each. Default: 1 where the cluster has any.
        seed (`int`): Of sampling; with the same shards a worker that does one again draws the same.

    Raises:
        SettingError: If Ray is not installed, an input cannot be found or the folder holds captions of other settings.
    """
    ray = started_ray()
    folder = _Folder(output, ENDINGS[shards])
    folder.begin({**settings, "shards": shards})
    before = folder.captions()
    sources = sources_left(ray, images, before.ids, shard_size)
    if sources is None:
        return before
    # Strict, or Ray would join reading, cutting and captioning of a whole file into one task of one worker.
    captioned = sources.repartition(target_num_rows_per_block=shard_size, strict=True).map_batches(
        _Worker,
        fn_constructor_args=(dict(model), dict(options), seed, shards == "webdataset"),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        **default_workers(ray, workers, worker_gpus),
    )
    with errors_of_workers(ray):
        if shards == "webdataset":
            captioned.write_webdataset(output, encoder=_sample)
        else:
            captioned.write_parquet(output)
    return folder.captions()


def started_ray() -> ModuleType:
    """Ray, connected to the cluster that is named by `RAY_ADDRESS` or runs here, else started on this machine.

    Raises:
        SettingError: If Ray Data is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SettingError(f"the engine ray needs Ray Data: pip install 'sc-captioner[ray]' ({error}).") from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray


@contextlib.contextmanager
def errors_of_workers(ray: ModuleType) -> Iterator[None]:
    """A model or parser that no worker can load is a mistake in a setting; Ray hands its message on in a traceback.

    Args:
        ray (`ModuleType`): The package.

    Raises:
        SettingError: In place of Ray's error, with the worker's message.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        kind, _, message = str(error).strip().rpartition("\n")[2].partition(": ")
        if kind.rpartition(".")[2] not in ("ModelError", "SettingError"):
            raise
        raise SettingError(message) from error


def default_workers(ray: ModuleType, workers: int | None, worker_gpus: float | None) -> dict[str, Any]:
    """Arguments of `map_batches` for workers that hold a model.

    Args:
        ray (`ModuleType`): The package, started.
        workers (`int`, *optional*): Default: as in [`caption_corpus`].
        worker_gpus (`float`, *optional*): GPUs of each; default: as in [`caption_corpus`].
    """
    resources = ray.cluster_resources()
    gpus = min(1.0, resources.get("GPU", 0.0)) if worker_gpus is None else worker_gpus
    workers = workers or max(1, int(resources.get("GPU", 0.0) / gpus if gpus else resources["CPU"] / 2))
    return {
        # One task waits while another is worked on: more would only fill the memory of the object store.
        "compute": ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        # Who reads and writes needs a processor that no worker holds.
        "num_cpus": 1 if workers < resources["CPU"] else 0,
        "num_gpus": gpus,
    }


class _Worker:
    """A captioner in a process of its own; Ray starts it anew if it dies, and gives it the rows again."""

    def __init__(self, model: Mapping[str, Any], options: Mapping[str, Any], seed: int, with_images: bool) -> None:
        from .captioner import SelfCorrectingCaptioner

        quiet_logs()
        self._captioner = SelfCorrectingCaptioner.from_pretrained(**model)
        self._options, self._seed, self._with_images = options, seed, with_images

    def __call__(self, rows: pa.Table) -> pa.Table:
        import pyarrow as pa
        import torch

        from .captioner import ImageError

        if rows.num_rows:
            torch.manual_seed(self._seed + zlib.crc32(rows["id"][0].as_py().encode()))
        told = [
            {"id": name, "error": str(result)} if isinstance(result, ImageError) else caption_row(name, result)
            for batch in caption_images(self._captioner, _named_images(rows), **self._options)
            for name, result in batch
        ]
        if self._with_images:
            samples = {"id": rows["id"], "json": [json.dumps(row, ensure_ascii=False) for row in told]}
            return pa.table({**samples, "image": rows["image"]})
        for row in told:
            if "revisions" in row:
                row["revisions"] = json.dumps(row["revisions"], ensure_ascii=False)
        return pa.Table.from_pylist(told, schema=self._schema())

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        corrections, text = self._options["num_corrections"], pa.string()
        columns = {"id": text, "first_caption": text, "second_caption": text if corrections else None}
        columns["corrections"] = pa.list_(text) if corrections > 1 else None
        columns["revisions"] = text if corrections and self._options["revisions"] else None
        columns["error"] = text
        return pa.schema([(name, kind) for name, kind in columns.items() if kind is not None])


def _named_images(rows: pa.Table) -> Iterator[tuple[str, Any]]:
    from .captioner import ImageError

    for name, content, path in zip(rows["id"], rows["image"], rows["path"]):
        name, path = name.as_py(), path.as_py()
        if content.is_valid:
            yield name, {"bytes": content.as_py(), "path": name}
        else:
            yield name, path or ImageError(f"the image {name!r} cannot be read: its row holds none")


# --- writing, and reading what was written ---------------------------------------------------------------------------


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """A WebDataset sample; its key is made of the id, which may hold dots and slashes that keys must not."""
    sample = {"__key__": hashlib.blake2b(row["id"].encode(), digest_size=16).hexdigest(), "json": row["json"]}
    if row["image"] is not None:
        sample[_image_format(row["image"])] = row["image"]
    return sample


def _image_format(content: bytes) -> str:
    import io

    from PIL import Image

    try:
        return (Image.open(io.BytesIO(content)).format or "bin").lower()
    except Exception:  # PIL's plugins raise anything on broken files
        return "bin"


class _Folder:
    """Shards in a folder, here or where pyarrow reaches; such as a killed run left half written are removed."""

    def __init__(self, name: str, ending: str) -> None:
        self._name, self._ending = name, ending
        self._files, self._path = place_of(name)

    def begin(self, settings: Mapping[str, Any]) -> None:
        begun = posixpath.join(self._path, _SETTINGS)
        known = self._files.get_file_info(begun).is_file
        if shards := self._shards():
            if not known:
                raise SettingError(f"{self._name!r} holds {shards[0]!r}, no captions of ours; name another output.")
            with self._files.open_input_stream(begun) as file:
                check_same_settings(self._name, json.loads(file.read()), settings)
            return
        self._files.create_dir(self._path, recursive=True)
        with self._files.open_output_stream(begun) as file:
            file.write(json.dumps(settings, indent=2).encode())

    def captions(self) -> CorpusCaptions:
        read = _parquet_ids if self._ending == ".parquet" else _webdataset_ids
        found: list[tuple[str, str | None]] = []
        whole = 0
        for path in self._shards():
            if (rows := read(self._files, path)) is None:
                self._files.delete_file(path)
                continue
            found += rows
            whole += 1
        return CorpusCaptions([name for name, _ in found], {n: error for n, error in found if error}, whole)

    def _shards(self) -> list[str]:
        from pyarrow.fs import FileSelector

        files = self._files.get_file_info(FileSelector(self._path, allow_not_found=True))
        return sorted(file.path for file in files if file.path.endswith(tuple(ENDINGS.values())))


def _parquet_ids(files: FileSystem, path: str) -> list[tuple[str, str | None]] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, filesystem=files) as shard:
            table = shard.read(columns=["id", "error"])
    except pa.ArrowInvalid:  # the footer, which is written last, is not there
        return None
    return list(zip(table["id"].to_pylist(), table["error"].to_pylist()))


def _webdataset_ids(files: FileSystem, path: str) -> list[tuple[str, str | None]] | None:
    import tarfile

    found = []
    end = 0
    try:
        with files.open_input_file(path) as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.name.endswith(".json"):
                    row = json.loads(archive.extractfile(member).read())  # type: ignore[union-attr]
                    found.append((row["id"], row.get("error")))
            whole = file.size() >= end + 2 * tarfile.BLOCKSIZE  # two empty blocks end an archive
    except (tarfile.ReadError, ValueError):
        return None
    return found if whole else None
