"""Memory and time of one stage (supervised fine-tuning, self-correction, prediction) on one GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .model import ModelCost


StageName = Literal["sft", "sc", "predict"]

# Tokens of the chat template with the captioning prompt, and of the template with the instruction between the turns.
_PROMPT, _BRIDGE = 32, 64
# TRL projects to the vocabulary in tiles of so many tokens and words (trl.kernels.chunked_logprob).
_TILE_TOKENS, _TILE_WORDS = 4096, 32768


@dataclass(frozen=True)
class GPU:
    """Peak of dense bfloat16 arithmetic in FLOP/s, bandwidth in byte/s, memory in bytes, by the maker's data sheet.

    Args:
        flops (`float`): Dense bfloat16 arithmetic, FLOP/s.
        bandwidth (`float`): Of its memory, byte/s.
        memory (`float`): In bytes.
    """

    flops: float
    bandwidth: float
    memory: float


GPUS = {
    "A100-40GB": GPU(312e12, 1555e9, 40e9),
    "A100-80GB": GPU(312e12, 2039e9, 80e9),
    "H100": GPU(989e12, 3350e9, 80e9),
    "H200": GPU(989e12, 4800e9, 141e9),
    "L40S": GPU(362e12, 864e9, 48e9),
    "RTX-4090": GPU(165e12, 1008e9, 24e9),
}


@dataclass(frozen=True)
class Stage:
    """What one optimiser step (of prediction: one batch) goes through.

    Args:
        name (`str`): `sft`, `sc` or `predict`.
        rows (`int`): Sequences of one forward and backward pass.
        passes (`int`): Such passes.
        generated (`int`): Sequences that are generated at a time, in rounds of which a step has `rounds`.
        firsts (`int`): First captions among them; the others correct the same ones.
        rounds (`float`): Rounds of generation per step; less than 1 where steps share one.
        longest (`int`): Tokens of the longest caption.
        max_length (`int`, *optional*): Where sequences of supervised fine-tuning are cut.
        checkpointing (`bool`): Whether layers are computed again in the backward pass.
        reference (`bool`): Whether the reference model scores the captions.
        optimizer (`str`): `optim` of the recipe.
        samples (`int`): Rows of the dataset.
        steps (`int`): Steps of the whole stage.
    """

    name: StageName
    rows: int
    passes: int
    generated: int
    firsts: int
    rounds: float
    longest: int
    max_length: int | None
    checkpointing: bool
    reference: bool
    optimizer: str
    samples: int
    steps: int


@dataclass(frozen=True)
class StageEstimate:
    """Memory in bytes by part, time in seconds by part of a step, and of the stage.

    Args:
        memory (`dict[str, int]`): Parts; not all of them are there at the same time.
        peak (`int`): The most that is there at the same time.
        seconds (`dict[str, float]`): Parts of one step.
        flops (`float`): Of one step.
        steps (`int`), hours (`float`): Of the stage on one GPU.
    """

    memory: dict[str, int]
    peak: int
    seconds: dict[str, float]
    flops: float
    steps: int
    hours: float


def stage_of(name: StageName, settings: Mapping[str, Any], default_samples: int) -> Stage:
    """The stage that a recipe's settings, over the defaults of TRL and this package, describe.

    Args:
        name (`str`): `sft`, `sc` or `predict`.
        settings (`Mapping`): The settings.
        default_samples (`int`): Rows of the dataset where `num_samples` does not say.
    """
    samples = settings.get("num_samples") or default_samples
    if name == "predict":
        rows = settings["batch_size"]
        return Stage(name, rows, 0, rows, rows, 1, settings["max_new_tokens"], None, False, False, "", samples,
                     -(-samples // rows))  # fmt: skip
    rows, passes = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    checkpointing = bool(settings["gradient_checkpointing"])
    if settings.get("activation_checkpointing") is not None:
        checkpointing = bool(settings["activation_checkpointing"])
    group = settings["num_generations"] if name == "sc" else 1
    steps = round(samples * group * settings["num_train_epochs"] / (rows * passes))
    if (settings.get("max_steps") or -1) > 0:
        steps = settings["max_steps"]
    if name == "sft":
        return Stage(name, rows, passes, 0, 0, 0, 512, settings["max_length"], checkpointing, False,
                     settings["optim"], samples, steps)  # fmt: skip
    held = settings["steps_per_generation"] or passes
    corrections = settings["num_corrections"] or group
    return Stage(name, rows, passes, rows * held, max(rows * held // corrections, 1), passes / held,
                 settings["max_completion_length"], None, checkpointing, settings["beta"] != 0,
                 settings["optim"], samples, steps)  # fmt: skip


def estimate(
    model: ModelCost,
    stage: Stage,
    gpu: GPU,
    *,
    caption_tokens: int,
    utilization: float,
    bandwidth_utilization: float,
) -> StageEstimate:
    """Memory with captions as long as they may become, time with captions of the usual length.

    Args:
        caption_tokens (`int`): Usual length.
        utilization (`float`): Share of `gpu.flops` that is reached.
        bandwidth_utilization (`float`): Share of `gpu.bandwidth` that is reached in generation.
        model ([`ModelCost`]): What one token, one image and one parameter cost.
        stage ([`Stage`]): Settings of the recipe.
        gpu ([`GPU`]): Its data sheet.
    """
    memory, peak = _memory(model, stage)
    usual = min(caption_tokens, stage.longest)
    clock = _Clock(model, gpu.flops * utilization, gpu.bandwidth * bandwidth_utilization)
    prompt = model.image_tokens + _PROMPT
    if stage.generated:
        clock.encode("turn 1", stage.rounds * stage.firsts, prompt)
        clock.decode("turn 1", stage.rounds, stage.firsts, prompt, usual)
        clock.extend("turn 2", stage.rounds * stage.generated, prompt + usual, _BRIDGE)
        clock.decode("turn 2", stage.rounds, stage.generated, prompt + usual + _BRIDGE, usual)
    length = prompt + usual if stage.name == "sft" else prompt + 2 * usual + _BRIDGE
    scored = usual if stage.name == "sft" else 2 * usual + _BRIDGE
    if stage.reference:
        clock.score("reference", stage.rows * stage.passes, length, scored)
    if stage.passes:
        clock.train("forward and backward", stage.rows * stage.passes, length, scored, stage.checkpointing)
    hours = sum(clock.seconds.values()) * stage.steps / 3600
    return StageEstimate(memory, peak, clock.seconds, clock.flops, stage.steps, hours)


def _memory(model: ModelCost, stage: Stage) -> tuple[dict[str, int], int]:
    prompt = model.image_tokens + _PROMPT
    two_turns = prompt + 2 * stage.longest + _BRIDGE
    parts = {"weights": model.weight_bytes, "adapters": model.trainable_bytes}
    parts["reference"] = model.weight_bytes if stage.reference and model.full else 0
    parts["optimizer"] = _optimizer_bytes(model, stage.optimizer) if stage.passes else 0
    resident = sum(parts.values())
    # The cache of the second turn holds that of the first; scores and probabilities of the next token in float32.
    parts["kv cache, turn 1"] = stage.firsts * (prompt + stage.longest) * model.kv_bytes_per_token
    parts["kv cache, turn 2"] = stage.generated * two_turns * model.kv_bytes_per_token
    parts["next-token scores"] = stage.generated * model.vocab_size * 4 * 2
    generating = parts["kv cache, turn 2"] + parts["next-token scores"] + stage.firsts * model.vision_bytes
    length = stage.max_length or prompt + stage.longest if stage.name == "sft" else two_turns
    training = 0
    if stage.passes:
        parts["gradients"] = model.gradient_bytes
        layer = stage.rows * length * (model.layer_saved_bytes + length * model.layer_mask_bytes)
        parts["activations, kept"] = round(model.layers * layer)
        # Checkpointing keeps what goes into every layer, and of one layer at a time the rest.
        parts["activations, checkpointed"] = round(
            stage.rows * length * model.layers * model.layer_input_bytes + layer
        )
        parts["vision tower"] = stage.rows * max(model.vision_bytes, model.vision_saved_bytes)
        scored = stage.rows * (length - model.image_tokens)
        parts["logits"] = min(scored, _TILE_TOKENS) * min(model.vocab_size, _TILE_WORDS) * 2
        parts["logits"] += 4 * scored * model.hidden_size  # gradient of the last hidden states, in float32
        kept = "activations, checkpointed" if stage.checkpointing else "activations, kept"
        training = sum(parts[name] for name in ("gradients", kept, "vision tower", "logits"))
    elif stage.generated:
        parts["vision tower"] = stage.firsts * model.vision_bytes
    return parts, resident + max(generating, training)


def _optimizer_bytes(model: ModelCost, name: str) -> int:
    """Two running means per trained weight, in its type or in 8 bits."""
    return 2 * model.trainable if "8bit" in name else 2 * model.gradient_bytes


class _Clock:
    """Adds up operations and seconds; a part takes as long as its arithmetic or, in generation, its memory traffic."""

    def __init__(self, model: ModelCost, flops_per_second: float, bytes_per_second: float) -> None:
        self.model, self.rate, self.bandwidth = model, flops_per_second, bytes_per_second
        self.flops = 0.0
        self.seconds: dict[str, float] = {}

    def _spend(self, part: str, flops: float, seconds: float | None = None) -> None:
        self.flops += flops
        self.seconds[part] = self.seconds.get(part, 0.0) + (flops / self.rate if seconds is None else seconds)

    def encode(self, part: str, rows: float, prompt: int) -> None:
        """Image and prompt."""
        self._spend(part, rows * (self.model.vision_flops + self.model.forward_flops(prompt, scored=1)))

    def extend(self, part: str, rows: float, cached: int, tokens: int) -> None:
        """Given tokens behind a cache."""
        self._spend(part, rows * self.model.forward_flops(tokens, cached, scored=1))

    def decode(self, part: str, rounds: float, rows: int, cached: int, tokens: int) -> None:
        """Tokens one by one: each reads all weights of the language model, and every row's cache."""
        middle = cached + tokens // 2
        flops = rows * self.model.forward_flops(1, middle, scored=1)
        traffic = self.model.language_weight_bytes + rows * middle * self.model.kv_bytes_per_token
        seconds = max(flops / self.rate, traffic / self.bandwidth)
        self._spend(part, rounds * tokens * flops, rounds * tokens * seconds)

    def score(self, part: str, rows: int, tokens: int, scored: int) -> None:
        """A forward pass."""
        self._spend(part, rows * (self.model.vision_flops + self.model.forward_flops(tokens, scored=scored)))

    def train(self, part: str, rows: int, tokens: int, scored: int, checkpointing: bool) -> None:
        """A forward and a backward pass: the gradient of what a layer is given costs as much as the layer, that of its
        weights as much again; checkpointing computes the layer once more, TRL the logits."""
        forward = self.model.forward_flops(tokens)
        head = self.model.forward_flops(0, scored=scored)
        factor = 2 + self.model.full + checkpointing
        self._spend(part, rows * (self.model.vision_flops + factor * forward + (3 + self.model.full) * head))
