"""What the evaluate modules in `metrics/` share: checked inputs, a reader that stays loaded, one form of output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .metrics.inputs import aligned
from .metrics.result import MetricResult
from .scene_graph.reader import CaptionReader


Check = Callable[[str, int, Any], Any]


class SceneGraphModule:
    """Mixin of evaluate modules, to stand before `evaluate.Metric`: checks inputs before they become Arrow columns.

    Attributes:
        checks (`dict[str, Check]`): By name of a column what brings one entry into its only form.
        optional (`frozenset[str]`): Columns that may be left out; their check is then given `None`.
    """

    checks: dict[str, Check]
    optional: frozenset[str] = frozenset()
    _loaded: tuple[dict[str, Any], CaptionReader] | None = None

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Score captions: lists with one entry per caption, or dicts by image id.

        Args:
            predictions (`list[str]` or `dict`): One caption per sample, or a dict from image id.
            references (`list` or `dict`): One reference, or a list of them, per sample; or a dict.
            kwargs: The module's other inputs, and settings.
        """
        given = {"predictions": predictions, "references": references}
        given |= {name: kwargs.pop(name) for name in self.checks if name in kwargs}
        columns = self._checked(given) if any(column is not None for column in given.values()) else {}
        return super().compute(**columns, **kwargs)  # type: ignore[misc]

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add captions; `compute()` scores all that were added.

        Args:
            predictions (`list[str]`): One caption per sample.
            references (`list[str]` or `list[list[str]]`): One reference, or a list of them, per sample.
            kwargs: The module's other inputs, one entry per sample in each.

        Raises:
            ValueError: If there is no such input, or one is missing or of another length.
        """
        unknown = [name for name in kwargs if name not in self.checks]
        if unknown:
            raise ValueError(f"Unknown inputs {unknown}: a batch has {', '.join(self.checks)}.")
        given = {"predictions": predictions, "references": references, **kwargs}
        super().add_batch(**self._checked(given))  # type: ignore[misc]

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one caption; `compute()` scores all that were added.

        Args:
            prediction (`str`): A caption.
            reference (`str` or `list[str]`): Its reference, or a list of them.
            kwargs: The module's other inputs.
        """
        self.add_batch(
            predictions=[prediction], references=[reference], **{name: [value] for name, value in kwargs.items()}
        )

    def reader(self, **settings: Any) -> CaptionReader:
        """The [`CaptionReader`] of these settings, which stays loaded for the next call with the same."""
        if self._loaded is None or self._loaded[0] != settings:
            self._loaded = settings, CaptionReader(**settings)
        return self._loaded[1]

    def _checked(self, given: Mapping[str, Any]) -> dict[str, list[Any]]:
        missing = [name for name in self.checks if given.get(name) is None and name not in self.optional]
        if missing:
            raise ValueError(f"Inputs are missing: {', '.join(missing)}. Give one entry per caption in each of them.")
        columns = aligned({name: given[name] for name in self.checks if given.get(name) is not None})
        size = len(columns["predictions"])
        return {
            name: [check(name, index, value) for index, value in enumerate(columns.get(name) or [None] * size)]
            for name, check in self.checks.items()
        }


def module_output(result: MetricResult, per_sample: bool, names: Mapping[str, str]) -> dict[str, Any]:
    """What a module returns: corpus values, `skipped`, what made them, and lists of values under `per_sample`.

    Args:
        result ([`MetricResult`]): The scores.
        per_sample (`bool`): Whether to add `per_sample`: by name of a score one value per sample, `None` where the
            sample has none.
        names (`Mapping[str, str]`): Names of parser, encoder and the like.
    """
    output: dict[str, Any] = {**result.corpus, "skipped": result.skipped, **names}
    if per_sample:
        kinds = dict.fromkeys(name for scores in result.per_sample if scores for name in scores)
        output["per_sample"] = {
            name: [None if scores is None else scores.get(name) for scores in result.per_sample]
            for name in (kinds or result.corpus)
        }
    return output
