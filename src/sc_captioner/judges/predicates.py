"""What a predicate of a scene graph says, and whether one states, turns around or denies another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..scene_graph.lexicon import Lexicon

# Ways of writing a place, by what they mean. Predicates have no articles (`to left of`).
_WORDINGS = {
    "left": "to left of; left of; on left of; at left of; in left of; to left side of; on left side of; "
    "at left side of",
    "right": "to right of; right of; on right of; at right of; in right of; to right side of; on right side of; "
    "at right side of",
    "above": "above; over; higher than; up above",
    "below": "below; under; underneath; beneath; lower than; at bottom of; on bottom of; under of",
    "on": "on; on top of; onto; upon; atop; at top of; in top of; on surface of; on edge of; on corner of",
    "in": "in; inside; inside of; into; within; in middle of; in center of; at center of; on middle of",
    "front": "in front of; front of; before; ahead of; on front of; to front of",
    "behind": "behind; in back of; back of; at back of; on back of; in background of; beyond",
    "near": "near; near to; next to; beside; besides; by; close to; adjacent to; alongside; along; at; at side of; "
    "on side of; to side of; along side of; along with; on edge of",
    "between": "between; in between; among; amid; in middle of",
    "around": "around; all around; round",
    "against": "against",
    "across": "across; across from; opposite; opposite of; opposite to; on other side of",
    "through": "through; out of",
    "from": "from; off; off of",
    "toward": "to; toward; towards; onto; at; into",
    "with": "with; have; of; contain; include; full of; consist of; make of; make up of; fill with; wear; in",
}
_MEANINGS: dict[str, frozenset[str]] = {}
for _meaning, _wordings in _WORDINGS.items():
    for _wording in _wordings.split("; "):
        _MEANINGS[_wording] = _MEANINGS.get(_wording, frozenset()) | {_meaning}
_LONGEST = max(len(wording.split()) for wording in _MEANINGS)

# The same fact with subject and object exchanged.
_INVERSES = {
    "left": {"right"},
    "right": {"left"},
    "above": {"below"},
    "below": {"above", "on"},
    "on": {"below"},
    "front": {"behind"},
    "behind": {"front"},
    "near": {"near", "left", "right", "front", "behind", "against", "around", "across"},
    "across": {"across"},
    "against": {"against"},
    "around": {"in", "between"},
    "in": {"around", "with"},
    "with": {"with", "on", "in"},
}
# What else makes a place true, said of the same two things in the same order.
_IMPLIED_BY = {
    "near": {"left", "right", "front", "behind", "against", "across", "around", "between"},
    "with": {"on"},
    "above": {"on"},
    "on": {"in", "against"},
    "in": {"on"},
}
# Where one of these is stated of two things, its opposite is not true of them.
_OPPOSITES = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "front": "behind",
    "behind": "front",
}

# Verbs that only say that a thing is somewhere.
_BEING = frozenset(
    ("be", "locate", "position", "place", "situate", "see", "find", "keep", "set", "put", "appear", "show", "visible",
     "present", "lay", "lie", "rest", "stand", "sit")
)  # fmt: skip
_POSTURES = frozenset(("sit", "stand", "lie", "walk", "run", "fly", "swim", "jump", "ride", "kneel", "crouch", "hang"))


@dataclass(frozen=True, slots=True)
class Predicate:
    """A predicate taken apart.

    Args:
        verb (`str`): Its verb, lemmatised, and what else is no place; `""` where there is none.
        places (`frozenset[str]`): Meanings of its preposition (`in` has several), empty for a bare verb.
    """

    verb: str
    places: frozenset[str]

    @classmethod
    def read(cls, text: str, lexicon: Lexicon) -> Predicate:
        """Take a predicate as a parser writes it: `stand to left of` is `stand` and left.

        Args:
            text (`str`): The predicate.
            lexicon ([`Lexicon`]): Lemmas of its words.
        """
        words = [word for word in text.lower().split() if word not in ("the", "a", "an", "far", "directly")]
        for size in range(min(_LONGEST, len(words)), 0, -1):
            meanings = _MEANINGS.get(" ".join(words[-size:]))
            if meanings:
                verb = " ".join(lexicon.lemma(word) for word in words[:-size])
                return cls(verb, meanings)
        return cls(" ".join(lexicon.lemma(word) for word in words), frozenset())

    def is_stated_by(self, other: Predicate, lexicon: Lexicon) -> bool:
        """Whether `other`, said of the same subject and object, says this.

        Args:
            other ([`Predicate`]): What a caption says.
            lexicon ([`Lexicon`]): Synonyms.
        """
        if not self.places:
            return self._same_verb(other, lexicon)
        wanted = self.places | {place for meaning in self.places for place in _IMPLIED_BY.get(meaning, ())}
        return not wanted.isdisjoint(other.places) and self._verbs_agree(other, lexicon)

    def is_turned_in(self, other: Predicate, lexicon: Lexicon) -> bool:
        """Whether `other`, said with subject and object exchanged, says this: `below` for `above`.

        Args:
            other ([`Predicate`]): What a caption says the other way round.
            lexicon ([`Lexicon`]): Synonyms.
        """
        if not self.places:
            return False
        wanted = {place for meaning in self.places for place in _INVERSES.get(meaning, ())}
        return not wanted.isdisjoint(other.places) and self._verbs_agree(other, lexicon)

    def is_denied_by(self, other: Predicate, turned: bool = False) -> bool:
        """Whether `other` excludes this, said of the same things (`turned`: exchanged).

        Args:
            other ([`Predicate`]): What a caption says.
            turned (`bool`, defaults to `False`): Whether it says so with subject and object exchanged.
        """
        opposites = self.places if turned else {_OPPOSITES.get(place) for place in self.places}
        return any(place in _OPPOSITES and place in opposites for place in other.places)

    def _same_verb(self, other: Predicate, lexicon: Lexicon) -> bool:
        if self.verb == other.verb or (self.verb and other.verb and lexicon.are_synonyms(self.verb, other.verb)):
            return True
        # A man with a bag may hold or carry it.
        return not other.verb and "with" in other.places and self.verb in ("wear", "hold", "carry", "have")

    def _verbs_agree(self, other: Predicate, lexicon: Lexicon) -> bool:
        if not self.verb or not other.verb or self.verb in _BEING - _POSTURES or other.verb in _BEING - _POSTURES:
            return True
        if self.verb in _POSTURES and other.verb in _POSTURES:
            return self.verb == other.verb
        return True
