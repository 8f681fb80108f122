"""The study's page: Markdown and plots, made wholly of its numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import plot_curves, plot_differences, plot_turns
from .findings import PARTS_QUESTION, findings, method_gaps, variant_gaps
from .grid import VERSION, Stage, settings_of
from .runs import TIME_TOLERANCE
from .table import StudyTable
from .tables import (
    better_turn_table,
    comparison_table,
    corrections_table,
    curve_table,
    kinds_table,
    language_table,
    purposes_table,
    third_turn_table,
    variants_table,
)


def write_page(study: StudyTable, path: Path) -> str:
    """Write the page and, in the folder beside it that has its name, the plots; what is missing is named.

    Args:
        study ([`StudyTable`]): As far as it is done.
        path (`Path`): Markdown file.

    Returns:
        `str`: The main table, for the terminal.
    """
    folder = path.with_suffix("")
    main = comparison_table(study, "steps")
    sections = {
        "What was compared": _compared(study),
        "Findings": "\n".join(f"- {sentence}" for sentence in findings(study)),
        "At equal steps": main
        + _plot(plot_differences(method_gaps(study, "steps"), folder / "steps.png"), folder, "steps"),
        "At equal time": comparison_table(study, "time")
        + _plot(plot_differences(method_gaps(study, "time"), folder / "time.png"), folder, "time"),
        "Against the better turn of every method": better_turn_table(study),
        "Facts by kind and turn": kinds_table(study) + _plot(plot_turns(study, folder / "turns.png"), folder, "turns"),
        "Learning curves": curve_table(study) + _plot(plot_curves(study, folder / "curves.png"), folder, "curves"),
        "What the second turn changed": _with_note(
            corrections_table(study), "Right : wrong, per 100 captions; judged as the reward `paper` judges."
        ),
        "Language": _with_note(language_table(study), _READ_EXACTLY),
        "A third turn": third_turn_table(study),
        "A harder world": _hard(study),
        "What each part is worth": _variants(study, folder),
        "Missing": _missing(study),
    }
    text = "# Does it work?\n\n" + "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items() if body)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    whole.write_text(text + "\n", encoding="utf-8")
    os.replace(whole, path)
    return main


_READ_EXACTLY = (
    "Words are of a whole caption. *Read exactly* is mean F1 by the grammar of the scenes' language, to which a "
    "sentence that is not of it says nothing; all other F1 are by the parser `compact`, as in the reward. *Reward* is "
    "that of the preset `paper` with its own weights, the same for all methods."
)


def _compared(study: StudyTable) -> str:
    grid = study.grid
    recipes = "\n".join(
        f"| {method.title} | {', then '.join(_stage(stage, grid.settings) for stage in method.stages) or '-'} |"
        for method in study.methods
    )
    scenes = " and ".join(f"{count} {world}" for world, count in grid.worlds.items())
    settings = ", ".join(f"`{name}: {value}`" for name, value in grid.settings.items())
    return f"""| method | settings |
| --- | --- |
{recipes}

Every number on this page comes from `python recipes/study.py`, version {VERSION} of the study. All methods start from
the same captioner, train on the same scenes{f" ({settings})" if settings else ""} for {grid.steps} optimizer steps,
and are tested on {scenes} held-out scenes (`split="test"`, seed {grid.test["seed"]}) by greedy captions of three
turns. Scores are means over seeds 0 to {grid.seeds - 1} with the standard deviation over seeds behind ±. Intervals of
95 %: over seeds, by Student's t on the differences seed by seed; over scenes, by bootstrap of the scenes, the runs
being given. They are not corrected for the number of comparisons.

Equal time: a run goes on, or is stopped, at the last multiple of {grid.check_every} steps within the seconds that ours
of the same seed took for its {grid.steps} steps (within {TIME_TOLERANCE:.0%}, as the same work takes a little more or
less each time), loading and the making of training data included. Seconds are
processor seconds of one thread, that is seconds of the wall on an idle core, whatever else the machine does; where
there is an accelerator they are seconds of the wall. Learning rates are constant after a few steps of warm-up, so that
no schedule ends before the other.

Nothing was chosen by the test scenes: settings were tuned on scenes of the training split, and all seeds that ran are
here.{f" {grid.note}" if grid.note else ""}"""


def _stage(stage: Stage, common: Mapping[str, Any]) -> str:
    """A stage's file, and what the grid sets otherwise for it alone."""
    told = {**settings_of(stage.config), **common}
    names = sorted({*stage.settings, *told})
    own = []
    for name in names:
        value, usual = stage.settings.get(name), told.get(name)
        if value == usual:
            continue
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            value = {key: one for key, one in value.items() if one != usual.get(key)}
        own.append(f"`{name}: {'null' if value is None else value}`")
    return f"`{stage.config}`" + (f" with {', '.join(own)}" if own else "")


def _hard(study: StudyTable) -> str:
    if "hard" not in study.grid.worlds or not (table := comparison_table(study, "steps", "hard")):
        return ""
    time = comparison_table(study, "time", "hard")
    note = (
        "Five or six things with four or five relations (in training two to four with one to three), things that "
        "reach into neighbouring cells, gray marks that no caption names, and in every picture one of six "
        "combinations of shape and colour that self-correction training never showed. The captioner as shipped has "
        "seen those combinations in its supervised training; the number of things, the overlap and the marks it has "
        "not."
    )
    return f"{note}\n\nAt equal steps:\n\n{table}" + (f"\n\nAt equal time:\n\n{time}" if time else "")


def _variants(study: StudyTable, folder: Path) -> str:
    tables = []
    purposes = purposes_table(study)
    for question in dict.fromkeys(variant.question for variant in study.variants):
        if table := variants_table(study, question):
            tables.append(f"### {question[0].upper()}{question[1:]}\n\n{table}")
            if question == PARTS_QUESTION and purposes:
                tables.append(f"Each part by what it is there for:\n\n{purposes}")
    if not tables:
        return ""
    gaps = [
        gap for question in dict.fromkeys(v.question for v in study.variants) for gap in variant_gaps(study, question)
    ]
    plot = _plot(plot_differences(gaps, folder / "variants.png"), folder, "variants")
    grid = study.grid
    note = (
        f"{grid.methods[grid.varied].title}, with one thing changed, {grid.variant_seeds} seeds, compared with itself "
        f"after as many steps ({grid.variant_steps}) on plain scenes. Wrong changes are additions and removals of all "
        "kinds, per caption."
    )
    return f"{note}{plot}\n\n" + "\n\n".join(tables)


def _missing(study: StudyTable) -> str:
    if not study.missing:
        return ""
    lines = [f"- {name}" + (f": {study.errors[name]}" if name in study.errors else "") for name in study.missing]
    return "Not run yet, or run with other settings; `python recipes/study.py` runs them:\n\n" + "\n".join(lines)


def _with_note(table: str, note: str) -> str:
    return f"{table}\n\n{note}" if table else ""


def _plot(drawn: bool, folder: Path, name: str) -> str:
    titles: Mapping[str, str] = {
        "steps": "Differences at equal steps",
        "time": "Differences at equal time",
        "turns": "Mean F1 by turn",
        "curves": "Mean F1 by steps",
        "variants": "Differences to variants",
    }
    return f"\n\n![{titles[name]}]({folder.name}/{name}.png)" if drawn else ""
