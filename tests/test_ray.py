"""The engine ray: the local engine's captions on a cluster, workers and jobs that are killed, shards in and out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from sc_captioner import SelfCorrectingCaptioner
from sc_captioner.cli import app
from sc_captioner.data import build_scenes
from sc_captioner.data.predictions import load_predictions
from sc_captioner.ray_reading import sources_left


ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
pytest.importorskip("ray.data", reason="Ray Data is not installed (extra ray)")

NUMBER = 120
OPTIONS = ["--engine", "ray", "--shard-size", 10, "--workers", 2, "--max-new-tokens", 64]


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine; its sockets need a path that is shorter than pytest's."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    context = ray.init(
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=folder,
        address="local",
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    contents = []
    for image in build_scenes(NUMBER, split="test", seed=778)["image"]:
        image.save(file := io.BytesIO(), "PNG")
        contents.append(file.getvalue())
    return contents


@pytest.fixture(scope="module")
def expected(pictures) -> list[tuple[str, str]]:
    images = [{"bytes": content, "path": None} for content in pictures]
    results = SelfCorrectingCaptioner.from_pretrained()(images, revisions=False, max_new_tokens=64)
    return [(result.first, result.caption) for result in results]


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, list(map(str, arguments)), prog_name="sc-captioner")
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def captioners() -> list[psutil.Process]:
    """Workers of this process's cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that has just ended
            if "_Worker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_a_captioner(output: Path, killed: list[int]) -> None:
    """Kill one in the middle of the work, and note it with the shards that there were."""
    wait_for(lambda: len(list(output.glob("*.parquet"))) >= 3)
    captioners()[0].send_signal(signal.SIGKILL)
    killed.append(len(list(output.glob("*.parquet"))))


