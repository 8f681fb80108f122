"""Why corrections scored what they scored: samples with their scores, each as a card of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..metrics import capture, fact_scores
from .elements import KINDS, Elements, MarkedGraph, marked_graphs
from .examples import Example, chip, example_card
from .graph_drawing import Fact, graph_svg
from .page import fact_list, page_head, tiles


if TYPE_CHECKING:
    from PIL import Image

    from ..rewards import CorrectionReward, Explanation
    from ..scene_graph.lexicon import Lexicon

SCORES = {
    "objects_f1": "Objects F1",
    "attributes_f1": "Attributes F1",
    "relations_f1": "Relations F1",
    "mean_f1": "Mean F1",
    "capture": "CAPTURE",
}
# What became of a correction, with a sign for those who do not see colours.
OUTCOMES = {
    "improved": "▲ improved",
    "worsened": "▼ worsened",
    "neither": "≈ neither",
    "unchanged": "= unchanged",
    "failed": "! not scored",
}
READING_AID = (
    '<p class="note aid">'
    "<del>Struck words</del> of the first caption were taken out, <ins>underlined words</ins> of the corrected one "
    "put in. ✓ is right by the reference, ✗ wrong, ? neither. In graphs ✓ marks what the reference says too, ✗ and a "
    "broken line what it does not, ○ what the corrected caption leaves out, − what was taken out, + what was put in."
    "</p>"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One correction, explained.

    Args:
        name (`str`): What its image is called.
        why ([`Explanation`]): What the reward says.
        scores (`dict[str, tuple[float, float]]`): By the names of `SCORES` those of the first and of the corrected
            caption, each in [0, 1].
        lexicon ([`Lexicon`]): The words that captions are compared by.
    """

    name: str
    why: Explanation
    scores: dict[str, tuple[float, float]]
    lexicon: Lexicon

    @property
    def outcome(self) -> str:
        """`unchanged`, or by the sign of the reward `improved`, `worsened` or `neither`."""
        if self.why.unchanged:
            return "unchanged"
        return "neither" if self.why.total == 0 else "improved" if self.why.total > 0 else "worsened"

    @property
    def decided_by(self) -> str:
        """The part with the largest share in the reward; nothing where all are 0."""
        if self.why.unchanged:
            return "unchanged"
        part = max(self.why.parts, key=lambda name: abs(self.why.parts[name]), default="")
        return part if part and self.why.parts[part] else ""


def explained(reward: CorrectionReward, rows: Sequence[Mapping[str, Any]]) -> list[Sample | Exception]:
    """Every row explained and scored, or what keeps it from being scored.

    Args:
        reward ([`CorrectionReward`]): Judges the corrections, with its parser, encoder and lexicon.
        rows (`Sequence[Mapping]`): With `predict`, `predict_turn2`, `label` and, where there is one, `id`, as
            [`load_predictions`] reads them.
    """
    columns = [[row[name] for row in rows] for name in ("predict", "predict_turn2", "label")]
    whys = reward.explanations(*columns)
    good = [why for why in whys if not isinstance(why, Exception)]
    turns = [_scores(reward, good, turn) for turn in ("first", "second")]
    scores = iter([{name: (first[name], second[name]) for name in SCORES} for first, second in zip(*turns)])
    return [
        why if isinstance(why, Exception) else Sample(str(row.get("id", "")), why, next(scores), reward.lexicon)
        for row, why in zip(rows, whys)
    ]


def _scores(reward: CorrectionReward, whys: Sequence[Explanation], turn: str) -> list[dict[str, float]]:
    """Scores of one turn's captions against the references."""
    graphs = [getattr(why.triple, f"{turn}_graph") for why in whys]
    texts = [getattr(why.triple, turn) for why in whys]
    references = [why.triple.reference_graph for why in whys]
    facts = fact_scores(graphs, references, reward.lexicon).per_sample
    reference_texts = [[why.triple.reference] for why in whys]
    captures = capture(
        graphs, [[graph] for graph in references], texts, reference_texts, reward.lexicon, reward.encoder
    ).per_sample
    return [{**(f or {}), "capture": (c or {})["capture"]} for f, c in zip(facts, captures)]


