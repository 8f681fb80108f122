"""Bad data stops before training, in one sentence that names row or column and the remedy; good data is left alone."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import datasets
import pytest
from PIL import Image
from trl.data_utils import is_conversational, prepare_multimodal_messages

from sc_captioner.data.columns import (
    DatasetError,
    check_caption_dataset,
    conversation,
    conversational,
    row_problem,
)
from sc_captioner.data.loading import load_caption_dataset


def one_sentence(error: pytest.ExceptionInfo[DatasetError]) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 400
    return text


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def rows_file(tmp_path: Path, caption_rows: list[dict[str, str]]) -> str:
    return written(tmp_path / "rows.jsonl", caption_rows)


COLUMNS = {"reference": "caption"}


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_come_as_rgb_images_with_prompt_and_reference(rows_file, streaming):
    dataset = load_caption_dataset(rows_file, columns=COLUMNS, streaming=streaming, prompt="Say what you see.")
    rows = list(dataset)
    assert len(rows) == 6
    assert {row["image"].mode for row in rows} == {"RGB"} and {row["image"].size for row in rows} == {(40, 30)}
    assert rows[3]["reference"] == "Picture number 3 of a gray slope."
    assert {row["prompt"] for row in rows} == {"Say what you see."}
    assert len(list(load_caption_dataset(rows_file, columns=COLUMNS, streaming=streaming, num_samples=2))) == 2


@pytest.mark.parametrize("form", ["parquet", "csv", "saved", "saved_splits", "imagefolder"])
def test_the_same_rows_load_from_every_local_form(tmp_path, rows_file, caption_rows, form):
    loaded = load_caption_dataset(rows_file, columns=COLUMNS)
    target = tmp_path / form
    if form == "parquet":
        target = tmp_path / "rows.parquet"
        loaded.to_parquet(target)
    elif form == "csv":
        target = tmp_path / "rows.csv"
        target.write_text("image,reference\n" + "\n".join(f"{r['image']},{r['caption']}" for r in caption_rows))
    elif form == "saved":
        loaded.save_to_disk(target)
    elif form == "saved_splits":
        datasets.DatasetDict({"train": loaded}).save_to_disk(target)
    else:
        target = tmp_path / "images"
        rows = [{"file_name": Path(row["image"]).name, "reference": row["caption"]} for row in caption_rows]
        written(target / "metadata.jsonl", rows)
    dataset = load_caption_dataset(str(target))
    by_reference = {row["reference"]: row["image"].tobytes() for row in dataset}
    assert by_reference == {row["reference"]: row["image"].tobytes() for row in loaded}


def test_scenes_load_by_name():
    dataset = load_caption_dataset("scenes", split="test", num_samples=3, seed=5)
    assert len(dataset) == 3 and dataset[0]["image"].mode == "RGB"
    assert {"prompt", "reference", "extra_objects", "extra_attributes", "questions"} <= set(dataset.column_names)


@pytest.mark.parametrize("streaming", [False, True])
def test_trainers_get_a_conversation_and_no_image_is_decoded_for_it(rows_file, streaming, monkeypatch):
    dataset = load_caption_dataset(rows_file, columns=COLUMNS, streaming=streaming)
    with monkeypatch.context() as patch:
        patch.setattr(datasets.Image, "decode_example", lambda *_: pytest.fail("an image was decoded"))
        ready = conversational(dataset)
    row = next(iter(ready))
    assert is_conversational({"prompt": row["prompt"]})
    message = prepare_multimodal_messages(row["prompt"], images=[row["image"]])[0]
    assert [block["type"] for block in message["content"]] == ["image", "text"]
    assert message["content"][0]["image"].size == (40, 30)
    assert next(iter(conversational(ready)))["prompt"] == row["prompt"]


def test_conversational_adds_no_image_bytes(tmp_path):
    dataset = load_caption_dataset("scenes", num_samples=64)
    ready = conversational(dataset)
    shared_buffers = {b.address for c in dataset.data.column("image").chunks for b in c.buffers() if b}
    assert {b.address for c in ready.data.column("image").chunks for b in c.buffers() if b} == shared_buffers


def test_a_conversation_given_by_the_dataset_stays():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Describe."}]
    assert (
        conversation(turns) == turns
        and row_problem({"image": Image.new("RGB", (4, 4)), "reference": "x", "prompt": turns}) is None
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image": "images/none.png"}, ["row 2", "'image'", "none.png", "No such file"]),
        ({"image": None}, ["row 2", "'image'", "no image", "remove the row"]),
        ({"caption": "  "}, ["row 2", "'reference'", "empty text"]),
        ({"caption": None}, ["row 2", "'reference'", "nothing", "text is needed"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_is_named(tmp_path, caption_rows, change, words, streaming):
    caption_rows[2] |= change
    with pytest.raises(DatasetError) as error:
        load_caption_dataset(written(tmp_path / "rows.jsonl", caption_rows), columns=COLUMNS, streaming=streaming)
    assert all(word in one_sentence(error) for word in words)
    assert list(error.value.problems) == [2]


def test_a_reference_that_is_no_text_is_named(tmp_path, caption_rows):
    rows = [row | {"caption": index} for index, row in enumerate(caption_rows)]
    with pytest.raises(DatasetError, match="row 0: column 'reference' holds int .*6 of 6 rows"):
        load_caption_dataset(written(tmp_path / "rows.jsonl", rows), columns=COLUMNS)


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize("damage", ["truncated", "check sum", "not an image"])
def test_a_corrupt_image_is_named(tmp_path, caption_rows, rows_file, damage, num_proc):
    file = tmp_path / caption_rows[1]["image"]
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "check sum":
        data[data.index(b"IDAT") + 8] ^= 255
    else:
        data = bytearray(b"<html>not found</html>")
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=r"row 1: column 'image' .*images/1\.png\) that does not decode") as error:
        load_caption_dataset(rows_file, columns=COLUMNS, num_proc=num_proc)
    one_sentence(error)


def test_the_first_bad_row_is_named_and_all_are_counted(tmp_path, caption_rows, rows_file):
    for index in (1, 4):
        (tmp_path / caption_rows[index]["image"]).write_bytes(b"")
    with pytest.raises(DatasetError, match="row 1.*2 of 6 rows have problems") as error:
        load_caption_dataset(rows_file, columns=COLUMNS)
    assert sorted(error.value.problems) == [1, 4]


def test_a_stream_skips_and_counts_later_bad_rows(tmp_path, caption_rows, rows_file, caplog):
    stream = datasets.load_dataset("json", data_files=rows_file, split="train", streaming=True).rename_column(
        "caption", "reference"
    )
    stream = stream.map(lambda row: {"image": str(tmp_path / row["image"])}, features=stream.features)
    checked = check_caption_dataset(stream, setting="train_dataset", peek=2)
    for index in (3, 5):
        (tmp_path / caption_rows[index]["image"]).write_bytes(b"GIF89a")
    with caplog.at_level(logging.WARNING):
        kept = [row["reference"] for row in checked]
    assert kept == [caption_rows[i]["caption"] for i in (0, 1, 2, 4)]
    assert [re.search(r"\((\d+) so far\)", message).group(1) for message in caplog.messages] == ["1", "2"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_column_is_named_with_the_setting_that_mends_it(rows_file, streaming):
    with pytest.raises(
        DatasetError, match=r"no column 'reference' .*'caption'.* columns: \{reference: caption\}"
    ) as error:
        load_caption_dataset(rows_file, streaming=streaming)
    one_sentence(error)
    assert load_caption_dataset(rows_file, required=["image"], streaming=streaming).column_names is not None
    with pytest.raises(DatasetError, match="columns maps 'reference' to 'caption2'"):
        load_caption_dataset(rows_file, columns={"reference": "caption2"}, streaming=streaming)


def test_an_empty_dataset_is_named():
    empty = datasets.Dataset.from_dict({"image": [], "prompt": [], "reference": []})
    for dataset in (empty, datasets.IterableDataset.from_generator(lambda: iter(()))):
        with pytest.raises(DatasetError, match="train_dataset is empty"):
            check_caption_dataset(dataset, setting="train_dataset")
    with pytest.raises(DatasetError, match=r"splits \(train\)"):
        check_caption_dataset(datasets.DatasetDict({"train": empty}), setting="train_dataset")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name_or_path": "missing.jsonl"}, "does not exist"),
        ({"name_or_path": "./missing"}, "does not exist"),
        ({"name_or_path": "nobody/nothing"}, "Hub"),
        ({"name_or_path": "scenes"}, "set num_samples"),
        ({"name_or_path": "scenes", "num_samples": 4, "split": "validation"}, "'validation'"),
        ({"name_or_path": "scenes", "num_samples": 0}, "num_samples|at least 1"),
        ({"name_or_path": "notes.txt"}, r"\.jsonl"),
        ({"name_or_path": "broken.json"}, "broken.json.*cannot be read"),
        ({"name_or_path": "saved", "split": "test"}, "no split 'test'"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("hello")
    Path("broken.json").write_text('{"image": ')
    rows = datasets.Dataset.from_dict({"reference": ["a"]})
    datasets.DatasetDict({"train": rows}).save_to_disk("saved")
    with pytest.raises(DatasetError, match=words) as error:
        load_caption_dataset(**arguments)
    one_sentence(error)


@pytest.mark.parametrize(
    "annotations, word",
    [
        ({"extra_objects": "dog"}, "extra_objects"),
        ({"extra_objects": ["dog", 3]}, "extra_objects"),
        ({"extra_attributes": [{"object": "dog", "attributes": "black"}]}, "extra_attributes"),
        ({"questions": [{"question": "Is it?", "answer": "maybe"}]}, "questions"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_annotations_of_another_form_are_named(annotations, word):
    row = {"image": Image.new("RGB", (4, 4)), "reference": "A dog."}
    assert row_problem(row) is None
    assert word in row_problem(row | annotations)
    assert row_problem(row | {"extra_objects": None, "extra_attributes": None, "questions": None}) is None
