"""What our trainers do otherwise with the Hub: a failed push ends no run, cards fit captioners, no pickle goes out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from ..data.columns import DatasetError
from ..hub import PICKLES, HubError, hub_error, is_outage, without_tokens
from ..model_card import SETTINGS_FILE, model_card, settings_of


logger = logging.getLogger(__name__)


class HubTrainer(Trainer):
    """
    Mixin that stands before a TRL trainer: `class CaptionTrainer(HubTrainer, SFTTrainer)`.

    A login that is refused stops the run before training. Any later push that fails is warned about; the model is
    kept in `output_dir`, and the next save pushes what is missing. Checkpoints are pushed without the states of
    optimizer and random generators, which are pickles: runs are resumed from local checkpoints.

    Attributes:
        run_settings (`Mapping[str, Any]`): What the trainer does not know of the run by itself and its card tells:
            `dataset` and other settings of the recipe.
    """

    run_settings: Mapping[str, Any] = {}
    _unpushed: list[Path]
    _no_repo: HubError | None = None

    # Pushes

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in [`~transformers.Trainer`]; an outage of the Hub ends no run, the repository is made at a later save.

        Raises:
            HubError: If the Hub refuses; the message names the remedy and never the token.
        """
        before_training = not hasattr(self, "state")
        if before_training:
            self._unpushed = []
        try:
            super().init_hf_repo(token, private)
        except Exception as error:
            failed = self._failure(error)
            if before_training and not is_outage(error):
                raise failed from None
            self.push_in_progress, self._no_repo = None, failed
            if before_training:
                logger.warning("No repository yet: %s Training starts; the next save tries again.", failed)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in [`~transformers.Trainer`]; a push that fails is told and ends no run."""
        try:
            super().save_model(output_dir, _internal_call)
        except HubError as failed:
            self._warn(failed)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As [`~transformers.Trainer.push_to_hub`]; what is not one of its own arguments goes to `create_model_card`,
        as in `push_to_hub(evaluation="outputs/scores")`.

        Raises:
            DatasetError: If `evaluation` holds no scores.
            HubError: If the Hub refuses or cannot be reached. The model is in `output_dir`; push again.
        """
        try:
            pushed = super().push_to_hub(*args, **kwargs)
            self._push_checkpoints()
        except DatasetError:
            raise
        except Exception as error:
            raise (self._no_repo if self.hub_model_id is None else None) or self._failure(error) from None
        return pushed

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            self._unpushed.append(Path(checkpoint_folder))
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self._warn_of_failed_pushes()
        if self.hub_model_id is None:
            self.init_hf_repo()
            if self.hub_model_id is None:
                return self._warn(self._no_repo)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        for file in Path(checkpoint_folder).iterdir():
            # The model of this checkpoint becomes the run's; the card is there already.
            wanted = file.is_file() and file.name not in (TRAINER_STATE_NAME, "README.md")
            if wanted and not any(file.match(pattern) for pattern in PICKLES):
                shutil.copy2(file, self._folder)
        job = hf_api().run_as_future(self._push_run, f"Training in progress, step {self.state.global_step}")
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress([job])
        else:
            self.push_in_progress.jobs.append(job)
        return None

    def _push_run(self, message: str) -> None:
        hf_api().upload_folder(
            repo_id=self._repo_name,
            folder_path=self._folder,
            commit_message=message,
            token=self.args.hub_token,
            ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*", *PICKLES],
            revision=self.args.hub_revision,
        )
        self._push_checkpoints()

    def _push_checkpoints(self) -> None:
        """Push the checkpoints that are not on the Hub yet: each of them, or the last one as `last-checkpoint`."""
        keep_all = self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS
        waiting = [folder for folder in getattr(self, "_unpushed", []) if folder.is_dir()]  # not rotated away
        for folder in waiting if keep_all else waiting[-1:]:
            hf_api().upload_folder(
                repo_id=self._repo_name,
                folder_path=folder,
                path_in_repo=folder.name if keep_all else "last-checkpoint",
                commit_message=f"Training in progress, {folder.name}",
                token=self.args.hub_token,
                ignore_patterns=list(PICKLES),
                revision=self.args.hub_revision,
            )
        for folder in waiting:
            self._unpushed.remove(folder)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._warn_of_failed_pushes()

    def _warn_of_failed_pushes(self) -> None:
        in_progress = getattr(self, "push_in_progress", None)
        if in_progress is None:
            return
        done = [job for job in in_progress.jobs if job.done()]
        in_progress.jobs = [job for job in in_progress.jobs if job not in done]
        for error in filter(None, (job.exception() for job in done)):
            self._warn(self._failure(error))

    def _warn(self, failed: HubError | None) -> None:
        logger.warning(
            "Not pushed: %s The model is in %s, and the next save pushes what is missing. If there is none: "
            "python recipes/push_model.py --model %s --hub_model_id %s",
            failed, self._folder, self._folder, self._repo_name,
        )  # fmt: skip

    def _failure(self, error: BaseException) -> HubError:
        return HubError(without_tokens(str(hub_error(error, self._repo_name)), self.args.hub_token))

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir or ".")

    @property
    def _repo_name(self) -> str:
        return getattr(self, "hub_model_id", None) or self.args.hub_model_id or self._folder.absolute().name

    # Card and files

    def create_model_card(  # type: ignore[override]  # as TRL has it, which stands behind this in the MRO
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        evaluation: str | Path | None = None,
    ) -> None:
        """Write the card of the model in `output_dir`, see [`~sc_captioner.model_card.model_card`].

        Args:
            model_name, dataset_name, tags: As in TRL.
            evaluation (`str` or `Path`, *optional*): Folder that `recipes/evaluate.py` wrote: scores for the card.
        """
        if not self.is_world_process_zero():
            return
        super().create_model_card(model_name, dataset_name, tags)
        if dataset_name is not None:
            self.run_settings = {**self.run_settings, "dataset": dataset_name}
        card = model_card(
            self._folder,
            settings_of(self, self.run_settings),
            hub_model_id=self.hub_model_id or self.args.hub_model_id,
            evaluation=evaluation,
        )
        card.content = without_tokens(card.content, self.args.hub_token)
        card.save(self._folder / "README.md")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = self._folder if output_dir is None else Path(output_dir)
        # A pickle that nothing reads back, and that a push would publish.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        settings_of(self, self.run_settings).save(folder / SETTINGS_FILE)
        if folder == self._folder:
            # The adapter as it was before training went on: resuming needs it in checkpoints, users nowhere.
            shutil.rmtree(folder / "ref", ignore_errors=True)
