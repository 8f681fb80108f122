"""The tables of the study's page, in Markdown; empty where nothing of a table is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation.tables import markdown_table
from ..metrics.correction import KINDS
from .findings import WRONG_CHANGES, purpose_gaps
from .scoring import TURNS
from .table import StudyTable, Summary


def comparison_table(study: StudyTable, point: str, world: str = "plain") -> str:
    """Ours against every other method: mean F1 of both turns, the difference, its intervals, and what it cost.

    Args:
        study ([`StudyTable`]): As far as it is done.
        point (`str`): Compared at equal `steps` or equal `time`.
        world (`str`, defaults to `"plain"`): World of the test scenes.
    """
    head = [
        "method",
        "first turn",
        "second turn",
        "ours minus it, 95 % over seeds",
        "95 % over scenes",
        "steps",
        "seconds",
    ]
    rows = []
    for method in study.methods:
        where = {"point": point, "world": world}
        turns = [study.summary(method.name, "mean_f1", turn=turn, **where) for turn in ("first", "second")]
        costs = study.costs(method.name, point) if method.stages else (0.0, 0.0)
        if None in turns or costs is None:
            continue
        gaps = ["", ""]
        if method.name != study.grid.ours:
            pair = {"method": study.grid.ours, **where}, {"method": method.name, **where}
            gap, scenes = study.difference(*pair), study.scene_interval(*pair)
            gaps = [str(gap or "-"), f"[{scenes.low:+.3f}, {scenes.high:+.3f}]" if scenes else "-"]
        rows.append([method.title, *map(_text, turns), *gaps, f"{costs[1]:.0f}", f"{costs[0]:.0f}"])
    return _table(head, rows)


def better_turn_table(study: StudyTable) -> str:
    """Ours, second turn, against the better turn of every other method.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    rows = []
    for method in study.others:
        cells = [method.title]
        for point in ("steps", "time"):
            turn = study.better_turn(method.name, point=point)
            gap = study.difference(
                {"method": study.grid.ours, "point": point}, {"method": method.name, "point": point, "turn": turn}
            )
            cells += [turn, str(gap or "-")]
        rows.append(cells)
    return _table(["method", "its better turn, equal steps", "ours minus it", "equal time", "ours minus it"], rows)


def kinds_table(study: StudyTable) -> str:
    """F1 by kind of fact and turn, and what the second turn gained over the first.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    rows = []
    for method in study.methods:
        for turn in ("first", "second"):
            cells = [study.summary(method.name, f"{kind}_f1", turn=turn) for kind in (*KINDS, "mean")]
            gap = study.difference({"method": method.name}, {"method": method.name, "turn": "first"})
            gain = str(gap or "-") if turn == "second" and method.stages else ""
            rows.append([method.title, turn, *map(_text, cells), gain])
    return _table(["method", "turn", *KINDS, "mean", "second minus first, 95 % over seeds"], rows, texts=2)


def corrections_table(study: StudyTable) -> str:
    """What second captions added and removed, right : wrong, per 100 captions.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    rows = []
    for method in study.methods:
        cells = []
        for change in ("added", "removed"):
            for kind in KINDS:
                found = [study.summary(method.name, f"{kind}_{change}_{v}") for v in ("right", "wrong")]
                cells.append(" : ".join("-" if one is None else f"{100 * one.mean:.0f}" for one in found))
        rows.append([method.title, *cells, _percent(study.summary(method.name, "unchanged"))])
    heads = [f"{kind} {change}" for change in ("added", "removed") for kind in KINDS]
    return _table(["method", *heads, "unchanged"], rows)


