"""Two turns with real architectures at toy size: the cached second turn says what a full forward pass says."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY, tiny_qwen2_vl
from transformers import GenerationConfig

from sc_captioner.generation import (
    Bridge,
    correction_bridge,
    generate_corrections,
    generate_two_turns,
    vision_token_ids,
)


INSTRUCTION = "Please review the caption."


@pytest.fixture(scope="module", params=sorted(TINY))
def tiny(request):
    return TINY[request.param]()


def conversation_inputs(processor):
    rng = np.random.default_rng(0)
    messages = []
    for i, text in enumerate(("Describe this image.", "Describe this image in detail. In detail.")):
        image = Image.fromarray(rng.integers(0, 255, (56 + 28 * i, 56, 3), dtype=np.uint8))
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        messages.append([{"role": "user", "content": content}])
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    return processor.apply_chat_template(messages, **options, processor_kwargs={"padding": True})


def settings(processor, **changes):
    # A third of the vocabulary ends a turn, so that captions of very different lengths meet in a batch.
    ends = [processor.tokenizer.eos_token_id, *range(60, 110)]
    values = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": processor.tokenizer.pad_token_id}
    return GenerationConfig(eos_token_id=ends, **{**values, **changes})


@pytest.mark.parametrize(("sample", "corrections"), [(False, 1), (True, 1), (True, 3)])
def test_cached_and_encoded_again_sample_the_same_tokens(tiny, sample, corrections):
    model, processor = tiny
    inputs, config = conversation_inputs(processor), settings(processor, do_sample=sample)
    bridge = correction_bridge(processor, INSTRUCTION, config.eos_token_id)
    results = []
    for reuse_cache in (True, False):
        torch.manual_seed(0)
        results.append(generate_two_turns(model, inputs, bridge, config, corrections, reuse_cache))
    assert results[0] == results[1]
    assert len(results[0]) == 2 * corrections
    for start in range(0, len(results[0]), corrections):
        assert len({tuple(turns.first) for turns in results[0][start : start + corrections]}) == 1


def test_greedy_second_turn_is_the_argmax_of_an_unpadded_forward_pass(tiny):
    model, processor = tiny
    inputs, config = conversation_inputs(processor), settings(processor)
    bridge = correction_bridge(processor, INSTRUCTION, config.eos_token_id)
    for row, turns in enumerate(generate_two_turns(model, inputs, bridge, config)):
        prompt = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()
        ids = torch.tensor([prompt + turns.first + turns.bridge + turns.second])
        extra = {"mm_token_type_ids": (ids == model.config.image_token_id).int()} if "image_grid_thw" in inputs else {}
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra, **_image_of(inputs, row)).logits[0]
        chosen = logits[-len(turns.second) - 1 : -1].argmax(dim=-1).tolist()
        assert chosen == turns.second


def test_corrections_in_a_row_go_on_from_two_turns_and_are_the_argmax(tiny):
    model, processor = tiny
    inputs, config = conversation_inputs(processor), settings(processor)
    bridge = correction_bridge(processor, INSTRUCTION, config.eos_token_id)
    two = generate_two_turns(model, inputs, bridge, config)
    for row, captions in enumerate(generate_corrections(model, inputs, bridge, config, 2)):
        assert captions[:2] == [two[row].first, two[row].second]
        said = [token for caption in captions[:2] for token in (*caption, *bridge.after(caption, config.eos_token_id))]
        prompt = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()
        ids = torch.tensor([[*prompt, *said, *captions[2]]])
        extra = {"mm_token_type_ids": (ids == model.config.image_token_id).int()} if "image_grid_thw" in inputs else {}
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra, **_image_of(inputs, row)).logits[0]
        assert logits[-len(captions[2]) - 1 : -1].argmax(dim=-1).tolist() == captions[2]


def test_no_correction_is_the_first_caption_alone_and_several_captions_per_turn_are_refused(tiny):
    model, processor = tiny
    inputs, config = conversation_inputs(processor), settings(processor)
    bridge = correction_bridge(processor, INSTRUCTION, config.eos_token_id)
    two = generate_two_turns(model, inputs, bridge, config)
    assert generate_corrections(model, inputs, bridge, config, 0) == [[turns.first] for turns in two]
    several = settings(processor, do_sample=True, num_return_sequences=2)
    with pytest.raises(ValueError, match="num_return_sequences"):
        generate_corrections(model, inputs, bridge, several)


def _image_of(inputs, row):
    if "image_grid_thw" in inputs:
        patches = inputs["image_grid_thw"].prod(dim=1).tolist()
        start = sum(patches[:row])
        pixels = inputs["pixel_values"][start : start + patches[row]]
        return {"pixel_values": pixels, "image_grid_thw": inputs["image_grid_thw"][row : row + 1]}
    keys = ("pixel_values", "pixel_attention_mask")
    return {key: inputs[key][row : row + 1] for key in keys if key in inputs}


def test_a_cut_off_first_caption_is_closed_and_a_finished_one_is_not(tiny):
    model, processor = tiny
    eos = processor.tokenizer.eos_token_id
    bridge = correction_bridge(processor, INSTRUCTION, [eos])
    assert bridge.close[-1] == eos
    assert bridge.after([70, 71], [eos]) == [*bridge.close, *bridge.ask]
    assert bridge.after([70, eos], [eos]) == list(bridge.ask)
    inputs = conversation_inputs(processor)
    config = settings(processor, max_new_tokens=2)
    config.eos_token_id = [eos]
    for turns in generate_two_turns(model, inputs, bridge, config):
        closed = turns.first[-1] == eos
        assert turns.bridge == [*(() if closed else bridge.close), *bridge.ask]


def test_the_bridge_is_what_the_chat_template_writes():
    _, processor = tiny_qwen2_vl()
    caption = "A small red circle."
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Describe this image."}]},
        {"role": "assistant", "content": [{"type": "text", "text": caption}]},
        {"role": "user", "content": [{"type": "text", "text": INSTRUCTION}]},
    ]
    whole = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    head = processor.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    eos = processor.tokenizer.eos_token_id
    bridge = correction_bridge(processor, INSTRUCTION, [eos])
    tokens = processor.tokenizer(head + caption)["input_ids"] + list(bridge.close) + list(bridge.ask)
    assert processor.tokenizer(whole)["input_ids"] == tokens


def test_a_template_that_drops_the_first_caption_is_refused():
    _, processor = tiny_qwen2_vl()
    processor.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    with pytest.raises(ValueError, match="chat template of Qwen2VLProcessor"):
        correction_bridge(processor, INSTRUCTION, [0])


def test_image_placeholders_are_never_sampled():
    model, processor = tiny_qwen2_vl()
    forbidden = vision_token_ids(model.config)
    assert forbidden == sorted(
        processor.tokenizer.convert_tokens_to_ids(
            ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
        )
    )
    model.lm_head.weight.data[forbidden] *= 50  # a policy that would say little else
    inputs, bridge = conversation_inputs(processor), Bridge((1,), (2, 3))

    def sampled(**changes):
        torch.manual_seed(0)
        turns = generate_two_turns(model, inputs, bridge, settings(processor, do_sample=True, **changes))
        return {token for turn in turns for token in (*turn.first, *turn.second)}

    assert sampled() & set(forbidden)
    assert not sampled(suppress_tokens=forbidden) & set(forbidden)


def test_several_greedy_corrections_are_refused():
    model, processor = tiny_qwen2_vl()
    with pytest.raises(ValueError, match="do_sample=True"):
        generate_two_turns(model, conversation_inputs(processor), Bridge((1,), (2,)), settings(processor), 2)
