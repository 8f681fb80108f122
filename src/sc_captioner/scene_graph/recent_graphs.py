"""The memory of a parser: graphs of the sentences that it met last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from threading import Lock

from .graph import SceneGraph


class RecentGraphs:
    """Graphs by sentence; beyond `size` the sentences that were asked for longest ago are forgotten. Safe to share
    between threads.

    Args:
        size (`int`): Sentences remembered, at least 0.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._graphs: OrderedDict[str, SceneGraph] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._graphs)

    def known(self, sentences: Iterable[str]) -> dict[str, SceneGraph]:
        """Graphs of those sentences that are remembered.

        Args:
            sentences (`Iterable[str]`): What to look up.
        """
        with self._lock:
            found = {sentence: self._graphs[sentence] for sentence in sentences if sentence in self._graphs}
            for sentence in found:
                self._graphs.move_to_end(sentence)
            return found

    def remember(self, graphs: Mapping[str, SceneGraph]) -> None:
        """Add graphs, and forget what is too much.

        Args:
            graphs (`Mapping[str, SceneGraph]`): By sentence, the most recent last.
        """
        with self._lock:
            self._graphs.update(graphs)
            while len(self._graphs) > self.size:
                self._graphs.popitem(last=False)
