"""Scene graphs of more captions than one machine parses: any parser, its sentences shared out by Ray Data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .arguments import ScoringArguments, quiet_logs
from .ray_captioning import default_workers, errors_of_workers, started_ray
from .scene_graph import SceneGraph


if TYPE_CHECKING:
    import pyarrow as pa

_SENTENCES_PER_TASK = 1024


class RayParser:
    """A [`SceneGraphParser`] on a Ray cluster; its graphs, and its name once it has parsed, are those of `parser`.

    Args:
        parser (`str`): As [`load_parser`] takes it; loaded by the workers, not here.
        workers (`int`, *optional*), worker_gpus (`float`, *optional*): See [`caption_corpus`].

    Raises:
        SettingError: If Ray is not installed or, when it parses, if the workers cannot load the parser.
    """

    def __init__(
        self, parser: str = "compact", *, workers: int | None = None, worker_gpus: float | None = None
    ) -> None:
        self.name = parser
        self._parser, self._workers, self._worker_gpus = parser, workers, worker_gpus
        self._ray = started_ray()
        self._graphs: dict[str, SceneGraph] = {}

    def parse(self, sentences: list[str]) -> list[SceneGraph]:
        """One graph per sentence, in order; a sentence that was parsed before is not parsed again.

        Args:
            sentences (`list[str]`): Shared out to the workers.
        """
        if unknown := [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._graphs]:
            self._parse(unknown)
        return [self._graphs[sentence] for sentence in sentences]

    def _parse(self, sentences: list[str]) -> None:
        import pyarrow as pa

        table = pa.table({"sentence": sentences})
        pieces = [table.slice(start, _SENTENCES_PER_TASK) for start in range(0, len(sentences), _SENTENCES_PER_TASK)]
        pool = default_workers(self._ray, self._workers, self._worker_gpus)
        parsed = self._ray.data.from_arrow(pieces).map_batches(
            _Worker, fn_constructor_args=(self._parser,), batch_size=None, batch_format="pyarrow", **pool
        )
        with errors_of_workers(self._ray):
            for row in parsed.iter_rows():
                self._graphs[row["sentence"]] = SceneGraph.from_dict(json.loads(row["graph"]))
                self.name = row["parser"]


class _Worker:
    def __init__(self, parser: str) -> None:
        quiet_logs()
        self._parser = ScoringArguments(parser=parser).loaded_parser()

    def __call__(self, rows: pa.Table) -> dict[str, Any]:
        sentences = rows["sentence"].to_pylist()
        graphs = [json.dumps(graph.to_dict()) for graph in self._parser.parse(sentences)]
        return {"sentence": sentences, "graph": graphs, "parser": [self._parser.name] * len(graphs)}
