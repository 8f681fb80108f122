"""Publish a trained captioner or adapter: its folder, with a card that says how it came about and how good it is.

    hf auth login
    python recipes/evaluate.py --model outputs/qwen2_vl_2b_sc --dataset my/captions --output_dir outputs/scores
    python recipes/push_model.py --model outputs/qwen2_vl_2b_sc --evaluation outputs/scores --hub_model_id me/vl-sc
    python recipes/push_model.py --model outputs/sft_merged --hub_model_id me/vl-sft --private

An adapter whose base model is a folder of yours (the merged model of the stage before) needs that one on the Hub
first; `--base_model me/vl-sft` then names it in the adapter. A push that was interrupted is repeated by the same
command: files that are there already are not sent again. Pickles and checkpoints stay here. The login is read from
`hf auth login` or the variable `HF_TOKEN`; it is no setting, so that no log shows it.
"""

import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import HfApi, ModelCard

from sc_captioner.adapters import base_model_of
from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.hub import PICKLES, hub_error, without_tokens
from sc_captioner.model_card import SETTINGS_FILE, RunSettings, is_hub_id, model_card


@dataclass
class PushArguments:
    """
    What to publish and where.

    Args:
        model (`str`): Folder of the model or adapter.
        hub_model_id (`str`): Repository, as in `me/name`; made where there is none.
        evaluation (`str`, *optional*): Folder that recipes/evaluate.py wrote, for the scores on the card.
        base_model (`str`, *optional*): Hub id of the base model, where training started from a folder.
        private (`bool`): Whether a new repository is private; one that exists keeps its visibility.
        revision (`str`, *optional*): Branch to push to; it must exist.
        dry_run (`bool`): Print the card and stop.
    """

    model: str = field(metadata={"help": "Folder of the model or adapter."})
    hub_model_id: str = field(metadata={"help": "Repository, as in 'me/name'; made where there is none."})
    evaluation: str | None = field(
        default=None, metadata={"help": "Folder that recipes/evaluate.py wrote, for the scores on the card."}
    )
    base_model: str | None = field(
        default=None, metadata={"help": "Hub id of the base model, where training started from a folder."}
    )
    private: bool = field(default=False, metadata={"help": "A new repository is private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to push to; it must exist."})
    dry_run: bool = field(default=False, metadata={"help": "Print the card and stop."})


def main(args: PushArguments) -> None:
    folder = Path(args.model)
    if not list(folder.glob("*.safetensors")):
        raise SettingError(f"model: {args.model!r} holds no *.safetensors; name the output_dir of a training run.")
    settings = run_settings(args, folder)
    card = model_card(folder, settings, hub_model_id=args.hub_model_id, evaluation=args.evaluation)
    if not settings.steps and (folder / "README.md").is_file():
        card.text = ModelCard.load(folder / "README.md").text  # somebody's own words about a model from elsewhere
    card.content = without_tokens(card.content)
    if args.dry_run:
        print(card.content)
        return
    with tempfile.TemporaryDirectory() as changed:
        card.save(Path(changed) / "README.md")
        if args.base_model is not None and (folder / "adapter_config.json").is_file():
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            config["base_model_name_or_path"] = args.base_model
            (Path(changed) / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        print(f"{args.hub_model_id}: {push(args, folder, Path(changed))}")


def run_settings(args: PushArguments, folder: Path) -> RunSettings:
    """How the model came about, with a base model that others can load.

    Raises:
        SettingError: If an adapter's base model is not on the Hub.
        HubError: If the Hub does not say whether it is.
    """
    base = args.base_model or base_model_of(args.model)
    if base is not None and not args.dry_run and not on_the_hub(base):
        raise SettingError(
            f"base_model: the adapter stands on {base!r}, which is not on the Hub; push that model first and name it, "
            "as in --base_model me/base."
        )
    if not (folder / SETTINGS_FILE).is_file():
        return RunSettings(base_model=base or "")
    settings = RunSettings.load(folder / SETTINGS_FILE)
    return settings if base is None else replace(settings, base_model=base)


def on_the_hub(base: str) -> bool:
    """Whether others can load the model of that name."""
    try:
        return is_hub_id(base) and HfApi().repo_exists(base)
    except Exception as error:
        raise hub_error(error, base) from None


def push(args: PushArguments, folder: Path, changed: Path) -> str:
    """Upload the folder, the files in `changed` in place of its own, and return the address of the model.

    Raises:
        HubError: If the Hub cannot be reached or refuses; the message names the remedy and never the token.
    """
    api = HfApi()
    # Ours first: a push that is cut off leaves no model without a card, nor an adapter that names a folder.
    here = [file.name for file in changed.iterdir()]
    try:
        created = api.create_repo(args.hub_model_id, private=args.private or None, exist_ok=True)
        for source, ignored in ((changed, []), (folder, ["checkpoint-*", "ref/*", "_*", *PICKLES, *here])):
            api.upload_folder(
                repo_id=created.repo_id,
                folder_path=source,
                ignore_patterns=ignored,
                revision=args.revision,
                commit_message=f"Upload {folder.resolve().name}",
            )
    except Exception as error:  # of the Hub, of the HTTP library below it, or of an upload's threads
        raise hub_error(error, args.hub_model_id) from None
    return str(created)


if __name__ == "__main__":
    run_recipe(main, (PushArguments,), __doc__)
