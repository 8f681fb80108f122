"""What several commands of `sc-captioner` share: options, how changes are written, rows with their references."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .arguments import SettingError


if TYPE_CHECKING:
    from .scene_graph import Revision


class TextFormat(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"


ParserName = Annotated[
    str, typer.Option(help="'compact' (embedded), 'factual' (T5 from the Hub), a folder, a Hub id.")
]
EncoderName = Annotated[str | None, typer.Option(help="SentenceTransformer; default: the embedded MiniLM.")]
LexiconName = Annotated[str, typer.Option(help="Lemmas and synonyms: auto, nltk or bundled.")]
Format = Annotated[TextFormat, typer.Option("--format", help="For people or for programs.")]
AnnotationFolder = Annotated[
    str | None, typer.Option(help="Folder with captions.json (references) and, if at hand, more annotations.")
]


def plain_console() -> Console:
    """A console that prints texts as they are."""
    # Captions and names of packages may hold square brackets, which Rich would take for styles.
    return Console(markup=False, highlight=False, emoji=False)


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
