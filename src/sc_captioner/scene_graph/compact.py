"""The scene-graph parser that ships with the package: small, fast on a CPU, no download."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .compact_decoding import labels_of
from .compact_labels import Vocabulary, graph_of
from .compact_model import CompactConfig, CompactModel
from .compact_pieces import Pieces
from .compact_words import Token, tokens_of
from .graph import Entity, Relation, SceneGraph
from .recent_graphs import RecentGraphs


SHIPPED = Path(__file__).parent.parent / "assets" / "compact_parser"
LONGEST = 96  # tokens read at once; longer texts are read in pieces, so that time and memory stay linear
MAX_TOKENS = 6144  # tokens of a batch, padding included


class CompactParser:
    """Parses sentences in batches, each distinct sentence once.

    Counts stand in `Entity.quantity`, as FactualSceneGraph's own parser has them. Safe to share between threads;
    the transformer runs in bfloat16 on GPUs and on processors that have it.

    Args:
        model (`CompactModel`): Trained network.
        vocabulary (`Vocabulary`): Its closed label sets.
        pieces (`list[str]`): Word pieces, the rows of its embedding table.
        card (`dict`): What `config.json` says of the training, kept when saved again.
        batch_size (`int`): Sentences per forward pass.
        device (`str`, *optional*): Defaults to a GPU where there is one.
        cache_size (`int`): Sentences whose graphs are remembered; the oldest are forgotten first.
    """

    name = "compact"

    def __init__(
        self,
        model: CompactModel,
        vocabulary: Vocabulary,
        pieces: Sequence[str],
        card: dict[str, Any] | None = None,
        batch_size: int = 64,
        device: str | torch.device | None = None,
        cache_size: int = 100_000,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.vocabulary, self.pieces, self.card = vocabulary, Pieces(pieces), dict(card or {})
        self.batch_size = batch_size
        self._recent = RecentGraphs(cache_size)

    @property
    def version(self) -> str:
        """Version of the weights, for results and model cards."""
        return str(self.card.get("version", "0"))

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, **options: Any) -> CompactParser:
        """Read a parser from a folder with `model.safetensors` and `config.json`; `None` reads the shipped one.

        Args:
            path (`str | Path`, *optional*): Folder of the parser.

        Raises:
            FileNotFoundError: If a file is missing; the message names it.
            ValueError: If the files do not belong together.
        """
        folder = Path(path) if path is not None else SHIPPED
        for file in ("config.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"No compact parser in {folder}: {file} is missing.")
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        try:
            model = CompactModel(CompactConfig(**stored["model"]))
            vocabulary = Vocabulary(**stored["vocabulary"])
            model.load_state_dict(_from_bytes(load_file(folder / "model.safetensors")))
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{folder} does not hold a compact parser of this version: {error}") from error
        return cls(model, vocabulary, stored["pieces"], stored.get("card"), **options)

    def save_pretrained(self, path: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder, which is made if need be.

        Matrices are stored as bytes with a scale per row, which costs them 0.4 % of their largest entry at most.

        Args:
            path (`str | Path`): The folder.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_as_bytes(self.model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
        stored = {
            "model": self.model.config.to_dict(),
            "vocabulary": asdict(self.vocabulary),
            "pieces": self.pieces.pieces,
            "card": self.card,
        }
        text = json.dumps(stored, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    def parse(self, sentences: Iterable[str]) -> list[SceneGraph]:
        """Graphs of sentences, in their order; a text without anything visible has an empty graph.

        Args:
            sentences (`Iterable[str]`): What to parse, one sentence each.

        Raises:
            TypeError: If a sentence is not a string; the message names its place.
        """
        texts = list(sentences)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Sentence {i} is not a string but {type(text).__name__}: {text!r:.80}")
        graphs = self._recent.known(texts)
        new = [text for text in dict.fromkeys(texts) if text not in graphs]
        parsed = dict(zip(new, self._parse(new)))
        self._recent.remember(parsed)
        graphs |= parsed
        return [graphs[text] for text in texts]

    def _parse(self, texts: Sequence[str]) -> list[SceneGraph]:
        pieces = [(i, piece) for i, text in enumerate(texts) for piece in _pieces(tokens_of(text))]
        parts: list[list[tuple[int, SceneGraph]]] = [[] for _ in texts]
        for chosen in self._batches([len(piece) for _, piece in pieces]):
            labels = labels_of(self.model, [pieces[k][1] for k in chosen], self.pieces, self.vocabulary)
            for k, found in zip(chosen, labels):
                i, piece = pieces[k]
                parts[i].append((k, graph_of(texts[i], piece, found, self.vocabulary)))
        return [_merged([graph for _, graph in sorted(found, key=lambda pair: pair[0])]) for found in parts]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of pieces by falling length, so that little is padded."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        start = 0
        while start < len(order):
            size = min(self.batch_size, max(1, MAX_TOKENS // lengths[order[start]]))
            yield order[start : start + size]
            start += size


def _as_bytes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 beside a float32 `NAME.scale` per row, everything else as float16."""
    stored = {}
    for name, weight in weights.items():
        weight = weight.detach().to("cpu", torch.float32)
        if weight.dim() < 2:
            stored[name] = weight.to(torch.float16)
            continue
        scale = weight.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
        stored[name], stored[f"{name}.scale"] = (weight / scale).round().to(torch.int8), scale
    return {name: weight.contiguous() for name, weight in stored.items()}


def _from_bytes(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scaled = {name: weight.float() * stored.get(f"{name}.scale", 1.0) for name, weight in stored.items()}
    return {name: weight for name, weight in scaled.items() if not name.endswith(".scale")}


def _pieces(tokens: list[Token]) -> Iterator[list[Token]]:
    """A text's tokens in pieces of at most `LONGEST`, cut after a stop or comma where there is one."""
    while len(tokens) > LONGEST:
        ends = [i for i in range(LONGEST // 2, LONGEST) if tokens[i].text in ".!?;,"]
        cut = (ends[-1] if ends else LONGEST - 1) + 1
        yield tokens[:cut]
        tokens = tokens[cut:]
    if tokens:
        yield tokens


def _merged(graphs: Sequence[SceneGraph]) -> SceneGraph:
    """One graph of all pieces in which equal heads are one entity and digits are quantities."""
    whole = SceneGraph.union(graphs)
    entities: dict[str, Entity] = {}
    for entity in whole.entities:
        known = entities.get(entity.head, Entity(entity.head))
        entities[entity.head] = replace(known, attributes=known.attributes | entity.attributes)
    index = {head: i for i, head in enumerate(entities)}
    heads = [entity.head for entity in whole.entities]
    relations = dict.fromkeys(
        Relation(index[heads[r.subject]], r.relation, index[heads[r.object]]) for r in whole.relations
    )
    return SceneGraph(tuple(_counted(entity) for entity in entities.values()), tuple(relations))


def _counted(entity: Entity) -> Entity:
    """The entity with its count, if it has one, taken out of its attributes."""
    digits = sorted(a for a in entity.attributes if a.isdecimal() and a.isascii())
    if not digits:
        return entity
    return replace(entity, attributes=entity.attributes - set(digits), quantity=digits[-1])
