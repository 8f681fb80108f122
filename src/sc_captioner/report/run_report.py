"""The report of a whole run: every correction in a table to filter and to sort, its explanation one click away."""

from __future__ import annotations

import base64
import gzip
import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .examples import data_uri
from .explanations import OUTCOMES, READING_AID, SCORES, Sample, explained, made_with, sample_card
from .page import asset, fact_list, page_head, tiles
from .scores import PairedDifference, difference_table


if TYPE_CHECKING:
    from PIL import Image

    from ..rewards import CorrectionReward

_BATCH = 32
# All pictures of a report together, as text: a browser should still open it.
_MOST_PICTURES = 64 * 2**20
_SHOWN_SCORES = ("mean_f1", "capture")


@dataclass
class RunSummary:
    """What a run's report is about, in numbers; it grows by a few numbers per sample.

    Args:
        outcomes (`Counter[str]`): Samples by outcome: `improved`, `worsened`, `neither`, `unchanged`, `failed`.
        decided (`Counter[str]`): Samples by the part that decided.
        rewards (`list[float]`): Of the samples that were scored.
        parts (`dict[str, float]`): Sums of every part.
        scores (`dict[str, list[tuple[float, float]]]`): By score, of the first and of the corrected captions.
        errors (`list[tuple[str, str]]`): Samples that could not be scored, and why; the first ten.
        pictures (`int`): Samples with a picture in the report.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    rewards: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    scores: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in SCORES})
    errors: list[tuple[str, str]] = field(default_factory=list)
    pictures: int = 0

    @property
    def mean_reward(self) -> float:
        """Mean of the rewards, 0.0 of none."""
        return statistics.fmean(self.rewards) if self.rewards else 0.0

    def means(self) -> dict[str, tuple[float, float]]:
        """By score the means of the first and of the corrected captions."""
        return {
            name: (statistics.fmean(first), statistics.fmean(second))
            for name, (first, second) in ((name, zip(*pairs)) for name, pairs in self.scores.items() if pairs)
        }

    def to_dict(self) -> dict[str, Any]:
        """Numbers of samples, means of the reward, of its parts and of the scores; JSON-serialisable."""
        return {
            "outcomes": {name: self.outcomes[name] for name in OUTCOMES},
            "decided": dict(sorted(self.decided.items())),
            "reward": self.mean_reward,
            "parts": {name: value / len(self.rewards) for name, value in self.parts.items()},
            "scores": {name: list(pair) for name, pair in self.means().items()},
            "pictures": self.pictures,
        }

    def add(self, sample: Sample) -> None:
        """Count a sample that was scored.

        Args:
            sample ([`Sample`]): The correction, explained.
        """
        self.outcomes[sample.outcome] += 1
        self.decided[sample.decided_by] += 1
        self.rewards.append(sample.why.total)
        for name, value in sample.why.parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value
        for name, pair in sample.scores.items():
            self.scores[name].append(pair)


def write_run_report(
    path: str | Path,
    rows: Iterable[Mapping[str, Any]],
    reward: CorrectionReward,
    *,
    image_of: Callable[[int, Mapping[str, Any]], Image.Image | None] | None = None,
    title: str = "Corrections, one by one",
    facts: Mapping[str, object] | None = None,
) -> RunSummary:
    """Write a self-contained page on all corrections of a run, batch by batch; the file is there whole or not at all.

    Args:
        path (`str` or `Path`): The HTML file.
        rows (`Iterable[Mapping]`): With `predict`, `predict_turn2`, `label` and, where there is one, `id`, as
            [`load_predictions`] reads them.
        reward ([`CorrectionReward`]): Judges the corrections.
        image_of (`Callable`, *optional*): The picture of a row by its place and the row, or `None`; pictures go in at
            256 pixels a side, until they are 64 MiB in all.
        title (`str`): Heading of the page.
        facts (`Mapping[str, object]`, *optional*): What else is to be said of the run.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    pictures = _Pictures(image_of)
    summary, script = RunSummary(), asset("run.js")
    try:
        # Half a surrogate pair, as a caption cut off inside an emoji leaves it, has no UTF-8 form.
        with part.open("w", encoding="utf-8", errors="replace") as file:
            file.write(page_head(title, script))
            for start, batch in _batches(rows):
                _write_batch(file, start, batch, explained(reward, batch), pictures, summary)
            summary.pictures = pictures.count
            told = {} if image_of is None else {"Pictures": f"of {summary.pictures} corrections"}
            file.write(_content(title, summary, {**made_with(reward), **told, **(facts or {})}, script))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return summary


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    rest, start = iter(rows), 0
    while batch := list(islice(rest, _BATCH)):
        yield start, batch
        start += len(batch)


class _Pictures:
    """Pictures as addresses, as long as there is room."""

    def __init__(self, image_of: Callable[[int, Mapping[str, Any]], Image.Image | None] | None) -> None:
        self._image_of = image_of
        self._size = 0
        self.count = 0

    def of(self, place: int, row: Mapping[str, Any]) -> str | None:
        image = self._image_of(place, row) if self._image_of and self._size < _MOST_PICTURES else None
        if image is None:
            return None
        address = data_uri(image, longest_side=256)
        self._size += len(address)
        self.count += 1
        return address


