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

from huggingface_hub import HfApi

from sc_captioner.arguments import SettingError, run_recipe
from sc_captioner.hub import hub_error
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
    api = HfApi()
    for space, folder in folders.items():
        with tempfile.TemporaryDirectory() as copy:
            published = Path(copytree(folder, Path(copy) / folder.name, ignore=NOT_PUBLISHED))
            name_package(published / "requirements.txt", args.package)
            if args.dry_run:
                files = sorted(str(file.relative_to(published)) for file in published.rglob("*") if file.is_file())
                visibility = "private" if args.private else "public"
                print(f"{space} ({visibility} if new, on {api.endpoint}): {', '.join(files)}")
            else:
                print(f"{space}: {publish(api, space, published, args.private)}")


def name_package(requirements: Path, package: str) -> None:
    """Put `package` where the requirements name this package; its extras are kept."""
    lines = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("sc-captioner"):
            extras = line.removeprefix("sc-captioner")
            line = package if not extras else package.replace("sc-captioner", f"sc-captioner{extras}", 1)
        lines.append(line)
    requirements.write_text("\n".join(lines) + "\n", encoding="utf-8")


def publish(api: HfApi, space: str, folder: Path, private: bool) -> str:
    """Create the Space where it is missing, upload the folder, and return its address.

    Raises:
        HubError: If the Hub cannot be reached or refuses; the message names the remedy and never the token.
    """
    try:
        created = api.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=space,
            repo_type="space",
            folder_path=folder,
            delete_patterns="*",  # files of an earlier version that are no more
            commit_message=f"Publish {folder.name}",
        )
    except Exception as error:  # of the Hub, of the HTTP library below it, or of an upload's threads
        raise hub_error(error, space) from None
    return str(created)


if __name__ == "__main__":
    run_recipe(main, (PublishArguments,), __doc__)
