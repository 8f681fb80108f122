"""Words that exclude each other. Embeddings put "red" next to "blue" and "left of" next to "right of" (MiniLM: 0.73
and 0.97 inside a triple), so a cosine alone would reward the very mistakes that corrections are about."""

from __future__ import annotations

from functools import lru_cache


# A word of one group contradicts the words of the other groups of its family, not those of its own.
_FAMILIES: tuple[tuple[str, ...], ...] = (
    (
        "red crimson scarlet maroon burgundy", "green lime olive emerald teal", "blue navy azure turquoise cyan teal",
        "yellow gold golden", "purple violet lavender magenta", "orange", "pink magenta rose", "brown tan beige khaki",
        "black", "white cream ivory", "gray grey silver",
    ),
    ("small little tiny miniature short", "large big huge giant tall enormous", "medium"),
    ("young", "old elderly aged", "new"),
    ("light pale bright", "dark"),
    ("open", "closed shut"),
    ("empty", "full"),
    ("wet", "dry"),
    ("hot", "cold"),
    ("round circular", "square", "rectangular", "triangular"),
    ("wooden wood", "metal metallic steel iron", "plastic", "glass", "stone concrete brick", "leather"),
    ("male", "female"),
    ("striped", "plain solid", "spotted dotted"),
    ("one single 1", "two 2", "three 3", "four 4", "five 5"),
)  # fmt: skip
_DIRECTIONS: tuple[str, ...] = ("left", "right", "above over atop", "below under beneath underneath", "behind")
_FRONT = len(_DIRECTIONS)
_OPPOSITE = {0: 1, 1: 0, 2: 3, 3: 2, 4: _FRONT, _FRONT: 4}
_MUTUAL = frozenset(("near", "beside", "next", "by", "touch", "with", "and", "between", "around", "close", "adjacent"))


@lru_cache(1)
def _family_groups() -> dict[str, frozenset[tuple[int, int]]]:
    groups: dict[str, set[tuple[int, int]]] = {}
    for i, family in enumerate(_FAMILIES):
        for j, group in enumerate(family):
            for word in group.split():
                groups.setdefault(word, set()).add((i, j))
    return {word: frozenset(found) for word, found in groups.items()}


def _groups(phrase: str) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for word in phrase.replace("-", " ").split():
        for family, group in _family_groups().get(word, ()):
            found.setdefault(family, set()).add(group)
    return found


def contrary_attributes(first: str, second: str) -> bool:
    """Whether two attributes of one object exclude each other: two colours, two sizes, two materials and so on.

    Args:
        first (`str`): An attribute.
        second (`str`): Another of the same object.
    """
    ours, theirs = _groups(first), _groups(second)
    return any(ours[family].isdisjoint(theirs[family]) for family in ours.keys() & theirs.keys())


def _directions(predicate: str) -> set[int]:
    words = set(predicate.split())
    found = {i for i, group in enumerate(_DIRECTIONS) if words & set(group.split())}
    if "front" in words:
        found.add(_FRONT)
    if {"on", "top"} <= words:
        found.add(2)
    return found


def equivalent_relations(first: tuple[str, str, str], second: tuple[str, str, str]) -> bool:
    """Whether two triples say one thing from both ends: "cup left of jug", "jug right of cup"; "a by b", "b by a".

    Args:
        first (`tuple[str, str, str]`): Head, predicate, head.
        second (`tuple[str, str, str]`): Head, predicate, head.
    """
    if (first[0], first[2]) != (second[2], second[0]):
        return False
    if first[1] == second[1]:
        return bool(_MUTUAL & set(first[1].split())) and not _directions(first[1])
    ours, theirs = _directions(first[1]), _directions(second[1])
    return bool(ours) and theirs == {_OPPOSITE[side] for side in ours}


def contrary_relations(first: tuple[str, str, str], second: tuple[str, str, str]) -> bool:
    """Whether two triples differ in direction: other sides ("left of" and "above"), or one with its ends swapped.

    Predicates that hold both ways ("near", "next to") have no direction to swap.

    Args:
        first (`tuple[str, str, str]`): Head, predicate, head.
        second (`tuple[str, str, str]`): Head, predicate, head.
    """
    if equivalent_relations(first, second):
        return False
    ours, theirs = _directions(first[1]), _directions(second[1])
    if ours and theirs and ours.isdisjoint(theirs):
        return True
    swapped = first[0] == second[2] and first[2] == second[0] and first[0] != first[2]
    return swapped and first[1] == second[1] and not _MUTUAL & set(first[1].split())
