r"""Turn captions of any source into a checked dataset of our columns, on disk or on the Hub.

    python recipes/prepare_data.py --dataset train_coco6k_sft.json --image_root coco/train2017 --output_dir data/coco6k
    python recipes/prepare_data.py --dataset docci_descriptions.jsonlines --image_root docci/images \
        --output_dir data/docci
    python recipes/prepare_data.py --dataset UCSC-VLAA/Recap-COCO-30K --columns '{"reference": "recaption"}' \
        --output_dir data/recap --push_to_hub my-name/recap --private

Reads the files of zl2048/SC-Captioner-data (ShareGPT JSON: train_*_sft, test_*, and train_*_2 with chosen and
rejected captions), DOCCI's descriptions, and every dataset with an image and a caption column: JSON, Parquet, CSV,
folders, the Hub. Images are looked for as the file says, below `image_root`, and in it by their names.

Every image is decoded and every text looked at; bad rows are dropped and counted, see `preparation-<split>.json` and
`dropped-<split>.jsonl` in `output_dir`. What was stopped goes on where it stopped. `--dataset <output_dir>` gives the
result to every recipe. With `--push_to_hub` each shard is sent when it is finished; `--keep_shards false` then
removes it here, for data larger than the disk. The last line printed is the report as JSON.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from sc_captioner.arguments import DatasetArguments, SettingError, run_recipe
from sc_captioner.data.preparation import prepare
from sc_captioner.data.publishing import DatasetRepository
from sc_captioner.data.sources import open_captions
from sc_captioner.prompts import CAPTION_PROMPT


@dataclass
class SourceArguments(DatasetArguments):
    """Which captions, and how their images are stored.

    Args:
        images (`str`): `embed` or `path`.
        streaming (`bool`): Rows are always read as they come.
    """

    images: Literal["embed", "path"] = field(
        default="embed", metadata={"help": "Store the images themselves, or where their files lie (not to be pushed)."}
    )
    streaming: bool = field(default=True, metadata={"help": "Always on here: rows are read as they come."})


@dataclass
class OutputArguments:
    """
    Where the dataset goes.

    Args:
        output_dir (`str`): Folder of the dataset; other splits in it stay.
        max_shard_mb (`int`): Size of a file.
        num_threads (`int`): Threads that read and decode images.
        push_to_hub (`str`, *optional*): Dataset repository, as in `my-name/captions`.
        private (`bool`): Whether a new repository is private.
        keep_shards (`bool`): Whether shards stay here once they are on the Hub.
    """

    output_dir: str = field(metadata={"help": "Folder of the dataset; other splits in it stay."})
    max_shard_mb: int = field(default=500, metadata={"help": "Size of a file, in MB."})
    num_threads: int = field(default=4, metadata={"help": "Threads that read and decode images."})
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Dataset repository to send it to, as in my-name/captions."}
    )
    private: bool = field(default=False, metadata={"help": "A new repository is private."})
    keep_shards: bool = field(
        default=True, metadata={"help": "Keep files once they are on the Hub; false for data larger than the disk."}
    )


def main(source_args: SourceArguments, output_args: OutputArguments) -> None:
    split, folder = source_args.dataset_split, Path(output_args.output_dir)
    check(source_args, output_args)
    columns = source_args.columns
    source = open_captions(
        source_args.dataset,
        split=split,
        config=source_args.dataset_config,
        revision=source_args.dataset_revision,
        num_samples=source_args.num_samples,
        seed=source_args.dataset_seed,
        columns=json.loads(columns) if isinstance(columns, str) else columns,
        prompt=source_args.prompt or CAPTION_PROMPT,
        image_root=source_args.image_root,
    )
    hub = DatasetRepository(output_args.push_to_hub, output_args.private) if output_args.push_to_hub else None
    report = prepare(
        source,
        folder,
        split=split,
        images=source_args.images,
        max_shard_bytes=output_args.max_shard_mb * 1_000_000,
        num_threads=output_args.num_threads,
        settings={**asdict(source_args), "file_changed": changed(source_args.dataset)},
        on_shard=hub and (lambda shard: hub.add_shard(folder, shard, output_args.keep_shards)),
    )
    if hub is not None:
        hub.complete(split, report)
    print(report.table())
    if report.left_out:
        print(f"Columns of the source that are not in it: {', '.join(report.left_out)}.")
    place = f"{folder} and {hub.repo_id} on {hub.api.endpoint}" if hub is not None else folder
    print(f"{report.kept} rows in {len(report.shards)} files are in {place}.")
    print(json.dumps(asdict(report), ensure_ascii=False))


def check(source_args: SourceArguments, output_args: OutputArguments) -> None:
    """Raises a `SettingError` on settings that contradict each other."""
    if not re.fullmatch(r"\w+(\.\w+)*", source_args.dataset_split):
        raise SettingError(f"dataset_split={source_args.dataset_split!r} names no whole split, as in 'train'.")
    if output_args.push_to_hub and source_args.images == "path":
        raise SettingError("images=path stores paths, which say nothing on the Hub; set images: embed.")
    if not output_args.keep_shards and not output_args.push_to_hub:
        raise SettingError("keep_shards=false would leave nothing; it needs push_to_hub.")
    if output_args.max_shard_mb < 1 or output_args.num_threads < 1:
        raise SettingError("max_shard_mb and num_threads must be 1 or more.")


def changed(dataset: str) -> float | None:
    """When a data file was last written: rows of a new version must not be put behind those of an old one."""
    path = Path(dataset).expanduser()
    return path.stat().st_mtime if path.is_file() else None


if __name__ == "__main__":
    run_recipe(main, (SourceArguments, OutputArguments), __doc__)
