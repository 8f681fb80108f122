"""One step of self-correction training, part by part, against the same step done the released way.

    python benchmarks/bench_step.py --tiny --tokens 128 --output benchmarks/step_cpu.json
    python benchmarks/bench_step.py --config recipes/qwen2_vl_2b/sc.yaml --output benchmarks/step_qwen2_vl_2b.json
    python benchmarks/bench_step.py --config recipes/qwen2_vl_7b/sc.yaml --output benchmarks/step_qwen2_vl_7b.json

The model is built from the config.json beside the YAML with random weights, so that nothing is downloaded: speed and
memory are real, captions are not, and the reward therefore scores captions of DOCCI500 in their place. Settings are
the recipe's. Every caption has its full length on both sides. `--tiny` takes the embedded scenes model and small
images; the first command's figures are in the repository, the figures of the other two need a GPU and are still owed.

The released way: one caption at a time, no KV cache (so that every token encodes image and prompt again), two passes
of the policy and one of the reference model, three captions parsed one by one, phrases encoded in small batches
whenever two lists are compared, nothing remembered. It is timed on few corrections. All figures are per correction;
on our side the corrections of a group share their first caption, as in training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from step_clock import PARTS, Clock, per_correction, reset_peak, timed_turns
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from sc_captioner import CorrectionReward, SCConfig, SCTrainer
from sc_captioner.prompts import CAPTION_PROMPT


ROOT = Path(__file__).resolve().parents[1]
SCENES = ROOT / "src/sc_captioner/assets/scenes_sft"
# Of the recipe, beside the length of captions.
SETTINGS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_generations",
    "num_corrections",
    "lora_r",
    "activation_checkpointing",
)


def captions(shared: Path) -> list[str]:
    """References of DOCCI500: what real captions take to parse and to encode."""
    return list(json.loads((shared / "data/docci500/captions.json").read_text(encoding="utf-8")).values())


def corrections(texts: list[str], number: int, group: int) -> list[tuple[str, str, str]]:
    """First caption, correction and reference; `group` corrections of each first caption, each with a new sentence."""
    triples = []
    for i in range(number):
        reference, other = texts[i // group % len(texts)], texts[(i + 7) % len(texts)]
        sentences = reference.split(". ")
        first = ". ".join(sentences[:-1] or sentences)
        triples.append((first, f"{first}. {other.split('. ')[i % group % len(other.split('. '))]}.", reference))
    return triples


def built_model(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Model with random weights, and the embedded scenes' processor with images as large as the recipe has them."""
    processor = AutoProcessor.from_pretrained(SCENES, padding_side="left")
    folder = SCENES if options.tiny else Path(options.config).parent
    config = AutoConfig.from_pretrained(folder)
    if not options.tiny:
        pixels = (settings.get("processor_kwargs") or {}).get("max_pixels", 16384 * 28 * 28)
        processor.image_processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": pixels})
        small = AutoConfig.from_pretrained(SCENES)  # whose tokenizer it is
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            setattr(config, name, getattr(small, name))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config.text_config, name, getattr(small.text_config, name))
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)  # of the weights
    with torch.device("cuda" if on_gpu else "cpu"):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16 if on_gpu else torch.float32, attn_implementation="sdpa"
        )
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def built_trainer(options: argparse.Namespace, settings: dict[str, Any], reward: Any) -> SCTrainer:
    """The trainer that recipes/sc.py builds, on images of noise."""
    model, processor = built_model(options, settings)
    rows, passes = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    args = SCConfig(
        os.path.join(options.scratch, "run"),
        max_steps=1 + options.steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=passes,
        num_generations=settings["num_generations"],
        num_corrections=settings["num_corrections"],
        max_completion_length=options.tokens,
        generation_kwargs={"min_new_tokens": options.tokens},
        activation_checkpointing=settings["activation_checkpointing"],
        beta=settings["beta"],
        bf16=torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    size = (84, 84, 3) if options.tiny else (480, 640, 3)
    noise = np.random.default_rng(0).integers(0, 255, (rows * passes * args.max_steps, *size), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    return SCTrainer(
        model=model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"image": images, "prompt": [CAPTION_PROMPT] * len(images)}),
        processing_class=processor,
        peft_config=LoraConfig(
            r=settings["lora_r"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings["lora_dropout"],
            target_modules=settings["lora_target_modules"][0],  # one regular expression
            task_type="CAUSAL_LM",
        ),
    )


class StepTimer(TrainerCallback):
    """Times whole steps and the optimizer, and forgets the first step, which warms up."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.step_start, self.optimizer_start = clock, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.clock.seconds.clear()
            reset_peak(self.clock.device)
        self.step_start = self.clock.now()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.optimizer_start = self.clock.now()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.seconds["optimizer"] += self.clock.now() - self.optimizer_start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.seconds["total"] += self.clock.now() - self.step_start


def measure_ours(
    options: argparse.Namespace, settings: dict[str, Any], texts: list[str]
) -> tuple[SCTrainer, dict[str, Any]]:
    """Steps of `SCTrainer` with its own code, timed where one part calls the next."""
    inner = CorrectionReward(preset="paper", parser=options.parser)
    triples = cycle(corrections(texts, 16 * len(texts), settings["num_corrections"]))

    def reward(first_caption: list[str], **columns: Any) -> list[float | None]:
        first, second, reference = zip(*(next(triples) for _ in first_caption))
        with clock.part("reward"):
            return inner(first_caption=first, second_caption=second, reference=reference)

    trainer = built_trainer(options, settings, reward)
    clock = Clock(trainer.accelerator.device)
    model = trainer.accelerator.unwrap_model(trainer.model)
    plain_generate = model.generate
    model.generate = timed_turns(clock, plain_generate)
    inner.parser.parse = clock.timed("parsing", inner.parser.parse)  # type: ignore[method-assign]
    inner.encoder.encode = clock.timed("embedding", inner.encoder.encode)  # type: ignore[method-assign]
    score = trainer._get_per_token_logps_and_entropies

    def scored(*args: Any, **kwargs: Any) -> Any:
        with clock.part("forward" if torch.is_grad_enabled() else "reference pass"):
            return score(*args, **kwargs)

    trainer._get_per_token_logps_and_entropies = scored  # type: ignore[method-assign]
    trainer._prepare_inputs = clock.timed("inputs", trainer._prepare_inputs)  # type: ignore[method-assign]
    trainer.training_step = clock.timed("passes", trainer.training_step)  # type: ignore[method-assign]
    trainer.add_callback(StepTimer(clock))
    trainer.train()
    model.generate = plain_generate
    seconds = dict(clock.seconds)
    seconds["matching"] = seconds.pop("reward") - seconds["parsing"] - seconds["embedding"]
    seconds["forward and backward"] = seconds.pop("passes") - seconds.pop("inputs")
    number = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] * options.steps
    return trainer, per_correction(seconds, number, clock.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "recipes/qwen2_vl_2b/sc.yaml"), help="a Qwen2-VL recipe")
    parser.add_argument("--tiny", action="store_true", help="the embedded scenes model instead of the recipe's")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that warms up")
    parser.add_argument("--released", type=int, default=4, help="corrections the released way is timed on; even")
    parser.add_argument("--tokens", type=int, help="length of every caption; default: the recipe's longest")
    parser.add_argument("--rows", type=int, help="sequences per pass; default: the recipe's")
    parser.add_argument("--parser", default="compact", help="as in the recipes")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder with data/ and nltk_data/")
    parser.add_argument("--scratch", default="outputs/bench_step", help="folder the trainer may write to")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if not (options.shared / "data/docci500/captions.json").is_file():
        parser.error(f"no data in {options.shared}: --shared names the folder with data/ and nltk_data/.")
    if options.released < 2 or options.released % 2:
        parser.error("--released must be even: the released way takes two samples per step.")
    os.environ.setdefault("NLTK_DATA", str(options.shared / "nltk_data"))
    from released_step import measure_released  # NLTK reads where its data is when it is imported

    settings = yaml.safe_load(Path(options.config).read_text(encoding="utf-8"))
    options.tokens = options.tokens or settings["max_completion_length"]
    if options.rows:
        sizes = ("per_device_train_batch_size", "num_generations", "num_corrections")
        settings |= dict.fromkeys(sizes, options.rows)
    texts = captions(options.shared)
    trainer, ours = measure_ours(options, settings, texts)
    released = measure_released(trainer, corrections(texts, options.released, 1), options.parser)
    model = trainer.model
    result = {
        "machine": machine(trainer.accelerator.device),
        "model": {
            "config": "scenes_sft" if options.tiny else Path(options.config).parent.name,
            "parameters": model.num_parameters(),
            "trained": model.num_parameters(only_trainable=True),
        },
        "setting": {
            "caption_tokens": options.tokens,
            "parser": options.parser,
            **{name: settings[name] for name in SETTINGS},
        },
        "ours": ours,
        "released": released,
        "ratios": ratios(ours, released),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_table(result)


def ratios(ours: dict[str, Any], released: dict[str, Any]) -> dict[str, float]:
    """How many times longer the released way takes, and how many times more memory."""
    pairs = {name: (ours["seconds_per_correction"][name], released["seconds_per_correction"][name])
             for name in (*PARTS[:-1], "total")}  # fmt: skip
    pairs["peak memory"] = (ours["peak_mib"], released["peak_mib"])
    return {name: theirs / mine for name, (mine, theirs) in pairs.items() if mine > 0}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(),
            "torch": torch.__version__}  # fmt: skip


def print_table(result: dict[str, Any]) -> None:
    """Parts side by side."""
    ours, released = result["ours"], result["released"]
    print(f"{'':24}{'ours':>12}{'released':>12}{'ratio':>9}   seconds per correction on {result['machine']['device']}")
    for name in (*PARTS, "total"):
        mine, theirs = ours["seconds_per_correction"][name], released["seconds_per_correction"][name]
        ratio = result["ratios"].get(name)
        print(f"{name:24}{mine:12.5f}{theirs:12.5f}{'' if ratio is None else f'{ratio:.1f}':>9}")
    print(f"{'peak MiB':24}{ours['peak_mib']:12}{released['peak_mib']:12}{result['ratios']['peak memory']:9.1f}")


if __name__ == "__main__":
    main()
