"""Captions of every released form and of any dataset become our columns; bad rows are dropped, counted and named."""

from __future__ import annotations

import io
import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from sc_captioner.data import DatasetError, load_caption_dataset
from sc_captioner.data.preparation import prepare
from sc_captioner.data.released import found_image
from sc_captioner.data.sources import CaptionSource, open_captions
from sc_captioner.prompts import CAPTION_PROMPT


ROOT = Path(__file__).parents[1]


def picture(seed: int, size: int = 24, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Images as COCO's folder holds them."""
    folder = tmp_path / "coco" / "train2017"
    folder.mkdir(parents=True)
    for i in range(6):
        (folder / f"{i:012d}.jpg").write_bytes(picture(i))
    return folder


def sharegpt(i: int, answer: str | None = None, **more) -> dict:
    """An entry as SC-Captioner-data has it, with the path of the machine it was made on."""
    turns = [{"from": "human", "value": "<image>Describe this image in detail."}]
    if answer is not None:
        turns.append({"from": "gpt", "value": answer})
    return {"conversations": turns, "images": [f"/home/someone/coco/train2017/{i:012d}.jpg"], **more}


def run_recipe(capsys, *arguments) -> dict:
    """recipes/prepare_data.py in this process; the report on its last line."""
    argv, sys.argv = sys.argv, ["recipes/prepare_data.py", *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "recipes" / "prepare_data.py"), run_name="__main__")
    finally:
        sys.argv = argv
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def stored(folder: Path, split: str = "train") -> list[dict]:
    """Rows as they lie in the shards, images undecoded."""
    files = sorted(map(str, folder.glob(f"data/{split}-*.parquet")))
    dataset = datasets.load_dataset("parquet", data_files=files, split="train")
    return dataset.cast_column("image", datasets.Image(decode=False)).to_list()


@pytest.mark.parametrize("streaming", [False, True])
def test_released_captions_come_back_with_their_images(tmp_path, coco, capsys, streaming):
    entries = [sharegpt(i, f"Caption number {i}.") for i in range(6)]
    (tmp_path / "train_coco6k_sft.json").write_text(json.dumps(entries))
    report = run_recipe(
        capsys, "--dataset", tmp_path / "train_coco6k_sft.json", "--image_root", coco, "--output_dir", tmp_path / "out"
    )  # fmt: skip
    assert (report["read"], report["kept"], report["dropped"]) == (6, 6, {})
    assert [row["image"]["bytes"] for row in stored(tmp_path / "out")] == [picture(i) for i in range(6)]
    rows = list(load_caption_dataset(str(tmp_path / "out"), streaming=streaming))
    assert [row["reference"] for row in rows] == [f"Caption number {i}." for i in range(6)]
    assert {row["prompt"] for row in rows} == {"Describe this image in detail."}
    assert np.array_equal(rows[3]["image"], Image.open(coco / "000000000003.jpg"))


def test_the_chosen_caption_is_the_reference(tmp_path, coco):
    message = {"from": "gpt", "value": "Good."}
    entries = [sharegpt(0, chosen=message, rejected={"from": "gpt", "value": "Bad."})]
    entries.append(sharegpt(1, chosen={"role": "assistant", "content": "Better."}, rejected=message))
    (tmp_path / "train_coco6k_2.json").write_text(json.dumps(entries))
    source = open_captions(str(tmp_path / "train_coco6k_2.json"), image_root=coco)
    prepare(source, tmp_path / "out")
    rows = load_caption_dataset(str(tmp_path / "out"))
    assert (rows["reference"], rows["rejected"]) == (["Good.", "Better."], ["Bad.", "Good."])


@pytest.mark.parametrize(("split", "ids"), [("train", ["train_00000", "train_00002"]), ("test", ["test_00001"])])
def test_of_docci_one_split_is_taken(tmp_path, coco, capsys, split, ids):
    lines = [
        {"split": name, "image_file": f"{i:012d}.jpg", "example_id": f"{name}_{i:05d}", "description": f"About {i}."}
        for i, name in enumerate(["train", "test", "train", "qual_dev"])
    ]
    (tmp_path / "docci_descriptions.jsonlines").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_recipe(
        capsys, "--dataset", tmp_path / "docci_descriptions.jsonlines", "--dataset_split", split, "--image_root", coco,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    rows = load_caption_dataset(str(tmp_path / "out"), split=split)
    assert rows["id"] == ids
    assert rows["reference"] == [f"About {int(name[-1])}." for name in ids]
    assert set(rows["prompt"]) == {CAPTION_PROMPT}


def test_a_folder_holds_several_splits_of_any_name(tmp_path, coco, capsys):
    for split in ("train", "coco500"):
        (tmp_path / f"{split}.json").write_text(json.dumps([sharegpt(0, f"Of {split}.")]))
        run_recipe(
            capsys, "--dataset", tmp_path / f"{split}.json", "--dataset_split", split, "--image_root", coco,
            "--output_dir", tmp_path / "out",
        )  # fmt: skip
    for split in ("train", "coco500"):
        assert load_caption_dataset(str(tmp_path / "out"), split=split)["reference"] == [f"Of {split}."]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "saved", "imagefolder", "scenes"])
