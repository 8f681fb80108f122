"""FACTUAL's T5 parser: the one that published numbers use, batched and cached for real work.

Prompt, written form and clean-up follow FactualSceneGraph 0.6.1 (Li et al., "FACTUAL: A Benchmark for Faithful and
Consistent Textual Scene Graph Parsing", 2023), whose own class moves one sentence list at a time through the model.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..hub import cached_commit
from .graph import SceneGraph
from .recent_graphs import RecentGraphs
from .whole_weights import whole_weights


if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

logger = logging.getLogger(__name__)

FACTUAL_T5 = "lizhuang144/flan-t5-base-VG-factual-sg"
PROMPT = "Generate Scene Graph: "


class FactualParser:
    """A T5 trained on FACTUAL, from the Hub or a folder.

    Every distinct sentence is generated once, in batches of similar length, and remembered in memory and, by option,
    in a file that other runs with the same model, revision and decoding settings read.

    Args:
        model (`str`, *optional*): Hub id or folder of a sequence-to-sequence model and its tokenizer.
        revision (`str`, *optional*): Revision on the Hub.
        device (`str`, *optional*): A GPU where there is one, else the CPU.
        dtype (`str`, *optional*, defaults to `"auto"`): `"float32"`, `"bfloat16"`; `"auto"` is bfloat16 on a GPU that
            has it and float32 elsewhere.
        batch_size (`int`, *optional*, defaults to `32`): Sentences per generation.
        beam_size (`int`, *optional*, defaults to `5`): Beams, 5 as released.
        max_input_len (`int`, *optional*, defaults to `512`): Tokens of prompt and sentence; more is cut off.
        max_output_len (`int`, *optional*, defaults to `128`): Tokens of the written graph; a fact cut off is dropped.
        cache_file (`str` or `Path`, *optional*): SQLite file that keeps graphs between runs.
        cache_size (`int`, *optional*, defaults to `100_000`): Sentences remembered in memory.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.
        across_processes (`bool`, *optional*, defaults to `False`): Whether the processes of `accelerate launch`, each
            on its own GPU, parse a share of the sentences each and hand each other the graphs. All of them must then
            call `parse` with the same sentences, as evaluation does and training does not.

    Raises:
        OSError: If the model is neither a folder nor reachable on the Hub; the message names the remedy.
    """

    def __init__(
        self,
        model: str = FACTUAL_T5,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int = 32,
        beam_size: int = 5,
        max_input_len: int = 512,
        max_output_len: int = 128,
        cache_file: str | Path | None = None,
        cache_size: int = 100_000,
        progress: bool = False,
        across_processes: bool = False,
    ) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self._processes: PartialState | None = None
        if across_processes:
            from accelerate import PartialState

            # Where there is no accelerator it must be told, or every process believes to be the only one.
            self._processes = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
            progress = progress and self._processes.is_main_process
            device = device or str(self._processes.device)
        self.batch_size, self.beam_size, self.progress = batch_size, beam_size, progress
        self.max_input_len, self.max_output_len = max_input_len, max_output_len
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype == "auto":
            dtype = "bfloat16" if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, revision=revision)
            with whole_weights():
                self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(
                    model, revision=revision, dtype=getattr(torch, dtype)
                )
        except OSError as error:
            raise OSError(
                f"The parser {model!r} is neither a folder with a T5 nor reachable on the Hub ({error}). Use a local "
                "copy of it, or parser='compact', which ships with the package."
            ) from error
        self.model.to(self.device).eval()
        self.name = "factual" if model == FACTUAL_T5 else str(model)
        commit = cached_commit(str(model), revision) or revision or "main"
        self.version = f"{model}@{commit} {dtype} beams={beam_size} in={max_input_len} out={max_output_len}"
        self._recent = RecentGraphs(cache_size)
        self._stored = _GraphFile(Path(cache_file), self.version) if cache_file is not None else None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"FactualParser({self.version})"

    def parse(self, sentences: list[str]) -> list[SceneGraph]:
        """One graph per sentence, in order.

        Args:
            sentences (`list[str]`): What to parse, one sentence each.
        """
        with self._lock:
            graphs = self._recent.known(sentences)
            new = [s for s in dict.fromkeys(sentences) if s not in graphs]
            if new:
                texts = self._written(new) if self._processes is None else self._written_by_all(new, self._processes)
                graphs.update((s, read_graph(texts[s])) for s in new)
                self._recent.remember({s: graphs[s] for s in new})
            return [graphs[sentence] for sentence in sentences]

    def _written(self, sentences: list[str]) -> dict[str, str]:
        """Graphs as the T5 writes them, by sentence, from the file where it has them."""
        texts = {} if self._stored is None else self._stored.read(sentences)
        for batch, generated in self._generate([s for s in sentences if s not in texts]):
            texts.update(zip(batch, generated))
            if self._stored is not None:
                self._stored.write(dict(zip(batch, generated)))
        return texts

    def _written_by_all(self, sentences: list[str], processes: PartialState) -> dict[str, str]:
        """The same, every process writing the graphs of its share."""
        import torch
        from accelerate.utils import gather, pad_across_processes

        # In turns by length: equal shares of the work. What the file holds may differ from process to process by now,
        # so that is asked within a share only.
        by_length = sorted(sentences, key=lambda sentence: (-len(sentence), sentence))
        texts = self._written(by_length[processes.process_index :: processes.num_processes])
        # As bytes of JSON: gather_object would pickle. JSON escapes NUL, so what pads is no part of it.
        told = torch.frombuffer(bytearray(json.dumps(texts).encode()), dtype=torch.uint8).to(processes.device)
        rows = gather(pad_across_processes(told[None], dim=1)).cpu().numpy()
        return {s: text for row in rows for s, text in json.loads(row.tobytes().rstrip(b"\0")).items()}

    def _generate(self, sentences: list[str]) -> Iterator[tuple[list[str], list[str]]]:
        import torch
        from tqdm import tqdm

        if not sentences:
            return
        encoded = self.tokenizer(
            [PROMPT + sentence.strip() for sentence in sentences], max_length=self.max_input_len, truncation=True
        )["input_ids"]
        # Longest first: memory runs out at once or not at all, and little of a batch is padding.
        order = sorted(range(len(sentences)), key=lambda i: (-len(encoded[i]), sentences[i]))
        with tqdm(total=len(order), desc="parsing", unit="sentence", disable=not self.progress) as bar:
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                batch = self.tokenizer.pad({"input_ids": [encoded[i] for i in chosen]}, return_tensors="pt")
                with torch.inference_mode():
                    texts = self._decode(batch.to(self.device))
                bar.update(len(chosen))
                yield [sentences[i] for i in chosen], texts

    def _decode(self, batch: Any) -> list[str]:
        generated: torch.Tensor = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_start_token_id=self.tokenizer.pad_token_id,
            num_beams=self.beam_size,
            early_stopping=self.beam_size > 1,
            do_sample=False,
            max_length=self.max_output_len,
        )
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=True)
        return [text.replace(PROMPT.strip(), "").strip() for text in texts]


class _GraphFile:
    """Written graphs in SQLite, keyed by parser version and sentence; several processes may share one file."""

    def __init__(self, path: Path, version: str) -> None:
        self.path, self.version = path, version
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS graphs (version TEXT, sentence TEXT, graph TEXT, "
                "PRIMARY KEY (version, sentence)) WITHOUT ROWID"
            )

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)

    def read(self, sentences: list[str]) -> dict[str, str]:
        """Graphs of those `sentences` that are stored."""
        query = "SELECT sentence, graph FROM graphs WHERE version = ? AND sentence IN (SELECT value FROM json_each(?))"
        with closing(self._connect()) as connection:
            return dict(connection.execute(query, (self.version, json.dumps(sentences))))

    def write(self, graphs: dict[str, str]) -> None:
        """Store `graphs`, written form by sentence."""
        rows = [(self.version, sentence, graph) for sentence, graph in graphs.items()]
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO graphs VALUES (?, ?, ?)", rows)


def read_graph(text: str) -> SceneGraph:
    """The graph that FactualSceneGraph reads from a T5's output: repeats and a fact cut off at the end are dropped,
    facts are sorted, a number after `is` is a quantity, and beside other facts only triples count.

    Args:
        text (`str`): What the T5 wrote.
    """
    facts = _facts(text)
    attributes: dict[str, list[str]] = {}
    quantities: dict[str, str] = {}
    triples: list[tuple[str, str, str]] = []
    for fact in facts:
        terms = [term.strip() for term in fact.split(",")]
        if len(terms) != 3:
            if len(facts) == 1 and terms[0]:
                attributes.setdefault(terms[0], [])
            continue
        subject, predicate, value = terms
        if not subject or not value:
            continue
        attributes.setdefault(subject, [])
        if predicate != "is":
            attributes.setdefault(value, [])
            triples.append((subject, predicate, value))
        elif value.isdigit():
            quantities[subject] = value
        else:
            attributes[subject].append(value)
    index = {head: i for i, head in enumerate(attributes)}
    return SceneGraph.from_dict(
        {
            "entities": [
                {"head": head, "attributes": values, "quantity": quantities.get(head, "")}
                for head, values in attributes.items()
            ],
            "relations": [{"subject": index[s], "relation": p, "object": index[o]} for s, p, o in triples],
        }
    )


def _facts(text: str) -> list[str]:
    spaced = " ".join(text.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split())
    facts = spaced.split(") ,")
    if not spaced.endswith(")"):
        facts = facts[:-1] if len(facts) > 1 else [facts[0].split(",")[0]]
    return sorted({stripped for fact in facts if (stripped := fact.strip().strip("()").strip())})
