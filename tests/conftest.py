"""Fixtures of all tests. The environment is set before any test imports torch, datasets or NLTK."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread per worker: what parallelism there is comes from the workers of pytest-xdist.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Files that `datasets` prepares belong to this run only.
_CACHE = tempfile.TemporaryDirectory(prefix="sc-captioner-datasets-")
os.environ["HF_DATASETS_CACHE"] = _CACHE.name
if (SHARED / "nltk_data").is_dir():
    os.environ["NLTK_DATA"] = str(SHARED / "nltk_data")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from PIL import Image  # noqa: E402


# make test ARGS="--hypothesis-profile=thorough --timeout=7200 -k 'bounded or any_text'"
settings.register_profile("thorough", max_examples=10_000, deadline=None)
# A shared machine is slow now and then; what is bounded in time says so in its own test.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference data in ../shared")
    return SHARED


@pytest.fixture
def caption_rows(tmp_path: Path) -> list[dict[str, str]]:
    """Six rows with image files of different modes and forms below `tmp_path/images`, paths relative to `tmp_path`."""
    (tmp_path / "images").mkdir()
    rows = []
    for index, (mode, suffix) in enumerate(
        [("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("RGB", "jpg"), ("P", "gif"), ("CMYK", "jpg")]
    ):
        name = f"images/{index}.{suffix}"
        Image.linear_gradient("L").resize((40, 30)).convert(mode).save(tmp_path / name)
        rows.append({"image": name, "caption": f"Picture number {index} of a gray slope."})
    return rows
