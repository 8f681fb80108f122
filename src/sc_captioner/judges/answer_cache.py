"""Answers that were paid for, kept on disk: a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path


logger = logging.getLogger(__name__)


class AnswerCache:
    """A file of JSON lines to which answers are appended as they come; safe for threads and for several processes.

    A line holds `key`, `model`, `question` and `answer`; the caption is in the key only, which keeps the file small.

    Args:
        path (`str` or `Path`, *optional*): The file, made with its folders when the first answer comes. Without one,
            answers are remembered by this object alone.

    Raises:
        ValueError: If the file exists and is no such cache.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self._answers: dict[str, str] = {}
        self._lock = threading.Lock()
        self._torn = False
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._answers)

    @staticmethod
    def key(model: str, prompt: str, caption: str, question: str) -> str:
        """Key of an answer: SHA-256 of model, prompt version, caption and question.

        Args:
            model (`str`): Name of the model that answers.
            prompt (`str`): Version of the prompt.
            caption (`str`): What it sees.
            question (`str`): What it is asked.
        """
        return hashlib.sha256(json.dumps([model, prompt, caption, question]).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """The answer kept under `key`, `None` if there is none.

        Args:
            key (`str`): What [`AnswerCache.key`] gave.
        """
        return self._answers.get(key)

    def add(self, key: str, model: str, question: str, answer: str) -> None:
        """Keep an answer; it is in the file when this returns.

        Args:
            key (`str`): What [`AnswerCache.key`] gave.
            model (`str`): Who answered.
            question (`str`): What was asked, for people who read the file.
            answer (`str`): The reply as it came.
        """
        with self._lock:
            self._answers[key] = answer
            if self.path is None:
                return
            line = json.dumps({"key": key, "model": model, "question": question, "answer": answer}) + "\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                # One write call per line: lines of several processes never mix.
                os.write(descriptor, (("\n" if self._torn else "") + line).encode())
            finally:
                os.close(descriptor)
            self._torn = False

    def _read(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8", errors="replace")
        self._torn = bool(text) and not text.endswith("\n")
        lines = [line for line in text.split("\n") if line]
        unreadable = 0
        for line in lines:
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = str(entry["answer"])
            except (ValueError, KeyError, TypeError):
                unreadable += 1
        if unreadable and not self._answers and not (len(lines) == 1 and self._torn):
            raise ValueError(f"{path} is no cache of answers: name another file, or remove it.")
        if unreadable:
            # A process that is killed while it writes leaves half a line.
            logger.warning("%s: passed over %d unreadable line(s).", path, unreadable)