def language_table(study: StudyTable) -> str:
    """Whether scores were bought with bad language: grammar, length, the exact reading, the paper's reward.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    rows = []
    for method in study.methods:
        broken = [_percent(study.summary(method.name, "broken_grammar", turn=turn)) for turn in ("first", "second")]
        words = [_text(study.summary(method.name, "words", turn=turn), 1) for turn in ("first", "second")]
        read = [_text(study.summary(method.name, name)) for name in ("mean_f1", "exact_mean_f1", "correction_reward")]
        rows.append([method.title, *broken, *words, *read])
    head = ["method", "broken grammar, first", "second", "words, first", "second", "mean F1", "read exactly", "reward"]
    return _table(head, rows)


def curve_table(study: StudyTable) -> str:
    """Mean F1 of the second turn on the way.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    steps = [*study.grid.curve, study.grid.steps]
    trained = [method for method in study.methods if method.stages]
    rows = [[m.title, *(_text(study.summary(m.name, "mean_f1", steps=step)) for step in steps)] for m in trained]
    return _table(["method", *(f"{step} steps" for step in steps)], rows)


def third_turn_table(study: StudyTable) -> str:
    """Whether another correction helps.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    rows = []
    for method in study.methods:
        told: list[str] = []
        for world in study.grid.worlds:
            where = {"method": method.name, "world": world}
            third = study.summary(method.name, "mean_f1", world=world, turn="third")
            gap = study.difference({**where, "turn": "third"}, where)
            told += [_text(third), "" if not method.stages else str(gap or "-")]
        rows.append([method.title, *told])
    heads = [f"{name}, {world}" for world in study.grid.worlds for name in ("third turn", "minus second")]
    return _table(["method", *heads], rows)


def variants_table(study: StudyTable, question: str) -> str:
    """Variants of the varied method against itself after as many steps.

    Args:
        study ([`StudyTable`]): As far as it is done.
        question (`str`): The `question` of the variants.
    """
    base: dict[str, Any] = {"method": study.grid.varied, "steps": study.grid.variant_steps}
    rows = [["unchanged", "", *_variant_cells(study, base)]]
    for variant in study.variants:
        if variant.question == question:
            there = {**base, "variant": variant.name}
            rows.append([variant.title, str(study.difference(base, there) or "-"), *_variant_cells(study, there)])
    if len(rows) == 1:
        return ""
    head = ["variant", "unchanged minus it, 95 % over seeds", "mean F1", "objects", "attributes", "relations",
            "first turn", "wrong changes", "unchanged", "broken grammar", "words"]  # fmt: skip
    return _table(head, rows)


def _variant_cells(study: StudyTable, where: dict[str, Any]) -> list[str]:
    facts = [_text(study.summary(metric=f"{kind}_f1", **where)) for kind in ("mean", *KINDS)]
    first = _text(study.summary(metric="mean_f1", turn="first", **where))
    wrong = [study.summary(metric=name, **where) for name in WRONG_CHANGES]
    known = [one.mean for one in wrong if one is not None]
    rest = [_percent(study.summary(metric=name, **where)) for name in ("unchanged", "broken_grammar")]
    return [
        *facts,
        first,
        f"{sum(known):.2f}" if known else "-",
        *rest,
        _text(study.summary(metric="words", **where), 1),
    ]


def purposes_table(study: StudyTable) -> str:
    """Every part of the reward by what it is there for.

    Args:
        study ([`StudyTable`]): As far as it is done.
    """
    rows = [[title, measure, str(gap)] for title, measure, gap in purpose_gaps(study)]
    return _table(["variant", "what the part is there for", "with it minus without, 95 % over seeds"], rows, texts=2)


def turns_of(study: StudyTable, method: str, world: str, point: str = "steps") -> list[Summary | None]:
    """Mean F1 of every turn.

    Args:
        study ([`StudyTable`]): As far as it is done.
        method (`str`): Name of the method.
        world (`str`): World of the test scenes.
        point (`str`, defaults to `"steps"`): `steps` or `time`.
    """
    return [study.summary(method, "mean_f1", world=world, turn=turn, point=point) for turn in TURNS]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    return markdown_table([head, *rows], texts=texts) if rows else ""


def _text(summary: Summary | None, digits: int = 3) -> str:
    return "-" if summary is None else summary.text(digits)


def _percent(summary: Summary | None) -> str:
    return "-" if summary is None else f"{100 * summary.mean:.1f} %"
