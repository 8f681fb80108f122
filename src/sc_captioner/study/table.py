"""The numbers of a study, as far as they are there, and the comparisons that the page makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet

from ..metrics.bootstrap import Interval
from .grid import MAIN, VERSION, Grid, Method, Variant
from .runs import Runs
from .statistics import Difference, over_scenes, paired_difference


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds; `sd` is `None` for one seed.

    Args:
        mean (`float`): Over seeds.
        sd (`float`, *optional*): With `n - 1` in the denominator.
        n (`int`): Number of seeds.
    """

    mean: float
    sd: float | None
    n: int

    def text(self, digits: int = 3) -> str:
        """As in tables.

        Args:
            digits (`int`, defaults to `3`): Decimals of both numbers.
        """
        return f"{self.mean:.{digits}f}" + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


@dataclass(frozen=True)
class StudyTable:
    """
    All rows of a study.

    Args:
        grid ([`Grid`]): What was to be run.
        rows (`pandas.DataFrame`): Columns `method`, `variant`, `seed`, `point`, `steps`, `seconds`, `world`, `turn`,
            `metric`, `value`, `n`, `per_scene`.
        missing (`list[str]`): Cells without a run.
        errors (`dict[str, str]`): Why runs failed.
    """

    grid: Grid
    rows: pandas.DataFrame
    missing: list[str]
    errors: Mapping[str, str]

    @property
    def methods(self) -> list[Method]:
        """Methods with at least one run."""
        there = set(self.rows[self.rows.variant == MAIN].method)
        return [method for method in self.grid.methods.values() if method.name in there]

    @property
    def others(self) -> list[Method]:
        """Trained methods but ours."""
        return [method for method in self.methods if method.stages and method.name != self.grid.ours]

    @property
    def variants(self) -> list[Variant]:
        """Variants with at least one run."""
        there = set(self.rows.variant)
        return [variant for variant in self.grid.variants.values() if variant.name in there]

    def values(
        self, method: str, metric: str, *, variant: str = MAIN, point: str = "steps", steps: int | None = None,
        world: str = "plain", turn: str = "second",
    ) -> dict[int, float]:  # fmt: skip
        """Values by seed; the start model, which is not trained, has its one value for every seed.

        Args:
            method (`str`): Name of the method.
            metric (`str`): Name of the score.
            variant (`str`, defaults to `"main"`): Name of the variant; `main` is the method itself.
            point (`str`, defaults to `"steps"`): `curve`, `steps` or `time`; passed over where `steps` is given.
            steps (`int`, *optional*): Optimizer steps after which it was scored.
            world (`str`, defaults to `"plain"`): World of the test scenes.
            turn (`str`, defaults to `"second"`): `first`, `second` or `third`.
        """
        found = self._rows(method, metric, variant, point, steps, world, turn)
        values = {int(seed): float(value) for seed, value in zip(found.seed, found.value)}
        if values and not self.grid.methods[method].stages:
            return dict.fromkeys(range(self.grid.seeds), next(iter(values.values())))
        return values

    def summary(self, method: str, metric: str, **where: Any) -> Summary | None:
        """Mean and standard deviation over seeds, `None` where nothing is known.

        Args:
            method (`str`): Name of the method.
            metric (`str`): Name of the score.
            **where: As in [`StudyTable.values`].
        """
        values = list(self.values(method, metric, **where).values())
        if not values:
            return None
        trained = bool(self.grid.methods[method].stages)
        series = pandas.Series(values)
        return Summary(float(series.mean()), float(series.std()) if trained and len(values) > 1 else None, len(values))

    def difference(
        self, ours: Mapping[str, Any], theirs: Mapping[str, Any], metric: str = "mean_f1"
    ) -> Difference | None:
        """Paired difference over the seeds that both have.

        Args:
            ours, theirs (`Mapping`): Arguments of `values`, with `method`.
            metric (`str`): What is compared.
        """
        mine, other = self.values(metric=metric, **ours), self.values(metric=metric, **theirs)
        seeds = sorted(mine.keys() & other.keys())
        return paired_difference([mine[s] for s in seeds], [other[s] for s in seeds]) if seeds else None

    def scene_interval(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Interval | None:
        """Bootstrap over scenes of the difference of mean F1, see [`over_scenes`].

        Args:
            ours, theirs (`Mapping[str, Any]`): `method` and, where they differ from those of [`StudyTable.values`],
                its other arguments.
        """
        mine, other = self._scenes(**ours), self._scenes(**theirs)
        seeds = sorted(mine.keys() & other.keys())
        return over_scenes([mine[s] for s in seeds], [other[s] for s in seeds]) if seeds else None

    def better_turn(self, method: str, **where: Any) -> str:
        """The turn of a method, first or second, whose mean F1 is higher.

        Args:
            method (`str`): Name of the method.
            **where: As in [`StudyTable.values`].
        """
        means = {turn: self.summary(method, "mean_f1", turn=turn, **where) for turn in ("first", "second")}
        return max(means, key=lambda turn: found.mean if (found := means[turn]) else 0.0)

    def costs(self, method: str, point: str) -> tuple[float, float] | None:
        """Mean seconds and steps of training at a point.

        Args:
            method (`str`): Name of the method.
            point (`str`): `steps` or `time`.
        """
        found = self._rows(method, "mean_f1", MAIN, point, None, "plain", "second")
        return None if found.empty else (float(found.seconds.mean()), float(found.steps.mean()))

    def write(self, path: Path) -> None:
        """All rows as one parquet file, with the study's version and the missing cells in its metadata.

        Args:
            path (`Path`): The file; its folder is made.
        """
        table = pyarrow.Table.from_pandas(self.rows.assign(version=VERSION), preserve_index=False)
        told = {"version": str(VERSION), "missing": json.dumps(self.missing)}
        whole = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **told}), whole)
        os.replace(whole, path)

    def _scenes(self, method: str, **where: Any) -> dict[int, Sequence[float]]:
        place = {"variant": MAIN, "point": "steps", "steps": None, "world": "plain", "turn": "second", **where}
        found = self._rows(method, "mean_f1", *place.values())
        values = {int(seed): scenes for seed, scenes in zip(found.seed, found.per_scene)}
        if values and not self.grid.methods[method].stages:
            return dict.fromkeys(range(self.grid.seeds), next(iter(values.values())))
        return values

    def _rows(
        self, method: str, metric: str, variant: str, point: str, steps: int | None, world: str, turn: str
    ) -> pandas.DataFrame:
        rows = self.rows
        if not self.grid.methods[method].stages:
            point = "steps"
        chosen = (
            (rows.method == method) & (rows.variant == variant) & (rows.metric == metric)
            & (rows.world == world) & (rows.turn == turn)
        )  # fmt: skip
        # A step is looked for wherever it was scored; without one the point says which.
        chosen &= (rows.point == point) if steps is None else (rows.steps == steps) & (rows.point != "time")
        return rows[chosen]


def load_table(grid: Grid, runs: Runs) -> StudyTable:
    """Everything that is done of a grid; runs with other settings than the grid's count as missing.

    Args:
        grid ([`Grid`]): What was to be run.
        runs ([`Runs`]): What was run.
    """
    cells = grid.cells()
    done = [cell for cell in cells if runs.is_current(cell)]
    frames = [pyarrow.parquet.read_table(runs.path(cell.name)).to_pandas() for cell in done]
    rows = pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()
    missing = [cell.name for cell in cells if cell not in done]
    errors = {name: error for name, error in runs.errors().items() if name in missing}
    return StudyTable(grid, rows, missing, errors)
