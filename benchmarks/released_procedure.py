"""The released way of scoring, step for step and at its own pace, to measure ours against.

One caption at a time; every head looked for in its caption by tagging and lemmatising every n-gram; phrases encoded in
batches of 4 whenever two lists are compared; nothing remembered between captions. CAPTURE's own steps run in the
installed capture_metric. Graphs are given: the neural parser is left out on both sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from capture_metric.capture import CAPTURE, TextProcessor
from capture_metric.stop_words import stop_words_list
from factual_scene_graph.evaluation.soft_spice_evaluation import encode_phrases
from nltk import pos_tag, sent_tokenize, word_tokenize
from nltk.corpus import wordnet
from nltk.stem import WordNetLemmatizer


Graph = Mapping[str, Any]
Sets = tuple[set[str], dict[str, set[str]], set[tuple[str, str, str]]]


class ReleasedProcedure:
    """Reward, CAPTURE and refined CAPTURE of single captions whose sentence graphs are in `graphs`."""

    def __init__(self, graphs: Mapping[str, Graph], text_encoder: Any) -> None:
        self.graphs, self.text_encoder = graphs, text_encoder
        # Its constructor moves an encoder to cuda:0, so the object is filled by hand.
        self.capture_metric = CAPTURE.__new__(CAPTURE)
        self.capture_metric.__dict__.update(
            alpha=0.5, beta=0.5, gamma=0.2, eps=1e-6, synonym_matching=True, soft_matching=True,
            stop_words_list=set(stop_words_list), text_processor=TextProcessor(), text_encoder=text_encoder,
        )  # fmt: skip

    # --- Captions to sets --------------------------------------------------------------------------------------------

    def sets(self, caption: str) -> tuple[Sets, Sets]:
        """Raw and lemmatised objects, attributes and relations."""
        raw: Sets = (set(), defaultdict(set), set())
        lemmas: Sets = (set(), defaultdict(set), set())
        noun = WordNetLemmatizer().lemmatize
        for sentence in sent_tokenize(caption):
            graph = self.graphs[sentence]
            heads = [entity["head"] for entity in graph["entities"]]
            for entity in graph["entities"]:
                head = noun(entity["head"], "n")
                raw[0].add(entity["head"])
                lemmas[0].add(head)
                for attribute in entity["attributes"]:
                    raw[1][entity["head"]].add(attribute)
                    lemma = noun(attribute, "a")
                    if " of" not in lemma:
                        lemmas[1][head].add(lemma)
            for r in graph["relations"]:
                subject, object_ = heads[r["subject"]], heads[r["object"]]
                raw[2].add((subject, r["relation"], object_))
                lemmas[2].add((noun(subject, "n"), r["relation"], noun(object_, "n")))
        return raw, lemmas

    def lemmatise(self, text: str) -> str:
        """Every word lemmatised as it is tagged."""
        kinds = {"J": wordnet.ADJ, "V": wordnet.VERB, "N": wordnet.NOUN, "R": wordnet.ADV}
        lemmatiser = WordNetLemmatizer()
        return " ".join(
            lemmatiser.lemmatize(word, kinds[tag[0]]) if tag[0] in kinds else word
            for word, tag in pos_tag(word_tokenize(text))
        )

    def occurs(self, head: str, caption: str) -> bool:
        """Whether a head is in the caption, as one word or two, itself or as a synonym."""
        size = len(head.split())
        words = word_tokenize(caption)
        variants = [(head, size, " ")]
        if size == 2:
            variants.append((re.sub(r"\s+", "", head), 1, " "))
        if size == 1:
            variants.append((head, 2, ""))
        for phrase, n, glue in variants:
            lemma = self.lemmatise(phrase.lower())
            for run in zip(*(words[i:] for i in range(n))):
                gram = self.lemmatise(glue.join(run).lower())
                if gram == lemma or self.capture_metric.compute_synonyms_score(gram, lemma) > 0:
                    return True
        return False

    def seen(self, caption: str) -> tuple[Sets, Sets]:
        """Raw sets, and lemmatised sets cut down to heads that occur in the caption, as the reward prepares them."""
        raw, (objects, attributes, relations) = self.sets(caption)
        stop = self.capture_metric.stop_words_list
        return raw, (
            {head for head in objects if head not in stop and self.occurs(head, caption)},
            {head: values for head, values in attributes.items() if self.occurs(head, caption)},
            {t for t in relations if self.occurs(t[0], caption) and self.occurs(t[2], caption)},
        )

    def named(self, caption: str) -> tuple[list[str], dict[str, set[str]], set[tuple[str, str, str]]]:
        """Lemmatised sets cut down to nouns of the caption, as the metrics prepare them."""
        _, (objects, attributes, relations) = self.sets(caption)
        nouns = set(self.capture_metric.get_all_lemmatized_nouns(caption))

        def named(head: str) -> bool:
            return head in nouns or all(word in nouns for word in head.split(" "))

        stop = self.capture_metric.stop_words_list
        return (
            [head for head in objects if head not in stop and named(head)],
            {head: values for head, values in attributes.items() if named(head)},
            {t for t in relations if named(t[0]) and named(t[2])},
        )

    def cosines(self, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """Cosines, encoded here and now."""
        ours, theirs = encode_phrases(self.text_encoder, list(rows), list(columns), batch_size=4)
        return ours @ theirs.T

    # --- Scores ------------------------------------------------------------------------------------------------------

    def reward(self, first: str, second: str, reference: str) -> float:
        """The correction reward (method, section 4)."""
        (objects1, attributes1, _), _ = self.seen(first)
        (objects2, attributes2, _), _ = self.seen(second)
        (objects, _, _), (_, attributes, _) = self.seen(reference)
        removed = {o for o in objects1 - objects2 if o in first and o not in second}
        added = {o for o in objects2 - objects1 if o in second and o not in first}
        changes = []
        for ours, theirs, gone, here, there in (
            (attributes1, attributes2, removed, first, second),
            (attributes2, attributes1, added, second, first),
        ):
            changed = {
                h: {a for a in v - theirs.get(h, set()) if a in here and a not in there} for h, v in ours.items()
            }
            changes.append({h: v for h, v in changed.items() if v and h not in gone})
        if removed and added:
            rows, columns = sorted(removed), sorted(added)
            close = self.cosines(rows, columns) > 0.75
            removed = {word for word, row in zip(rows, close) if not row.any()}
            added = {word for word, column in zip(columns, close.T) if not column.any()}
        noun = WordNetLemmatizer().lemmatize
        removed = {o for o in removed if noun(o, "n") not in self.capture_metric.stop_words_list}
        added = {o for o in added if noun(o, "n") not in self.capture_metric.stop_words_list}
        soft = bonus = 0.0
        for words, level, sign in ((removed, 0.6, -1), (added, 0.55, 1)):
            if words and objects:
                best = self.cosines(list(words), list(objects)).max(axis=1)
                soft += float(np.mean(sign * (best - level)))
                bonus += sign * (min(0.25 * (best > 0.7).sum(), 0.75) - min(0.25 * (best < 0.6).sum(), 0.75))
        for changed, sign in zip(changes, (-1, 1)):
            for head, values in changed.items():
                if head in attributes:
                    best = self.cosines(list(values), list(attributes[head])).max(axis=1)
                    bonus += sign * min(0.15 * (best > 0.7).sum(), 0.45)
        if first == second:
            bonus = -1.0
        return float(1 / (1 + np.exp(-(2 * soft + bonus))) - 0.5)

    def capture(self, candidate: str, reference: str) -> float:
        """CAPTURE (capture_metric 0.1.13)."""
        return float(self.capture_metric.compute_f_score(self.named(reference), self.named(candidate))[0])

    def refined_capture(
        self,
        candidate: str,
        reference: str,
        extra_objects: Sequence[str],
        extra_attributes: Mapping[str, Sequence[str]],
    ) -> tuple[float, float] | None:
        """F1 of objects and of attributes (method, section 6); `None` where a caption has no attributes."""
        theirs, ours = self.named(reference), self.named(candidate)
        if not theirs[1] or not ours[1]:
            return None
        _, _, found = self.capture_metric.compute_match(ours[0], theirs[0])
        _, held, _ = self.capture_metric.compute_match(ours[0], list({*theirs[0], *extra_objects}))
        precision, recall = held / (len(ours[0]) + 1e-6), found / (len(theirs[0]) + 1e-6)
        objects = 2 * precision * recall / (precision + recall + 1e-6)
        recall = self._attribute_recall(ours[1], theirs[1])
        precision = self._attribute_recall({h: set(v) for h, v in extra_attributes.items()}, ours[1])
        return float(objects), float(2 * precision * recall / (precision + recall + 1e-6))

    def _attribute_recall(self, ours: Mapping[str, set[str]], theirs: Mapping[str, set[str]]) -> float:
        heads = list(ours)
        cosines = self.cosines(heads, list(theirs))
        score = size = 0.0
        for values, place, weight in zip(theirs.values(), cosines.argmax(axis=0), cosines.max(axis=0)):
            best = self.cosines(list(ours[heads[place]]), list(values)).max(axis=0)
            score += weight * best.sum()
            size += weight * best.size
        return score / (size + 1e-6)
