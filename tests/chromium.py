"""An installed Chromium, driven by playwright; tests that need it are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# It must neither need a display nor look for anything on a network.
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")  # not of the session: two of them, of two files, cannot run side by side
def browser() -> Iterator:
    """A running browser; pages are opened by `browser.new_page()`."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=OPTIONS)
        yield running
        running.close()
