"""Pictures of the documentation, made anew by a command: each is what a browser shows of a page made just
before, or by `make quickstart`.

    python docs/screenshots.py report space quickstart

Needs playwright and an installed Chromium; nothing is loaded from a network.
"""

from __future__ import annotations

import argparse
import runpy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright


ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
# It must neither need a display nor look for anything on a network.
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def report(page: Page) -> None:
    """The report of the embedded model's corrections of 200 scenes, one of the best opened."""
    from sc_captioner import CorrectionReward, SelfCorrectingCaptioner
    from sc_captioner.data import load_caption_dataset
    from sc_captioner.report import write_run_report

    scenes = load_caption_dataset("scenes", num_samples=200, seed=90_000, split="test")
    captioner = SelfCorrectingCaptioner.from_pretrained()
    results = captioner(scenes["image"], batch_size=64, max_new_tokens=96)
    rows = [
        {"id": f"scene {place}", "predict": result.first, "predict_turn2": result.caption, "label": reference}
        for place, (result, reference) in enumerate(zip(results, scenes["reference"]))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        title = "Corrections of 200 scenes by the embedded model"
        write_run_report(path, rows, CorrectionReward(), image_of=lambda place, _: scenes[place]["image"], title=title)
        page.goto(path.as_uri())
        page.get_by_role("columnheader", name="reward").get_by_role("button").click()
        page.locator(".open").nth(1).click()
        page.locator("article.example").wait_for()
        # Up to the rows after the opened one: the table goes on for pages.
        end = page.locator("#body > tr").nth(5).evaluate("row => row.getBoundingClientRect().bottom + scrollY")
        page.set_viewport_size({"width": 1360, "height": int(end)})
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=IMAGES / "report.png")


def quickstart(page: Page) -> None:
    """The report that `make quickstart` left in outputs/quickstart, down to its learning curves."""
    path = ROOT / "outputs" / "quickstart" / "report.html"
    if not path.is_file():
        raise SystemExit(f"error: {path} is missing; run `make quickstart` first.")
    page.set_viewport_size({"width": 1120, "height": 900})
    page.goto(path.as_uri())
    curves = page.locator("section").filter(has=page.get_by_role("heading", name="Learning curves", exact=True))
    end = curves.evaluate("section => section.getBoundingClientRect().bottom + scrollY")
    page.set_viewport_size({"width": 1120, "height": int(end) + 20})
    page.screenshot(path=IMAGES / "quickstart.png")


def space(page: Page) -> None:
    """The Space after the embedded model has corrected the first of its scenes."""
    app = runpy.run_path(str(ROOT / "spaces" / "self_correction" / "app.py"))
    _, address, _ = app["demo"].launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        page.goto(address)
        page.locator(".gallery-item").first.click()
        expect(page.get_by_label("Reference (optional)")).to_have_value(app["SCENES"][0]["reference"])
        page.get_by_role("button", name="Caption and correct").click()
        page.get_by_role("row").filter(has_text="reward").wait_for()
        page.mouse.move(0, 0)
        end = page.locator("footer").evaluate("footer => footer.getBoundingClientRect().top + scrollY")
        page.set_viewport_size({"width": 1360, "height": int(end)})
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=IMAGES / "space.png")
    finally:
        app["demo"].close()


PICTURES: dict[str, Callable[[Page], None]] = {"report": report, "space": space, "quickstart": quickstart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"of {', '.join(PICTURES)}; default: all")
    chosen = parser.parse_args().pictures or list(PICTURES)
    if unknown := sorted(set(chosen) - set(PICTURES)):
        parser.error(f"unknown pictures {', '.join(unknown)}; choose among {', '.join(PICTURES)}")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if browser_path is None:
        parser.exit(2, "error: no Chromium is installed; install chromium or google-chrome.\n")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=OPTIONS)
        for name in chosen:
            PICTURES[name](browser.new_page(viewport={"width": 1360, "height": 900}))
            print(IMAGES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
