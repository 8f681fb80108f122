"""A clock for the parts of a training step, and the peak of memory beside it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import torch


PARTS = (
    "turn 1",
    "turn 2",
    "parsing",
    "embedding",
    "matching",
    "reference pass",
    "forward and backward",
    "optimizer",
    "other",
)  # fmt: skip


class Clock:
    """Seconds by part: on a GPU of the wall clock, a part ending when its kernels have; else CPU-seconds, which do not
    count what others do on the machine."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        self.seconds[name] += self.now() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return run


def timed_turns(clock: Clock, generate: Callable[..., Any]) -> Callable[..., Any]:
    """Generation that is the first and the second turn in turns."""
    turns = cycle(("turn 1", "turn 2"))
    return lambda *args, **kwargs: clock.timed(next(turns), generate)(*args, **kwargs)


def peak_mib(device: torch.device) -> int:
    """Most memory since `reset_peak`: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def per_correction(seconds: dict[str, float], number: int, device: torch.device) -> dict[str, Any]:
    """Parts per correction, what is in none of them as `other`."""
    total = seconds.pop("total")
    parts = {name: seconds.get(name, 0.0) for name in PARTS[:-1]}
    parts["other"] = total - sum(parts.values())
    return {
        "seconds_per_correction": {name: value / number for name, value in {**parts, "total": total}.items()},
        "peak_mib": peak_mib(device),
        "n": number,
    }
