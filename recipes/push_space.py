"""Publish spaces/self_correction: a page on which people caption images and see the captions corrected and judged.

    hf auth login
    python recipes/push_space.py --space my-name/captions --dry_run
    python recipes/push_space.py --space my-name/captions --models my-name/qwen2-vl-2b-sc --private

Publishing again updates the Space. `HF_ENDPOINT` names another Hub. The login is read from `hf auth login` or the
variable `HF_TOKEN`; it is no setting, so that no log shows it. To look at the page first: `python
spaces/self_correction/app.py`.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, ignore_patterns

from huggingface_hub import constants, metadata_load, metadata_save

from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.hub import name_package, push_space
from sc_captioner.model_card import is_hub_id


FOLDER = Path(__file__).resolve().parents[1] / "spaces" / "self_correction"


@dataclass
class SpaceArguments:
    """
    What to publish and where.

    Args:
        space (`str`): Repository of the Space, as in `me/name`; made where there is none.
        models (`list[str]`): Hub ids of captioners or adapters that the page offers, the first one at first; the
            embedded one is always there, and visitors may type others.
        private (`bool`): Whether a new Space is private; one that exists keeps its visibility.
        package (`str`): Requirement that gives the Space this package, as in
            `sc-captioner @ git+https://github.com/my-name/sc-captioner`.
        dry_run (`bool`): Say what would be published and stop.
    """

    space: str = field(metadata={"help": "Repository of the Space, as in 'me/name'; made where there is none."})
    models: list[str] = field(
        default_factory=list, metadata={"help": "Hub ids of captioners or adapters to offer, the first one at first."}
    )
    private: bool = field(default=False, metadata={"help": "A new Space is private."})
    package: str = field(
        default="sc-captioner",
        metadata={
            "help": "Requirement that gives the Space this package: a name, or 'sc-captioner @ git+https://...'."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Say what would be published and stop."})


def main(args: SpaceArguments) -> None:
    for model in args.models:
        if not is_hub_id(model):
            raise SettingError(
                f"models: {model!r} is nothing that a Space could load; push it first (recipes/push_model.py) and "
                "name it as there, 'me/name'."
            )
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(copytree(FOLDER, Path(copy) / FOLDER.name, ignore=ignore_patterns("__pycache__", "*.pyc")))
        name_package(folder / "requirements.txt", args.package)
        if args.models:
            metadata_save(folder / "README.md", {**metadata_load(folder / "README.md"), "models": args.models})
        if args.dry_run:
            visibility = "private" if args.private else "public"
            files = ", ".join(sorted(file.name for file in folder.iterdir()))
            print(f"{args.space} ({visibility} if new, on {constants.ENDPOINT}): {files}")
            return
        print(f"{args.space}: {push_space(args.space, folder, private=args.private)}")


if __name__ == "__main__":
    run_recipe(main, (SpaceArguments,), __doc__)