def sample_card(sample: Sample, number: int, image: Image.Image | str | None = None) -> str:
    """A sample as an `<article>`: captions with their changes, reward by part, scores, elements and graphs.

    Args:
        sample ([`Sample`]): The correction, explained.
        number (`int`): Its place in the report, from 1.
        image (`PIL.Image.Image` or `str`, *optional*): The picture, or its `data:` address.
    """
    why, triple = sample.why, sample.why.triple
    # The released preset has no verdict of its own on single changes; they are compared with the reference instead.
    judged, reference_graph = (why.judged, None) if why.preset == "paper" else (None, triple.reference_graph)
    title = f"{sample.name or f'Sample {number}'}: {OUTCOMES[sample.outcome]}"
    parts = {**why.parts, "total": why.total}
    captions = (triple.first, triple.second, triple.reference)
    example = Example(image, *captions, why.revision, parts, reference_graph, title, judged)
    elements, graphs = marked_graphs(triple, sample.lexicon)
    more = f'<div class="more">{_element_table(elements)}{_drawings(graphs)}</div>'
    return example_card(example, number, _score_table(sample.scores), more)


def _score_table(scores: Mapping[str, tuple[float, float]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{SCORES[name]}</th><td>{first:.3f}</td><td>{second:.3f}</td>'
        f"<td>{second - first:+.3f}</td></tr>"
        for name, (first, second) in scores.items()
    )
    head = "".join(f'<th scope="col">{label}</th>' for label in ("Score", "First", "Corrected", "Change"))
    return (
        '<table class="parts"><caption>Scores against the reference</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _element_table(elements: Mapping[str, Elements]) -> str:
    def shown(facts: Sequence[Fact], verdict: str) -> str:
        return "".join(chip(_said(fact), verdict) for fact in facts) or "–"

    rows = "".join(
        f'<tr><th scope="row">{kind.capitalize()}</th>'
        f"<td>{''.join(chip(_pair(*pair), 'right') for pair in elements[kind].matched) or '–'}</td>"
        f"<td>{shown(elements[kind].extra, 'wrong')}</td><td>{shown(elements[kind].missing, 'missing')}</td></tr>"
        for kind in KINDS
    )
    head = "".join(
        f'<th scope="col">{label}</th>'
        for label in ("Elements", "In both", "Only in the corrected caption", "Only in the reference")
    )
    return (
        '<div class="wide"><table class="elements"><caption>The corrected caption beside the reference</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _said(fact: Fact) -> str:
    return f"{fact[1]} {fact[0]}" if len(fact) == 2 else " ".join(fact)


def _pair(ours: Fact, theirs: Fact) -> str:
    return _said(ours) if ours == theirs else f"{_said(ours)} = {_said(theirs)}"


def _drawings(graphs: Mapping[str, MarkedGraph]) -> str:
    titles = {"first": "First caption", "second": "Corrected caption", "reference": "Reference"}
    figures = "".join(
        f"<figure><figcaption>{title}</figcaption>{graph_svg(graphs[name].graph, title, graphs[name].marks)}</figure>"
        for name, title in titles.items()
    )
    return f'<div class="graphs">{figures}</div>'


def made_with(reward: CorrectionReward) -> dict[str, str]:
    """Where the figures of a report come from.

    Args:
        reward ([`CorrectionReward`]): Whose settings they are.
    """
    return {
        name.capitalize(): ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in reward.settings.items()
    }


def explanation_html(
    reward: CorrectionReward,
    first_caption: str,
    second_caption: str,
    reference: str,
    *,
    image: Image.Image | None = None,
    title: str = "Why this correction scored what it scored",
) -> str:
    """A self-contained page on one correction: nothing is loaded from outside, no script runs, every text is escaped.

    Args:
        reward ([`CorrectionReward`]): Judges the correction.
        first_caption, second_caption, reference (`str`): Texts.
        image (`PIL.Image.Image`, *optional*): The picture; it goes into the page at 512 pixels a side at most.
        title (`str`): Heading of the page.

    Raises:
        Exception: Whatever makes the sample impossible to score.
    """
    row = {"predict": first_caption, "predict_turn2": second_caption, "label": reference}
    sample = explained(reward, [row])[0]
    if isinstance(sample, Exception):
        raise sample
    first, second = sample.scores["mean_f1"]
    figures = tiles(
        [
            ("Reward", f"{sample.why.total:+.3f}", "between −0.5 and 0.5; above 0 is better"),
            ("Outcome", OUTCOMES[sample.outcome], "by the sign of the reward"),
            ("Decided by", sample.decided_by or "nothing", "the part with the largest share"),
            ("Mean F1", f"{first:.3f} → {second:.3f}", "first caption → corrected caption"),
        ]
    )
    return (
        f"{page_head(title)}<header><h1>{escape(title)}</h1>{figures}</header><main>{READING_AID}"
        f"{sample_card(sample, 1, image)}<section><h2>How these figures came about</h2>"
        f"{fact_list(made_with(reward))}</section></main></body></html>\n"
    )
