"""CaptionReward: CAPTURE of one caption, whichever way a trainer hands it over."""

from __future__ import annotations

import pytest

from sc_captioner import CaptionReward
from sc_captioner.metrics import capture
from sc_captioner.scene_graph import PhraseEncoder
from sc_captioner.scene_graph.parser import parse_captions


REFERENCES = [
    "A big green star is above a small black circle.",
    "A red heart is left of a blue square. A small star is below the heart.",
    "A big green star is above a small black circle.",
]
FIRSTS = ["A big green star is above a small black circle.", "A red heart.", "A small yellow star is below a circle."]
SECONDS = ["A star.", "A red heart is left of a blue square. A small star is below the heart.", "Nothing is here."]


@pytest.fixture(scope="module")
def rewards():
    first = CaptionReward("first")
    return first, CaptionReward("second", first.parser, first.encoder, first.lexicon)


def test_the_reward_is_the_metric(rewards):
    first, second = rewards
    got = [reward(first_caption=FIRSTS, second_caption=SECONDS, reference=REFERENCES) for reward in rewards]
    references = [[graph] for graph in parse_captions(first.parser, first.lexicon, REFERENCES)]
    for captions, values in zip((FIRSTS, SECONDS), got):
        graphs = parse_captions(first.parser, first.lexicon, captions)
        texts = [[text] for text in REFERENCES]
        scores = capture(graphs, references, captions, texts, first.lexicon, first.encoder).per_sample
        assert values == [sample["capture"] for sample in scores]
    assert got[0][0] == pytest.approx(1.0, abs=1e-4) and got[1][1] == pytest.approx(1.0, abs=1e-4)
    assert all(0 <= value < 0.9 for value in (*got[0][1:], got[1][0], got[1][2]))
    assert (first.__name__, second.__name__) == ("first_caption_reward", "second_caption_reward")


def test_completions_stand_for_captions_where_there_is_one_turn(rewards):
    expected = rewards[0](first_caption=FIRSTS, reference=REFERENCES)
    conversations = [[{"role": "assistant", "content": f" {text}\n"}] for text in FIRSTS]
    blocks = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in FIRSTS]
    for completions in (FIRSTS, conversations, blocks):
        for reward in rewards:
            assert reward(completions=completions, reference=REFERENCES, prompts=["?"] * 3) == expected


def test_what_cannot_be_scored_is_left_out_and_counted(rewards):
    reward = CaptionReward("first", rewards[0].parser, rewards[0].encoder, rewards[0].lexicon)
    expected = reward(first_caption=FIRSTS, reference=REFERENCES)
    with pytest.warns(UserWarning, match=r"1 of 3 captions could not be scored.*sample 1 .*reference is no string"):
        values = reward(first_caption=FIRSTS, reference=[REFERENCES[0], None, REFERENCES[2]])
    assert values == [expected[0], None, expected[2]]
    assert reward.num_failed == 1
    with pytest.raises(ValueError, match="There are 3 captions but 2 references"):
        reward(first_caption=FIRSTS, reference=REFERENCES[:2])


def test_one_sample_that_breaks_the_encoder_does_not_take_the_others_along(rewards):
    class Picky(PhraseEncoder):
        def encode(self, phrases):
            phrases = list(phrases)
            if any("yellow" in phrase for phrase in phrases):
                raise RuntimeError("no yellow")
            return super().encode(phrases)

    reward = CaptionReward("second", rewards[0].parser, Picky(), rewards[0].lexicon)
    expected = rewards[1](second_caption=FIRSTS, reference=REFERENCES)
    with pytest.warns(UserWarning, match="RuntimeError: no yellow"):
        values = reward(second_caption=FIRSTS, reference=REFERENCES)
    assert values == [*expected[:2], None]


def test_means_by_kind_are_logged(rewards):
    logged = {}
    rewards[0](first_caption=FIRSTS[:1], reference=REFERENCES[:1], log_metric=logged.__setitem__)
    assert logged == pytest.approx(
        {f"first_turn/{kind}_f1": 1.0 for kind in ("object", "attribute", "relation")}, abs=1e-4
    )


def test_an_unknown_turn_is_refused():
    with pytest.raises(ValueError, match="choose 'first' or 'second'"):
        CaptionReward("third")
