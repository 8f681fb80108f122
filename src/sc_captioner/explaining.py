"""The command `sc-captioner explain`: why one correction, or every correction of a run, scored what it scored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from .arguments import SettingError, quiet_logs
from .captioning import image_sources
from .cli_options import (
    AnnotationFolder,
    EncoderName,
    Format,
    LexiconName,
    ParserName,
    TextFormat,
    plain_console,
    rows_with_references,
    written_changes,
)


if TYPE_CHECKING:
    from PIL import Image

    from .report import RunSummary
    from .rewards import CorrectionReward, Explanation

    Pictures = Callable[[int, Mapping[str, Any]], Image.Image | None]


def explain(
    first: Annotated[str | None, typer.Option(help="First caption.")] = None,
    second: Annotated[str | None, typer.Option(help="Its correction.")] = None,
    reference: Annotated[str | None, typer.Option(help="What is right.")] = None,
    image: Annotated[Path | None, typer.Option(help="The picture, for the report.")] = None,
    predictions: Annotated[
        str | None,
        typer.Option(help="A whole run instead: JSON lines, a folder with predictions.jsonl, a dataset on the Hub."),
    ] = None,
    annotations: AnnotationFolder = None,
    images: Annotated[Path | None, typer.Option(help="Folder with the pictures of a run, named by its ids.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Or the dataset that was captioned: scenes, a file, a folder, a Hub id.")
    ] = None,
    dataset_split: Annotated[str, typer.Option(help="Split of the dataset.")] = "test",
    dataset_seed: Annotated[int, typer.Option(help="Seed of 'scenes'.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Write a report, one HTML file that needs nothing else.")] = None,
    preset: Annotated[str, typer.Option(help="Form of the reward: paper or released.")] = "paper",
    parser: ParserName = "compact",
    encoder: EncoderName = None,
    lexicon: LexiconName = "auto",
    format: Format = TextFormat.TABLE,
) -> None:
    """Why a correction scored what it scored.

    The parts add up to a number z, of which the reward is sigmoid(z) - 0.5: above 0 for a good correction. A report
    shows pictures, changes, what captions and reference share, scene graphs and scores; that of a run has all its
    corrections in a table to filter and to sort. Status: 0, or 1 if corrections could not be scored, or 2 if a setting
    cannot be used.

    Examples:

        sc-captioner explain --first "A small star." --second "A big star." --reference "A big green star."

        sc-captioner explain --first "A cat." --second "A dog." --reference "A dog." --image photo.jpg --html why.html

        sc-captioner explain --predictions captions.jsonl --annotations docci500 --images photos/ --html run.html

        sc-captioner explain --predictions outputs/sc --dataset scenes --html run.html
    """
    from .arguments import RewardArguments

    texts = (first, second, reference)
    if (predictions is None) == (None in texts) or (predictions is not None and any(texts)):
        raise SettingError("give --first, --second and --reference, or --predictions of a run.")
    if predictions is not None and html is None:
        raise SettingError("a run is explained in a report: say where by --html.")
    quiet_logs()
    settings: Any = {"preset": preset, "parser": parser, "encoder": encoder, "lexicon": lexicon}
    try:
        reward = RewardArguments(**settings).reward()
        if predictions is None:
            _explain_one(reward, texts, image, html, format)
            return
        rows = rows_with_references(predictions, annotations)
        if "predict_turn2" not in rows[0]:
            raise SettingError("the predictions have no corrections (column 'predict_turn2' or 'second_caption').")
        pictures = _Pictures(rows, images, dataset, dataset_split, dataset_seed)
        _explain_run(reward, rows, pictures, html, {"Predictions": predictions}, format)  # type: ignore[arg-type]
    except LookupError as error:
        raise SettingError(str(error)) from error


def _explain_one(
    reward: CorrectionReward, texts: Any, image: Path | None, html: Path | None, format: TextFormat
) -> None:
    if html is not None:
        from .captioner import ImageError, load_image
        from .report import explanation_html

        try:
            picture = None if image is None else load_image(str(image))
        except ImageError as error:
            raise SettingError(f"--image: {error}") from error
        _write(html, explanation_html(reward, *texts, image=picture))
    why = reward.explain(*texts)
    if format == TextFormat.JSON:
        typer.echo(json.dumps(why.to_dict(), indent=2))
    else:
        _print(why)
    if html is not None:
        typer.echo(f"Report: {html}", err=True)


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingError(f"--html cannot be written: {error}") from error


def _print(why: Explanation) -> None:
    changes = written_changes(why.revision)
    table = Table(title="Changes" if changes else "Nothing was changed", show_header=False)
    for line in changes:
        table.add_row(line)
    parts = Table("part", "value", title="Reward")
    for name, value in why.parts.items():
        parts.add_row(name, f"{value:+.3f}")
    if why.unchanged:
        parts.add_row("unchanged", "yes")
    parts.add_section()
    parts.add_row("reward", f"{why.total:+.3f}")
    made_with = f"{why.preset} reward; {why.parser} parser, {why.encoder}, {why.lexicon} lexicon"
    plain_console().print(table, parts, made_with)


class _Pictures:
    """Pictures of a run's rows, from a folder by their ids or from a dataset; those that are missing are counted."""

    def __init__(
        self, rows: list[dict[str, Any]], folder: Path | None, dataset: str | None, split: str, seed: int
    ) -> None:
        if folder is not None and dataset is not None:
            raise SettingError("the pictures are in a folder (--images) or in a dataset (--dataset), not in both.")
        self.missing = 0
        self._files: dict[str, str] = {}
        self._dataset: Any = None
        if folder is not None:
            for source in image_sources([str(folder)]):
                path = Path(source)
                # An id is a path, a path below the folder, a name, or a name without its ending.
                for name in {source, str(path.relative_to(folder)), path.name, path.stem}:
                    self._files[name] = "" if name in self._files else source  # of two that are named alike neither
        if dataset is not None:
            from .data import load_caption_dataset

            self._dataset = load_caption_dataset(
                dataset, split=split, seed=seed, num_samples=len(rows), required=["image"]
            )
            ids = self._dataset["id"] if "id" in self._dataset.column_names else []
            self._places = {str(name): place for place, name in enumerate(ids)}

    def of(self, place: int, row: Mapping[str, Any]) -> Image.Image | None:
        """The picture of a row, if there is one."""
        name = str(row.get("id", ""))
        if self._dataset is not None:
            at = self._places.get(name, place)
            return self._dataset[at]["image"] if at < len(self._dataset) else None
        if not self._files:
            return None
        path = Path(name)
        source = next(filter(None, (self._files.get(key) for key in (name, path.name, path.stem))), None)
        return self._read(source)

    def _read(self, source: str | None) -> Image.Image | None:
        from .captioner import ImageError, load_image

        try:
            if source is not None:
                return load_image(source)
        except ImageError:
            pass
        self.missing += 1
        return None


