"""Examples of a report: picture, first caption, correction with its changes marked, reference, and how it scored."""

from __future__ import annotations

import base64
import difflib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..scene_graph.graph import Revision, SceneGraph


if TYPE_CHECKING:
    from PIL import Image

# A word or a mark of punctuation, with the space before it.
_TOKEN = re.compile(r"\s*(?:[^\W_]+(?:['’_-][^\W_]+)*|[^\s])|\s+")
_LONGEST_SIDE = 512
# Parts that are no summand of the reward, shown in another place or way.
_TOTAL, _UNCHANGED = "total", "unchanged"


@dataclass(frozen=True, slots=True)
class Example:
    """One image and what the model said about it.

    Args:
        image (`PIL.Image.Image`): The picture.
        first_caption, second_caption, reference (`str`): Texts.
        revision (`Revision`): What the second caption added and removed.
        parts (`Mapping[str, float]`): Reward of each part; `"total"` is the whole.
        reference_graph (`SceneGraph`, *optional*): Where given, every change is marked as right or wrong by it.
        title (`str`): Heading; default: the number of the example.
    """

    image: Image.Image
    first_caption: str
    second_caption: str
    reference: str
    revision: Revision
    parts: Mapping[str, float]
    reference_graph: SceneGraph | None = None
    title: str = ""


def marked_changes(first: str, second: str) -> str:
    """HTML of `second`, word by word: what `first` did not have in `<ins>`, what only `first` had in `<del>`.

    Args:
        first (`str`): Caption before the correction.
        second (`str`): Caption after it.
    """
    old, new = _TOKEN.findall(first), _TOKEN.findall(second)
    matcher = difflib.SequenceMatcher(None, [t.strip() for t in old], [t.strip() for t in new], autojunk=False)
    pieces = []
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(escape("".join(new[new_start:new_end])))
            continue
        pieces.append(_marked("del", "".join(old[old_start:old_end])))
        pieces.append(_marked("ins", "".join(new[new_start:new_end])))
    return "".join(pieces).strip()


def _marked(tag: str, text: str) -> str:
    if not text.strip():
        return escape(text)
    space = text[: len(text) - len(text.lstrip())]
    return f"{space}<{tag}>{escape(text.strip())}</{tag}>"


def example_card(example: Example, number: int) -> str:
    """One example as an `<article>`.

    Args:
        example ([`Example`]): What to show.
        number (`int`): Its place on the page, from 1.
    """
    title = escape(example.title or f"Example {number}")
    unchanged = example.first_caption.strip() == example.second_caption.strip()
    correction = (
        "<p><em>The first caption, unchanged.</em></p>"
        if unchanged
        else f"<p>{marked_changes(example.first_caption, example.second_caption)}</p>"
    )
    alt = escape(f"Picture of example {number}. Reference caption: {example.reference}")
    return (
        f'<article class="example"><img src="{data_uri(example.image)}" alt="{alt}"><div><h3>{title}</h3>'
        f"<h4>First caption</h4><p>{escape(example.first_caption) or '<em>empty</em>'}</p>"
        f"<h4>Corrected caption</h4>{correction}"
        f"<h4>Reference</h4><p>{escape(example.reference)}</p>"
        f"{_changes(example)}{_parts(example.parts)}</div></article>"
    )


def data_uri(image: Image.Image) -> str:
    """The picture itself as an address, at most 512 pixels a side; PNG or JPEG, whichever is smaller.

    Args:
        image (`Image.Image`): Any picture.
    """
    picture = image.convert("RGB")
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    forms = []
    for form, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        forms.append((len(buffer.getvalue()), form, buffer.getvalue()))
    size, form, data = min(forms)
    return f"data:image/{form};base64,{base64.b64encode(data).decode('ascii')}"


def _changes(example: Example) -> str:
    revision, truth = example.revision, example.reference_graph
    rows = [
        ("Added", _chips(_named(revision, "added"), truth, wanted=True)),
        ("Removed", _chips(_named(revision, "removed"), truth, wanted=False)),
    ]
    said = "".join(f"<dt>{label}</dt><dd>{chips or 'nothing'}</dd>" for label, chips in rows)
    return f'<dl class="changes">{said}</dl>'


def _named(revision: Revision, side: str) -> list[tuple[str, tuple[str, ...]]]:
    """All changes of one side as `(words to show, fact)`; a fact of one term is an object, of two an attribute."""
    objects = getattr(revision, f"{side}_objects")
    attributes = getattr(revision, f"{side}_attributes")
    relations = getattr(revision, f"{side}_relations")
    named: list[tuple[str, tuple[str, ...]]] = [(head, (head,)) for head in sorted(objects)]
    named += [(f"{value} {head}", (head, value)) for head in sorted(attributes) for value in sorted(attributes[head])]
    named += [(" ".join(triple), tuple(triple)) for triple in sorted(relations)]
    return named


def _chips(changes: Iterable[tuple[str, tuple[str, ...]]], truth: SceneGraph | None, wanted: bool) -> str:
    chips = []
    for words, fact in changes:
        if truth is None:
            chips.append(f'<span class="chip">{escape(words)}</span>')
            continue
        is_right = _holds(truth, fact) == wanted
        sign, said = ("✓", "right by the reference") if is_right else ("✗", "wrong by the reference")
        css = "right" if is_right else "wrong"
        chips.append(
            f'<span class="chip {css}" title="{said}"><span aria-label="{said}">{sign}</span> {escape(words)}</span>'
        )
    return " ".join(chips)


def _holds(truth: SceneGraph, fact: tuple[str, ...]) -> bool:
    if len(fact) == 1:
        return fact[0] in truth.objects
    if len(fact) == 2:
        return fact[1] in truth.attributes.get(fact[0], frozenset())
    return fact in truth.triples


def _parts(parts: Mapping[str, float]) -> str:
    summands = {name: value for name, value in parts.items() if name not in (_TOTAL, _UNCHANGED)}
    largest = max((abs(value) for value in summands.values()), default=0.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{value:+.3f}</td>'
        f"<td>{_bar(value / largest)}</td></tr>"
        for name, value in summands.items()
    )
    if _TOTAL in parts:
        rows += f'<tr class="total"><th scope="row">Reward</th><td>{parts[_TOTAL]:+.3f}</td><td></td></tr>'
    return f'<table class="parts"><caption>Reward, part by part</caption><tbody>{rows}</tbody></table>' if rows else ""


def _bar(share: float) -> str:
    width = 50 * min(1.0, abs(share))
    x = 50 - (width if share < 0 else 0)
    css = "minus" if share < 0 else "plus"
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{css}" x="{x:.1f}" y="1" width="{width:.1f}" height="8"/>'
        '<line x1="50" x2="50" y1="0" y2="10"/></svg>'
    )
