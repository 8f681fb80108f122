"""Questions as phrases that a parser reads, and where in the picture a text says that things are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


_PICTURE = r"(?:image|picture|photo|photograph|frame|scene|view|shot|screen|photo frame)"
_SIDE = r"(?:left|right|top|bottom|upper|lower|center|centre|central|middle|front|background|foreground|back|corner)"
_FILLER = r"(?:side|corner|part|half|area|edge|portion|end|section|hand|most|far|very|extreme|and|or|-)"
# "in the top left corner of the image", "on the right side", "at the bottom", "in the background".
_PLACE = re.compile(
    rf"\b(?:mostly\s+)?"
    rf"(?:on|in|at|to|towards?|along|from|near|across)\s+(?:both\s+)?(?:the\s+)?"
    # All the words of a place or none (atomic): the left side of a board is no place in the picture.
    rf"(?P<words>(?>(?:{_FILLER}[\s-]+)*{_SIDE}(?:[\s-]+(?:{_SIDE}|{_FILLER})\b)*s?))"
    rf"(?:\s+(?:of|in)\s+(?:the\s+|this\s+)?{_PICTURE}\b|(?!\s+of\b)(?=\W|$))",
    re.IGNORECASE,
)
_IN_PICTURE = re.compile(rf"\s*\b(?:in|of|within)\s+(?:the|this)\s+{_PICTURE}\b", re.IGNORECASE)
_OPENING = re.compile(r"^\s*(?:is|are|was|were|does|do|did|can|could|has|have)\s+(?:there\s+)?", re.IGNORECASE)
_BEING = re.compile(
    r"\b(?:be\s+)?(?:visible|seen|positioned|located|situated|placed|present|shown|found)\b(?=\s+\w|\W*$)",
    re.IGNORECASE,
)
_REGIONS = {
    "left": "left",
    "right": "right",
    "top": "top",
    "upper": "top",
    "bottom": "bottom",
    "lower": "bottom",
    "center": "center",
    "centre": "center",
    "central": "center",
    "middle": "center",
    "background": "background",
    "back": "background",
    "foreground": "foreground",
    "front": "foreground",
}
_SEGMENT_END = re.compile(r"[,;:]|\bwhile\b|\band\s+(?=(?:in|on|at|to)\s+the\b)|\bwith\s+(?=\w+\s+in\s+the\b)")


@dataclass(frozen=True, slots=True)
class Statement:
    """What a question asks about.

    Args:
        phrase (`str`): The question as a noun phrase written like a sentence, places in the picture left out:
            `The tire on the grass.` Empty if nothing is left.
        regions (`frozenset[str]`): Places in the picture it asks for: `left`, `right`, `top`, `bottom`, `center`,
            `foreground`, `background`.
    """

    phrase: str
    regions: frozenset[str]

    @classmethod
    def of(cls, question: str) -> Statement:
        """Turn a yes/no question: `Is the tire on the left side of the image?` is `The tire.`, left.

        Args:
            question (`str`): A yes/no question.
        """
        text = _OPENING.sub("", question.strip().rstrip("?").rstrip(), count=1)
        regions = frozenset(region for match in _PLACE.finditer(text) for region in _regions(match["words"]))
        text = _IN_PICTURE.sub("", _PLACE.sub(" ", text))
        text = _BEING.sub(" ", text)
        text = " ".join(text.split()).strip(" ,")
        # Written as a sentence of a caption: that is what parsers know best.
        return cls(f"{text[0].upper()}{text[1:]}." if text else "", regions)


def segments_with_regions(sentence: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Parts of a sentence with the places in the picture that hold for them.

    A place holds for the part that names it and for those after it, until another place is named: `In the background,
    there is a house, and trees on the left.`

    Args:
        sentence (`str`): One sentence of a caption.
    """
    regions: frozenset[str] = frozenset()
    for segment in _SEGMENT_END.split(sentence):
        found = frozenset(region for match in _PLACE.finditer(segment) for region in _regions(match["words"]))
        regions = found or regions
        if segment.strip():
            yield segment, regions


def _regions(words: str) -> frozenset[str]:
    return frozenset(_REGIONS[word] for word in re.findall(r"[a-z]+", words.lower()) if word in _REGIONS)
