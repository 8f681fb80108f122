"""The study: a real tiny one that is killed and gone on with, its statistics, its page from numbers that are known."""

from __future__ import annotations

import json
import math
import os
import runpy
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import TrainerControl, TrainerState

from sc_captioner.arguments import SettingError
from sc_captioner.metrics import paired_bootstrap
from sc_captioner.metrics.correction import KINDS
from sc_captioner.rewards.paper import PARTS
from sc_captioner.study import Runs, load_grid, load_table, over_scenes, paired_difference, run_study, write_page
from sc_captioner.study.findings import findings, purpose_gaps
from sc_captioner.study.scoring import Row, turn_scores
from sc_captioner.study.training import Snapshots


ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
SCENES = RECIPES / "scenes"


def grid_file(folder: Path, **changes) -> Path:
    """A grid of two methods, the start model and two seeds; `changes` replace or, where `None`, take out settings."""
    sc = {"recipe": "sc.py", "config": str(SCENES / "sc.yaml")}
    told = {
        "output_dir": str(folder / "out"),
        "page": str(folder / "docs" / "study.md"),
        "ours": "ours",
        "varied": "ours",
        "methods": {
            "start": {"title": "start model", "stages": []},
            "ours": {"title": "ours", "stages": [sc]},
            "rival": {"title": "the rival", "stages": [sc | {"settings": {"num_corrections": 1}}]},
        },
        "seeds": 2,
        "steps": 4,
        "curve": [2],
        "check_every": 1,
        "settings": {},
        "variant_seeds": 2,
        "variant_steps": 2,
        "variants": {
            "no_length": {
                "title": "without length",
                "question": "parts of the reward",
                "settings": {"parts": [part for part in PARTS if part != "length"]},
            }
        },
        "worlds": {"plain": 6, "hard": 4},
        "test": {
            "seed": 90_000, "max_new_tokens": 48, "batch_size": 6,
            "start_model": str(ROOT / "src/sc_captioner/assets/scenes_sft"),
        },
        **changes,
    }  # fmt: skip
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in told.items() if value is not None}))
    return path


# --- Statistics -----------------------------------------------------------------------------------------------------

SCORES = st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 2), min_size=2, max_size=9)


@given(SCORES)
def test_the_interval_over_seeds_is_that_of_the_paired_t_test(pairs):
    ours, theirs = map(list, zip(*pairs))
    found = paired_difference(ours, theirs)
    assert found.n == len(pairs) and found.mean == pytest.approx(np.mean(np.subtract(ours, theirs)), abs=1e-9)
    if np.std(np.subtract(ours, theirs)) > 1e-9:
        expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        significant = stats.ttest_rel(ours, theirs).pvalue < 0.05
        assert (found.verdict != "open") == significant or math.isclose(found.low * found.high, 0, abs_tol=1e-12)


def test_one_seed_decides_nothing():
    found = paired_difference([0.9], [0.1])
    assert found.verdict == "unknown" and str(found) == "+0.800 (one seed)"
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1, 2], [1])


def test_the_interval_over_scenes_is_the_paired_bootstrap_of_means_over_seeds():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((3, 40)), rng.random((3, 40))
    found = over_scenes(ours, theirs)
    expected = paired_bootstrap(theirs.mean(0).tolist(), ours.mean(0).tolist())
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    with pytest.raises(ValueError, match="same seeds and scenes"):
        over_scenes(ours, theirs[:, :3])


