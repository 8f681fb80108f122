"""The judge behind any endpoint that speaks OpenAI's chat protocol (extra `judge`)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ..metrics.relation_qa import yes_or_no
from .answer_cache import AnswerCache
from .judge import JudgeError
from .prompts import PROMPT_VERSION, numbered_answers, one_question, several_questions


logger = logging.getLogger(__name__)

# Requests that fail one after the other, each with all its retries, before the endpoint counts as down.
_FAILURES_IN_A_ROW = 10
_LONGEST_PAUSE = 8.0  # seconds, as the client has it
_REFUSALS = (401, 403, 404)  # wrong key, no right to the model, no such model or address: no later request can succeed


class MalformedReply(ValueError):
    """A reply that is no chat completion."""


class OpenAIJudge:
    """Asks an endpoint, many questions at a time, and never the same question twice.

    Answers are kept in a file by model, prompt version (with the request options), caption and question; a run that
    was stopped goes on where it was. Rate limits (429), server errors, timeouts and cut connections are retried by
    the client with exponential backoff, `Retry-After` heeded; replies that are no completions are asked for again in
    the same way. What still fails is logged and has no answer; a wrong key or model, or ten failures in a row, stop
    the run. The key is handed to the client and kept nowhere else.

    Args:
        model (`str`): Name of the model at the endpoint.
        base_url (`str`, *optional*): Address up to `/v1`; the client's default (and `OPENAI_BASE_URL`) without one.
        api_key (`str`, *optional*): Defaults to the variable `OPENAI_API_KEY`; local servers often need none.
        cache (`str` or `Path`, *optional*): File of answers (JSON lines); without one they last as long as this
            object. Endpoints that give one name to different models need different files.
        concurrency (`int`): Requests under way at a time.
        questions_per_request (`int`): 1 asks each question by itself. More are cheaper, as the caption is sent once
            for all of them; the answers may differ a little, so the two are cached apart.
        max_retries (`int`): Attempts after the first one, per request.
        timeout (`float`): Seconds to wait for a reply.
        input_price, output_price (`float`, *optional*): Price of a million prompt and completion tokens, in whatever
            currency; with both given, `usage` and the progress bar show the cost.
        request_options (`Mapping`, *optional*): Further fields of every request. Defaults to `{"temperature": 0}`;
            pass `{}` for models that refuse it, or e.g. `{"max_tokens": 8}`.
        progress (`bool`, *optional*): Whether to show a progress bar; by default on a terminal only.

    Raises:
        ImportError: If the `openai` client is not installed.
        ValueError: If a number is out of range.
        JudgeError: If there is no key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: str | Path | None = None,
        concurrency: int = 16,
        questions_per_request: int = 1,
        max_retries: int = 6,
        timeout: float = 60.0,
        input_price: float | None = None,
        output_price: float | None = None,
        request_options: Mapping[str, Any] | None = None,
        progress: bool | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError("judge='openai' needs the openai client: pip install 'sc-captioner[judge]'") from error
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("questions_per_request", questions_per_request, 1),
            ("max_retries", max_retries, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}.")
        self.model, self.name = model, f"openai/{model}"
        self.concurrency, self.questions_per_request = concurrency, questions_per_request
        self.max_retries = max_retries
        self.progress = progress
        self._options = dict({"temperature": 0} if request_options is None else request_options)
        self._prices = (input_price, output_price)
        self._counts = dict.fromkeys(
            ("requests", "retries", "failed_requests", "cached_answers", "prompt_tokens", "completion_tokens",
             "replies_without_usage"), 0
        )  # fmt: skip
        self._lock = threading.Lock()
        self._cache = AnswerCache(cache)
        if api_key is None and base_url is not None and not os.environ.get("OPENAI_API_KEY"):
            api_key = "none"  # the client insists on one; servers of one's own mostly do not
        try:
            self._client = openai.OpenAI(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=max_retries)
        except openai.OpenAIError:
            raise JudgeError("The endpoint needs a key: set the variable OPENAI_API_KEY, or pass api_key.") from None

    def __repr__(self) -> str:
        return f"OpenAIJudge({self.model!r})"

    @property
    def prompt_version(self) -> str:
        """What besides the model decides an answer: prompt, one or several questions at a time, request options."""
        mode = "one" if self.questions_per_request == 1 else "several"
        options = json.dumps(self._options, sort_keys=True, default=str)
        return f"{PROMPT_VERSION}-{mode}-{hashlib.sha256(options.encode()).hexdigest()[:8]}"

    @property
    def usage(self) -> dict[str, float | None]:
        """Requests, retries, tokens and cost of this object's life.

        `cost` is `None` unless both prices are given; it leaves out `replies_without_usage`, which told no tokens.
        """
        with self._lock:
            counts = dict(self._counts)
        input_price, output_price = self._prices
        cost = None
        if input_price is not None and output_price is not None:
            cost = (counts["prompt_tokens"] * input_price + counts["completion_tokens"] * output_price) / 1e6
        return {**counts, "cost": cost}

    def answers(self, captions: Sequence[str], questions: Sequence[Sequence[str]]) -> list[list[str | None]]:
        """An answer per question, as the model wrote it; `None` where every attempt to get one failed.

        Args:
            captions (`Sequence[str]`): One caption per sample.
            questions (`Sequence[Sequence[str]]`): Questions per sample.

        Raises:
            JudgeError: If the endpoint refuses the key or the model, or fails again and again.
        """
        pairs = [[(_sendable(caption), _sendable(q)) for q in asked] for caption, asked in zip(captions, questions)]
        known = {pair: self._cache.get(self._key(*pair)) for sample in pairs for pair in sample}
        by_caption: dict[str, list[str]] = {}
        for (caption, question), answer in known.items():
            if answer is None:
                by_caption.setdefault(caption, []).append(question)
        size = self.questions_per_request
        requests = [
            (caption, asked[start : start + size])
            for caption, asked in by_caption.items()
            for start in range(0, len(asked), size)
        ]
        cached = len(known) - sum(map(len, by_caption.values()))
        self._count(cached_answers=cached)
        for (caption, asked), replies in self._all_replies(requests, cached, len(known)):
            known.update({(caption, question): reply for question, reply in zip(asked, replies)})
        # Of a request that failed half-way, what had come before is in the cache.
        known = {pair: self._cache.get(self._key(*pair)) if a is None else a for pair, a in known.items()}
        return [[known[pair] for pair in sample] for sample in pairs]

    def _all_replies(
        self, requests: Sequence[tuple[str, list[str]]], cached: int, total: int
    ) -> list[tuple[tuple[str, list[str]], list[str]]]:
        import openai
        from tqdm.auto import tqdm

        done: list[tuple[tuple[str, list[str]], list[str]]] = []
        failures, last = 0, ""
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        hidden = None if self.progress is None else not self.progress
        bar = tqdm(total=total, initial=cached, desc=self.name, unit="question", disable=hidden)
        try:
            futures = {pool.submit(self._replies, *request): request for request in requests}
            for future in as_completed(futures):
                request = futures[future]
                try:
                    done.append((request, future.result()))
                    failures = 0
                except (openai.APIError, MalformedReply) as error:
                    last = self._told(error)
                    self._count(failed_requests=1)
                    failures += 1
                    if getattr(error, "status_code", None) in _REFUSALS:
                        raise JudgeError(f"{self.name}: {last}. Check api_key, model and base_url.") from None
                    logger.warning("%s: no answer to %s: %s", self.name, request[1], last)
                    if failures >= _FAILURES_IN_A_ROW:
                        raise JudgeError(
                            f"{self.name}: {failures} requests failed in a row, the last with {last}. {self._kept()}"
                        ) from None
                bar.update(len(request[1]))
                bar.set_postfix_str(self._spent())
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
        if requests and not done:
            raise JudgeError(f"{self.name}: every request failed, the last with {last}. {self._kept()}")
        logger.info("%s: %d answers, %d of them cached; %s", self.name, total, cached, self._spent())
        return done

    def _replies(self, caption: str, asked: list[str]) -> list[str]:
        """Answers to some questions about one caption, cached where they say yes or no."""
        replies: list[str | None] = [None] * len(asked)
        if len(asked) > 1:
            listed = numbered_answers(self._reply(several_questions(caption, asked)), len(asked))
            replies = [reply if reply and yes_or_no(reply) is not None else None for reply in listed]
            self._keep(caption, asked, replies)
        alone = [(index, question) for index, (question, reply) in enumerate(zip(asked, replies)) if reply is None]
        for index, question in alone:
            reply = self._reply(one_question(caption, question))
            if yes_or_no(reply) is None:
                reply = self._reply(one_question(caption, question))
            replies[index] = reply
            self._keep(caption, [question], [reply])
        return [reply or "" for reply in replies]

    def _keep(self, caption: str, asked: Sequence[str], replies: Sequence[str | None]) -> None:
        # Replies that say neither are asked for anew by the next run, which may have room for longer ones.
        for question, reply in zip(asked, replies):
            if reply is not None and yes_or_no(reply) is not None:
                self._cache.add(self._key(caption, question), self.model, question, reply)

    def _reply(self, prompt: str) -> str:
        """Text of the reply to one prompt.

        Raises:
            openai.APIError: If the last attempt fails.
            MalformedReply: If the endpoint answers, but never with a completion.
        """
        malformed = ""
        for attempt in range(self.max_retries + 1):
            if attempt:
                time.sleep(min(0.5 * 2 ** (attempt - 1), _LONGEST_PAUSE))
            response = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], **self._options
            )
            self._count(requests=1, retries=response.retries_taken + (attempt > 0))
            try:
                completion = response.parse()
                self._count_tokens(completion)
                text = completion.choices[0].message.content
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                malformed = f"{type(error).__name__}: {error}"
                continue
            if isinstance(text, str):
                return self._redacted(text)
            malformed = "a completion without text"
        raise MalformedReply(f"the endpoint sends no chat completions ({self._redacted(malformed)})")

    def _count_tokens(self, completion: Any) -> None:
        usage = getattr(completion, "usage", None)
        asked, written = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
        if isinstance(asked, int) and isinstance(written, int):
            self._count(prompt_tokens=asked, completion_tokens=written)
        else:
            self._count(replies_without_usage=1)

    def _count(self, **numbers: int) -> None:
        with self._lock:
            for name, number in numbers.items():
                self._counts[name] += number

    def _spent(self) -> str:
        usage = self.usage
        tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
        return tokens if usage["cost"] is None else f"{tokens}, cost {usage['cost']:.4f}"

    def _kept(self) -> str:
        if self._cache.path is None:
            return "Pass cache=FILE to keep the answers of a run that stops."
        return f"The answers got so far are in {self._cache.path}; a new run goes on from there."

    def _told(self, error: Exception) -> str:
        return self._redacted(f"{type(error).__name__}: {error}").rstrip(".")

    def _redacted(self, text: str) -> str:
        # Some servers quote the key in their error messages.
        key = self._client.api_key
        return text.replace(key, "***") if key and len(key) > 6 else text

    def _key(self, caption: str, question: str) -> str:
        return AnswerCache.key(self.model, self.prompt_version, caption, question)


def _sendable(text: str) -> str:
    """The text without what UTF-8 cannot carry (lone surrogates)."""
    return text.encode("utf-8", "replace").decode("utf-8")
