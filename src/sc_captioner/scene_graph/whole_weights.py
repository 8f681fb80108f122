"""Small models of the reward beside a large one that is sharded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def whole_weights() -> Iterator[None]:
    """Models loaded in here have all their weights in every process.

    Once training arguments with DeepSpeed ZeRO-3 exist, transformers shards whatever is loaded. A parser or an encoder
    is small, is called at other times in every process, and would be empty there.
    """
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