# --- The grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["full", "quick"])
def test_shipped_grids(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = load_grid(f"recipes/study/{name}.yaml")
    cells = grid.cells()
    assert [cell.method for cell in cells if cell.seed == 0 and cell.variant == "main"] == [
        "ours", "start", "sft", "dpo", "score", "grpo", "released", "alone", "recipe"
    ]  # fmt: skip
    # Methods seed by seed, then variants question by question: whatever is done when the study stops is a comparison.
    questions = ["main", *dict.fromkeys(variant.question for variant in grid.variants.values())]
    asked = {"main": "main", **{name: variant.question for name, variant in grid.variants.items()}}
    order = [(questions.index(asked[cell.variant]), cell.seed) for cell in cells]
    assert order == sorted(order) and len({cell.name for cell in cells}) == len(cells)
    left_out = {
        variant.name.removeprefix("no_"): set(PARTS) - set(variant.settings["parts"])
        for variant in grid.variants.values()
        if variant.question == "parts of the reward"
    }
    assert left_out == {part: {part} for part in PARTS}
    assert (grid.seeds >= 5) == (name == "full")
    for cell in cells:
        for stage in cell.settings()["stages"]:
            assert (RECIPES / stage["recipe"]).is_file()
            assert stage["settings"]["dataset_config"] == "seen"
            assert stage["settings"]["dataset_split"] == "train"


def test_a_variant_differs_from_its_method_in_its_setting_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = {cell.name: cell for cell in load_grid("recipes/study/full.yaml").cells()}
    ours, variant = (cells[name].stages[0].settings for name in ("recipe-main-3", "recipe-kl_k1-3"))
    assert variant == ours | {"kl_estimator": "k1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": 3}, "unknown setting 'seedz'"),
        ({"steps": None}, "steps is missing"),
        ({"ours": "theirs"}, "ours='theirs' is none of the methods"),
        ({"varied": "theirs"}, "varied='theirs' is none of the methods"),
        ({"variant_steps": 3}, "add it to curve"),
        ({"curve": [2, 9]}, "curve names step 9"),
        ({"worlds": {"hard": 3}}, "must name plain"),
        ({"methods": {"ours": {"title": "ours", "stages": [{"recipe": "sc.py"}]}}}, "a stage recipe and config"),
        (
            {"methods": {"ours": {"title": "x", "stages": [{"recipe": "sc.py", "config": "no.yaml"}]}}},
            "no.yaml cannot be read",
        ),
        ({"settings": {"lr_scheduler_type": "cosine"}}, "must be constant"),
    ],
)
def test_bad_grids_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(SettingError, match=message):
        load_grid(grid_file(tmp_path, **changes))


# --- Scoring ---------------------------------------------------------------------------------------------------------


def test_scores_of_turns_by_hand():
    scene = {
        "things": [
            {"shape": "star", "color": "black", "size": "big", "row": 0, "column": 1},
            {"shape": "heart", "color": "green", "size": "small", "row": 2, "column": 2},
        ],
        "border": "gray", "shade": 240, "shifts": [[0, 0], [0, 0]],
    }  # fmt: skip
    reference = "A big black star is above a small green heart."
    first = "A big star is below a small heart."
    broken = "A big black star is above small green heart. The star is above the heart."
    scores = turn_scores([[first], [reference], [broken]], [reference], [json.dumps(scene)])
    # First turn: 2 of 2 objects, 2 of 4 attributes and none wrong (F1 2/3), a wrong relation.
    assert scores["first"]["objects_f1"] == [1.0] and scores["first"]["relations_f1"] == [0.0]
    assert scores["first"]["attributes_f1"] == pytest.approx([2 / 3])
    assert scores["first"]["mean_f1"] == pytest.approx([5 / 9]) == scores["first"]["exact_mean_f1"]
    assert scores["second"]["mean_f1"] == [1.0] and scores["second"]["words"] == [10.0]
    assert scores["second"]["attributes_added_right"] == [2.0] and scores["second"]["relations_removed_right"] == [1.0]
    assert scores["second"]["unchanged"] == [0.0] and scores["second"]["correction_reward"][0] > 0
    # The first sentence of the third turn is not of the language: what remains are two bare things and a relation.
    assert scores["third"]["broken_grammar"] == [1.0]
    assert scores["third"]["exact_mean_f1"] == pytest.approx([(1 + 0 + 1) / 3])
    assert "unchanged" not in scores["first"]


# --- Weights to compare ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_seconds", "stops_at", "in_time"),
    [
        (1.0, 21, 20),  # cheaper than the leader's 2 s a step: goes on to its 20.5 s
        (4.0, 10, 4),  # dearer: the last even step within 20.5 s, while training goes on to the equal steps
        (30.0, 10, None),
    ],
)
def test_weights_within_the_time(step_seconds, stops_at, in_time):
    now = [0.0]
    model = torch.nn.Linear(1, 1)
    snapshots = Snapshots(
        at=frozenset((5, 10)), last=10, budget=20.5, every=2, spent=lambda: now[0], report=lambda text: None
    )
    control, state = TrainerControl(), TrainerState()
    while not control.should_training_stop:
        state.global_step += 1
        now[0] += step_seconds
        torch.nn.init.constant_(model.weight, state.global_step)
        snapshots.on_step_end(None, state, control, model=model)
    assert state.global_step == stops_at
    assert (snapshots.in_time and snapshots.in_time.steps) == in_time
    for step, snapshot in snapshots.taken.items():  # copies: training went on
        assert snapshot.weights["weight"].item() == step == snapshot.steps
    if in_time:
        assert snapshots.in_time.weights["weight"].item() == in_time


