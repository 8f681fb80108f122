"""What a study found, in sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics.correction import KINDS
from ..rewards.paper import PARTS
from .statistics import Difference, paired_difference
from .table import StudyTable, Summary


Gaps = Sequence[tuple[str, Difference]]

WRONG_CHANGES = [f"{kind}_{change}_wrong" for kind in KINDS for change in ("added", "removed")]
# What a part of the reward is there for: words, and the scores of the second turn that are added up.
PURPOSES = {
    **{kind: (f"{kind} F1", [f"{kind}_f1"]) for kind in KINDS},
    "mistakes": ("wrong changes per caption, to be fewer", WRONG_CHANGES),
    "length": ("words per caption, to be fewer", ["words"]),
    "unchanged": ("captions left alone, to be fewer", ["unchanged"]),
}
# The question of the variants that leave a part of the reward out.
PARTS_QUESTION = "parts of the reward"

POINTS = {"steps": "after as many optimizer steps", "time": "after as much processor time"}


def findings(study: StudyTable) -> list[str]:
    """Sentences, in the order of the page; what is not known is not spoken of.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    return [
        *_of_methods(study, "plain", "On the scenes"),
        *_of_better_turns(study),
        *_of_turns(study),
        *_of_methods(study, "hard", "On the harder scenes"),
        *_of_third_turn(study),
        *_of_language(study),
        *_of_parts(study),
        *_of_other_variants(study),
    ]


def _of_methods(study: StudyTable, world: str, where: str) -> Iterator[str]:
    for point, meaning in POINTS.items():
        found = study.summary(study.grid.ours, "mean_f1", point=point, world=world)
        gaps = method_gaps(study, point, world)
        if found is None or not gaps:
            continue
        yield f"{where}, {meaning}, ours reaches a mean F1 of {_value(found)} in the second turn. {_verdicts(gaps)}"


def _of_better_turns(study: StudyTable) -> Iterator[str]:
    for point, meaning in POINTS.items():
        gaps = []
        for method in study.others:
            turn = study.better_turn(method.name, point=point)
            gap = study.difference(
                {"method": study.grid.ours, "point": point}, {"method": method.name, "point": point, "turn": turn}
            )
            if gap is not None:
                gaps.append((f"{method.title}, {turn} turn", gap))
        if gaps:
            yield f"Against the better of the two turns of every other method, {meaning}: {_verdicts(gaps)}"


def _of_turns(study: StudyTable) -> Iterator[str]:
    ours = study.grid.ours
    gain = study.difference({"method": ours}, {"method": ours, "turn": "first"})
    untrained = [m for m in study.methods if not m.stages]
    if gain is not None:
        yield f"The second turn of ours, against its own first: {gain}, {_meaning(gain)}."
    for method in untrained:
        first = {"method": ours, "turn": "first"}
        gap = study.difference(first, {"method": method.name, "turn": "first"})
        if gap is not None:
            yield f"The first turn of ours, against that of {method.title}: {gap}, {_meaning(gap)}."


def _of_third_turn(study: StudyTable) -> Iterator[str]:
    for world in study.grid.worlds:
        ours = {"method": study.grid.ours, "world": world}
        gap = study.difference({**ours, "turn": "third"}, {**ours, "turn": "second"})
        if gap is not None:
            yield f"A third turn of ours changes the mean F1 by {gap} on {world} scenes: {_meaning(gap)}."


def _of_language(study: StudyTable) -> Iterator[str]:
    ours = study.grid.ours
    broken, words = (study.summary(ours, name) for name in ("broken_grammar", "words"))
    exact = method_gaps(study, metric="exact_mean_f1")
    if broken is None or words is None:
        return
    yield (
        f"{100 * broken.mean:.1f} % of the second captions of ours have broken grammar; they hold {words.mean:.1f} "
        "words."
    )
    if exact:
        yield (
            "Read by the grammar of the language, to which a broken sentence says nothing, in place of the parser "
            f"that the reward uses: {_verdicts(exact)}"
        )


def _of_parts(study: StudyTable) -> Iterator[str]:
    gaps = variant_gaps(study, PARTS_QUESTION)
    if gaps:
        yield f"Parts of the reward: {_verdicts(gaps, 'The whole')}"


