"""The Space, served on loopback: by a program through gradio_client, and by a person in a browser."""

from __future__ import annotations

import html
import os
import re
import runpy
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from shutil import copytree

import pytest
from chromium import browser  # noqa: F401
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hub_server import HubServer, Repo
from huggingface_hub import metadata_load, metadata_save
from tiny_models import tiny_qwen2_vl
from transformers import BertConfig, BertModel

from sc_captioner import CorrectionReward, SelfCorrectingCaptioner
from sc_captioner.data import ModelError, build_scenes
from sc_captioner.model_card import SETTINGS_FILE, RunSettings


ROOT = Path(__file__).parents[1]
SPACE = ROOT / "spaces" / "self_correction"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders: a captioner, a model without images, and one in a form that is not loaded."""
    folder = tmp_path_factory.mktemp("models")
    for part in tiny_qwen2_vl():
        part.save_pretrained(folder / "tiny")
    RunSettings(base_model="", prompt="A photo of", instruction="Review.").save(folder / "tiny" / SETTINGS_FILE)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    BertModel(config).save_pretrained(folder / "text")
    copytree(folder / "tiny", folder / "pickle")
    (folder / "pickle" / "model.safetensors").rename(folder / "pickle" / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def hub(models):
    with HubServer() as server:
        for folder in models.iterdir():
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
            server.repos["model", f"me/{folder.name}"] = Repo(commits={"1" * 40: files}, branches={"main": "1" * 40})
        yield server


@pytest.fixture(scope="module")
def address(hub, tmp_path_factory):
    """The app as `python app.py` starts it, on a Hub of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("served")
    environment = {
        **os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1",  # the log is read while it runs
    }  # fmt: skip
    environment.pop("GRADIO_ANALYTICS_ENABLED", None)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(SPACE / "app.py")], cwd=folder, env=environment, stdout=output, stderr=output
        )
    deadline = time.monotonic() + 120
    while "Running on local URL" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=30)
    assert not [path for _, path, _ in hub.requests if "telemetry" in path]


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A picture whose caption the embedded captioner corrects."""
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    build_scenes(1, seed=777, split="test")[0]["image"].save(path)
    return path


@pytest.fixture(scope="module")
def expected(scene):
    return SelfCorrectingCaptioner.from_pretrained()(scene, 2)


def correct(client, image, *, reference="", model="embedded", num_corrections=2, max_new_tokens=96):
    image = None if image is None else handle_file(image)
    return client.predict(image, reference, model, num_corrections, max_new_tokens, 0, 1, 0, api_name="/correct")


def captions_in(page: str) -> list[tuple[str, str]]:
    """By correction, the caption before it and the caption after it, as the marks tell them."""
    found = []
    for marked in re.findall(r"<h4>.*?</h4><p>(.*?)</p>", page):
        sides = (re.sub(rf"<{tag}>.*?</{tag}>", "", marked) for tag in ("ins", "del"))
        found.append(tuple(words(re.sub("<.*?>", "", side)) for side in sides))
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", html.unescape(text))


def columns(table: dict) -> dict[str, dict[str, str]]:
    table = table.get("value", table)
    return {head: {row[0]: row[i] for row in table["data"]} for i, head in enumerate(table["headers"]) if i}


def test_captions_corrections_and_graphs(client, scene, expected):
    status, first, corrections, graphs, scores, reward = correct(client, scene)
    assert first == expected.first and "embedded" in status
    said = [words(caption) for caption in (expected.first, *expected.corrections)]
    assert said[0] != said[1] and "<ins>" in corrections and "<del>" in corrections
    changed = [[before, after] for before, after in zip(said, said[1:]) if before != after]
    assert [list(pair) for pair in captions_in(corrections) if pair[0] != ["Nothing", "was", "changed"]] == changed
    assert graphs.count("<svg") == 3 and "star" in graphs
    assert scores["visible"] is reward["visible"] is False


def test_a_reference_judges_every_turn(client, scene, expected):
    """By the last caption itself as reference it is perfect, by the first one it loses what the reward says."""
    *_, graphs, scores, reward = correct(client, scene, reference=expected.corrections[0], num_corrections=1)
    f1 = columns(scores)
    assert set(f1["Correction 1"].values()) == {"1.000"} and float(f1["First caption"]["mean"]) < 1
    assert float(columns(reward)["Correction 1"]["reward"]) > 0
    assert graphs.count("<svg") == 3 and "✓" in graphs

    why = CorrectionReward().explain(expected.first, expected.corrections[0], expected.first)
    *_, reward = correct(client, scene, reference=expected.first, num_corrections=1)
    parts = {**why.parts, "reward": why.total}
    assert columns(reward)["Correction 1"] == {name: f"{value:+.3f}" for name, value in parts.items()}
    assert why.total < 0


def test_a_model_of_the_hub_by_its_id(client, hub, models, scene):
    told = SelfCorrectingCaptioner.from_pretrained(models / "tiny")(scene, 1, max_new_tokens=16)
    status, first, *_ = correct(client, scene, model=" me/tiny ", num_corrections=1, max_new_tokens=16)
    assert first == told.first and "me/tiny" in status
    fetched = [Path(path).name for method, path, _ in hub.requests if method == "GET" and "/me/tiny/" in path]
    assert {"model.safetensors", SETTINGS_FILE} <= set(fetched)


def test_visitors_wait_in_a_queue_and_read_along(client, models, scene, expected):
    """Two at once, each with a model of its own: nobody gets the other's captions, and words come one by one."""
    tiny = SelfCorrectingCaptioner.from_pretrained(models / "tiny")(scene, 1, max_new_tokens=16)
    picture, settings = handle_file(scene), (1, 16, 0, 1, 0)
    jobs = [client.submit(picture, "", model, *settings, api_name="/correct") for model in ("embedded", "me/tiny")]
    embedded, other = ([step[1] for step in job] for job in jobs)
    assert other[-1] == tiny.first
    seen = [text for text in embedded if isinstance(text, str) and text]
    assert all(expected.first.startswith(text.strip()) for text in seen) and len(set(seen)) > 3


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("me/text", "takes no images with a text; set the field Model to a vision-language model"),
        ("me/pickle", "has no weights as safetensors, and pickles are not loaded"),
        ("me/nowhere", "'me/nowhere' cannot be loaded"),
        ("me/away", "cannot be reached ("),
        ("no name/at all", "has the form 'namespace/name'"),
    ],
)
def test_a_model_that_cannot_be_used_is_a_sentence(client, hub, scene, model, said):
    hub.fail("GET", "/api/models/me/away$")
    begun = time.monotonic()
    with pytest.raises(AppError, match=re.escape(said)):
        correct(client, scene, model=model)
    assert time.monotonic() - begun < 30  # not after minutes of trying
    assert not [path for method, path, status in hub.requests if path.endswith(".bin") and method == "GET"]


