"""What the study runs: methods, variants of ours and seeds, from one YAML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..arguments import SettingError


# Part of every cell's fingerprint: to be raised when training or scoring changes in a way that no setting tells.
VERSION = 1
MAIN = "main"


@dataclass(frozen=True)
class Stage:
    """One training run of a method.

    Args:
        recipe (`str`): Python file with `ARGUMENTS` and `trainer_of`.
        config (`str`): YAML file of its settings.
        share (`float`): Share of the method's steps, 0 to 1.
        settings (`dict`): All its settings.
    """

    recipe: str
    config: str
    share: float
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A way to train: `stages` in a row, each from the weights of the one before it; none for the start model.

    Args:
        name (`str`): Key in the YAML file.
        title (`str`): What the page calls it.
        stages (`tuple[Stage, ...]`): In the order they run.
    """

    name: str
    title: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Variant:
    """A method whose last stage has other `settings`; `question` groups variants on the page.

    Args:
        name (`str`): Key in the YAML file.
        title (`str`): What the page calls it.
        question (`str`): Heading of its group.
        settings (`Mapping[str, Any]`): What differs in the last stage.
    """

    name: str
    title: str
    question: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of the study.

    Args:
        method, variant (`str`): Names; the variant is `main` in the comparison of methods.
        seed (`int`): Drives all that is random in training.
        stages (`tuple[Stage, ...]`): What is trained.
        steps (`int`): Optimizer steps of all stages together.
        curve (`tuple[int, ...]`): Steps before the last at which the plain scenes are captioned as well.
        worlds (`dict[str, int]`): Worlds to caption after `steps`, and how many scenes of each.
        test (`dict`): Further settings of scoring.
        timed (`bool`): Whether it is also captioned after as much time as the leader of its seed took.
        leader (`str`, *optional*): The cell whose time that is; `None` for the leader itself.
    """

    method: str
    variant: str
    seed: int
    stages: tuple[Stage, ...]
    steps: int
    curve: tuple[int, ...]
    worlds: Mapping[str, int]
    test: Mapping[str, Any]
    timed: bool
    leader: str | None

    @property
    def name(self) -> str:
        """`method-variant-seed`, also the name of its file."""
        return f"{self.method}-{self.variant}-{self.seed}"

    def settings(self) -> dict[str, Any]:
        """All that its numbers depend on, JSON-serialisable."""
        return json.loads(json.dumps({**asdict(self), "version": VERSION}))


@dataclass(frozen=True)
class Grid:
    """
    The study, as its YAML file holds it. All other files are read once, when it is loaded: what is changed in them
    while the study runs is for the next one.

    Args:
        output_dir (`str`), page (`str`): Where runs and the page go; plots lie in a folder beside the page.
        ours (`str`): The method that others are compared with.
        varied (`str`): The method whose variants are tried.
        methods (`dict[str, Method]`): By name, ours first; in the file `title` and `stages` of each.
        seeds (`int`): Seeds 0, 1, ... of every method.
        steps (`int`): Optimizer steps of every method.
        curve (`list[int]`): Steps before the last with scores of their own, for learning curves.
        settings (`dict`): Settings of every stage of every method that differ from its YAML file.
        variants (`dict[str, Variant]`): By name; in the file `title`, `question` and `settings` of each.
        variant_seeds (`int`), variant_steps (`int`): Of the variants; `variant_steps` must be in `curve`.
        test (`dict`): `seed`, `max_new_tokens` and `batch_size` of captioning.
        worlds (`dict[str, int]`): Worlds of the test and scenes of each; variants see `plain` alone.
        check_every (`int`): Weights are kept every so many steps, for comparison at equal time.
        note (`str`): What the page is to say beside its numbers.
    """

    output_dir: str
    page: str
    ours: str
    varied: str
    methods: Mapping[str, Method]
    seeds: int
    steps: int
    curve: tuple[int, ...]
    variants: Mapping[str, Variant]
    variant_seeds: int
    variant_steps: int
    test: Mapping[str, Any]
    worlds: Mapping[str, int]
    settings: Mapping[str, Any]
    check_every: int = 10
    note: str = ""

    def cells(self) -> list[Cell]:
        """All runs, the most telling first: all methods seed by seed, then the variants question by question."""
        return [*self._of_methods(), *self._of_variants()]

    def _of_methods(self) -> list[Cell]:
        cells = []
        for seed in range(self.seeds):
            for method in self.methods.values():
                if not method.stages and seed > 0:
                    continue  # captions of a model that is not trained are the same for every seed
                leader = None if method.name == self.ours else f"{self.ours}-{MAIN}-{seed}"
                trained = bool(method.stages)
                cell = Cell(
                    method.name, MAIN, seed, method.stages, steps=self.steps, curve=self.curve if trained else (),
                    worlds=dict(self.worlds), test=self._test(), timed=trained, leader=leader if trained else None,
                )  # fmt: skip
                cells.append(cell)
        return cells

    def _of_variants(self) -> list[Cell]:
        *before, last = self.methods[self.varied].stages
        worlds = {"plain": self.worlds["plain"]}
        return [
            Cell(
                self.varied, variant.name, seed,
                (*before, replace(last, settings=_merged(last.settings, variant.settings))),
                steps=self.variant_steps, curve=(), worlds=worlds, test=self._test(), timed=False, leader=None,
            )
            for question in dict.fromkeys(variant.question for variant in self.variants.values())
            for seed in range(self.variant_seeds)
            for variant in self.variants.values()
            if variant.question == question
        ]  # fmt: skip

    def _test(self) -> dict[str, Any]:
        return {**self.test, "check_every": self.check_every}


def load_grid(path: str | Path) -> Grid:
    """The grid of a YAML file.

    Args:
        path (`str` or `Path`): The YAML file.

    Raises:
        SettingError: If it cannot be read, a setting is unknown or missing, or settings contradict each other.
    """
    told = settings_of(path)
    known = [field.name for field in fields(Grid)]
    if unknown := sorted(set(told) - set(known)):
        raise SettingError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(known)}.")
    if missing := [name for name in known if name not in told and name not in ("check_every", "settings", "note")]:
        raise SettingError(f"{path}: {missing[0]} is missing.")
    told = {"settings": {}, **told, "curve": tuple(told["curve"])}
    for name in ("ours", "varied"):
        if told[name] not in told["methods"]:
            raise SettingError(f"{path}: {name}={told[name]!r} is none of the methods {', '.join(told['methods'])}.")
    names = [told["ours"], *(name for name in told["methods"] if name != told["ours"])]
    methods = {name: _method(name, told["methods"][name], told["settings"]) for name in names}
    variants = {name: _variant(name, variant) for name, variant in told["variants"].items()}
    grid = Grid(**{**told, "methods": methods, "variants": variants})
    if grid.variants and grid.variant_steps not in (*grid.curve, grid.steps):
        raise SettingError(
            f"{path}: variants are compared with {grid.varied} after variant_steps={grid.variant_steps}; "
            "add it to curve."
        )
    if late := [step for step in grid.curve if not 0 < step < grid.steps]:
        raise SettingError(f"{path}: curve names step {late[0]}, which is not between 0 and steps={grid.steps}.")
    if "plain" not in grid.worlds:
        raise SettingError(f"{path}: worlds must name plain, the scenes that methods are trained on.")
    return grid


def _method(name: str, told: Mapping[str, Any], settings: Mapping[str, Any]) -> Method:
    try:
        stages = tuple(_stage(settings, **stage) for stage in told["stages"])
        method = Method(name, told["title"], stages)
    except (KeyError, TypeError) as error:
        raise SettingError(
            f"method {name!r}: a method has title and stages, a stage recipe and config ({error})."
        ) from error
    if stages and abs(sum(stage.share for stage in stages) - 1) > 1e-6:
        raise SettingError(f"method {name!r}: the shares of its stages must add up to 1.")
    return method


def _stage(
    common: Mapping[str, Any], recipe: str, config: str, share: float = 1.0, settings: Mapping[str, Any] | None = None
) -> Stage:
    """A stage with all settings: of its YAML file, over them `common`, over them its own."""
    merged = _merged(_merged(settings_of(config), common), settings or {})
    if not str(merged.get("lr_scheduler_type", "")).startswith("constant"):
        raise SettingError(
            f"{config}: lr_scheduler_type must be constant or constant_with_warmup; training goes on to equal time, "
            "so no schedule can know its end."
        )
    return Stage(recipe, config, share, merged)


def _variant(name: str, told: Mapping[str, Any]) -> Variant:
    try:
        return Variant(name, **told)
    except TypeError as error:
        raise SettingError(f"variant {name!r}: a variant has title, question and settings ({error}).") from error


def settings_of(path: str | Path) -> dict[str, Any]:
    """What a YAML file says.

    Args:
        path (`str` or `Path`): The file.

    Raises:
        SettingError: If it cannot be read or holds no settings.
    """
    try:
        told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict):
        raise SettingError(f"{path} holds no settings.")
    return told


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes`; tables within are merged, `None` takes a setting out."""
    merged = dict(settings)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = {**merged[name], **value}
        else:
            merged[name] = value
    return {name: value for name, value in merged.items() if value is not None}