# --- Runs ------------------------------------------------------------------------------------------------------------


def fabricated(cell, value, seconds=10.0):
    """Rows of a cell whose mean F1 is `value` in the second turn, 0.1 less in the first, 0.2 less when hard."""
    rows = []
    places = [("curve", step, ["plain"]) for step in cell.curve] + [("steps", cell.steps, cell.worlds)]
    places += [("time", cell.steps + 1, cell.worlds)] if cell.timed else []
    for point, steps, worlds in places:
        for world in worlds:
            for turn, less in (("first", 0.1), ("second", 0.0), ("third", 0.05)):
                mean = value - less - (0.2 if world == "hard" else 0.0)
                for metric in ("mean_f1", "objects_f1", "attributes_f1", "relations_f1", "exact_mean_f1"):
                    scenes = [mean] * 3 if metric == "mean_f1" else None
                    rows.append(Row(point, steps, seconds, world, turn, metric, mean, 3, scenes))
                for metric in ("broken_grammar", "words", "unchanged", "correction_reward"):
                    rows.append(Row(point, steps, seconds, world, turn, metric, 0.25, 3))
    return rows


@pytest.fixture
def known_study(tmp_path):
    """Ours 0.8 and 0.82, the rival 0.7 and 0.71, the start model 0.6, without length 0.805 and 0.815."""
    grid = load_grid(grid_file(tmp_path))
    runs = Runs(tmp_path / "out" / "runs")
    runs.folder.mkdir(parents=True)
    values = {
        "ours-main-0": 0.8, "ours-main-1": 0.82, "rival-main-0": 0.7, "rival-main-1": 0.71, "start-main-0": 0.6,
        "ours-no_length-0": 0.805, "ours-no_length-1": 0.815,
    }  # fmt: skip
    for cell in grid.cells():
        runs.write(cell, runs.budget_of(cell), fabricated(cell, values[cell.name]))
    return grid, runs


def test_finished_runs_are_not_run_again_and_changed_ones_are(known_study, tmp_path):
    grid, runs = known_study
    assert run_study(grid.cells(), runs, RECIPES, workers=0) == {}  # nothing to do: no run takes no time
    changed = load_grid(grid_file(tmp_path, settings={"learning_rate": 0.001}))
    cells = {cell.name: cell for cell in changed.cells()}
    assert runs.changes(cells["ours-main-0"]) == ["stages.0.settings.learning_rate 0.0003 -> 0.001"]
    assert load_table(changed, runs).missing == [name for name in cells if name != "start-main-0"]
    # Another time of the leader makes what was compared with it stale, and nothing else.
    leader = grid.cells()[0]
    runs.write(leader, None, fabricated(leader, 0.8, seconds=11.2))  # 10 s are 0.893 of it
    assert load_table(grid, runs).missing == ["rival-main-0"]
    runs.write(leader, None, fabricated(leader, 0.8, seconds=11.1))  # and 0.901 of this
    assert load_table(grid, runs).missing == []


