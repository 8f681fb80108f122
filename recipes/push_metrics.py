"""Publish the evaluate modules as Spaces, so that `evaluate.load("<namespace>/refined_capture")` works anywhere.

    hf auth login
    python recipes/push_metrics.py --namespace my-name --dry_run
    python recipes/push_metrics.py --namespace my-name --private

Every module becomes the Space `<namespace>/<module>`; publishing again updates it. `HF_ENDPOINT` names another Hub.
The login is read from `hf auth login` or the variable `HF_TOKEN`; it is no setting, so that no log shows it.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, ignore_patterns

from huggingface_hub import constants

from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.hub import name_package, push_space
from sc_captioner.metrics import module_path


NOT_PUBLISHED = ignore_patterns("__pycache__", "*.pyc")


@dataclass
class PublishArguments:
    """
    What to publish and where.

    Args:
        namespace (`str`): User or organisation that the Spaces belong to.
        modules (`list[str]`): Which modules.
        private (`bool`): Whether new Spaces are private; one that exists keeps its visibility.
        package (`str`): Requirement that gives the Space this package, as in
            `sc-captioner @ git+https://github.com/my-name/sc-captioner`.
        dry_run (`bool`): Say what would be published and stop.
    """

    namespace: str = field(metadata={"help": "User or organisation that the Spaces belong to."})
    modules: list[str] = field(
        default_factory=lambda: ["capture", "refined_capture", "correction_reward", "relation_qa"],
        metadata={"help": "Which modules."},
    )
    private: bool = field(default=False, metadata={"help": "New Spaces are private."})
    package: str = field(
        default="sc-captioner",
        metadata={"help": "Requirement that gives a Space this package: a name, or 'sc-captioner @ git+https://...'."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Say what would be published and stop."})


def main(args: PublishArguments) -> None:
    try:
        folders = {f"{args.namespace}/{name}": Path(module_path(name)) for name in args.modules}
    except ValueError as error:
        raise SettingError(str(error)) from error
    for space, folder in folders.items():
        with tempfile.TemporaryDirectory() as copy:
            published = Path(copytree(folder, Path(copy) / folder.name, ignore=NOT_PUBLISHED))
            name_package(published / "requirements.txt", args.package)
            if args.dry_run:
                files = sorted(str(file.relative_to(published)) for file in published.rglob("*") if file.is_file())
                visibility = "private" if args.private else "public"
                print(f"{space} ({visibility} if new, on {constants.ENDPOINT}): {', '.join(files)}")
            else:
                print(f"{space}: {push_space(space, published, private=args.private)}")


if __name__ == "__main__":
    run_recipe(main, (PublishArguments,), __doc__)
