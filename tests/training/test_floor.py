"""A model below the entropy of its corpus is a bug in lmx, and is called one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from training_helpers import Place

from lmx.data.storyworld import generate_stories
from lmx.training import totals
from lmx.training.evaluate import evaluate_run
from lmx.training.totals import LUCK, NAMES, check_floor


@dataclass
class Held:
    """As much of a split as the check looks at."""

    floor_bits_per_byte: float | None
    scored_bytes: int
    name: str = "validation"


def told_in(bits: float) -> dict[str, float]:
    return {**dict.fromkeys(NAMES, 1.0), "nats": bits * math.log(2)}


@pytest.fixture(scope="module")
def split() -> Held:
    stories = list(generate_stories(40, seed=0))
    size = sum(len(story.text.encode()) for story in stories)
    return Held(-sum(story.log2_probability for story in stories) / size, size)


def test_the_source_itself_and_every_worse_model_pass(split: Held) -> None:
    assert split.floor_bits_per_byte is not None
    floor = split.floor_bits_per_byte * split.scored_bytes
    for bits in (floor, floor - LUCK / 2, 2 * floor, math.inf):
        check_floor(told_in(bits), split)  # type: ignore[arg-type]


def test_a_loss_below_the_floor_is_called_a_bug(split: Held) -> None:
    assert split.floor_bits_per_byte is not None
    floor = split.floor_bits_per_byte * split.scored_bytes
    with pytest.raises(
        RuntimeError, match=r"validation: \d+ bits below the entropy of the corpus.*a bug in lmx"
    ):
        check_floor(told_in(0.99 * floor), split)  # type: ignore[arg-type]


def test_a_corpus_of_unknown_entropy_has_no_floor() -> None:
    check_floor(told_in(0.0), Held(None, 1000))  # type: ignore[arg-type]


def test_training_and_evaluation_stop_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not where windows were drawn, nor on the train split, which may be known by heart."""
    run = place.train("train.horizon=1steps").folder.path
    monkeypatch.setattr(totals, "LUCK", -math.inf)  # whatever the loss, it is too low
    with pytest.raises(RuntimeError, match=r"^validation: .* a bug in lmx"):
        place.train("train.horizon=1steps")
    with pytest.raises(RuntimeError, match=r"^validation: .* a bug in lmx"):
        evaluate_run(run, "validation", checkpoint=None, batch_size=None, say=print)
    place.train("train.horizon=1steps", "train.eval_windows=2")
    assert "train/excess_bits_per_byte" in evaluate_run(
        run, "train", checkpoint=None, batch_size=64, say=print
    )
