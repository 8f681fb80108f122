"""The judge that compares a local text model's logits of yes and no, on real architectures at toy size."""

from __future__ import annotations

import pytest
import torch
from tiny_models import seeded, tokenizer_with
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, T5Config
from transformers import T5ForConditionalGeneration as T5

from sc_captioner.judges import load_judge
from sc_captioner.judges.local_model import LocalJudge


CAPTIONS = ["A cat is on a sofa.", "A dog stands behind a tree, and a man with a hat looks at it from afar.", ""]
ASKED = [["Is the cat on the sofa?", "Is the sofa on the cat?"], ["Is the dog behind the tree?"], ["Is it?"]]
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant]"


def tiny_judge(kind="llama", template=None, **options):
    tokenizer = tokenizer_with(["<pad>", "<s>", "</s>"], eos="</s>", pad="<pad>")
    tokenizer.chat_template = template
    size = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "llama":
        config = LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=1024, initializer_range=0.5, **size,
        )  # fmt: skip
        model = seeded(LlamaForCausalLM, config)
    elif kind == "bloom":
        model = seeded(
            BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5, **size)
        )
    else:
        config = T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, initializer_factor=3.0,
            **{**size, "bos_token_id": None},
        )  # fmt: skip
        model = seeded(T5, config)
    return LocalJudge(model, tokenizer=tokenizer, progress=False, **options)


@pytest.mark.parametrize(("kind", "template"), [("llama", None), ("llama", TEMPLATE), ("bloom", None), ("t5", None)])
def test_local_judge_compares_logits_of_yes_and_no(kind, template):
    """Margins of a padded batch equal those computed here from one unpadded forward pass per question."""
    judge = tiny_judge(kind, template, batch_size=3)
    model, tokenizer = judge._model, judge._tokenizer
    margins = judge.margins(CAPTIONS, ASKED)
    first = {
        word: {tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in spellings}
        for word, spellings in {
            "y": ("yes", "Yes", " yes", " Yes", "YES"),
            "n": ("no", "No", " no", " No", "NO"),
        }.items()
    }
    yes, no = sorted(first["y"] - first["n"]), sorted(first["n"] - first["y"])
    for caption, asked, found in zip(CAPTIONS, ASKED, margins):
        for question, margin in zip(asked, found):
            tokens = torch.tensor([judge._encoded(caption, question)])
            with torch.inference_mode():
                extra = {"decoder_input_ids": torch.tensor([[0]])} if kind == "t5" else {}
                logits = model(input_ids=tokens, **extra).logits[0, -1]
            probabilities = logits.double().softmax(-1)
            expected = (probabilities[yes].sum() / probabilities[no].sum()).log().item()
            assert margin == pytest.approx(expected, abs=2e-4)
    answers = judge.answers(CAPTIONS, ASKED)
    assert answers == [["yes" if margin > 0 else "no" for margin in sample] for sample in margins]


def test_local_judge_cuts_captions_and_keeps_questions(caplog):
    judge = tiny_judge(max_length=900)
    tokens, cut = judge._prompt_tokens("word " * 5000, "Is the cat on the sofa?")
    assert cut and 500 < len(tokens) <= 900
    text = judge._tokenizer.decode(tokens)
    assert "Is the cat on the sofa?" in text and text.startswith("Below is a caption")
    judge.answers(["word " * 5000], [["Is the cat on the sofa?"]])
    assert "longer captions" in caplog.text


def test_local_judge_from_a_folder(tmp_path):
    judge = tiny_judge()
    judge._model.save_pretrained(tmp_path / "tiny")
    judge._tokenizer.save_pretrained(tmp_path / "tiny")
    loaded = load_judge(str(tmp_path / "tiny"), batch_size=2, progress=False)
    assert loaded.name == "local/tiny"
    assert loaded.answers(CAPTIONS, ASKED) == judge.answers(CAPTIONS, ASKED)
    named = load_judge("local", model=str(tmp_path / "tiny"), progress=False)
    for one, other in zip(named.margins(CAPTIONS, ASKED), loaded.margins(CAPTIONS, ASKED)):
        assert one == pytest.approx(other, abs=2e-4)  # batches of another size round otherwise


def test_local_judge_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="needs its tokenizer"):
        LocalJudge(tiny_judge()._model)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        tiny_judge(batch_size=0)
