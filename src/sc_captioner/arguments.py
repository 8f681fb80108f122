"""Settings that the recipes share, and what they stand for: a dataset, a reward, a checkpoint to go on from."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import TrainerCallback
    from trl import ModelConfig

    from .rewards import CaptionReward, CorrectionReward
    from .scene_graph import SceneGraphParser


class SettingError(ValueError):
    """A setting that cannot be used; the message names it and the remedy."""


@dataclass
class DatasetArguments:
    """
    Which captions to train or evaluate on.

    Args:
        dataset (`str`): `scenes`, a file, a folder, or the id of a dataset on the Hub.
        dataset_split, dataset_config, dataset_revision (`str`): Which part of it.
        dataset_seed (`int`): Seed of `scenes`.
        num_samples (`int`, *optional*): Rows to take; needed for `scenes`.
        columns (`dict`, *optional*): Our column to the dataset's, e.g. `{"reference": "caption"}`.
        prompt (`str`, *optional*): Captioning prompt where the dataset has no column `prompt`.
        image_root (`str`, *optional*): Folder that relative image paths start from.
        streaming (`bool`): Read rows as they come.
    """

    dataset: str = field(
        default="scenes", metadata={"help": "'scenes' (embedded), a file, a folder, or the id of a Hub dataset."}
    )
    dataset_split: str = field(default="train", metadata={"help": "Split of the dataset."})
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub dataset, or world of 'scenes': plain, seen, hard."}
    )
    dataset_revision: str | None = field(default=None, metadata={"help": "Revision of a Hub dataset."})
    dataset_seed: int = field(default=0, metadata={"help": "Seed of 'scenes'."})
    num_samples: int | None = field(default=None, metadata={"help": "Rows to take; needed for 'scenes'."})
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": 'Our columns to the dataset\'s, as in \'{"reference": "caption"}\'.'}
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Captioning prompt where the dataset has no column 'prompt'."}
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder that relative image paths start from."})
    streaming: bool = field(default=False, metadata={"help": "Read rows as they come; nothing is kept on disk."})

    def load(self) -> Dataset | IterableDataset:
        """The dataset, every row of it (the first rows of a streamed one) checked.

        Raises:
            DatasetError: If it cannot be read or used; the message names row, column or setting and the remedy.
        """
        from .data import load_caption_dataset
        from .prompts import CAPTION_PROMPT

        return load_caption_dataset(
            self.dataset,
            split=self.dataset_split,
            config=self.dataset_config,
            revision=self.dataset_revision,
            num_samples=self.num_samples,
            seed=self.dataset_seed,
            columns=json.loads(self.columns) if isinstance(self.columns, str) else self.columns,
            prompt=self.prompt or CAPTION_PROMPT,
            image_root=self.image_root,
            streaming=self.streaming,
        )


@dataclass
class ScoringArguments:
    """
    How captions become graphs and graphs become numbers.

    Args:
        parser (`str`): `compact`, `factual`, a folder or a Hub id.
        parser_options (`dict`, *optional*): Of the parser, e.g. `{"cache_file": "graphs.sqlite"}`.
        encoder (`str`, *optional*): SentenceTransformer by name or path; default: the embedded MiniLM.
        lexicon (`str`): `auto`, `nltk` or `bundled`.
    """

    parser: str = field(
        default="compact",
        metadata={"help": "'compact' (embedded), 'factual' (T5 from the Hub), a folder or a Hub id."},
    )
    parser_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'Options of the parser, as in \'{"cache_file": "graphs.sqlite", "progress": true}\'.'},
    )
    encoder: str | None = field(
        default=None, metadata={"help": "SentenceTransformer by name or path; default: the embedded MiniLM."}
    )
    lexicon: Literal["auto", "nltk", "bundled"] = field(
        default="auto", metadata={"help": "Lemmas and synonyms: NLTK's WordNet where present, or the bundled lists."}
    )

    def loaded_parser(self, **options: Any) -> SceneGraphParser:
        """The parser, built with `options` and, before them, `parser_options`.

        Raises:
            SettingError: If it cannot be had or has no such option.
        """
        from .scene_graph import load_parser

        own = json.loads(self.parser_options) if isinstance(self.parser_options, str) else self.parser_options
        try:
            return load_parser(self.parser, **{**options, **(own or {})})
        except (TypeError, ValueError, OSError) as error:
            raise SettingError(f"the parser cannot be built: {error}") from error

    def caption_reward(self, turn: Literal["first", "second"]) -> CaptionReward:
        """CAPTURE F1 of one turn's caption as a reward.

        Args:
            turn (`"first"` or `"second"`): Whose caption is scored.

        Raises:
            SettingError: If parser, encoder or lexicon cannot be had.
        """
        from .rewards import CaptionReward

        try:
            return CaptionReward(turn, self.loaded_parser(), self.encoder, self.lexicon)
        except (ValueError, OSError) as error:
            raise SettingError(f"the reward cannot be built: {error}") from error


@dataclass
class RewardArguments(ScoringArguments):
    """
    The reward of a correction, beside the scoring settings.

    Args:
        preset (`str`): `paper` or `released` (docs/concepts.md): rewards of what was changed; `capture`: CAPTURE F1 of
            the second caption, as SCoRe would have it.
        parts (`list[str]`, *optional*): Parts of the `paper` preset to use; default: all.
        weights (`dict[str, float]`, *optional*): Weights of the `paper` preset that differ from [`PaperWeights`].
    """

    preset: Literal["paper", "released", "capture"] = field(
        default="paper",
        metadata={"help": "Form of the reward: of what was changed, or CAPTURE F1 of the second caption."},
    )
    parts: list[str] | None = field(
        default=None, metadata={"help": "Parts of the paper preset to use, as in 'objects attributes'; default: all."}
    )

    weights: dict[str, float] | str | None = field(
        default=None, metadata={"help": "Weights of the paper preset to change, as in '{\"relation_bonus\": 0.5}'."}
    )

    def reward(self) -> CorrectionReward:
        """The reward of a correction with its parser and encoder loaded.

        Raises:
            SettingError: If preset, parts, weights, parser, encoder or lexicon cannot be had.
        """
        from .rewards import CorrectionReward

        try:
            return CorrectionReward(
                preset=self.preset,  # type: ignore[arg-type]  # 'capture' is none of a correction, and it says so
                parser=self.loaded_parser(),
                encoder=self.encoder,
                lexicon=self.lexicon,
                parts=self.parts,
                weights=json.loads(self.weights) if isinstance(self.weights, str) else self.weights,
            )
        except (ValueError, OSError) as error:
            raise SettingError(f"the reward cannot be built: {error}") from error

    def rewards_by_turn(self) -> tuple[CaptionReward, CorrectionReward | CaptionReward]:
        """The reward of a first caption by itself, and that of the second turn; they share parser and encoder.

        Raises:
            SettingError: As in `reward`, and if parts or weights are given to the preset `capture`.
        """
        from .rewards import CaptionReward

        second: CorrectionReward | CaptionReward
        if self.preset != "capture":
            second = self.reward()
        elif self.parts is not None or self.weights is not None:
            raise SettingError("parts and weights belong to preset 'paper'; leave them out with preset 'capture'.")
        else:
            second = self.caption_reward("second")
        return CaptionReward("first", second.parser, second.encoder, second.lexicon), second


@dataclass
class ProcessorArguments:
    """
    How images and conversations become tokens, where it differs from the model's own processor.

    Args:
        processor_kwargs (`dict`, *optional*): Of `AutoProcessor.from_pretrained`, e.g. `{"max_pixels": 262144}`; kept
            with what is trained, so that later stages see images of the same size.
    """

    processor_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Settings of the processor, as in '{\"max_pixels\": 262144}'; kept with what is trained."},
    )

    def load_processor(self, model_args: ModelConfig, trust_remote_code: bool = False) -> Any:
        """The processor of `model_args.model_name_or_path`.

        Args:
            model_args (`ModelConfig`): TRL's, for name and revision of the model.
            trust_remote_code (`bool`, defaults to `False`): Run code that the repository brings along.

        Raises:
            ModelError: If it cannot be had.
        """
        from .adapters import processor_source
        from .data.model_checks import load_processor

        own = json.loads(self.processor_kwargs) if isinstance(self.processor_kwargs, str) else self.processor_kwargs
        name, revision = required_model(model_args), model_args.model_revision
        source = processor_source(name, revision)
        # The revision is that of the adapter, not of its base model.
        own_revision = revision if source == name else None
        return load_processor(source, revision=own_revision, trust_remote_code=trust_remote_code, **(own or {}))


@dataclass
class TuningArguments:
    """Which weights are trained, and which are kept.

    Args:
        freeze_vision_tower (`bool`): Train the language model alone.
        average_last (`float`, *optional*): See [`~sc_captioner.trainer.WeightAverage`].
    """

    freeze_vision_tower: bool = field(default=False, metadata={"help": "Train the language model alone."})
    average_last: float | None = field(
        default=None,
        metadata={"help": "Keep the average of the weights over about this share of the steps, the last ones."},
    )

    @property
    def callbacks(self) -> list[TrainerCallback]:
        """What the settings add to a trainer."""
        from .trainer import WeightAverage

        return [] if self.average_last is None else [WeightAverage(self.average_last)]


@dataclass
class SamplingArguments:
    """
    How captions of both turns are sampled.

    Args:
        instruction (`str`, *optional*): Correction instruction; default: the scenes' own, else the released one.
        batch_size (`int`): Images per batch.
        max_new_tokens (`int`): Longest caption.
        temperature (`float`): 0 is greedy; the released test setting is 0.95 with top_p 0.7.
        top_p (`float`): Nucleus of sampling.
        seed (`int`): Seed of sampling.
    """

    instruction: str | None = field(
        default=None,
        metadata={"help": "Correction instruction; default: the scenes' own for 'scenes', else the released."},
    )
    batch_size: int = field(default=64, metadata={"help": "Images per batch."})
    max_new_tokens: int = field(default=512, metadata={"help": "Longest caption, in tokens."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy; the released test setting is 0.95."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of sampling; the released test setting is 0.7."})
    seed: int = field(default=0, metadata={"help": "Seed of sampling."})

    def generation(self) -> dict[str, Any]:
        """Fields of transformers' `GenerationConfig`."""
        if self.temperature == 0:
            return {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {"max_new_tokens": self.max_new_tokens, **sampling}


def run_recipe(
    main: Callable[..., None], arguments: tuple[Any, ...], description: str | None, **defaults: Any
) -> None:
    """Parse YAML and command line into `arguments`, call `main` with them, and end with one line on a user's mistake.

    Args:
        main (`Callable`): Takes one instance of each of `arguments`.
        arguments (`tuple[type, ...]`): Dataclasses whose fields are the settings.
        description (`str`, *optional*): Printed by `--help`.
        defaults: Defaults of this recipe where they differ from the dataclasses'.
    """
    from trl import TrlParser

    from .data import DatasetError, ModelError
    from .hub import HubError

    parser: Any = TrlParser(arguments, description=description, formatter_class=_HelpFormatter)
    parser.set_defaults(**defaults)
    try:
        *values, unknown = parser.parse_args_and_config(return_remaining_strings=True)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    if unknown:
        settings = [action.dest for action in parser._actions]
        parser.exit(2, f"error: {_unknown_setting(unknown[0], settings)}\n")
    quiet_logs()
    try:
        main(*values)
    except (DatasetError, HubError, ModelError, SettingError) as error:
        parser.exit(2, f"error: {error}\n")
    except ImportError as error:
        # A setting asks for an optional package (vLLM, FlashAttention, Liger); its library says for which.
        parser.exit(2, f"error: a package is missing: {' '.join(str(error).split())}\n")


def quiet_logs() -> None:
    """For programs: no tokens in logs, and no notes between libraries about each other, which no setting answers."""
    from .hub import hide_tokens_in_logs

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|torch)\b")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    hide_tokens_in_logs()


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every setting, and the description with its example commands as it is written."""


def _unknown_setting(argument: str, settings: list[str]) -> str:
    name = argument.lstrip("-").partition("=")[0]
    near = difflib.get_close_matches(name, settings, n=1)
    return f"unknown setting {name!r}; {f'did you mean {near[0]!r}?' if near else '--help lists all settings.'}"


def required_model(model_args: ModelConfig) -> str:
    """The model's name.

    Args:
        model_args (`ModelConfig`): TRL's settings of the model.

    Raises:
        SettingError: If there is none.
    """
    if not model_args.model_name_or_path:
        raise SettingError("model_name_or_path is missing; name a folder or the id of a model on the Hub.")
    return model_args.model_name_or_path


def model_init_kwargs(training_args: Any, model_args: ModelConfig) -> dict[str, Any]:
    """How TRL's trainers are to load the model: TRL's `ModelConfig`, and over it the run's own `model_init_kwargs`.

    Args:
        training_args: Settings of a TRL trainer, with a field `model_init_kwargs`.
        model_args (`ModelConfig`): TRL's settings of the model.
    """
    return {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }


def checkpoint_to_resume(setting: str | bool | None, output_dir: str) -> str | None:
    """The checkpoint that `resume_from_checkpoint` stands for.

    Args:
        setting (`str` or `bool`, *optional*): A folder; `auto` or `true`: the newest complete checkpoint of
            `output_dir`, or none if there is none yet; nothing or `false`: start anew.
        output_dir (`str`): Where the run keeps its checkpoints.

    Raises:
        SettingError: If the folder named holds no complete checkpoint, or none that training can go on from.
    """
    if setting is None or str(setting).lower() == "false":
        return None
    if str(setting).lower() not in ("auto", "true"):
        if not _is_complete(Path(str(setting))):
            raise SettingError(
                f"resume_from_checkpoint={setting!r} holds no complete checkpoint; name another or 'auto'."
            )
        return _with_optimizer(Path(str(setting)))
    complete = [folder for folder in Path(output_dir).glob("checkpoint-*") if _is_complete(folder)]
    if not complete:
        return None
    return _with_optimizer(max(complete, key=lambda folder: int(folder.name.rpartition("-")[2])))


def _with_optimizer(folder: Path) -> str:
    # Without them transformers would go on with a new optimizer and schedule, and say nothing.
    if not list(folder.glob("rng_state*.pth")):
        raise SettingError(
            f"resume_from_checkpoint: {str(folder)!r} lacks the states of optimizer and random generators (it is from "
            "the Hub, or was saved with save_only_model); name it as model_name_or_path to train it further."
        )
    return str(folder)


def _is_complete(folder: Path) -> bool:
    # transformers writes this file last, so a run killed while it saved leaves a folder without it.
    return (folder / "trainer_state.json").is_file()