def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(cluster, pictures, expected, tmp_path):
    """Half of the pictures in parquet files, half in a folder, between them what cannot be captioned."""
    photos, shards, output = tmp_path / "photos", tmp_path / "shards", tmp_path / "captions"
    photos.mkdir()
    shards.mkdir()
    half = NUMBER // 2
    for index in range(half):
        (photos / f"{index}.png").write_bytes(pictures[index])
    (photos / "broken.png").write_bytes(b"no picture")
    rows = [{"id": f"row {index}", "image": {"bytes": pictures[index], "path": None}} for index in range(half, NUMBER)]
    rows.insert(7, {"id": "cut", "image": {"bytes": pictures[0][:150], "path": None}})
    rows.insert(9, {"id": "none", "image": None})
    pq.write_table(pa.Table.from_pylist(rows[:20]), shards / "0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[20:]), shards / "1.parquet", row_group_size=10)

    killed: list[int] = []
    killer = threading.Thread(target=kill_a_captioner, args=(output, killed), daemon=True)
    killer.start()
    result = run("caption", photos, f"file://{shards}", "--output", output, *OPTIONS, code=1)
    sizes = [pq.read_metadata(path).num_rows for path in output.glob("*.parquet")]
    assert sorted(sizes) == [3, *[10] * 12] and 3 <= killed[0] < len(sizes) - 2

    found = pa.dataset.dataset(output, format="parquet").to_table().to_pylist()
    captions = {row["id"]: (row["first_caption"], row["second_caption"]) for row in found if not row["error"]}
    names = [*(str(photos / f"{index}.png") for index in range(half)), *(f"row {i}" for i in range(half, NUMBER))]
    assert captions == dict(zip(names, expected))
    assert sorted(row["id"] for row in found) == sorted([*names, str(photos / "broken.png"), "cut", "none"])
    assert "3 of 123 images were skipped" in result.stderr and "its row holds none" in result.stderr
    scored = load_predictions(str(output))
    assert {row["id"]: (row["predict"], row["predict_turn2"]) for row in scored} == captions

    written = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert "3 of 123" in run("caption", photos, "--output", output, *OPTIONS, code=1).stderr  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == written
    refused = run("caption", photos, "--output", output, *OPTIONS, "--num-corrections", 2, code=2)
    assert "num_corrections 1" in refused.stderr
    assert "no captions of ours" in run("caption", photos, "--output", shards, *OPTIONS, code=2).stderr
    assert len(list(shards.iterdir())) == 2


def samples(folder: Path) -> list[tuple[dict, bytes | None]]:
    """Rows and pictures of WebDataset archives, read by the standard library."""
    found = []
    for path in folder.glob("*.tar"):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, kind = member.name.partition(".")
                members.setdefault(key, {})[kind] = archive.extractfile(member).read()
        found += [(json.loads(sample["json"]), sample.get("png")) for sample in members.values()]
    return found


def whole_archives(folder: Path) -> dict[Path, bytes]:
    """Archives that were written to their end, which is two empty blocks of 512 bytes."""
    contents = {path: path.read_bytes() for path in folder.glob("*.tar")}
    return {path: content for path, content in contents.items() if content.endswith(bytes(1024))}


def test_a_killed_job_goes_on_from_its_archives(cluster, pictures, expected, tmp_path):
    shards, output = tmp_path / "shards", tmp_path / "captions"
    shards.mkdir()
    for part in range(2):
        with tarfile.open(shards / f"{part}.tar", "w") as archive:
            for index in range(part, NUMBER, 2):
                for kind, content in (("png", pictures[index]), ("txt", b"of no use")):
                    member = tarfile.TarInfo(f"{index:03}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    arguments = ["caption", str(shards), "--output", str(output), "--shards", "webdataset", *map(str, OPTIONS)]
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    command = [sys.executable, "-m", "sc_captioner.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        wait_for(lambda: process.poll() is not None or len(whole_archives(output)) >= 3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not captioners())  # Ray ends the workers of a job that is gone
    before = whole_archives(output)
    content = next(iter(before.values()))
    (output / "half.tar").write_bytes(content[: len(content) // 2 // 10240 * 10240])  # as if killed while it wrote

    run(*arguments)
    assert 3 <= len(before) < NUMBER // 10 and all(path.read_bytes() == before[path] for path in before)
    assert not (output / "half.tar").exists()
    found = samples(output)
    keys = {f"{shards}/{index % 2}.tar/{index:03}": index for index in range(NUMBER)}
    assert sorted(row["id"] for row, _ in found) == sorted(keys)
    for row, picture in found:
        index = keys[row["id"]]
        assert (row["first_caption"], row["second_caption"], picture) == (*expected[index], pictures[index])


def test_rows_without_an_id_are_named_by_their_place(cluster, pictures, tmp_path):
    pq.write_table(pa.table({"image": pictures[:20]}), tmp_path / "0.parquet", row_group_size=5)
    pq.write_table(pa.table({"image": pictures[20:30]}), tmp_path / "1.parquet")
    rows = sources_left(ray, [str(tmp_path)], [], 8).take_all()
    assert sorted(row["image"] for row in rows) == sorted(pictures[:30])
    names = {row["id"]: row["image"] for row in rows}
    assert len(names) == 30 and sum(name.startswith(f"{tmp_path}/1.parquet#") for name in names) == 10
    done = sorted(names)[::2]
    left = sources_left(ray, [str(tmp_path)], done, 8).take_all()
    assert {row["id"]: row["image"] for row in left} == {n: i for n, i in names.items() if n not in done}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/nowhere/photos", "no file or folder"),
        ("file:///nowhere", "no file or folder"),
        ("s4://b/c", "cannot be reached"),
    ],
)
def test_what_is_not_there_is_named(cluster, tmp_path, source, told):
    assert told in run("caption", source, "--output", tmp_path / "new", *OPTIONS, code=2).stderr


def test_scores_of_a_cluster_are_those_of_this_process(cluster, expected, tmp_path):
    references = build_scenes(NUMBER, split="test", seed=778)["reference"]
    rows = [
        {"label": reference, "predict": first, "predict_turn2": second}
        for reference, (first, second) in zip(references[:30], expected)
    ]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["score", tmp_path, "--metric", "facts", "--metric", "correction", "--format", "json"]
    assert json.loads(run(*asked, "--engine", "ray").stdout) == json.loads(run(*asked).stdout)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "sc-captioner[ray]" in run("caption", tmp_path, "--output", tmp_path / "new", *OPTIONS, code=2).stderr
    assert "--output" in run("caption", tmp_path, "--engine", "ray", code=2).stderr