def _write_batch(
    file: IO[str],
    start: int,
    rows: list[Mapping[str, Any]],
    samples: list[Sample | Exception],
    pictures: _Pictures,
    summary: RunSummary,
) -> None:
    """Rows of the table as JSON, and their cards, which are many times larger, as compressed JSON."""
    table, cards = [], []
    for place, (row, sample) in enumerate(zip(rows, samples), start):
        texts = {"id": str(row.get("id") or f"Sample {place + 1}"), "first": row["predict"]}
        texts |= {"second": row["predict_turn2"], "reference": row["label"]}
        if isinstance(sample, Exception):
            reason = f"{type(sample).__name__}: {sample}"
            summary.outcomes["failed"] += 1
            summary.errors += [(texts["id"], reason)] if len(summary.errors) < 10 else []
            table.append({**texts, "outcome": "failed", "part": "", "values": []})
            cards.append(f"<article class='example plain'><p>Not scored. {escape(reason)}</p></article>")
            continue
        summary.add(sample)
        table.append({**texts, "outcome": sample.outcome, "part": sample.decided_by, "values": _values(sample)})
        cards.append(sample_card(sample, place + 1, pictures.of(place, row)))
    packed = base64.b64encode(gzip.compress(json.dumps(cards).encode("utf-8", "replace"), 6, mtime=0)).decode("ascii")
    file.write(f"{_json_script('rows', table)}<script type='application/gzip' class='cards'>{packed}</script>\n")


def _values(sample: Sample) -> list[float]:
    values = [sample.why.total, *sample.why.parts.values()]
    for first, second in sample.scores.values():
        values += [first, second, second - first]
    return [round(value, 4) for value in values]


def _json_script(name: str, data: object) -> str:
    """Data for the page's script, as JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    harmless = text.replace("<", "\\u003c")
    return f'<script type="application/json" class="{name}">{harmless}</script>'


def _columns(summary: RunSummary) -> list[dict[str, Any]]:
    """The numbers of a row in their order: label, whether they have a sign, whether the table shows them."""
    columns = [{"label": name.replace("_", " "), "signed": True, "shown": True} for name in ("reward", *summary.parts)]
    for name, label in SCORES.items():
        columns += [{"label": f"{label}, {turn}", "signed": False, "shown": False} for turn in ("first", "corrected")]
        columns += [{"label": f"{label}, change", "signed": True, "shown": name in _SHOWN_SCORES}]
    return columns


def _content(title: str, summary: RunSummary, facts: Mapping[str, object], script: str) -> str:
    known = summary.outcomes.total()
    shown = [
        ("Corrections", str(known), f"{summary.outcomes['failed']} not scored"),
        ("Mean reward", f"{summary.mean_reward:+.3f}", "between −0.5 and 0.5"),
    ]
    shown += [
        (OUTCOMES[name].capitalize(), str(summary.outcomes[name]), f"{summary.outcomes[name] / max(known, 1):.1%}")
        for name in ("improved", "worsened", "unchanged", "neither")
    ]
    differences = [
        PairedDifference.of(f"{SCORES[name]}: {first:.3f} → {second:.3f}", *reversed(list(zip(*summary.scores[name]))))
        for name, (first, second) in summary.means().items()
        if len(summary.rewards) > 1
    ]
    return (
        f"<header><h1>{escape(title)}</h1>{tiles(shown)}</header><main class='run'>"
        f"<section><h2>First caption → corrected caption</h2><div class='side'>{_part_table(summary)}"
        f"<div>{difference_table(differences)}</div></div></section>"
        f"<section><h2>All corrections</h2>{READING_AID}{_controls(summary)}</section>"
        f"<section><h2>How these figures came about</h2>{fact_list(facts)}</section></main>"
        f"{_json_script('columns', _columns(summary))}{_json_script('outcomes', OUTCOMES)}"
        f"<script>{script}</script></body></html>\n"
    )


def _part_table(summary: RunSummary) -> str:
    means = summary.to_dict()["parts"]
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        f"<td>{f'{means[name]:+.3f}' if name in means else ''}</td>"
        f"<td>{summary.decided[name]}</td></tr>"
        for name in (*means, "unchanged")
    )
    return (
        '<table class="parts"><caption>Reward, part by part</caption><thead><tr><th scope="col">Part</th>'
        f'<th scope="col">Mean</th><th scope="col">Decided</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _controls(summary: RunSummary) -> str:
    outcomes = "".join(f'<option value="{name}">{label}</option>' for name, label in OUTCOMES.items())
    parts = "".join(
        f'<option value="{escape(part)}">{escape(part.replace("_", " ")) or "none"}</option>'
        for part in sorted(summary.decided, key=lambda part: (not part, part))
    )
    return (
        "<noscript><p>The table needs JavaScript, which this browser does not run.</p></noscript>"
        '<form class="filters" role="search"><label>Text <input id="text" type="search" autocomplete="off" '
        'placeholder="in names and captions"></label>'
        f'<label>Outcome <select id="outcome"><option value="*">all</option>{outcomes}</select></label>'
        f'<label>Decided by <select id="part"><option value="*">any part</option>{parts}</select></label>'
        '<label>Sort by <select id="sort"></select></label>'
        '<button type="button" id="direction"></button>'
        '<button type="reset">Reset</button></form><p id="count" role="status"></p>'
        '<div class="wide"><table class="scores samples" aria-label="Corrections"><thead><tr id="head"></tr></thead>'
        '<tbody id="body"></tbody>'
        '</table></div><nav class="pages" aria-label="Pages">'
        '<button type="button" id="previous">Previous page</button>'
        '<span id="page"></span><button type="button" id="next">Next page</button></nav>'
    )