def test_any_dataset_with_an_image_and_a_caption_column(tmp_path, coco, form):
    files = sorted(coco.iterdir())
    table = {"picture": [str(f) for f in files], "text": [f"Caption {f.stem}." for f in files], "url": ["x"] * 6}
    dataset = datasets.Dataset.from_dict(table).cast_column("picture", datasets.Image())
    columns, name = {"image": "picture", "reference": "text"}, str(tmp_path / form)
    if form == "parquet":
        name += ".parquet"
        embedded = [{"bytes": f.read_bytes(), "path": None} for f in files]
        dataset = datasets.Dataset.from_dict({**table, "picture": embedded}).cast_column("picture", datasets.Image())
        dataset.to_parquet(name)
    elif form == "jsonl":
        name += ".jsonl"
        lines = [{"picture": f.name, "text": text, "url": "x"} for f, text in zip(files, table["text"])]
        Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif form == "saved":
        dataset.save_to_disk(name)
    elif form == "imagefolder":
        lines = [{"file_name": f.name, "text": text, "url": "x"} for f, text in zip(files, table["text"])]
        (coco / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        name, columns = str(coco), {"reference": "text"}
    if form == "scenes":
        source = open_captions("scenes", num_samples=6, seed=4)
        expected = datasets.Dataset.from_list(list(load_caption_dataset("scenes", num_samples=6, seed=4)))
        prepare(source, tmp_path / "out")
        rows = load_caption_dataset(str(tmp_path / "out"))
        for column in ("reference", "prompt", "extra_objects", "questions"):
            assert rows[column] == expected[column]
        return
    source = open_captions(name, columns=columns, image_root=coco if form == "jsonl" else None)
    assert source.left_out == ["url"]
    report = prepare(source, tmp_path / "out")
    assert (report.read, report.kept) == (6, 6)
    rows = stored(tmp_path / "out")
    assert [row["reference"] for row in rows] == table["text"]
    assert [row["image"]["bytes"] for row in rows] == [f.read_bytes() for f in files]


def test_by_path_no_image_is_copied(tmp_path, coco):
    (tmp_path / "rows.json").write_text(json.dumps([sharegpt(i, f"Caption {i}.") for i in range(6)]))
    prepare(open_captions(str(tmp_path / "rows.json"), image_root=coco), tmp_path / "out", images="path")
    assert {row["image"]["bytes"] for row in stored(tmp_path / "out")} == {None}
    rows = load_caption_dataset(str(tmp_path / "out"))
    assert [np.asarray(image).sum() for image in rows["image"]] == [
        np.asarray(Image.open(file)).sum() for file in sorted(coco.iterdir())
    ]
    embedded = CaptionSource([{"image": {"bytes": picture(0), "path": None}, "reference": "x"}], source_features(), [])
    with pytest.raises(DatasetError, match="set images to embed"):
        prepare(embedded, tmp_path / "other", images="path")


def source_features() -> datasets.Features:
    return datasets.Features({"image": datasets.Image(), "reference": datasets.Value("string")})


BAD = {
    "no image": (sharegpt(0, "x") | {"images": []}, "holds 0 paths where one is needed"),
    "two images": (sharegpt(0, "x") | {"images": ["a.jpg", "b.jpg"]}, "holds 2 paths where one is needed"),
    "missing image": (sharegpt(99, "x"), "000000000099.jpg, which cannot be read (No such file or directory)"),
    "corrupt image": (sharegpt(5, "x"), "does not decode"),
    "empty caption": (sharegpt(0, "  "), "column 'reference' is an empty text"),
    "caption of a number": (sharegpt(0, 7), "column 'reference' holds int where a text is needed"),
    "no answer": (sharegpt(0), "has 1 questions and 0 answers"),
    "rejected": (sharegpt(0, "x", rejected=[1]), "column 'rejected' holds list where a text is needed"),
    "no object": (["x"], "is list where a JSON object is needed"),
    "conversations": ({"conversations": None, "images": ["a"]}, "has 0 questions and 0 answers"),
}


def test_every_bad_row_is_dropped_counted_and_named(tmp_path, coco, capsys):
    (coco / "000000000005.jpg").write_bytes(picture(5)[:200])
    entries = [sharegpt(0, "Good.", rejected={"from": "gpt", "value": "Bad."}), *(entry for entry, _ in BAD.values())]
    lines = [json.dumps(entry) for entry in entries] + ['{"conversations": ', '{"id": "\\ud83d"}']
    lines.append(json.dumps(sharegpt(1, "Cut off \ud83d")))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    report = run_recipe(
        capsys, "--dataset", tmp_path / "rows.jsonl", "--image_root", coco, "--output_dir", tmp_path / "out"
    )
    assert (report["read"], report["kept"]) == (len(lines), 2)
    assert sum(entry["count"] for entry in report["dropped"].values()) == len(lines) - 2
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped-train.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in dropped] == list(range(1, len(lines) - 1))
    for entry, (_, words) in zip(dropped, BAD.values()):
        assert words in entry["problem"]
    assert "no JSON" in dropped[len(BAD)]["problem"]
    assert [row["reference"] for row in stored(tmp_path / "out")] == ["Good.", "Cut off ?"]
    # Rows that have the same trouble are counted together, whatever their paths.
    assert report["dropped"]["column 'images' holds N paths where one is needed"]["count"] == 2


