"""Words of a sentence as the compact parser sees them: tokens with offsets, base forms of verbs, character n-grams."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass


# Hyphens stand alone, so that `cream` of `cream-colored` and both colours of `black-and-white` can be picked out.
_TOKEN = re.compile(r"'s\b|’s\b|\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’](?!s\b)[^\W\d_]+)*|[^\s]", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_VOWELS = "aeiou"
_SHORT_STEM = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")
_ENDINGS_WITHOUT_E = ("zz", "ss", "ng", "eat", "oat", "ocus")


@dataclass(frozen=True, slots=True)
class Token:
    """One word or sign of a sentence.

    Args:
        text (`str`): The word in lower case.
        start, end (`int`): Its characters are `sentence[start:end]`.
        shape (`int`): 0 for lower case and signs, 1 for a capital first letter, 2 for capitals only.
    """

    text: str
    start: int
    end: int
    shape: int = 0


def tokens_of(sentence: str) -> list[Token]:
    """Tokens of a sentence in order; never fails, an empty or blank sentence has none.

    Args:
        sentence (`str`): Any text.
    """
    found = []
    for match in _TOKEN.finditer(sentence):
        word = match.group()
        shape = 0 if word == word.lower() else 2 if len(word) > 1 and word == word.upper() else 1
        found.append(Token(word.lower(), match.start(), match.end(), shape))
    return found


def surface(sentence: str, tokens: list[Token], first: int, last: int) -> str:
    """What stands in the sentence from token `first` to token `last` inclusive, lower case, blanks made single.

    Args:
        sentence (`str`): The text.
        tokens (`list[Token]`): Its tokens.
        first (`int`): Index of a token.
        last (`int`): Index of a token, `first` or later.
    """
    return _SPACE.sub(" ", sentence[tokens[first].start : tokens[last].end]).strip().lower()


def possible_base_forms(word: str) -> list[str]:
    """Base forms that the regular spelling rules of English allow, the likeliest first; the word itself is last.

    Args:
        word (`str`): In lower case.

    Examples:
        `possible_base_forms("running")` -> `["run", "runn", "runne", "running"]`
    """
    forms: list[str] = []
    for suffix in ("ing", "ed", "in"):
        stem = word[: -len(suffix)]
        if not word.endswith(suffix) or len(stem) < 2 or not any(c in "aeiouy" for c in stem):
            continue
        doubled = len(stem) > 2 and stem[-1] == stem[-2]
        if suffix == "ed" and stem.endswith("i"):
            forms.append(stem + "e" if len(stem) == 2 else stem[:-1] + "y")
        if suffix == "ing" and stem.endswith("y") and len(stem) == 2:
            forms.append(stem[:-1] + "ie")
        if doubled and stem[-1] not in "lsfz":
            forms += [stem[:-1], stem]
        elif _wants_e(stem):
            forms += [stem + "e", stem]
        else:
            forms += [stem, stem + "e"]
            if doubled:
                forms.append(stem[:-1])
    if word.endswith("ies") and len(word) > 4:
        forms.append(word[:-3] + "y")
    if word.endswith("es") and len(word) > 3:
        sibilant = word[:-2].endswith(("s", "x", "z", "ch", "sh"))
        forms += [word[:-2], word[:-1]] if sibilant else [word[:-1], word[:-2]]
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 2:
        forms.append(word[:-1])
    return list(dict.fromkeys([*forms, word]))


def _wants_e(stem: str) -> bool:
    """Whether a verb's stem that lost its ending is likely to end in a silent e (`mak` -> `make`)."""
    if stem[-1] in _VOWELS + "wxy":
        return stem.endswith(("u", "e"))
    if stem.endswith(("at", "z", "c", "v", "s", "g", "tur", "lin")) and not stem.endswith(_ENDINGS_WITHOUT_E):
        return True
    # A short stem of this shape that had no silent e would have doubled its last letter (`stop` -> `stopping`).
    return _SHORT_STEM.fullmatch(stem) is not None


def base_form(word: str, exceptions: Mapping[str, str], known: frozenset[str] = frozenset()) -> str:
    """Base form of a verb: from `exceptions`, else the first possible form that is `known`, else the likeliest.

    Args:
        word (`str`): In lower case.
        exceptions (`Mapping[str, str]`): Base forms of irregular verbs.
        known (`frozenset[str]`, *optional*): Base forms to prefer.
    """
    if word in exceptions:
        return exceptions[word]
    forms = possible_base_forms(word)
    return next((form for form in forms if form in known), forms[0])


def ngram_ids(word: str, buckets: int) -> list[int]:
    """Hash buckets (1..`buckets` - 1; 0 is padding) of a word and of its character 3- to 5-grams.

    The word stands between `<` and `>`, as in Bojanowski et al., "Enriching Word Vectors with Subword Information"
    (arXiv 1607.04606). Very long words count with their first 24 characters.

    Args:
        word (`str`): In lower case.
        buckets (`int`): Size of the table.
    """
    marked = f"<{word[:24]}>"
    grams = [marked] + [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1) if n < len(marked)]
    return [1 + zlib.crc32(gram.encode("utf-8", "surrogatepass")) % (buckets - 1) for gram in grams]