def _of_other_variants(study: StudyTable) -> Iterator[str]:
    for question in dict.fromkeys(variant.question for variant in study.variants):
        gaps = variant_gaps(study, question)
        if gaps and question != PARTS_QUESTION:
            yield f"{question[0].upper()}{question[1:]}: {_verdicts(gaps, 'The unchanged setting')}"
    first = variant_gaps(study, "both turns rewarded", turn="first")
    if first:
        yield f"The same by what the first turn says: {_verdicts(first, 'The unchanged setting')}"


def method_gaps(
    study: StudyTable, point: str = "steps", world: str = "plain", metric: str = "mean_f1"
) -> list[tuple[str, Difference]]:
    """Titles of the other methods, and what ours is ahead of each in the second turn.

    Args:
        study ([`StudyTable`]): As far as it is done.
        point (`str`, defaults to `"steps"`): Compared at equal `steps` or equal `time`.
        world (`str`, defaults to `"plain"`): World of the test scenes.
        metric (`str`, defaults to `"mean_f1"`): What is compared.
    """
    where, gaps = {"point": point, "world": world}, []
    for method in study.methods:
        if method.name == study.grid.ours:
            continue
        gap = study.difference({"method": study.grid.ours, **where}, {"method": method.name, **where}, metric)
        if gap is not None:
            gaps.append((method.title, gap))
    return gaps


def variant_gaps(study: StudyTable, question: str, turn: str = "second") -> list[tuple[str, Difference]]:
    """Titles of the variants of a question, and what the method without them is ahead of each in a turn.

    Args:
        study ([`StudyTable`]): As far as it is done.
        question (`str`): The `question` of the variants.
        turn (`str`, defaults to `"second"`): Turn that is compared.
    """
    base: dict[str, Any] = {"method": study.grid.varied, "steps": study.grid.variant_steps, "turn": turn}
    chosen = [variant for variant in study.variants if variant.question == question]
    gaps = [(variant.title, study.difference(base, {**base, "variant": variant.name})) for variant in chosen]
    return [(title, gap) for title, gap in gaps if gap is not None]


def purpose_gaps(study: StudyTable) -> list[tuple[str, str, Difference]]:
    """What each part of the reward does for what it is there for: title of the variant without it, measure, and the
    measure with the part minus without.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    base: dict[str, Any] = {"method": study.grid.varied, "steps": study.grid.variant_steps}
    gaps = []
    for variant in study.variants:
        left_out = set(PARTS) - set(variant.settings.get("parts", PARTS))
        for measure, metrics in (PURPOSES[part] for part in PARTS if part in left_out):
            values, without = (
                _sums([study.values(metric=name, **where) for name in metrics])
                for where in (base, {**base, "variant": variant.name})
            )
            if seeds := sorted(values.keys() & without.keys()):
                gap = paired_difference([values[seed] for seed in seeds], [without[seed] for seed in seeds])
                gaps.append((variant.title, measure, gap))
    return gaps


def _sums(columns: Sequence[Mapping[int, float]]) -> dict[int, float]:
    return {seed: sum(column[seed] for column in columns) for seed in columns[0]} if all(columns) else {}


def _verdicts(gaps: Gaps, who: str = "Ours") -> str:
    """Who is beaten, who beats, and of whom the seeds do not tell."""
    said = []
    for verdict, words in (
        ("better", f"{who} is better than"),
        ("worse", f"{who} is worse than"),
        ("open", "The interval holds zero against"),
        ("unknown", f"One seed has no interval, {who[0].lower()}{who[1:]} against"),
    ):
        named = [f"{title} ({gap})" for title, gap in gaps if gap.verdict == verdict]
        if named:
            said.append(f"{words} {_listed(named)}.")
    return " ".join(said)


def _meaning(gap: Difference) -> str:
    return {"better": "a gain", "worse": "a loss", "open": "the interval holds zero", "unknown": "no interval"}[
        gap.verdict
    ]


def _value(found: Summary) -> str:
    return f"{found.text()} ({found.n} seed{'s' if found.n > 1 else ''})"


def _listed(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
