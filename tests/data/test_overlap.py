"""The leak check against sets of tuples."""

from __future__ import annotations

import random

import numpy as np
import pytest
from data_helpers import real_data

from lmx.data import overlap as module
from lmx.data.overlap import Overlap, Sequences, overlap


def sequences(text: str) -> Sequences:
    return Sequences(text.encode())


def by_sets(train: list[str], held_out: list[str], size: int) -> tuple[int, int]:
    def sequences(texts: list[str]) -> set[tuple[str, ...]]:
        return {
            tuple(w[i : i + size]) for text in texts for w in [text.split()] for i in range(len(w) - size + 1)
        }

    held = sequences(held_out)
    return len(held), len(held & sequences(train))


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    common = [" ".join(rng.choices("abcdefgh", k=60)) for _ in range(3)]
    texts = [" ".join(rng.choices("abcdefghijkl", k=rng.randint(0, 90))) for _ in range(count)]
    return [rng.choice(common) + " " + text if rng.random() < 0.4 else text for text in texts]


def test_shared_sequences_are_those_of_sets() -> None:
    shared = random_texts(1, 5)[0]
    train = [*random_texts(60, 1), "start " + shared + " end"]
    held_out = [*random_texts(30, 2), shared, *random_texts(10, 1)]
    found = overlap(train, held_out)
    for size in module.SIZES:
        entry = found[f"{size}_words"]
        assert (entry["sequences"], entry["shared"]) == by_sets(train, held_out, size)
        assert not entry["sampled"]
    assert found["13_words"]["shared"] > 0


def test_sequences_do_not_cross_documents() -> None:
    words = [str(i) for i in range(26)]
    assert (
        overlap([" ".join(words)], [" ".join(words[:7]), " ".join(words[7:14])])["13_words"]["sequences"] == 0
    )


def test_two_splits_are_kept_apart() -> None:
    text = [str(i) for i in range(40)]
    check = Overlap()
    check.hold_out("validation", sequences(" ".join(text)))
    check.hold_out("test", sequences(" ".join(["x", *text[:20]])))
    check.pass_by(sequences(" ".join(text[:15])))
    facts = check.facts()
    assert facts["validation"]["13_words"] == {"sequences": 28, "shared": 3, "sampled": False}
    assert facts["test"]["13_words"] == {"sequences": 9, "shared": 3, "sampled": False}


def test_words_are_those_of_split_in_any_script() -> None:
    spaces = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and chr(code).isspace()]
    text = "".join(f"né{i}日{space}🙂" for i, space in enumerate(spaces)) + "  end\n"
    assert sequences(text).words == len(text.split())
    # the same words are the same sequences, whatever stands between and beside them
    words = [f"é{i}" if i % 5 else f"e{i}" for i in range(13)]
    ways = [" ".join(words), "\u2003".join(words) + "\0a b", "x " * 500 + "\0" + "\n ".join(words)]
    hashes = [set(sequences(way).hashes(13).tolist()) for way in ways]
    assert set.intersection(*hashes) == hashes[0]
    assert len(hashes[0]) == 1
    other = " ".join([words[1], words[0], *words[2:]])
    assert not set(sequences(other).hashes(13).tolist()) & hashes[0]


def test_sample_of_many_sequences_estimates_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2000)
    words = [f"w{i}" for i in range(20_000)]
    found = overlap([" ".join(words[:5000])], [" ".join(words)])["13_words"]
    assert found["sampled"]
    assert found["sequences"] == 2000
    # binomial: share 0.25 ± 0.0097
    assert abs(found["shared"] / 2000 - 0.25) < 0.05


def test_real_validation_text_shares_little_with_the_rest() -> None:
    lines = (real_data() / "wikitext-2/wiki.valid.raw").read_text(encoding="utf-8").splitlines()
    train, held_out = lines[:3000], lines[3000:]
    found = overlap(train, held_out)["13_words"]
    assert (found["sequences"], found["shared"]) == by_sets(train, held_out, 13)


def test_no_documents_at_all() -> None:
    assert overlap([], ["a b"])["13_words"] == {"sequences": 0, "shared": 0, "sampled": False}
    assert overlap(["a b"], [])["13_words"]["sequences"] == 0
    assert sequences("").words == 0
    assert sequences("").hashes(13).dtype == np.uint64
