"""What changes when the scene-graph parser is exchanged: graphs, rewards and refined CAPTURE of the same captions."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics import capture, refined_capture
from ..metrics.bootstrap import paired_bootstrap
from ..rewards import CorrectionReward
from ..scene_graph import Lexicon, PhraseEncoder, SceneGraph, SceneGraphParser, parse_captions
from ..scene_graph.fact_scores import fact_scores, facts_of


SCORES = {
    "object_f1": "refined: objects F1",
    "attribute_f1": "refined: attributes F1",
    "capture": "CAPTURE",
}


@dataclass(frozen=True, slots=True)
class ParsedRun:
    """Everything that one parser makes of the captions.

    Args:
        name (`str`): The parser.
        graphs (`dict[str, SceneGraph]`): By sentence.
        numbers (`dict[str, list[float | None]]`): The reward of every pair of turns, and every score of every second
            caption, `None` where there is none.
        seconds (`float`): CPU time of parsing.
    """

    name: str
    graphs: dict[str, SceneGraph]
    numbers: dict[str, list[float | None]]
    seconds: float


def turns_from_references(references: Sequence[str], lexicon: Lexicon, seed: int = 0) -> list[tuple[str, str]]:
    """Two captions per image where no model has made any: sentences of the reference dropped, foreign ones put in.

    Every sentence is kept with a probability of 0.8, and one sentence of another image joins each caption; the second
    caption is made from the first in the same way.

    Args:
        references (`Sequence[str]`): Reference captions, at least one.
        seed (`int`): Equal seeds give equal captions.
        lexicon ([`Lexicon`]): Splits captions into sentences.
    """
    rng = random.Random(seed)
    sentences = [lexicon.sentences(reference) for reference in references]
    foreign = [sentence for caption in sentences for sentence in caption]

    def changed(caption: Sequence[str]) -> list[str]:
        kept = [sentence for sentence in caption if rng.random() < 0.8] or list(caption[:1])
        kept.insert(rng.randrange(len(kept) + 1), rng.choice(foreign))
        return kept

    firsts = [changed(caption) for caption in sentences]
    return [(" ".join(first), " ".join(changed(first))) for first in firsts]


def parsed_run(
    name: str,
    parser: SceneGraphParser,
    rows: Sequence[Mapping[str, Any]],
    lexicon: Lexicon,
    encoder: PhraseEncoder,
    preset: str = "paper",
) -> ParsedRun:
    """Parse all captions by one parser and compute what depends on it.

    Args:
        rows (`Sequence[Mapping]`): `label`, `predict`, `predict_turn2` and, where known, `extra_objects` and
            `extra_attributes`.
        preset (`str`): Of the reward.
        name (`str`): What tables call the parser.
        parser ([`SceneGraphParser`]): The parser.
        lexicon ([`Lexicon`]): Lemmas and synonyms.
        encoder ([`PhraseEncoder`]): Vectors of phrases.

    Raises:
        KeyError: If the parser looks graphs up and has none of a sentence.
    """
    references, firsts, seconds = ([row[key] for row in rows] for key in ("label", "predict", "predict_turn2"))
    captions = dict.fromkeys([*references, *firsts, *seconds])
    sentences = list(dict.fromkeys(sentence for caption in captions for sentence in lexicon.sentences(caption)))
    start = time.process_time()
    graphs = dict(zip(sentences, parser.parse(sentences)))
    spent = time.process_time() - start
    ours, theirs = (parse_captions(parser, lexicon, texts) for texts in (seconds, references))
    reward = CorrectionReward(preset=preset, parser=parser, encoder=encoder, lexicon=lexicon)  # type: ignore[arg-type]
    numbers: dict[str, list[float | None]] = {
        "reward": reward(first_caption=firsts, second_caption=seconds, reference=references)
    }
    objects = [row.get("extra_objects") or [] for row in rows]
    attributes = [row.get("extra_attributes") or {} for row in rows]
    results = (
        refined_capture(ours, theirs, seconds, references, objects, attributes, lexicon, encoder),
        capture(ours, [[graph] for graph in theirs], seconds, [[r] for r in references], lexicon, encoder),
    )
    for result in results:
        for score in [score for score in SCORES if score in result.corpus and score not in numbers]:
            numbers[score] = [None if one is None else one[score] for one in result.per_sample]
    return ParsedRun(name, graphs, numbers, spent)


def agreement(one: ParsedRun, two: ParsedRun, lexicon: Lexicon) -> dict[str, Any]:
    """How far two parsers agree on the same captions, JSON-serialisable.

    Args:
        one ([`ParsedRun`]): Captions by the parser that counts as gold.
        two ([`ParsedRun`]): The same captions by another parser.
        lexicon ([`Lexicon`]): Lemmas, for equal facts.

    Returns:
        `dict`: `graphs` (share of sentences with equal facts after lemmatisation, and F1 per kind with the first
        parser as gold), and per number `mean` of both, `difference` (second minus first, paired bootstrap), `pearson`
        and `spearman` correlations, `mean_absolute_difference`; for the reward also `same_sign`, the share of pairs
        of turns that both call better or both call worse.
    """
    sentences = list(one.graphs)
    gold, found = [one.graphs[s] for s in sentences], [two.graphs[s] for s in sentences]
    equal = sum(facts_of(a, lexicon.lemma) == facts_of(b, lexicon.lemma) for a, b in zip(gold, found))
    graphs: dict[str, float] = {"sentences": len(sentences), "equal": equal / max(len(sentences), 1)}
    graphs |= {f"{kind}_f1": score.f1 for kind, score in fact_scores(found, gold, lexicon.lemma).items()}
    return {
        "parsers": [one.name, two.name],
        "sentences_per_cpu_second": [len(sentences) / max(run.seconds, 1e-9) for run in (one, two)],
        "graphs": graphs,
        **{name: _number_agreement(name, one.numbers[name], two.numbers[name]) for name in one.numbers},
    }


def _number_agreement(name: str, first: Sequence[float | None], second: Sequence[float | None]) -> dict[str, Any]:
    from scipy import stats

    pairs = [(a, b) for a, b in zip(first, second) if a is not None and b is not None]
    if not pairs:
        return {"n": 0}
    a, b = zip(*pairs)
    varied = len(set(a)) > 1 and len(set(b)) > 1
    found = {
        "n": len(pairs),
        "means": [sum(a) / len(a), sum(b) / len(b)],
        "difference": paired_bootstrap(a, b).to_dict(),
        "mean_absolute_difference": sum(abs(x - y) for x, y in pairs) / len(pairs),
        "pearson": float(stats.pearsonr(a, b)[0]) if varied else None,
        "spearman": float(stats.spearmanr(a, b)[0]) if varied else None,
    }
    if name == "reward":
        found["same_sign"] = sum((x > 0) == (y > 0) for x, y in pairs) / len(pairs)
    return found


def agreement_table(result: Mapping[str, Any]) -> str:
    """The agreement as two Markdown tables.

    Args:
        result (`Mapping[str, Any]`): What [`agreement`] gave.
    """
    one, two = result["parsers"]
    graphs = result["graphs"]
    kinds = ("facts", "objects", "attributes", "relations")
    lines = [
        f"| graphs of {graphs['sentences']} sentences | equal | " + " | ".join(f"{kind} F1" for kind in kinds) + " |",
        "| --- |" + " ---: |" * (len(kinds) + 1),
        f"| {two} against {one} | {graphs['equal']:.3f} | "
        + " | ".join(f"{graphs[f'{kind}_f1']:.3f}" for kind in kinds)
        + " |",
        "",
        f"| number | n | {one} | {two} | difference (95 %) | Pearson | Spearman | mean absolute difference |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, title in {"reward": "reward", **SCORES}.items():
        found = result.get(name)
        if not found or not found["n"]:
            continue
        gap = found["difference"]
        shares = [f"{found[key]:.3f}" if found[key] is not None else "" for key in ("pearson", "spearman")]
        lines.append(
            f"| {title} | {found['n']} | {found['means'][0]:.3f} | {found['means'][1]:.3f} | "
            f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] | {' | '.join(shares)} | "
            f"{found['mean_absolute_difference']:.3f} |"
        )
    if result["reward"]["n"]:
        lines += ["", f"Both parsers give the reward the same sign in {result['reward']['same_sign']:.1%} of pairs."]
    return "\n".join(lines)


def plot_agreement(one: ParsedRun, two: ParsedRun, path: Path) -> None:
    """One scatter plot per number, a point per caption, as a PNG file.

    Args:
        one ([`ParsedRun`]): Captions by one parser.
        two ([`ParsedRun`]): The same captions by another.
        path (`Path`): The PNG file.
    """
    # Without pyplot: no display is looked for, and no state is shared.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(one.numbers), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(one.numbers), squeeze=False)[0], one.numbers):
        pairs = [(a, b) for a, b in zip(one.numbers[name], two.numbers[name]) if a is not None and b is not None]
        axes.scatter([a for a, _ in pairs], [b for _, b in pairs], s=8, alpha=0.5)
        axes.axline((0, 0), slope=1, color="gray", linewidth=0.8)
        axes.set(title=SCORES.get(name, name), xlabel=one.name, ylabel=two.name)
    figure.savefig(path, dpi=120)