def _explain_run(
    reward: CorrectionReward,
    rows: list[dict[str, Any]],
    pictures: _Pictures,
    html: Path,
    facts: Mapping[str, object],
    format: TextFormat,
) -> None:
    from tqdm.auto import tqdm

    from .report import write_run_report

    bar = tqdm(rows, desc="Explaining", unit="correction", file=sys.stderr)
    try:
        summary = write_run_report(html, bar, reward, image_of=pictures.of, facts=facts)
    except OSError as error:
        raise SettingError(f"--html cannot be written: {error}") from error
    if format == TextFormat.JSON:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
    else:
        _print_summary(summary)
    if pictures.missing:
        typer.echo(f"{pictures.missing} pictures were not found or hold no image.", err=True)
    typer.echo(f"Report: {html}", err=True)
    if failed := summary.outcomes["failed"]:
        typer.echo(f"{failed} of {len(rows)} corrections could not be scored:", err=True)
        for name, reason in summary.errors:
            typer.echo(f"  {name}: {reason}", err=True)
        raise typer.Exit(1)


def _print_summary(summary: RunSummary) -> None:
    told = summary.to_dict()
    table = Table("corrections", "number", title="Outcomes")
    for name, count in told["outcomes"].items():
        table.add_row(name, str(count))
    parts = Table("part", "mean", "decided", title="Reward")
    for name, value in told["parts"].items():
        parts.add_row(name, f"{value:+.3f}", str(summary.decided[name]))
    parts.add_section()
    parts.add_row("reward", f"{summary.mean_reward:+.3f}", "")
    scores = Table("score", "first", "corrected", title="Scores")
    for name, (first, second) in told["scores"].items():
        scores.add_row(name, f"{first:.3f}", f"{second:.3f}")
    plain_console().print(table, parts, scores)
