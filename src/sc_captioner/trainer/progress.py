"""A progress bar that says how the two turns are doing, instead of a page of numbers per step."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback


_SHOWN = {
    "reward": "reward",
    "second_turn/unchanged_ratio": "unchanged",
    "first_turn/kl": "kl1",
    "second_turn/kl": "kl2",
    "second_turn/mean_length": "length",
    "skipped_samples": "skipped",
}


class TurnProgress(ProgressCallback):
    """[`~transformers.ProgressCallback`] with the figures that matter behind the bar; the log file has all."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """As in [`~transformers.ProgressCallback`]."""
        if not state.is_world_process_zero or self.training_bar is None:
            return
        values = {short: (logs or {}).get(name) for name, short in _SHOWN.items()}
        shown = {short: f"{value:.3g}" for short, value in values.items() if value is not None}
        if shown.get("skipped") == "0":
            del shown["skipped"]
        if shown:
            self.training_bar.set_postfix(shown)
