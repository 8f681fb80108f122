"""The report page: data in, one HTML document out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from .charts import PANELS, Panel, curves, line_chart
from .examples import Example, example_card
from .scores import PairedDifference, difference_table, score_table


def report_html(
    results: Mapping[str, Any],
    log_history: Sequence[Mapping[str, object]] = (),
    examples: Sequence[Example] = (),
    *,
    differences: Sequence[PairedDifference] = (),
    facts: Mapping[str, object] | None = None,
    panels: Sequence[Panel] = PANELS,
    title: str = "A captioner that learns to correct itself",
) -> str:
    """A self-contained page: nothing is loaded from outside, every text is escaped, colours follow the reader's theme.

    Args:
        results (`Mapping`):
            `{"before": {"first": S, "second": S}, "after": {...}}` as in `results.json`; `S` holds `objects_f1`,
            `attributes_f1`, `relations_f1`, `mean_f1`, `broken_grammar` (each in [0, 1]) and `n`, and may hold
            `standard_errors` (a mapping by the same names). A stage or turn may be absent.
        log_history (`Sequence[Mapping]`): `trainer.state.log_history`.
        examples (`Sequence[Example]`): Shown in this order.
        differences (`Sequence[PairedDifference]`): Comparisons on the same samples.
        facts (`Mapping[str, object]`, *optional*): What produced the figures: model, parser, encoder, seed, times.
        panels (`Sequence[Panel]`): Charts; those without any logged value are left out.
        title (`str`): Heading of the page.
    """
    charts = "".join(line_chart(p.title, curves(log_history, p.keys), p.note) for p in panels)
    cards = "".join(example_card(example, number) for number, example in enumerate(examples, 1))
    sections = [
        f"<section><h2>Scores</h2>{score_table(results)}{difference_table(differences)}</section>",
        f'<section><h2>Learning curves</h2><div class="charts">{charts}</div></section>' if charts else "",
        f"<section><h2>Examples</h2>{_reading_aid(examples)}{cards}</section>" if cards else "",
        f"<section><h2>How these figures came about</h2>{fact_list(facts)}</section>" if facts else "",
    ]
    return (
        f"{page_head(title)}<header><h1>{escape(title)}</h1>{_headline(results)}</header>"
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def page_head(title: str, script: str = "") -> str:
    """All of a page before its content. The browser is told to load nothing and to run `script` alone, if that.

    Args:
        title (`str`): For the browser's tab.
        script (`str`): Text of the one `<script>` that the page may run.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    policy += f"; script-src 'sha256-{digest}'" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{asset('style.css')}</style></head><body>"
    )


def asset(name: str) -> str:
    """Text of a file beside this module.

    Args:
        name (`str`): Name of the file, as in `style.css`.
    """
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def tiles(shown: Sequence[tuple[str, str, str]]) -> str:
    """Figures in large print, each with what it is above and a note below.

    Args:
        shown (`Sequence[tuple[str, str, str]]`): Label, value and note of every figure, all escaped here.
    """
    cells = "".join(
        f'<div class="tile"><dt>{escape(label)}</dt><dd>{escape(value)}</dd><dd class="note">{escape(note)}</dd></div>'
        for label, value, note in shown
    )
    return f'<dl class="tiles">{cells}</dl>'


def fact_list(facts: Mapping[str, object]) -> str:
    """What produced the figures of a page.

    Args:
        facts (`Mapping[str, object]`): Names and what stands beside them, both escaped here.
    """
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _headline(results: Mapping[str, Any]) -> str:
    """The finding in figures: what the corrected caption gained, and what grammar it cost."""
    scores = {
        (stage, turn): results.get(stage, {}).get(turn, {})
        for stage in ("before", "after")
        for turn in ("first", "second")
    }
    after = scores["after", "second"].get("mean_f1")
    if after is None:
        return ""
    shown = [("Corrected captions, mean F1", f"{after:.3f}", "after training")]
    for label, key in (
        ("its own first captions", ("after", "first")),
        ("corrections before training", ("before", "second")),
    ):
        if (other := scores[key].get("mean_f1")) is not None:
            shown.append(("Gain in mean F1", f"{after - other:+.3f}", f"over {label}"))
    if (broken := scores["after", "second"].get("broken_grammar")) is not None:
        shown.append(("Broken grammar", f"{broken:.1%}", "of corrected captions"))
    return tiles(shown)


def _reading_aid(examples: Sequence[Example]) -> str:
    text = (
        "<del>Struck words</del> of a first caption were taken out, <ins>underlined words</ins> of a corrected one "
        "were put in."
    )
    if any(example.reference_graph is not None for example in examples):
        text += " ✓ and ✗ tell whether a change is right by exact comparison with the reference."
    return f"<p>{text}</p>"
