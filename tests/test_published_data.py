"""Prepared data goes to a Hub shard by shard over real HTTP, goes on after a failure, and loads back from there."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hub_client
import numpy as np
import pytest
from hub_server import HubServer
from huggingface_hub import DatasetCard
from PIL import Image


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("client") / "log"


@pytest.fixture(scope="module")
def client(hub, log):
    """Calls a function of `hub_client` in a process that knows this Hub; what is written or logged goes into `log`."""
    environment = {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(log.parent / "home"), "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_CACHE": str(log.parent / "datasets"), "HF_HUB_DISABLE_XET": "1", "HF_DEBUG": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_VERBOSITY": "debug",
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(environment)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=hub_client.start, initargs=(str(log),)) as pool:
        pool.submit(os.getpid).result()
        os.environ.clear()
        os.environ.update(before)
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=300)
    assert hub.token not in log.read_text(errors="replace")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Seventy rows, of which two are bad; pictures of noise, so that 32 rows fill a shard of 5 MB."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    lines = []
    for i in range(70):
        name = f"{i}.png" if i != 9 else "none.png"
        Image.fromarray(rng.integers(0, 255, (250, 250, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append({"image": name, "caption": f"Caption number {i}." if i != 4 else " "})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


GOOD = [f"Caption number {i}." for i in range(70) if i not in (4, 9)]


def prepare(client, rows, output, repo_id, *more):
    return client(
        hub_client.recipe, "prepare_data", "--dataset", str(rows), "--columns", '{"reference": "caption"}',
        "--output_dir", str(output), "--push_to_hub", repo_id, "--max_shard_mb", "5", *more,
    )  # fmt: skip


def references(client, repo_id, streaming):
    return [text for _, text in client(hub_client.read_dataset, repo_id, streaming)]


def test_data_larger_than_the_disk_goes_through_it(hub, client, rows, tmp_path):
    assert prepare(client, rows, tmp_path, "me/through", "--private", "true", "--keep_shards", "false") == 0
    assert not list((tmp_path / "data").iterdir())  # nothing but the report is left here
    repo = hub.repos["dataset", "me/through"]
    assert repo.private and len(hub.files("dataset", "me/through").keys() - {"README.md", ".gitattributes"}) == 3
    for streaming in (False, True):
        assert references(client, "me/through", streaming) == GOOD
    assert client(hub_client.checked_references, "me/through") == GOOD
    # And from one Hub dataset to another, of which nothing but the shard at hand is on this disk.
    arguments = ["--dataset", "me/through", "--output_dir", str(tmp_path / "again"), "--push_to_hub", "me/again"]
    assert client(hub_client.recipe, "prepare_data", *arguments, "--keep_shards", "false") == 0
    assert references(client, "me/again", streaming=True) == GOOD
    card = DatasetCard(hub.files("dataset", "me/through")["README.md"].decode())
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "| dropped" in card.text and str(rows.parent) not in card.content


@pytest.mark.parametrize("status", [500, 403, 429, None])
def test_a_push_that_fails_in_the_middle_goes_on_and_ends_complete(hub, client, rows, log, tmp_path, status):
    """The Hub fails, or the line is cut, from the second shard on."""
    repo_id, stop = f"me/fails-{status}", threading.Event()

    def fail_after_the_first_shard():
        while not stop.is_set():
            repo = hub.repos.get(("dataset", repo_id))
            if repo is not None and "data/train-00000.parquet" in repo.commits[repo.branches["main"]]:
                hub.fail("POST", rf"{repo_id}/commit/", status=status, times=50)
                return
            time.sleep(0.001)

    watch = threading.Thread(target=fail_after_the_first_shard)
    watch.start()
    try:
        assert prepare(client, rows, tmp_path, repo_id) == 2
    finally:
        stop.set()
        watch.join()
        hub.faults.clear()
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")][-1]
    assert said.endswith("the same command goes on where it stopped.")
    assert len(json.loads((tmp_path / "preparation-train.json").read_text())["shards"]) == 2
    assert prepare(client, rows, tmp_path, repo_id) == 0
    assert references(client, repo_id, streaming=True) == GOOD
    committed = [message for message in hub.repos["dataset", repo_id].messages if "00000.parquet" in message]
    assert len(committed) == 1  # what was there is not sent again


def test_a_shorter_version_and_another_split_replace_nothing_else(hub, client, rows, tmp_path):
    assert prepare(client, rows, tmp_path / "one", "me/versions") == 0
    assert prepare(client, rows, tmp_path / "two", "me/versions", "--num_samples", "3") == 0
    assert references(client, "me/versions", streaming=True) == GOOD[:3]
    assert prepare(client, rows, tmp_path / "one", "me/versions", "--dataset_split", "held_out") == 0
    assert references(client, "me/versions", streaming=True) == GOOD[:3]
    assert client(hub_client.checked_references, "me/versions") == GOOD[:3]
    card = DatasetCard(hub.files("dataset", "me/versions")["README.md"].decode())
    assert [entry["split"] for entry in card.data.configs[0]["data_files"]] == ["train", "held_out"]


def test_a_login_that_may_not_write_is_told_so(hub, client, rows, log, tmp_path):
    assert prepare(client, rows, tmp_path, "other/captions") == 2
    assert "error: your token may not write to other/captions" in log.read_text(errors="replace")
