"""Caption rows, checked one by one, as Parquet shards that `load_caption_dataset` reads back.

A batch of rows is in memory at a time, and one shard is written at a time: data may be larger than memory, and larger
than the disk where shards leave it once they are published.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .columns import DatasetError, bytes_of, row_problem
from .sources import CaptionSource


if TYPE_CHECKING:
    import pyarrow.parquet as pq

ImageStorage = Literal["embed", "path"]

# Rows that are in memory at a time, checked side by side, and one row group of the shard.
_BATCH = 32
# A source of which so many rows are all bad is the wrong one, or is read with wrong settings.
_ROWS_WITHOUT_A_GOOD_ONE = 1000


@dataclass
class PreparationReport:
    """What became of the rows of one split; as JSON also where a stopped preparation goes on.

    Args:
        settings (`dict`): What the rows depend on.
        columns, left_out (`list[str]`): Columns of the result, and those of the source that are not in it.
        read, kept (`int`): Rows of the source, and those that are in the shards.
        dropped (`dict[str, dict]`): Per reason its `count`, the `first_row` and that row's problem as `example`.
        shards (`list[dict]`): `file`, `rows` and `bytes` of each, and what `on_shard` adds.
        complete (`bool`): Whether the source was read to its end.
    """

    settings: dict[str, Any]
    columns: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    read: int = 0
    kept: int = 0
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False

    @classmethod
    def load(cls, path: Path) -> PreparationReport:
        """Read what [`save`] wrote.

        Args:
            path (`Path`): A file that [`PreparationReport.save`] wrote.
        """
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write it as JSON, at one stroke.

        Args:
            path (`Path`): The JSON file; its folder must be there.
        """
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)

    def drop(self, row: int, problem: str, path: str | None) -> None:
        """Count a bad row under its reason: the problem without what differs from row to row.

        Args:
            row (`int`): Place of the row in its source, from 0.
            problem (`str`): Why it cannot be used, as [`row_problem`] says it.
            path (`str`, *optional*): Image file of the row, where it has one.
        """
        reason = re.sub(r"\d+", "N", problem.replace(path, "...") if path else problem)
        self.dropped.setdefault(reason, {"count": 0, "first_row": row, "example": problem})["count"] += 1

    def table(self) -> str:
        """Rows read, kept and dropped, as Markdown."""
        numbers = {"read": self.read, "kept": self.kept, "dropped": self.read - self.kept}
        for reason, entry in sorted(self.dropped.items(), key=lambda item: -item[1]["count"]):
            # The remedy, behind the semicolon, is for the one who prepares.
            numbers[f"- {reason.partition(';')[0]} (first: row {entry['first_row']})"] = entry["count"]
        width = max(map(len, numbers))
        rows = [f"| {name:{width}} | {number:>9,} |" for name, number in numbers.items()]
        return "\n".join([f"| {'rows':{width}} | {'n':>9} |", f"| {'-' * width} | {'-' * 8}: |", *rows])


