"""Validation that is taken from the train split's windows, or cut down, as recorded experiments had it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from data_helpers import files_config, prepared, split_of

from lmx.config import Experiment
from lmx.config.compose import compose
from lmx.data import Corpus, TokenDataModule
from lmx.data.layout import Strided
from lmx.data.manifest import find
from lmx.data.windows import Windows

DOCUMENTS = [f"Story number {i}, which is told once and never again." for i in range(30)]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "stories.txt"
    path.write_text("\n\n".join(DOCUMENTS))
    return str(path)


def tokens_of(windows: Windows) -> np.ndarray:
    return windows.gather(np.arange(len(windows)))["tokens"]


def test_windows_split_at_random_share_nearly_all_their_tokens(file: str, tmp_path: Path) -> None:
    data = files_config(file, packing="stride", stride=1, holdout="windows", validation_fraction=0.1)
    corpus = prepared(data, tmp_path / "cache")
    train, held = corpus.splits["train"], corpus.splits["validation"]
    count = corpus.facts["splits"]["train"]["tokens"] - 8
    assert (len(train), len(held)) == (count - round(0.1 * count), round(0.1 * count))
    both = np.concatenate([tokens_of(train), tokens_of(held)])
    every = np.lib.stride_tricks.sliding_window_view(train.split.tokens, 8)[:count]
    assert sorted(map(tuple, both)) == sorted(map(tuple, every.tolist())), "each window is in one of them"
    seen = {tuple(row[1:]) for row in tokens_of(train).tolist()}
    assert np.mean([tuple(row[:-1]) in seen for row in tokens_of(held).tolist()]) > 0.8
    again = prepared(data, tmp_path / "cache").splits["validation"]
    assert np.array_equal(tokens_of(again), tokens_of(held))


def test_without_a_holdout_validation_is_the_train_split(file: str, tmp_path: Path) -> None:
    corpus = prepared(files_config(file, holdout="none"), tmp_path / "cache")
    train, held = corpus.splits["train"], corpus.splits["validation"]
    assert np.array_equal(tokens_of(train), tokens_of(held))
    facts = corpus.facts["splits"]
    assert facts["validation"] == facts["train"]
    assert facts["train"]["documents"] == 30
    assert "30 documents" in corpus.describe()


def test_documents_held_out_are_in_another_store(file: str, tmp_path: Path) -> None:
    whole = prepared(files_config(file, holdout="none"), tmp_path / "cache")
    apart = prepared(files_config(file, validation_fraction=0.3), tmp_path / "cache")
    assert apart.store.folder != whole.store.folder
    counts = [apart.facts["splits"][split]["documents"] for split in ("train", "validation")]
    assert sum(counts) == 30
    assert min(counts) > 0


def test_only_whole_windows_and_whole_batches(file: str, tmp_path: Path) -> None:
    def held(size: int | None) -> Corpus:
        return prepared(files_config(file, validation_fraction=0.3, held_out_batch=size), tmp_path / "cache")

    everything = held(None).splits["validation"]
    assert everything.target_counts(np.array([len(everything) - 1]))[0] < 8
    for size in (1, 3, 5):
        corpus = held(size)
        windows = corpus.splits["validation"]
        assert len(windows) == (len(everything) - 1) // size * size
        assert windows.targets == 8 * len(windows) == corpus.facts["splits"]["validation"]["targets"]
        assert windows.scored_bytes < everything.scored_bytes
        assert np.array_equal(tokens_of(windows), tokens_of(everything)[: len(windows)])
        assert len(corpus.splits["train"]) == len(held(None).splits["train"])
    with pytest.raises(Exception, match=r"data.held_out_batch: got 5000, but the validation split of small"):
        held(5000)


def test_the_plan_counts_the_same_windows(file: str, tmp_path: Path) -> None:
    data = files_config(file, packing="stride", stride=1, holdout="windows")
    corpus = prepared(data, tmp_path / "cache")
    found = find(data, compose(["tokenizer=byte"]).tokenizer, tmp_path / "cache")
    assert found == corpus.facts


def test_the_first_documents_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("\n\n".join(DOCUMENTS))
    data = files_config(str(tmp_path), max_documents=7, max_held_out_documents=2)
    facts = prepared(data, tmp_path / "cache").facts["splits"]
    assert {split: fact["documents"] for split, fact in facts.items()} == {
        "train": 7,
        "validation": 2,
        "test": 2,
    }


class Drawn:
    """A run's loaders over 100 windows of which 20 are drawn at each evaluation."""

    def __init__(self, seed: int) -> None:
        split = split_of(range(201))
        windows = Windows(split, Strided(split, 2, 2, 100, None, 0), 2, np.ones(257))
        corpus = Corpus(None, {"train": windows, "validation": windows}, "", {}, None)  # type: ignore[arg-type]
        self.data = TokenDataModule(self._experiment(seed), corpus)

    def _experiment(self, seed: int) -> Experiment:
        return compose([f"seed={seed}", "train.eval_windows=20", "train.eval_batch_size=8"])

    def at(self, step: int) -> Sequence[int]:
        """The windows of the evaluation after an update."""
        self.data._step = lambda: step  # type: ignore[method-assign]
        batches = list(self.data.val_dataloader())
        assert [len(batch["index"]) for batch in batches] == [8, 8, 8]
        found = [index for batch in batches for index in batch["index"].tolist()]
        assert found[20:] == [-1] * 4
        return found[:20]


def test_windows_are_drawn_anew_for_each_evaluation() -> None:
    first, second = Drawn(1).at(0), Drawn(1).at(100)
    assert len(set(first)) == len(set(second)) == 20
    assert first != second != Drawn(2).at(100)
    assert Drawn(1).at(100) == second, "a resumed run draws the same"
