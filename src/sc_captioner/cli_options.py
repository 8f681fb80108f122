"""What several commands of `sc-captioner` share: options, how changes are written, rows with their references."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .arguments import SettingError


if TYPE_CHECKING:
    from .scene_graph import Revision


class TextFormat(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


class Engine(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


class Shards(StrEnum):
    """Files of the engine ray."""

    PARQUET = "parquet"
    WEBDATASET = "webdataset"


ParserName = Annotated[
    str, typer.Option(help="'compact' (embedded), 'factual' (T5 from the Hub), a folder, a Hub id.")
]
EncoderName = Annotated[str | None, typer.Option(help="SentenceTransformer; default: the embedded MiniLM.")]
LexiconName = Annotated[str, typer.Option(help="Lemmas and synonyms: auto, nltk or bundled.")]
Format = Annotated[TextFormat, typer.Option("--format", help="For people or for programs.")]
AnnotationFolder = Annotated[
    str | None, typer.Option(help="Folder with captions.json (references) and, if at hand, more annotations.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Models in the engine ray; default: as its GPUs allow, else half its CPUs.")
]
WorkerGpus = Annotated[
    float | None, typer.Option(min=0, help="GPUs of each worker; default: 1 where the cluster has any.")
]


def plain_console() -> Console:
    """A console that prints texts as they are."""
    # Captions and names of packages may hold square brackets, which Rich would take for styles.
    return Console(width=shutil.get_terminal_size().columns, markup=False, highlight=False, emoji=False)


def written_changes(revision: Revision) -> list[str]:
    """One line per change: `+ star`, `- red star`, `+ star above circle`.

    Args:
        revision ([`Revision`]): What a correction added and removed.
    """
    lines = []
    for sign, verb in (("+", "added"), ("-", "removed")):
        lines += [f"{sign} {head}" for head in sorted(getattr(revision, f"{verb}_objects"))]
        attributes = getattr(revision, f"{verb}_attributes")
        lines += [f"{sign} {' and '.join(sorted(attributes[head]))} {head}" for head in sorted(attributes)]
        lines += [f"{sign} {' '.join(triple)}" for triple in sorted(getattr(revision, f"{verb}_relations"))]
    return lines


def caption_table(captions: list[tuple[str, Any]], head: bool) -> Table:
    """Images with both captions and the changes.

    Args:
        captions (`list[tuple[str, Any]]`): Names of images with their [`SelfCorrection`].
        head (`bool`): Whether it has a head, or stands below a table that has one.
    """
    table = Table(expand=True, show_header=head, show_lines=True)
    for title, ratio in (("image", 2), ("first caption", 4), ("corrected caption", 4), ("changes", 3)):
        table.add_column(title, ratio=ratio, overflow="fold")
    for source, result in captions:
        changes = "\n".join(line for revision in result.revisions for line in written_changes(revision))
        table.add_row(source, result.first, result.caption if result.corrections else "", changes)
    return table


def rows_with_references(predictions: str, annotations: str | None) -> list[dict[str, Any]]:
    """Rows of `load_predictions`, their references from `annotations` where these are named.

    Args:
        predictions (`str`): As [`load_predictions`] takes it: JSON lines, a folder with `predictions.jsonl`, a dataset
            on the Hub.
        annotations (`str`, *optional*): Folder that [`Annotations`] reads; without one the rows' own references stand.

    Raises:
        DatasetError: If predictions or annotations cannot be read.
        SettingError: If there are no references.
    """
    from .data.annotations import Annotations
    from .data.predictions import load_predictions

    rows = load_predictions(predictions)
    if annotations is not None:
        known = Annotations.load(annotations)
        for row in rows:
            if "id" in row and row["id"] not in known.captions:
                row["id"] = Path(row["id"]).stem
        rows = known.added_to(rows)
    if "label" not in rows[0]:
        raise SettingError("the predictions have no references (column 'label'); name --annotations that have them.")
    return rows
