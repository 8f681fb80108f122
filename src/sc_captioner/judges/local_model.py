"""The judge that is a transformers text model on this machine."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .prompts import one_question


if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_YES = ("yes", "Yes", " yes", " Yes", "YES")
_NO = ("no", "No", " no", " No", "NO")


class LocalJudge:
    """Compares how likely a text model goes on with yes and with no; nothing is generated, so every answer counts.

    The model sees the prompt of [`OpenAIJudge`] (in its chat template, if it has one). Causal and encoder-decoder
    models both work.

    Args:
        model (`str` or `PreTrainedModel`): Hub id or folder, or a loaded model.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed with a loaded model.
        batch_size (`int`): Questions per forward pass; they are sorted by length first.
        device (`str`, *optional*): Defaults to a GPU where there is one, for a loaded model to where it is.
        dtype (`str`, *optional*): Defaults to what the weights are stored in, `float32` on a CPU.
        max_length (`int`, *optional*): Tokens of a prompt; defaults to what the model can take. Longer captions are
            cut at their end, with a warning.
        progress (`bool`, *optional*): Whether to show a progress bar; by default on a terminal only.

    Raises:
        ValueError: If a loaded model comes without a tokenizer, or the tokenizer begins yes and no alike.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        batch_size: int = 16,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int | None = None,
        progress: bool | None = None,
    ) -> None:
        import torch

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if isinstance(model, str):
            self.name = f"local/{model.rstrip('/').rsplit('/', 1)[-1]}" if model[0] in "./~" else f"local/{model}"
            place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            dtype = dtype or ("float32" if place.type == "cpu" else "auto")
            model, tokenizer = _loaded(model, tokenizer, dtype)
            model = model.to(place)
        else:
            if tokenizer is None:
                raise ValueError("A loaded model needs its tokenizer: pass tokenizer=.")
            self.name = f"local/{getattr(model.config, 'name_or_path', '') or type(model).__name__}"
            model = model.to(device) if device else model
        self._model, self._tokenizer = model.eval(), tokenizer
        self.batch_size, self.progress = batch_size, progress
        self.max_length = max_length or _longest_input(model, tokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        yes, no = (_first_tokens(tokenizer, words) for words in (_YES, _NO))
        self._yes, self._no = sorted(yes - no), sorted(no - yes)
        if not self._yes or not self._no:
            raise ValueError(f"The tokenizer of {self.name} begins yes and no with the same token.")

    def __repr__(self) -> str:
        return f"LocalJudge({self.name!r})"

    def answers(self, captions: Sequence[str], questions: Sequence[Sequence[str]]) -> list[list[str | None]]:
        """`"yes"` or `"no"` per question.

        Args:
            captions (`Sequence[str]`): One caption per sample.
            questions (`Sequence[Sequence[str]]`): Questions per sample.
        """
        margins = self.margins(captions, questions)
        return [["yes" if margin > 0 else "no" for margin in sample] for sample in margins]

    def margins(self, captions: Sequence[str], questions: Sequence[Sequence[str]]) -> list[list[float]]:
        """Log-odds of yes against no per question, each summed over its spellings.

        Args:
            captions (`Sequence[str]`): One caption per sample.
            questions (`Sequence[Sequence[str]]`): Questions per sample.
        """
        from tqdm.auto import tqdm

        pairs = dict.fromkeys((caption, q) for caption, asked in zip(captions, questions) for q in asked)
        cut = 0
        prompts: dict[tuple[str, str], list[int]] = {}
        for caption, question in pairs:
            tokens, was_cut = self._prompt_tokens(caption, question)
            prompts[caption, question] = tokens
            cut += was_cut
        if cut:
            logger.warning("%s: %d prompts had longer captions than %d tokens allow.", self.name, cut, self.max_length)
        order = sorted(prompts, key=lambda pair: (len(prompts[pair]), pair))
        found: dict[tuple[str, str], float] = {}
        hidden = None if self.progress is None else not self.progress
        with tqdm(total=len(order), desc=self.name, unit="question", disable=hidden) as bar:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                found.update(zip(batch, self._margins([prompts[pair] for pair in batch])))
                bar.update(len(batch))
        return [[found[caption, q] for q in asked] for caption, asked in zip(captions, questions)]

    def _margins(self, prompts: list[list[int]]) -> list[float]:
        import torch

        width = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id
        # Padded on the left: the answer is what follows the last position, whatever the length.
        tokens = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._model.device)
        with torch.inference_mode():
            logits = self._next_logits(tokens, mask).float()
        yes, no = (logits[:, ids].logsumexp(dim=1) for ids in (self._yes, self._no))
        return (yes - no).tolist()

    def _next_logits(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each prompt, shape `(batch, vocabulary)`."""
        import torch

        config = self._model.config
        if config.is_encoder_decoder:
            start = torch.full((len(tokens), 1), config.decoder_start_token_id, device=tokens.device)
            return self._model(input_ids=tokens, attention_mask=mask, decoder_input_ids=start).logits[:, -1]
        # Not every architecture has these two: some derive positions from the mask.
        options = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0), "logits_to_keep": 1}
        accepted = inspect.signature(self._model.forward).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        return self._model(input_ids=tokens, attention_mask=mask, **options).logits[:, -1]

    def _prompt_tokens(self, caption: str, question: str) -> tuple[list[int], bool]:
        """Tokens of a prompt, and whether the caption had to be cut."""
        tokens = self._encoded(caption, question)
        cut = len(tokens) > self.max_length
        while len(tokens) > self.max_length and caption:
            # In proportion to what is too much; a word more, as words differ in length.
            words = caption.split()
            keep = max(0, int(len(words) * (1 - (len(tokens) - self.max_length) / len(tokens))) - 1)
            caption = " ".join(words[:keep])
            tokens = self._encoded(caption, question)
        return tokens[-self.max_length :], cut

    def _encoded(self, caption: str, question: str) -> list[int]:
        prompt = one_question(caption, question)
        if self._tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._tokenizer(prompt + "\nAnswer:" * (not self._model.config.is_encoder_decoder))["input_ids"]


def _loaded(name: str, tokenizer: Any, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    config = AutoConfig.from_pretrained(name)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(name, dtype=dtype), tokenizer or AutoTokenizer.from_pretrained(name)


def _first_tokens(tokenizer: Any, words: Iterable[str]) -> set[int]:
    """First tokens of several spellings of a word."""
    spelled = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in words)
    return {tokens[0] for tokens in spelled if tokens}


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Tokens that fit a model; tokenizers without a limit give a huge number."""
    limits = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min(limit for limit in [*limits, 8192] if limit)
