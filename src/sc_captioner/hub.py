"""Spaces pushed to the Hub; what keeps anything from being pushed, in one sentence; and no token in any text."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that huggingface_hub is built on, which changed between its versions
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)


# Files that run code when they are loaded; nothing here needs them, so none is published.
PICKLES = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.distcp", "*.metadata"]

_TOKEN = re.compile(r"hf_(?:[a-z]+_)?[A-Za-z0-9.-]{16,}")


class HubError(RuntimeError):
    """The Hub refused or could not be reached; the message names the remedy and holds no token."""


def cached_commit(repo_id: str, revision: str | None = None) -> str | None:
    """The commit that a model loaded from the Hub has; `None` for a folder, or what was never loaded.

    Args:
        repo_id (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit.
    """
    if Path(repo_id).exists():
        return None
    try:
        config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(config).parent.name if isinstance(config, str) else None


def hub_error(error: BaseException, repo_id: str) -> HubError:
    """An error of `huggingface_hub` or of the network as one sentence.

    Args:
        error (`BaseException`): What was raised while `repo_id` was created, read or written.
        repo_id (`str`): The repository, as the user calls it.
    """
    return HubError(without_tokens(_reason(error, repo_id)))


def push_space(space: str, folder: Path, *, private: bool = False) -> str:
    """Create the Space where it is missing, make its files those of the folder, and return its address.

    Args:
        space (`str`): As in `me/name`.
        folder (`Path`): Holds `app.py`, `README.md` and `requirements.txt`.
        private (`bool`): Whether a new Space is private; one that exists keeps its visibility.

    Raises:
        HubError: If the Hub cannot be reached or refuses; the message names the remedy and never the token.
    """
    api = HfApi()
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


def name_package(requirements: Path, package: str) -> None:
    """Put `package` where a Space's requirements name this package; its extras are kept.

    Args:
        requirements (`Path`): The file, which is written anew.
        package (`str`): As in `sc-captioner @ git+https://github.com/me/sc-captioner`.
    """
    lines = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("sc-captioner"):
            extras = line.removeprefix("sc-captioner")
            line = package if not extras else package.replace("sc-captioner", f"sc-captioner{extras}", 1)
        lines.append(line)
    requirements.write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_outage(error: BaseException) -> bool:
    """Whether trying again later may help: the network, a rate limit or the server's own trouble; no refusal.

    Args:
        error (`BaseException`): What the Hub or the network raised.
    """
    for cause in _causes(error):
        if isinstance(cause, (OfflineModeIsEnabled, LocalTokenNotFoundError, HFValidationError)):
            return False
        if isinstance(cause, HfHubHTTPError):
            return _status(cause) in (408, 429) or _status(cause) >= 500
        if isinstance(cause, HTTPError):
            return True
    return False


def without_tokens(text: str, *tokens: str | None) -> str:
    """`text` with every access token in it blotted out: the login's, `tokens`, and whatever looks like one.

    A server may well repeat what it was sent in the error it answers with.

    Args:
        text (`str`): Any text.
    """
    for token in (get_token(), *tokens):
        if token:
            text = text.replace(token, "hf_***")
    return _TOKEN.sub("hf_***", text)


def hide_tokens_in_logs() -> None:
    """Blot tokens out of all that this process logs, by any library at any level; for programs, not for libraries.

    The HTTP library's wire log has the headers of answers, and a server may repeat a token there.
    """
    make, token = logging.getLogRecordFactory(), get_token()
    if getattr(make, "hides_tokens", False):
        return

    def blotted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return record  # of a library whose arguments do not fit its message: logging will say so
        if (token and token in message) or _TOKEN.search(message):
            record.msg, record.args = without_tokens(message), ()
        return record

    blotted.hides_tokens = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(blotted)


def _reason(error: BaseException, repo_id: str) -> str:
    for cause in _causes(error):
        if isinstance(cause, HFValidationError):
            return f"{repo_id!r} is no name of a repository; it has the form 'namespace/name'."
        if isinstance(cause, LocalTokenNotFoundError):
            return "you are not logged in; run `hf auth login` or set HF_TOKEN."
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set; unset it to reach the Hub."
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause, repo_id)
        if isinstance(cause, HTTPError):
            return f"{constants.ENDPOINT} cannot be reached ({type(cause).__name__}); check network and HF_ENDPOINT."
    return f"{repo_id}: {type(error).__name__}: {error}"


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = _status(error)
    if status == 401:
        return "the Hub does not know your login; run `hf auth login` or set HF_TOKEN to a valid token."
    if status == 403:
        return f"your token may not write to {repo_id}; use one with the right to write, or another namespace."
    if status == 429:
        return f"the Hub limits how often {repo_id} may be written; wait some minutes and push again."
    said = " ".join((error.server_message or "").split())
    return f"the Hub did not take {repo_id} (status {status}{f': {said}' if said else ''})."


def _status(error: HfHubHTTPError) -> int:
    return error.response.status_code if error.response is not None else 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # An upload in threads wraps what went wrong.
    while error is not None:
        yield error
        error = error.__cause__