def prepare(
    source: CaptionSource,
    output_dir: str | os.PathLike[str],
    *,
    split: str = "train",
    images: ImageStorage = "embed",
    max_shard_bytes: int = 500_000_000,
    num_threads: int = 4,
    settings: Mapping[str, Any] | None = None,
    on_shard: Callable[[dict[str, Any]], None] | None = None,
) -> PreparationReport:
    """Check every row and write the good ones to `output_dir/data`, in files named as `datasets` names them.

    With each shard go the report, `preparation-{split}.json`, and the dropped rows, each with its problem,
    `dropped-{split}.jsonl`. A preparation that was stopped goes on behind its last shard.

    Args:
        source ([`CaptionSource`]): From [`~sc_captioner.data.sources.open_captions`].
        output_dir (`str`): Folder of the dataset; may hold other splits.
        split (`str`): Name of the split.
        images (`str`): `embed` stores the images themselves, `path` where their files lie.
        max_shard_bytes (`int`): Size from which on a shard is closed and the next one begun.
        num_threads (`int`): Threads that read and decode images.
        settings (`Mapping`, *optional*): What the rows depend on; only a preparation with equal ones is gone on with.
        on_shard (`Callable`, *optional*): Called with the report's entry of every shard, to which it may add; called
            again where an earlier run did not get that far.

    Raises:
        DatasetError: If no row is good, the source breaks off, or `output_dir` holds this split made with other
            settings.
    """
    folder = Path(output_dir)
    report_file, dropped_file = folder / f"preparation-{split}.json", folder / f"dropped-{split}.jsonl"
    report = _report_so_far(folder, split, report_file, dict(settings or {}))
    report.columns, report.left_out = list(source.features), source.left_out
    _forget_after(dropped_file, report.read)
    shard = _Shard(folder, split, source.features.arrow_schema)
    dropped: list[str] = []

    def finish() -> None:
        if entry := shard.closed(len(report.shards)):
            report.shards.append(entry)
        if dropped:
            with dropped_file.open("a", encoding="utf-8") as file:
                file.writelines(dropped)
            dropped.clear()
        report.save(report_file)
        for entry in report.shards:
            if on_shard is not None:
                on_shard(entry)
                report.save(report_file)
        if report.complete:
            _name_finally(folder, split, report.shards)
            report.save(report_file)

    if report.complete:
        finish()
        return report
    check = partial(_checked, images=images, columns=tuple(source.features))
    with ThreadPoolExecutor(num_threads) as pool:
        rows = _with_bar(source, report.read)
        while batch := list(islice(rows, _BATCH)):
            good = []
            for given, (row, problem) in zip(batch, pool.map(check, batch)):
                if problem is None:
                    good.append(row)
                else:
                    report.drop(report.read, problem, _path_of(given))
                    dropped.append(json.dumps({"row": report.read, "problem": problem}, ensure_ascii=False) + "\n")
                report.read += 1
            report.kept += len(good)
            if not report.kept and report.read >= _ROWS_WITHOUT_A_GOOD_ONE:
                break
            if shard.write(good, len(report.shards)) >= max_shard_bytes:
                finish()
    if not report.kept:
        raise DatasetError(_no_good_row(report))
    report.complete = True
    finish()
    return report


def _report_so_far(folder: Path, split: str, report_file: Path, settings: dict[str, Any]) -> PreparationReport:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    if report_file.is_file():
        report = PreparationReport.load(report_file)
        names = sorted({*settings, *report.settings})
        if other := [name for name in names if report.settings.get(name) != settings.get(name)]:
            raise DatasetError(
                f"output_dir {str(folder)!r} holds the split {split!r} made with another {other[0]} "
                f"({report.settings.get(other[0])!r}, now {settings.get(other[0])!r}); choose another output_dir."
            )
        return report
    if any((folder / "data").glob(f"{split}-*.parquet")):
        raise DatasetError(
            f"output_dir {str(folder)!r} holds shards of the split {split!r} without {report_file.name}, which says "
            "where they come from; choose another output_dir, or remove them."
        )
    return PreparationReport(settings)


def _name_finally(folder: Path, split: str, shards: list[dict[str, Any]]) -> None:
    """Give shards the names that tell `datasets` their split: with their number, which is known at the end only.

    A card that tells it would do so too, but what `datasets` caches of a local folder with a card does not depend on
    the files, so that a folder of the same name would be taken for it.
    """
    for index, shard in enumerate(shards):
        name = f"data/{split}-{index:05d}-of-{len(shards):05d}.parquet"
        if (folder / shard["file"]).is_file():
            (folder / shard["file"]).replace(folder / name)
        shard["file"] = name


