"""SelfCorrectingCaptioner and its pipeline: images in all forms, several turns, revisions, streams, adapters."""

from __future__ import annotations

import io
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from tiny_models import tiny_qwen2_vl
from transformers import BitsAndBytesConfig, TextStreamer, pipeline

import sc_captioner.pipeline
from sc_captioner import SelfCorrectingCaptioner, prompts
from sc_captioner.captioner import EMBEDDED, ImageError, load_image
from sc_captioner.data import CAPTION_PROMPT, CORRECTION_INSTRUCTION, ModelError, build_scenes, caption_graph
from sc_captioner.model_card import SETTINGS_FILE, RunSettings
from sc_captioner.rewards.revision import facts_of, revision_of
from sc_captioner.scene_graph import load_lexicon


@pytest.fixture(scope="module")
def captioner():
    return SelfCorrectingCaptioner.from_pretrained()


@pytest.fixture(scope="module")
def rows():
    return build_scenes(5, split="test", seed=777)


@pytest.fixture(scope="module")
def results(captioner, rows):
    return captioner(rows["image"], num_corrections=2, batch_size=2)


def plainly(captioner, image, turns: int, **generation) -> list[str]:
    """Captions by the model's own `generate`, one image at a time, the whole conversation encoded anew every turn."""
    model, processor, captions = captioner.model, captioner.processor, []
    content = [{"type": "image", "image": image}, {"type": "text", "text": captioner.prompt}]
    messages = [{"role": "user", "content": content}]
    for _ in range(turns):
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = model.generate(**inputs, do_sample=False, **generation)[:, inputs["input_ids"].size(1) :]
        captions.append(processor.batch_decode(ids, skip_special_tokens=True)[0])
        messages.append({"role": "assistant", "content": [{"type": "text", "text": captions[-1]}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": captioner.instruction}]})
    return captions


def test_every_turn_says_what_the_whole_conversation_encoded_anew_says(captioner, rows, results):
    assert any(result.first != result.caption for result in results)
    for image, result in zip(rows["image"], results):
        assert [result.first, *result.corrections] == plainly(captioner, image, 3, max_new_tokens=96)


def test_beams_and_other_generation_settings_reach_every_turn(captioner, rows):
    image = rows[0]["image"]
    beams = captioner(image, num_beams=2, max_new_tokens=96)
    assert [beams.first, beams.caption] == plainly(captioner, image, 2, num_beams=2, max_new_tokens=96)
    short = captioner(image, max_new_tokens=3)
    counts = [len(captioner.processor.tokenizer(text)["input_ids"]) for text in (short.first, short.caption)]
    assert counts == [3, 3]
    sampled = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        sampled.append(captioner(image, do_sample=True, temperature=2.0, max_new_tokens=24))
    assert sampled[0] == sampled[1] != sampled[2]


class SceneParser:
    """Reads the language of the scenes by its grammar."""

    name = "scenes"

    def parse(self, sentences):
        return [caption_graph(sentence) for sentence in sentences]


def test_revisions_are_those_of_the_injected_parser(captioner, rows, results):
    own = SelfCorrectingCaptioner(
        captioner.model,
        captioner.processor,
        prompt=captioner.prompt,
        instruction=captioner.instruction,
        parser=SceneParser(),
        lexicon="bundled",
    )
    lexicon, seen = load_lexicon("bundled"), 0
    for result in own(rows["image"]):
        before, after = (facts_of(caption_graph(text), text, lexicon) for text in (result.first, result.caption))
        assert result.revisions == (revision_of(before, after),)
        seen += bool(result.revisions[0].added_attributes)
    assert seen
    # The embedded parser knows this language as well.
    assert [r.revisions[0] for r in own(rows["image"])] == [result.revisions[0] for result in results]


def test_results_are_json_and_no_correction_is_one_caption(captioner, rows, results):
    told = json.loads(json.dumps(results[0].to_dict()))
    assert told["first"] == results[0].first and told["corrections"] == list(results[0].corrections)
    assert told["revisions"] == [revision.to_dict() for revision in results[0].revisions]
    alone = captioner(rows[0]["image"], num_corrections=0)
    assert (alone.caption, alone.corrections, alone.revisions) == (results[0].first, (), ())


# --- Images ----------------------------------------------------------------------------------------------------------


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_images_come_in_every_form(captioner, rows, results, tmp_path, address):
    image, path = rows[0]["image"], tmp_path / "scene.png"
    image.save(path)
    forms = [image, path, str(path), {"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}]
    forms.append(f"{address}/scene.png")
    many = captioner((form for form in forms), batch_size=4)
    assert {(result.first, result.caption) for result in many} == {(results[0].first, results[0].corrections[0])}
    assert len(many) == len(forms)
    assert captioner(path) == many[0]
    assert captioner([]) == []


def test_photos_are_turned_upright(tmp_path):
    upright = Image.linear_gradient("L").resize((40, 20)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned by 90 degrees clockwise
    buffer = io.BytesIO()
    upright.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    assert load_image({"bytes": buffer.getvalue(), "path": None}).tobytes() == upright.tobytes()


def test_an_image_that_cannot_be_read_is_named(captioner, tmp_path, address):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    whole = io.BytesIO()
    Image.linear_gradient("L").save(whole, "PNG")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.getvalue()[:200])
    for bad in (str(broken), str(cut), str(tmp_path / "none.png"), f"{address}/none.png"):
        with pytest.raises(ImageError) as error:
            captioner(bad)
        assert bad in str(error.value)
    with pytest.raises(ImageError, match=r"none\.png.*No such file"):
        captioner(tmp_path / "none.png")


def test_wrong_arguments_are_refused(captioner, rows):
    with pytest.raises(ValueError, match="num_corrections is 0 or more"):
        captioner(rows[0]["image"], num_corrections=-1)
    with pytest.raises(ValueError, match="single image"):
        captioner(rows["image"], streamer=TextStreamer(captioner.processor.tokenizer))
    with pytest.raises(ValueError, match="num_return_sequences"):
        captioner(rows[0]["image"], do_sample=True, num_return_sequences=2)


# --- Streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_hands_out_the_text_turn_by_turn(captioner, rows, results):
    pieces = list(captioner.stream(rows[0]["image"], num_corrections=2))
    assert len(pieces) > 10
    texts = ["".join(text for turn, text in pieces if turn == number) for number in range(3)]
    assert texts == [results[0].first, *results[0].corrections]


def test_a_closed_stream_ends_its_generation(captioner, rows):
    before = threading.active_count()
    stream = captioner.stream(rows[0]["image"], max_new_tokens=500, min_new_tokens=500)
    assert next(stream)[0] == 0
    stream.close()  # returns when the thread has ended
    assert threading.active_count() == before


def test_a_stream_raises_what_went_wrong(captioner, tmp_path):
    with pytest.raises(ImageError, match="none.png"):
        list(captioner.stream(tmp_path / "none.png"))


def test_a_streamer_of_transformers_prints_both_turns(captioner, rows, results, capsys):
    streamer = TextStreamer(captioner.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    captioner(rows[0]["image"], streamer=streamer)
    assert capsys.readouterr().out.split("\n")[:2] == [results[0].first, results[0].corrections[0]]


# --- Models ----------------------------------------------------------------------------------------------------------


def test_an_adapter_captions_as_its_merged_model_does(tmp_path, rows):
    model, processor = tiny_qwen2_vl()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    targets = ["q_proj", "v_proj", "lm_head"]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    captions = {}
    for name in ("base", "adapter"):
        captioner = SelfCorrectingCaptioner.from_pretrained(tmp_path / name, device="cpu")
        captions[name] = captioner(rows[0]["image"], max_new_tokens=8)
    base, _ = tiny_qwen2_vl()
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert SelfCorrectingCaptioner(merged, processor)(rows[0]["image"], max_new_tokens=8) == captions["adapter"]
    assert captions["base"] != captions["adapter"]


def test_from_pretrained_hands_on_type_device_map_and_quantisation(rows, results):
    model = SelfCorrectingCaptioner.from_pretrained(dtype="bfloat16", device_map="meta").model
    assert (model.dtype, model.device.type) == (torch.bfloat16, "meta")
    # bitsandbytes' CPU kernels take widths in steps of 64; the vision tower's is 96.
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["model.visual", "lm_head"])
    quantised = SelfCorrectingCaptioner.from_pretrained(quantization_config=config, dtype="bfloat16")
    assert quantised.model.is_loaded_in_4bit
    assert quantised(rows[0]["image"]).first


def test_a_model_is_asked_what_it_was_trained_to_be_asked(captioner, tmp_path):
    assert (captioner.prompt, captioner.instruction) == (CAPTION_PROMPT, CORRECTION_INSTRUCTION)
    folder = tmp_path / "captioner"
    shutil.copytree(EMBEDDED, folder)
    RunSettings(base_model="", prompt="Name all.", instruction="Name what is missing.").save(folder / SETTINGS_FILE)
    trained = SelfCorrectingCaptioner.from_pretrained(folder)
    assert (trained.prompt, trained.instruction) == ("Name all.", "Name what is missing.")
    told = SelfCorrectingCaptioner.from_pretrained(folder, instruction="Again.")
    assert (told.prompt, told.instruction) == ("Name all.", "Again.")
    (folder / SETTINGS_FILE).unlink()
    plain = SelfCorrectingCaptioner.from_pretrained(folder)
    assert (plain.prompt, plain.instruction) == (prompts.CAPTION_PROMPT, prompts.CORRECTION_INSTRUCTION)
    (folder / SETTINGS_FILE).write_text('{"prompt": "Name')
    with pytest.raises(ModelError, match=f"{SETTINGS_FILE} cannot be read"):
        SelfCorrectingCaptioner.from_pretrained(folder)


def test_a_model_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(ModelError, match="none"):
        SelfCorrectingCaptioner.from_pretrained(tmp_path / "none")


def test_the_pipeline_of_transformers_says_the_same(rows, results, tmp_path):
    task = pipeline("self-correcting-image-to-text", model=EMBEDDED)
    expected = [result.to_dict() for result in results]
    images = list(rows["image"])
    assert task(images, batch_size=2, num_corrections=2) == expected
    images[1].save(tmp_path / "scene.png")
    assert task(str(tmp_path / "scene.png"), num_corrections=2, max_new_tokens=96) == expected[1]
    assert isinstance(task, sc_captioner.pipeline.SelfCorrectingImageToTextPipeline)
    assert Path(task.model.name_or_path) == Path(EMBEDDED)
