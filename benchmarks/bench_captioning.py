"""Captioning a large folder as a user does it, killed in the middle and started again.

    python benchmarks/bench_captioning.py --output benchmarks/captioning.json

Draws 10,000 pictures and some files that hold none, runs `sc-captioner caption` on the folder, kills it (SIGKILL) when
half of the captions are written, starts it again, and reports: what was captioned twice or not at all, the memory as
the run goes on, and the share of the processor's time that is not spent in generating.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

import sc_captioner.inference as inference
from sc_captioner import SelfCorrectingCaptioner
from sc_captioner.captioning import caption_images, image_sources
from sc_captioner.data.scenes import picture_bytes, sampled_scenes


BATCH = 64
CORRUPT = 20
MARKS = (0.1, 0.25, 0.5, 0.75, 0.95)  # of a run, where its memory is read


def draw(folder: Path, number: int) -> None:
    """`number` pictures in subfolders of a thousand, and `CORRUPT` files that end too early."""
    for i, scene in enumerate(tqdm(sampled_scenes(number, seed=1), total=number, desc="Drawing", unit="image")):
        file = folder / f"{i // 1000:03}" / f"{i:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture_bytes(scene))
        if i < CORRUPT:
            file.with_name(f"cut_{i:02}.png").write_bytes(picture_bytes(scene)[:200])


def run(folder: Path, output: Path, until: int | None, number: int) -> dict:
    """One run of the command; killed at `until` lines. Its exit code, what it said, and its memory in MiB at marks."""
    begun = len(lines_of(output))
    command = [sys.executable, "-m", "sc_captioner.cli", "caption", str(folder), "--output", str(output),
               "--batch-size", str(BATCH), "--max-new-tokens", "64"]  # fmt: skip
    marks = [begun + round(share * ((until or number) - begun)) for share in MARKS]
    memory: list[float] = []
    with open(output.with_suffix(".log"), "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            done = len(lines_of(output))
            if len(memory) < len(marks) and done >= marks[len(memory)]:
                memory.append(resident(process.pid))
            if until is not None and done >= until:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.2)
        log.seek(0)
        return {"code": process.returncode, "said": log.read(), "resident_mib": [round(value) for value in memory]}


def lines_of(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True) if file.is_file() else []


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def time_beside_generation(folder: Path, number: int) -> dict[str, float]:
    """CPU seconds of captioning `number` images from files, and the part of it outside of generation."""
    captioner = SelfCorrectingCaptioner.from_pretrained()
    spent = 0.0
    generate = inference.generate_corrections

    def timed(*args, **kwargs):
        nonlocal spent
        start = time.process_time()
        try:
            return generate(*args, **kwargs)
        finally:
            spent += time.process_time() - start

    sources = [source for source in image_sources([str(folder)]) if "cut_" not in source][: number + BATCH]
    batches = caption_images(captioner, iter(sources), batch_size=BATCH, max_new_tokens=64, revisions=False)
    next(batches)  # warm
    inference.generate_corrections = timed  # type: ignore[assignment]
    start = time.process_time()
    for _ in batches:
        pass
    total = time.process_time() - start
    inference.generate_corrections = generate
    return {"images": number, "seconds": total, "generating": spent, "over_generation": total / spent - 1}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--output", type=Path, help="JSON file for the figures.")
    args = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name) / "images", Path(name) / "captions.jsonl"
        draw(folder, args.images)
        killed = run(folder, output, args.images // 2, args.images)
        before = lines_of(output)
        ended = run(folder, output, None, args.images)
        after = lines_of(output)
        ids = [json.loads(line)["id"] for line in after]
        whole = [line for line in before if line.endswith(b"\n")]
        result = {
            "machine": {"device": platform.machine(), "threads": 1, "torch": torch.__version__},
            "images": args.images,
            "killed_at": len(whole),
            "kept": after[: len(whole)] == whole,
            "captioned": len(ids),
            "twice": len(ids) - len(set(ids)),
            "corrupt_listed": sum(f"cut_{i:02}.png" in ended["said"] for i in range(CORRUPT)),
            "corrupt": CORRUPT,
            "exit_codes": [killed["code"], ended["code"]],
            "resident_mib": [killed["resident_mib"], ended["resident_mib"]],
            "beside_generation": time_beside_generation(folder, min(args.images // 2, 2000)),
        }
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