def _forget_after(dropped_file: Path, read: int) -> None:
    """Leave out rows that were dropped after the last shard of a stopped run: they are read again."""
    if not dropped_file.is_file():
        return
    lines = dropped_file.read_text(encoding="utf-8").split("\n")[:-1]
    kept = [line + "\n" for line in lines if json.loads(line)["row"] < read]
    dropped_file.write_text("".join(kept), encoding="utf-8")


def _with_bar(source: CaptionSource, start: int) -> Iterator[dict[str, Any] | str]:
    from tqdm.auto import tqdm

    read = start
    try:
        for row in tqdm(islice(source.rows, start, None), desc="Preparing rows", unit="row", initial=start):
            read += 1
            yield row
    except DatasetError:
        raise
    except Exception as error:  # whatever reader, network and decompression raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DatasetError(
            f"the source broke off after {read} rows ({reason.rstrip('.')}); the same command goes on behind the last "
            "finished shard."
        ) from error


def _checked(
    row: dict[str, Any] | str, images: ImageStorage, columns: tuple[str, ...]
) -> tuple[dict[str, Any], str | None]:
    """The row as it is stored, and what is wrong with it."""
    if isinstance(row, str):
        return {}, row
    image = row["image"] or {}
    data, path = image.get("bytes"), image.get("path")
    if images == "path":
        if data is not None or not path or "://" in path:
            return {}, "column 'image' holds no file of this machine; set images to embed"
    elif data is None and path:
        with contextlib.suppress(OSError):  # the check says why
            data = bytes_of(path)
    problem = row_problem({**row, "image": {"bytes": data, "path": path}}) or _text_problem(row)
    stored = {"bytes": None, "path": path} if images == "path" else {"bytes": data, "path": path and Path(path).name}
    values = {name: _utf8(row.get(name)) for name in columns}
    return {**values, "image": stored}, problem


def _text_problem(row: Mapping[str, Any]) -> str | None:
    for name in ("first_caption", "rejected"):
        if not isinstance(row.get(name), str | None):
            return f"column {name!r} holds {type(row[name]).__name__} where a text is needed"
    return None


def _utf8(value: Any) -> Any:
    # Half a surrogate pair, as a text cut off inside an emoji leaves it, has no UTF-8 form.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def _path_of(row: dict[str, Any] | str) -> str | None:
    return None if isinstance(row, str) else (row["image"] or {}).get("path")


def _no_good_row(report: PreparationReport) -> str:
    if not report.dropped:
        return "the source has no row; check the settings dataset and dataset_split."
    worst = max(report.dropped.values(), key=lambda entry: entry["count"])
    return (
        f"none of the {report.read} rows read is good; of {worst['count']} the problem is like that of row "
        f"{worst['first_row']}: {worst['example']}."
    )


class _Shard:
    """The Parquet file that is being written; it gets its name when it is whole."""

    def __init__(self, folder: Path, split: str, schema: Any) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.writer: pq.ParquetWriter | None = None
        self.rows = self.bytes = 0

    def write(self, rows: list[dict[str, Any]], index: int) -> int:
        """Add rows to the shard `index`; returns its size so far, in bytes before compression."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if rows:
            if self.writer is None:
                self.writer = pq.ParquetWriter(self._file(index).with_suffix(".part"), self.schema)
            table = pa.Table.from_pylist(rows, schema=self.schema)
            self.writer.write_table(table)
            self.rows += table.num_rows
            self.bytes += table.nbytes
        return self.bytes

    def closed(self, index: int) -> dict[str, Any] | None:
        """The finished shard's entry in the report, `None` if it has no rows."""
        if self.writer is None:
            return None
        self.writer.close()
        file = self._file(index)
        file.with_suffix(".part").replace(file)
        entry = {"file": f"data/{file.name}", "rows": self.rows, "bytes": file.stat().st_size}
        self.writer, self.rows, self.bytes = None, 0, 0
        return entry

    def _file(self, index: int) -> Path:
        return self.folder / "data" / f"{self.split}-{index:05d}.parquet"
