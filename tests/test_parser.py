"""Parser interface: stored graphs, loading by name, whole captions, and T5 against FactualSceneGraph's own class."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sc_captioner.scene_graph import (
    SceneGraph,
    SceneGraphParser,
    StoredParser,
    load_lexicon,
    load_parser,
    parse_captions,
)
from sc_captioner.scene_graph.factual import FactualParser, read_graph


DOG = {"entities": [{"head": "dog", "quantity": "", "attributes": ["old"]}], "relations": []}
WRITTEN = {
    "A dog sits on a bench.": "( dog , sit on , bench )",
    "Two women hold umbrellas.": "( women , hold , umbrellas ) , ( women , is , 2 )",
    "A cat.": "( cat )",
    "The red car is near the old house.": "( car , is , red ) , ( car , near , house ) , ( house , is , old )",
}
SENTENCES = list(WRITTEN)


def test_stored_graphs() -> None:
    parser = StoredParser({"A dog.": DOG, "Nothing.": SceneGraph()})
    assert isinstance(parser, SceneGraphParser)
    dog, nothing, again = parser.parse(["A dog.", "Nothing.", "A dog."])
    assert dog == again == SceneGraph.from_dict(DOG)
    assert nothing == SceneGraph()
    with pytest.raises(KeyError, match="A cat"):
        parser.parse(["A dog.", "A cat."])
    with pytest.raises(ValueError, match="entities"):
        StoredParser({"A dog.": {"relations": []}})


def test_captions_are_parsed_in_one_call_each_sentence_once() -> None:
    asked: list[list[str]] = []

    class Recording(StoredParser):
        def parse(self, sentences: list[str]) -> list[SceneGraph]:
            asked.append(sentences)
            return super().parse(sentences)

    facts = {"A dog.": "( dog )", "A cat.": "( cat )", "A dog sees a cat.": "( dog , see , cat )"}
    parser = Recording({sentence: SceneGraph.from_facts(text) for sentence, text in facts.items()})
    captions = ["A dog. A cat.", "", "A cat. A dog sees a cat.", "A dog. A dog."]
    graphs = parse_captions(parser, load_lexicon("bundled"), captions)
    assert asked == [["A dog.", "A cat.", "A dog sees a cat."]]
    assert [sorted(graph.objects) for graph in graphs] == [["cat", "dog"], [], ["cat", "dog"], ["dog"]]
    assert graphs[2].triples == {("dog", "see", "cat")}
    assert parse_captions(parser, load_lexicon("bundled"), []) == []


def test_parsers_by_name(tmp_path: Path) -> None:
    stored = StoredParser({})
    assert load_parser(stored) is stored
    with pytest.raises(ValueError, match="already built"):
        load_parser(stored, batch_size=4)
    compact = load_parser("compact")
    assert compact.name.startswith("compact")
    assert "dog" in compact.parse(["A dog sits on a bench."])[0].objects
    with pytest.raises(OSError, match="'compact'"):
        load_parser(str(tmp_path / "no-such-parser"))


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of the real architecture at tiny size that has learnt four graphs, and its tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("tiny-t5")
    words = {word for text in ("Generate Scene Graph:", *WRITTEN, *WRITTEN.values()) for word in text.split()}
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *sorted(words)])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", raw.token_to_id("</s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=False, dropout_rate=0.0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    inputs = tokenizer([f"Generate Scene Graph: {s}" for s in WRITTEN], return_tensors="pt", padding=True)
    labels = tokenizer(list(WRITTEN.values()), return_tensors="pt", padding=True)["input_ids"]
    labels[labels == 0] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(2000):  # some 150 do
        loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.002:
            break
    assert loss < 0.002
    model.eval().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("beams", [1, 5])
def test_t5_writes_what_factual_writes(tiny_t5: Path, beams: int) -> None:
    from factual_scene_graph.parser.scene_graph_parser import SceneGraphParser as Theirs

    theirs = Theirs(str(tiny_t5), device="cpu").parse(SENTENCES, beam_size=beams, max_input_len=512, batch_size=4)
    expected = [SceneGraph.from_dict(graph) for graph in theirs]
    assert expected[3].triples == {("car", "near", "house")}  # it has learnt its graphs
    for batch_size in (1, 3):
        ours = FactualParser(str(tiny_t5), device="cpu", beam_size=beams, batch_size=batch_size)
        assert ours.parse(SENTENCES) == expected
    assert load_parser(tiny_t5, beam_size=beams).name == str(tiny_t5)


def test_t5_reads_each_sentence_once_in_this_run_and_the_next(tiny_t5: Path, tmp_path: Path) -> None:
    options = {
        "device": "cpu",
        "beam_size": 1,
        "max_output_len": 16,
        "cache_file": tmp_path / "cache" / "graphs.sqlite",
    }
    parser = FactualParser(str(tiny_t5), **options)
    batches: list[int] = []
    decode = parser._decode
    parser._decode = lambda batch: batches.append(len(batch["input_ids"])) or decode(batch)
    graphs = parser.parse(SENTENCES + SENTENCES[::-1])
    assert graphs == parser.parse(SENTENCES) + parser.parse(SENTENCES[::-1])
    assert sum(batches) == len(SENTENCES)

    later = FactualParser(str(tiny_t5), **options)
    later._decode = None  # what is on disk needs no model
    assert later.parse(SENTENCES) == graphs[: len(SENTENCES)]
    other = FactualParser(str(tiny_t5), **{**options, "max_output_len": 8})
    assert other.version != later.version
    assert other._stored is not None and other._stored.read(SENTENCES) == {}
    assert parser.parse([]) == []


def test_t5_remembers_the_sentences_it_met_last(tiny_t5: Path) -> None:
    parser = FactualParser(str(tiny_t5), device="cpu", beam_size=1, max_output_len=16, cache_size=2)
    met: list[int] = []
    decode = parser._decode
    parser._decode = lambda batch: met.append(len(batch["input_ids"])) or decode(batch)
    one, two, three = SENTENCES[:3]
    for sentence in (one, two, one, three, one, two):  # three drives out two, which was met before one was met again
        parser.parse([sentence])
    assert sum(met) == 4 and len(parser._recent) == 2
    unbounded = FactualParser(str(tiny_t5), device="cpu", beam_size=1, max_output_len=16)
    assert parser.parse(SENTENCES) == unbounded.parse(SENTENCES)


def test_processes_of_accelerate_share_the_sentences(tiny_t5: Path, tmp_path: Path, repository: Path) -> None:
    expected = FactualParser(str(tiny_t5), device="cpu", beam_size=1, across_processes=True).parse(SENTENCES)
    assert expected == FactualParser(str(tiny_t5), device="cpu", beam_size=1).parse(SENTENCES)

    config = repository / "recipes/accelerate/two_cpu_processes.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    script = [str(repository / "tests/parse_in_two_processes.py"), str(tiny_t5), str(tmp_path)]
    done = subprocess.run(
        [*launch, "--main_process_port=0", *script], cwd=repository, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["world_size"] == second["world_size"] == 2
    facts = [graph.to_facts() for graph in expected]
    assert first["graphs"] == second["graphs"] == [facts[0], *facts, facts[2]]
    assert first["later"] == second["later"] == [*facts, facts[2]]
    # Every sentence was generated once, by one of the two: the first alone, then two and one.
    assert sorted((len(first["generated"]), len(second["generated"]))) == [1, 3]
    assert not [batch for batch in first["generated"] if batch in second["generated"]]


def test_reading_is_factuals_for_whole_and_cut_texts(shared: Path) -> None:
    import csv

    from factual_scene_graph.parser.scene_graph_parser import SceneGraphParser as Theirs
    from factual_scene_graph.utils import clean_graph_string, space_out_symbols_in_graph

    reader = Theirs.__new__(Theirs)
    generator = random.Random(0)
    with (shared / "data/factual/dev.csv").open(encoding="utf-8") as file:
        texts = [row["scene_graph"] for row in csv.DictReader(file)]
    texts += [text[: generator.randrange(3, len(text))] for text in texts]
    texts += [f"{a} , {b}" for a, b in zip(texts, texts[1:400])]
    texts += ["( dogs , is , 2 ) , ( dogs , is , old )", "( sky )", "dog"]
    for text in texts:
        theirs = SceneGraph.from_dict(
            reader.graph_string_to_object(clean_graph_string(space_out_symbols_in_graph(text)))
        )
        assert read_graph(text) == theirs, text
