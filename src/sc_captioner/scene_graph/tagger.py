"""NLTK's averaged-perceptron tagger, evaluated several times faster with the same tags.

Scores are sums over features of one token and its neighbours. Features that hang on one word or one pair of tags are
summed once and remembered, which leaves seven vector additions per token instead of fourteen dictionaries. Weights are
thousandths, so integers add them without rounding and ties fall as NLTK means them to: to the last label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from numpy.typing import NDArray


# Sums of one kind remembered before starting over: 0.7 MB per thousand.
_MOST = 20_000


class FastTagger:
    """Tags English tokens as `nltk.pos_tag` does.

    Args:
        tagger (`nltk.tag.PerceptronTagger`): Loaded tagger whose weights are used.
    """

    def __init__(self, tagger: Any) -> None:
        self._weights: dict[str, dict[str, float]] = tagger.model.weights
        self._known: dict[str, str] = tagger.tagdict
        self._normalise: Callable[[str], str] = tagger.normalize
        self._start, self._end = list(tagger.START), list(tagger.END)
        self._labels = sorted(tagger.model.classes, reverse=True)  # argmax takes the first of equals
        self._column = {label: i for i, label in enumerate(self._labels)}
        self._word = _Sums(self._of_word)
        self._before = _Sums(lambda word: self._sum(f"i-1 word {word}", f"i-1 suffix {word[-3:]}"))
        self._after = _Sums(lambda word: self._sum(f"i+1 word {word}", f"i+1 suffix {word[-3:]}"))
        self._second_before = _Sums(lambda word: self._sum(f"i-2 word {word}"))
        self._second_after = _Sums(lambda word: self._sum(f"i+2 word {word}"))
        self._history = _Sums(
            lambda t: self._sum(f"i-1 tag {t[0]}", f"i-2 tag {t[1]}", f"i tag+i-2 tag {t[0]} {t[1]}")
        )
        self._pair = _Sums(lambda pair: self._sum(f"i-1 tag+i word {pair[0]} {pair[1]}"))

    def tags(self, tokens: Sequence[str]) -> list[str]:
        """Penn Treebank tags of `tokens`, one each.

        Args:
            tokens (`Sequence[str]`): Words and marks of one sentence.
        """
        context = [*self._start, *map(self._normalise, tokens), *self._end]
        before, earlier = self._start
        tags = []
        for i, word in enumerate(tokens, start=len(self._start)):
            tag = self._known.get(word)
            if not tag:
                scores = self._word[word] + self._history[before, earlier]
                scores += self._pair[before, context[i]]
                scores += self._before[context[i - 1]]
                scores += self._second_before[context[i - 2]]
                scores += self._after[context[i + 1]]
                scores += self._second_after[context[i + 2]]
                tag = self._labels[int(scores.argmax())]
            tags.append(tag)
            before, earlier = tag, before
        return tags

    def _sum(self, *features: str) -> NDArray[np.int64]:
        """Summed weights of `features`."""
        total = np.zeros(len(self._labels), dtype=np.int64)
        for feature in features:
            for label, weight in self._weights.get(feature, {}).items():
                total[self._column[label]] += round(1000 * weight)
        return total

    def _of_word(self, word: str) -> NDArray[np.int64]:
        return self._sum("bias", f"i suffix {word[-3:]}", f"i pref1 {word[:1]}", f"i word {self._normalise(word)}")


class _Sums(dict[Any, "NDArray[np.int64]"]):
    """Sums by what they hang on, computed when first asked for."""

    def __init__(self, compute: Callable[[Any], NDArray[np.int64]]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, key: Any) -> NDArray[np.int64]:
        if len(self) >= _MOST:
            self.clear()
        self[key] = total = self._compute(key)
        return total