def rows_that_break_off(number: int, broken_at: int | None):
    for i in range(number):
        if i == broken_at:
            raise ConnectionError("the source broke off")
        good = {"image": {"bytes": picture(i), "path": None}, "reference": f"Caption {i}."}
        yield f"is bad number {i}" if i % 7 == 3 else good


def test_a_stopped_preparation_goes_on_and_ends_like_one_that_was_not(tmp_path):
    class Rows:
        def __init__(self, broken_at):
            self.broken_at = broken_at

        def __iter__(self):
            return rows_that_break_off(400, self.broken_at)

    finished = []

    def seen(shard):
        if "seen" not in shard:
            finished.append(shard["file"])
            shard["seen"] = True

    def run(folder, broken_at=None):
        return prepare(
            CaptionSource(Rows(broken_at), source_features(), []), folder, max_shard_bytes=1,
            settings={"dataset": "x"}, on_shard=seen,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    finished.clear()
    with pytest.raises(DatasetError, match=r"broke off after 200 rows \(the source broke off\); the same command"):
        run(tmp_path / "stopped", broken_at=200)
    assert 0 < len(finished) < len(whole.shards)
    report = run(tmp_path / "stopped")
    assert report == whole and report.read == 400 and report.kept == 343
    assert finished == [f"data/train-{i:05d}.parquet" for i in range(len(whole.shards))]  # none done twice
    for name in ("dropped-train.jsonl", "preparation-train.json", *(shard["file"] for shard in whole.shards)):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [row["reference"] for row in stored(tmp_path / "stopped")] == [
        f"Caption {i}." for i in range(400) if i % 7 != 3
    ]
    with pytest.raises(DatasetError, match=r"another dataset \('x', now 'y'\); choose another output_dir"):
        prepare(CaptionSource([], source_features(), []), tmp_path / "whole", settings={"dataset": "y"})


def test_memory_does_not_grow_with_the_data(tmp_path):
    """400 MB of images pass through; the last 300 take no more memory than the first 100 did."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("reads the memory in use from /proc")
    data, resident = picture(0, size=570, form="BMP"), []

    class Rows:
        def __iter__(self):
            for i in range(400):
                resident.append(int(pages.read_text().split()[1]) * 4096)
                # Bytes of their own, as those of a row that was just read are.
                yield {"image": {"bytes": data[:-4] + i.to_bytes(4, "little"), "path": None}, "reference": "x"}

    def drop(shard):
        (tmp_path / shard["file"]).unlink(missing_ok=True)

    report = prepare(CaptionSource(Rows(), source_features(), []), tmp_path, max_shard_bytes=5 * 10**7, on_shard=drop)
    assert report.kept == 400 and len(data) * 400 > 380e6 and len(report.shards) >= 3
    assert not list(tmp_path.glob("data/*"))  # nor does the disk fill
    assert max(resident) - max(resident[:100]) < 60e6


@pytest.mark.parametrize(
    ("rows", "arguments", "said"),
    [
        ([{"prompt": "p", "label": "l", "predict": "x"}], [], ["predictions", "recipes/evaluate.py --predictions"]),
        ([sharegpt(99, "x")] * 3, [], ["none of the 3 rows", "row 0", "image_root"]),
        ([{"image": "a.jpg", "caption": "x"}], [], ["no column 'reference'", "reference: caption"]),
        ([{"image": "a.jpg", "caption": "x"}], ["--columns", '{"reference": "text"}'], ["'text'", "'caption'"]),
        ([sharegpt(0, "x")], ["--dataset_split", "train[:5]"], ["dataset_split", "'train'"]),
        ([sharegpt(0, "x")], ["--keep_shards", "false"], ["keep_shards", "push_to_hub"]),
        ([sharegpt(0, "x")], ["--images", "path", "--push_to_hub", "me/x"], ["images=path", "embed"]),
    ],
)
def test_what_cannot_be_prepared_ends_in_one_sentence(tmp_path, coco, capsys, rows, arguments, said):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as exit_info:
        run_recipe(
            capsys, "--dataset", path, "--image_root", coco, "--output_dir", tmp_path / "out", *arguments
        )  # fmt: skip
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert exit_info.value.code == 2
    for words in said:
        assert words in error


def test_an_image_is_looked_for_as_written_then_by_its_name(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("below/a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert found_image("below/a.jpg", tmp_path) == str(tmp_path / "below/a.jpg")
    assert found_image(str(tmp_path / "b.jpg"), "/nowhere") == str(tmp_path / "b.jpg")
    assert found_image("/home/someone/coco/b.jpg", tmp_path) == str(tmp_path / "b.jpg")
    assert found_image("/home/someone/none.jpg", tmp_path) == "/home/someone/none.jpg"
    assert found_image("https://host/b.jpg", tmp_path) == "https://host/b.jpg"
