"""Examples of a report: picture, first caption, correction with its changes marked, reference, and how it scored."""

from __future__ import annotations

import base64
import difflib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..scene_graph.graph import Revision, SceneGraph


if TYPE_CHECKING:
    from PIL import Image

    from ..rewards.paper import Judgement

# A word or a mark of punctuation, with the space before it.
_TOKEN = re.compile(r"\s*(?:[^\W_]+(?:['’_-][^\W_]+)*|[^\s])|\s+")
_VERDICTS = {
    "right": ("✓", "right by the reference"),
    "wrong": ("✗", "wrong by the reference"),
    "unclear": ("?", "neither right nor wrong by the reference"),
    "missing": ("○", "left out"),
}
# Parts that are no summand of the reward, shown in another place or way.
_TOTAL, _UNCHANGED = "total", "unchanged"


@dataclass(frozen=True, slots=True)
class Example:
    """One image and what the model said about it.

    Args:
        image (`PIL.Image.Image` or `str`, *optional*): The picture, or what [`data_uri`] made of it.
        first_caption, second_caption, reference (`str`): Texts.
        revision (`Revision`): What the second caption added and removed.
        parts (`Mapping[str, float]`): Reward of each part; `"total"` is the whole.
        reference_graph (`SceneGraph`, *optional*): Where given, every change is marked as right or wrong by it.
        title (`str`): Heading; default: the number of the example.
        judged (`Mapping[tuple[str, tuple[str, ...]], Judgement]`, *optional*): Where given, changes are marked as the
            reward judged them instead, see [`Explanation`].
    """

    image: Image.Image | str | None
    first_caption: str
    second_caption: str
    reference: str
    revision: Revision
    parts: Mapping[str, float]
    reference_graph: SceneGraph | None = None
    title: str = ""
    judged: Mapping[tuple[str, tuple[str, ...]], Judgement] | None = None


def marked_changes(first: str, second: str, *, removed: bool = True, added: bool = True) -> str:
    """HTML of `second`, word by word: what `first` did not have in `<ins>`, what only `first` had in `<del>`.

    Args:
        first (`str`): Caption before the correction.
        second (`str`): Caption after it.
        removed (`bool`), added (`bool`):
            Whether words that only one of them has are shown: without `added` the result is `first` with what was
            taken out of it, without `removed` `second` with what was put in.
    """
    old, new = _TOKEN.findall(first), _TOKEN.findall(second)
    matcher = difflib.SequenceMatcher(None, [t.strip() for t in old], [t.strip() for t in new], autojunk=False)
    pieces = []
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(escape("".join(new[new_start:new_end] if added else old[old_start:old_end])))
            continue
        if removed:
            pieces.append(_marked("del", "".join(old[old_start:old_end])))
        if added:
            pieces.append(_marked("ins", "".join(new[new_start:new_end])))
    return "".join(pieces).strip()


def _marked(tag: str, text: str) -> str:
    if not text.strip():
        return escape(text)
    space = text[: len(text) - len(text.lstrip())]
    return f"{space}<{tag}>{escape(text.strip())}</{tag}>"


def example_card(example: Example, number: int, beside: str = "", more: str = "") -> str:
    """One example as an `<article>`.

    Args:
        example ([`Example`]): What to show.
        number (`int`): Its place on the page, from 1.
        beside (`str`): HTML next to the reward.
        more (`str`): HTML that follows at full width.
    """
    title = escape(example.title or f"Example {number}")
    first, second = example.first_caption, example.second_caption
    correction = (
        "<p><em>The first caption, unchanged.</em></p>"
        if first.strip() == second.strip()
        else f"<p>{marked_changes(first, second, removed=False) or '<em>empty</em>'}</p>"
    )
    alt = escape(f"Picture of example {number}. Reference caption: {example.reference}")
    address = example.image if example.image is None or isinstance(example.image, str) else data_uri(example.image)
    picture = f'<img src="{address}" alt="{alt}">' if address else ""
    return (
        f'<article class="{"example" if picture else "example plain"}">{picture}<div><h3>{title}</h3>'
        f"<h4>First caption</h4><p>{marked_changes(first, second, added=False) or '<em>empty</em>'}</p>"
        f"<h4>Corrected caption</h4>{correction}"
        f"<h4>Reference</h4><p>{escape(example.reference)}</p>"
        f'{_changes(example)}<div class="side">{_parts(example.parts)}{beside}</div></div>{more}</article>'
    )


def data_uri(image: Image.Image, longest_side: int = 512) -> str:
    """The picture itself as an address; PNG or JPEG, whichever is smaller.

    Args:
        image (`Image.Image`): Any picture.
        longest_side (`int`): Pixels a side at most.
    """
    picture = image.convert("RGB")
    picture.thumbnail((longest_side, longest_side))
    forms = []
    for form, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        forms.append((len(buffer.getvalue()), form, buffer.getvalue()))
    size, form, data = min(forms)
    return f"data:image/{form};base64,{base64.b64encode(data).decode('ascii')}"


def _changes(example: Example) -> str:
    rows = [
        (side.capitalize(), "".join(_chip(example, side, *named) for named in _named(example.revision, side)))
        for side in ("added", "removed")
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


def _chip(example: Example, side: str, words: str, fact: tuple[str, ...]) -> str:
    if example.judged is not None:
        judgement = example.judged.get((side, fact))
        if judgement is None:
            return chip(words, "unclear", "the reference says nothing of it")
        verdict = {True: "right", False: "wrong", None: "unclear"}[judgement.right]
        return chip(words, verdict, f"similarity to the reference {judgement.similarity:.2f}")
    if example.reference_graph is None:
        return chip(words)
    return chip(words, "right" if _holds(example.reference_graph, fact) == (side == "added") else "wrong")


def chip(words: str, verdict: str = "", why: str = "") -> str:
    """Words in a frame.

    Args:
        words (`str`): What is framed.
        verdict (`str`): What the reference says to it: `right`, `wrong`, `unclear`, `missing`, or nothing.
        why (`str`): More about the verdict, shown to those who point at it.
    """
    if not verdict:
        return f'<span class="chip">{escape(words)}</span> '
    sign, said = _VERDICTS[verdict]
    said = escape(f"{said}: {why}" if why else said)
    return (
        f'<span class="chip {verdict}" title="{said}"><span role="img" aria-label="{said}">{sign}</span> '
        f"{escape(words)}</span> "
    )


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