def test_the_page_says_what_the_numbers_say(known_study, tmp_path):
    grid, runs = known_study
    study = load_table(grid, runs)
    shown = write_page(study, tmp_path / "docs" / "study.md")
    page = (tmp_path / "docs" / "study.md").read_text()
    assert shown in page and "## Missing" not in page
    # 0.1 and 0.11: mean 0.105, t(0.975, 1) * sd / sqrt(2) = 12.7062 * 0.00707107 / 1.414214 = 0.0635.
    told = " ".join(findings(study))
    assert "ours reaches a mean F1 of 0.810 ± 0.014 (2 seeds)" in told
    assert "the rival (+0.105 [+0.041, +0.169])" in told
    assert "+0.105 [+0.041, +0.169]" in shown and "| 0.705 ± 0.007 |" in shown
    # 0.005 less and 0.005 more: nothing is known of the length.
    assert "The interval holds zero against without length (+0.000 [-0.064, +0.064])." in told
    assert "A third turn of ours changes the mean F1 by -0.050 [-0.050, -0.050] on hard scenes: a loss." in told
    # 0.2 less for both on hard scenes.
    assert "0.610 ± 0.014" in page and "0.505 ± 0.007" in page
    for plot in ("steps", "time", "turns", "curves", "variants"):
        assert f"(study/{plot}.png)" in page
        assert (tmp_path / "docs" / "study" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.md"
    write_page(study, again)
    assert again.read_text().replace("again/", "study/") == page


def test_a_lost_comparison_is_told_as_it_is(known_study):
    grid, runs = known_study
    for cell in grid.cells():
        if cell.method == "rival":
            runs.write(cell, runs.budget_of(cell), fabricated(cell, 0.9 + cell.seed / 100))
    assert "Ours is worse than the rival (-0.095 [-0.159, -0.031])." in " ".join(findings(load_table(grid, runs)))


def test_a_part_is_judged_by_what_it_is_there_for_as_well(tmp_path):
    without = {
        part: {"title": f"without {part}", "question": "parts of the reward",
               "settings": {"parts": [other for other in PARTS if other != part]}}
        for part in ("relations", "mistakes")
    }  # fmt: skip
    grid, runs = load_grid(grid_file(tmp_path, variants=without)), Runs(tmp_path / "out" / "runs")
    runs.folder.mkdir(parents=True)
    for cell in grid.cells():
        rows = fabricated(cell, 0.8 if cell.variant == "main" else 0.7 + 0.02 * cell.seed)
        for kind in KINDS:  # six kinds of wrong changes: 0.6 in all with every part, 1.2 and 1.8 without
            wrong = 0.1 if cell.variant == "main" else 0.2 + 0.1 * cell.seed
            of_second = [row for row in rows if row.turn == "second" and row.metric == "words"]
            for change in ("added", "removed"):
                rows += [replace(row, metric=f"{kind}_{change}_wrong", value=wrong) for row in of_second]
        runs.write(cell, runs.budget_of(cell), rows)
    told = purpose_gaps(load_table(grid, runs))
    assert sorted((title, measure, str(gap)) for title, measure, gap in told) == [
        # -0.6 and -1.2: mean -0.9, 12.7062 * 0.424264 / 1.414214 = 3.812.
        ("without mistakes", "wrong changes per caption, to be fewer", "-0.900 [-4.712, +2.912]"),
        # 0.1 and 0.08: mean 0.09, 12.7062 * 0.0141421 / 1.414214 = 0.127.
        ("without relations", "relations F1", "+0.090 [-0.037, +0.217]"),
    ]
    write_page(load_table(grid, runs), tmp_path / "study.md")
    page = (tmp_path / "study.md").read_text()
    assert "+0.090 [-0.037, +0.217]" in page and "-0.900 [-4.712, +2.912]" in page


def test_where_both_turns_are_rewarded_the_first_is_judged_too(tmp_path):
    told = {"title": "with both", "question": "both turns rewarded", "settings": {"num_corrections": 1}}
    grid, runs = load_grid(grid_file(tmp_path, variants={"both": told})), Runs(tmp_path / "out" / "runs")
    runs.folder.mkdir(parents=True)
    for cell in grid.cells():
        rows = fabricated(cell, 0.8)
        if cell.variant == "both":  # 0.7 becomes 0.9 and 0.92 in the first turn; 0.8 stays in the second
            more = 0.2 + 0.02 * cell.seed
            rows = [replace(row, value=row.value + more) if row.turn == "first" else row for row in rows]
        runs.write(cell, runs.budget_of(cell), rows)
    said = [line for line in findings(load_table(grid, runs)) if "with both" in line]
    assert said == [
        "Both turns rewarded: The interval holds zero against with both (+0.000 [+0.000, +0.000]).",
        # -0.2 and -0.22: mean -0.21, 12.7062 * 0.0141421 / 1.414214 = 0.127.
        "The same by what the first turn says: The unchanged setting is worse than with both "
        "(-0.210 [-0.337, -0.083]).",
    ]


@pytest.mark.parametrize("kept", [["ours-main-0"], ["rival-main-1"], ["start-main-0"], ["ours-no_length-0"],
                                  ["ours-main-0", "rival-main-0", "ours-no_length-1"]])  # fmt: skip
def test_a_partial_study_has_a_page_and_names_what_is_missing(known_study, tmp_path, kept):
    grid, runs = known_study
    for cell in grid.cells():
        if cell.name not in kept:
            runs.path(cell.name).unlink()
    study = load_table(grid, runs)
    if "ours-main-1" not in kept and kept == ["rival-main-1"]:
        assert study.rows.empty  # its time is that of a run that is gone
        return
    write_page(study, tmp_path / "docs" / "study.md")
    page = (tmp_path / "docs" / "study.md").read_text()
    missing = page.partition("## Missing")[2]
    assert all((f"- {cell.name}" in missing) == (cell.name not in kept) for cell in grid.cells())


def test_a_real_study_is_killed_and_gone_on_with(tmp_path, monkeypatch):
    """Two methods and two seeds, really trained; one run is killed, another fails; the rest goes on."""
    small = {
        "num_samples": 8, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 24,
        "parser": "compact",
    }  # fmt: skip
    stages = [{"recipe": "sc.py", "config": str(SCENES / "sc.yaml"), "settings": small | {"num_corrections": 4}}]
    more = {"num_samples": 8, "per_device_train_batch_size": 4}
    path = grid_file(
        tmp_path,
        methods={
            "ours": {"title": "ours", "stages": stages},
            "sft": {
                "title": "SFT",
                "stages": [{"recipe": "sft.py", "config": str(SCENES / "sft_more.yaml"), "settings": more}],
            },
        },
        settings={"model_name_or_path": str(ROOT / "src/sc_captioner/assets/scenes_sft")},
        variants={
            "odd": {"title": "odd", "question": "parts of the reward", "settings": {"parts": ["colours"]}},
        },
        steps=2,
        curve=[1],
        variant_steps=1,
        variant_seeds=1,
    )
    grid = load_grid(path)
    runs = Runs(tmp_path / "out" / "runs")
    ours = [cell for cell in grid.cells() if cell.name in ("ours-main-0", "ours-main-1")]

    killed = threading.Thread(target=kill_when_begun, args=("ours-main-0", runs.folder))
    killed.start()
    failed = run_study(ours, runs, RECIPES, workers=2)
    killed.join()
    assert list(failed) == ["ours-main-0"] and "code -9" in failed["ours-main-0"]
    assert runs.is_current(ours[1]) and not runs.is_current(ours[0])
    before = runs.path("ours-main-1").read_bytes()

    monkeypatch.setattr(sys, "argv", ["recipes/study.py", "--grid", str(path), "--workers", "0"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / "study.py"), run_name="__main__")
    assert ended.value.code == 1  # a run failed
    assert runs.path("ours-main-1").read_bytes() == before
    study = load_table(grid, runs)
    assert study.missing == ["ours-odd-0"] and "Unknown parts ['colours']" in study.errors["ours-odd-0"]
    assert "ours-odd-0: SettingError" in Path(grid.page).read_text()

    rows = study.rows
    assert set(rows.turn) == {"first", "second", "third"} and set(rows.world) == {"plain", "hard"}
    assert {(m, s) for m, s in zip(rows.method, rows.seed)} == {(m, s) for m in ("ours", "sft") for s in (0, 1)}
    # Equal time: within the seconds that ours took, and of ours itself the very same numbers.
    for seed in (0, 1):
        budget = runs.seconds(f"ours-main-{seed}")
        timed = rows[(rows.point == "time") & (rows.seed == seed)]
        assert (timed.seconds <= budget).all() and budget > 0
        assert study.values("ours", "mean_f1", point="time") == study.values("ours", "mean_f1")
    scenes = rows[(rows.metric == "mean_f1") & (rows.world == "plain")]
    assert all(len(values) == 6 and np.mean(values) == pytest.approx(v, abs=1e-6) for values, v in
               zip(scenes.per_scene, scenes.value))  # fmt: skip
    # In a process of its own and in this one, a seed gives the same captions.
    runs.path("ours-main-1").unlink()
    run_study(ours, runs, RECIPES, workers=0)
    again = load_table(grid, runs)
    assert again.values("ours", "words") == study.values("ours", "words")


def kill_when_begun(name: str, folder: Path) -> None:
    """Kill the process of a run as soon as there is one."""
    for _ in range(1200):
        time.sleep(0.1)
        if not (folder / f"{name}.log").is_file():
            continue
        for process in Path("/proc").glob("[0-9]*"):
            try:
                open_files = [os.readlink(link) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            if str(folder / f"{name}.log") in open_files:
                os.kill(int(process.name), signal.SIGKILL)
                return
