"""A model that cannot see the image or take a second turn is refused before training, with the remedy."""

from __future__ import annotations

import copy

import pytest
import tiny_models

from sc_captioner.data.model_checks import ModelError, check_captioner


@pytest.fixture(scope="module")
def qwen():
    model, processor = tiny_models.tiny_qwen2_vl()
    return model.config, processor


def with_template(processor, template):
    changed = copy.copy(processor)
    changed.chat_template = template
    return changed


@pytest.mark.parametrize("build", tiny_models.TINY.values(), ids=tiny_models.TINY)
def test_real_architectures_pass(build):
    model, processor = build()
    check_captioner(model.config, processor)


def refused(config, processor) -> str:
    with pytest.raises(ModelError) as error:
        check_captioner(config, processor, name="my/model")
    text = str(error.value)
    assert text.startswith("model 'my/model'") and text.endswith(".") and "\n" not in text
    return text


def test_a_model_without_image_processor(qwen):
    config, processor = qwen
    assert "image processor" in refused(config, processor.tokenizer)


def test_a_model_without_chat_template(qwen):
    config, processor = qwen
    assert "no chat template" in refused(config, with_template(processor, None))


def test_a_model_without_image_token(qwen):
    config, processor = qwen
    assert "names no image token" in refused(config.text_config, processor)
    changed = copy.deepcopy(config)
    changed.image_token_id = 10**6
    assert "unknown to the tokenizer" in refused(changed, processor)


def test_a_tokenizer_larger_than_the_embeddings(qwen):
    config, processor = qwen
    changed = copy.deepcopy(config)
    changed.text_config.vocab_size = config.text_config.vocab_size - 1
    assert "resize_token_embeddings" in refused(changed, processor)


def test_a_template_that_drops_the_image_or_a_turn_or_fails(qwen):
    config, processor = qwen
    no_image = tiny_models.QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    assert "leaves the image out" in refused(config, with_template(processor, no_image))
    last_only = tiny_models.QWEN_TEMPLATE.replace("in messages", "in messages[-1:]")
    assert "drops earlier turns" in refused(config, with_template(processor, last_only))
    one_turn = (
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + tiny_models.QWEN_TEMPLATE
    )
    assert "second user turn (one turn only)" in refused(config, with_template(processor, one_turn))
    assert "fails on a message" in refused(config, with_template(processor, "{{ raise_exception('no') }}"))
