"""A prepared dataset on the Hub: shards one by one, and a card that says which files are which split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub import hub_error
from .columns import DatasetError
from .preparation import PreparationReport


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard


class DatasetRepository:
    """A dataset repository on the Hub that shards are sent to as they are finished.

    Args:
        repo_id (`str`): `namespace/name`.
        private (`bool`): Whether it is private if it is new; one that exists keeps its visibility.

    Raises:
        DatasetError: If the Hub cannot be reached or refuses; the message names the remedy and never the token.
    """

    def __init__(self, repo_id: str, private: bool = False) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.api = repo_id, HfApi()
        self._call("create_repo", private=private, exist_ok=True)

    def add_shard(self, folder: Path, shard: dict[str, Any], keep: bool) -> None:
        """Send a shard that is not there yet, note it in its entry, and remove the file unless it is to be kept.

        Args:
            folder (`Path`): Folder of the dataset.
            shard (`dict[str, Any]`): Entry of the report; gets the key `published`.
            keep (`bool`): Whether the file stays here.

        Raises:
            DatasetError: If the file is gone to another repository, or the Hub does not take it.
        """
        published = shard.get("published", {})
        if published.get("repo_id") != self.repo_id:
            file = folder / shard["file"]
            if not file.is_file():
                raise DatasetError(
                    f"{file} went to {published.get('repo_id')} and is no longer here; choose another output_dir to "
                    "publish the rows elsewhere."
                )
            self._call("upload_file", path_or_fileobj=file, path_in_repo=shard["file"])
            shard["published"] = {"repo_id": self.repo_id, "file": shard["file"]}
        if not keep:
            (folder / shard["file"]).unlink(missing_ok=True)

    def complete(self, split: str, report: PreparationReport) -> None:
        """Send the card and remove shards of the split that an earlier, longer version left there.

        Args:
            split (`str`): Split that is complete.
            report ([`PreparationReport`]): What it holds.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard

        names = self._call("list_repo_files")
        ours = {shard["published"]["file"] for shard in report.shards}
        stale = [name for name in names if name.startswith(f"data/{split}-") and name not in ours]
        card = _card(split, report)
        if "README.md" in names:
            # Splits that came from elsewhere, and what people wrote, stay.
            card = DatasetCard.load(self._call("hf_hub_download", filename="README.md"))
            card.data.configs = _merged(card.data.configs or [], split)
        operations: list[Any] = [CommitOperationAdd("README.md", str(card).encode("utf-8"))]
        operations += [CommitOperationDelete(name) for name in stale]
        self._call("create_commit", operations=operations, commit_message=f"Complete the split {split}")

    def _call(self, method: str, **arguments: Any) -> Any:
        try:
            return getattr(self.api, method)(repo_id=self.repo_id, repo_type="dataset", **arguments)
        except Exception as error:
            # What is on the Hub is noted in the report, and stays out of a second attempt.
            reason = str(hub_error(error, self.repo_id)).rstrip(".")
            raise DatasetError(f"{reason}; the same command goes on where it stopped.") from None


def _card(split: str, report: PreparationReport) -> DatasetCard:
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(
        task_categories=["image-to-text"], tags=["sc-captioner", "image-captioning"], configs=_merged([], split)
    )
    columns = ", ".join(f"`{name}`" for name in report.columns)
    return DatasetCard(
        f"---\n{data.to_yaml()}\n---\n\n# Image captions\n\nPrepared for "
        "[SC-Captioner](https://huggingface.co/papers/2508.06125): every image decodes, every caption and prompt is "
        f"a text.\n\n## {split}\n\nColumns: {columns}.\n\n{report.table()}\n"
    )


def _files_of(split: str) -> dict[str, str]:
    return {"split": split, "path": f"data/{split}-*.parquet"}


def _merged(configs: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """The card's configurations with the split's files in the default one."""
    default = next((c for c in configs if c.get("config_name") == "default"), None)
    if default is None:
        default = {"config_name": "default", "data_files": []}
        configs = [*configs, default]
    files = default.get("data_files") or []
    default["data_files"] = [*(f for f in files if f.get("split") != split), _files_of(split)]
    return configs