def test_an_image_that_cannot_be_used_is_a_sentence(client, scene, tmp_path):
    with pytest.raises(AppError, match="There is no image yet: upload one"):
        correct(client, None)
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(scene.read_bytes()[:200])
    for name in ("notes.png", "half.png"):
        with pytest.raises(AppError, match=f"The image '{name}' cannot be read: .*; upload another picture"):
            correct(client, tmp_path / name)


def test_one_model_at_a_time_and_models_of_the_card(models, tmp_path):
    folder = Path(copytree(SPACE, tmp_path / "space"))
    metadata_save(folder / "README.md", {**metadata_load(folder / "README.md"), "models": ["me/tiny"]})
    app = runpy.run_path(str(folder / "app.py"))
    assert app["MODELS"] == ["me/tiny", "embedded"] and app["model_box"].value == "me/tiny"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and not app["demo"].analytics_enabled
    first = weakref.ref(app["captioner_of"]("embedded").model)
    assert first() is app["captioner_of"]("embedded").model  # kept for the next visitor
    with pytest.raises(ModelError):
        app["captioner_of"](str(models / "text"))
    assert first() is None  # gone before the next one comes
    assert app["captioner_of"](str(models / "tiny")).prompt == "A photo of"


# --- In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser, address):  # noqa: F811
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.addresses = []
    page.on("request", lambda request: page.addresses.append(request.url))
    page.goto(address)
    page.get_by_role("button", name="Caption and correct").wait_for()
    yield page
    page.close()


def test_a_person_uploads_a_picture_and_sees_what_was_corrected(page, address, scene, expected):
    page.locator("input[type=file]").first.set_input_files(scene)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
    page.get_by_label("Reference (optional)").fill(expected.corrections[0])
    page.get_by_role("button", name="Caption and correct").click()
    page.get_by_text("read by the compact parser").wait_for()
    assert page.get_by_role("textbox", name="First caption").input_value() == expected.first
    marked = page.locator(".changes")
    added, removed = (marked.locator(tag) for tag in ("ins", "del"))
    assert added.count() and removed.count() and added.first.is_visible()
    background = "element => getComputedStyle(element).backgroundColor"
    assert added.first.evaluate(background) != removed.first.evaluate(background)
    drawn = page.locator(".graphs svg")
    assert drawn.count() == 3 and all(box["width"] > 50 for box in (g.bounding_box() for g in drawn.all()))
    page.get_by_role("row").filter(has_text="reward").wait_for()
    _, reward = page.get_by_role("row").filter(has_text="reward").inner_text().split()
    assert float(reward) > 0
    outside = [url for url in page.addresses if not url.startswith((address, "data:", "blob:"))]
    assert not outside


def test_a_person_is_told_what_is_missing_and_picks_a_scene(page):
    button = page.get_by_role("button", name="Caption and correct")
    button.click()
    message = page.locator(".toast-body")
    message.wait_for()
    assert "There is no image yet" in message.inner_text()
    page.locator(".gallery-item").nth(1).click()
    page.get_by_label("Model").fill("no name/at all")
    page.get_by_label("Model").press("Enter")
    page.locator("img[src*='/file=']").first.wait_for()
    button.click()
    page.get_by_text("has the form 'namespace/name'").first.wait_for()
