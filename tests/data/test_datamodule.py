"""Batches: the same over workers, ranks and resumption."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from data_helpers import prepared, write_splits

from lmx.config import CheckpointError, Experiment
from lmx.config.learning import TrainConfig
from lmx.data import Corpus, TokenDataModule
from lmx.data.datamodule import stay_with
from lmx.data.layout import IGNORE


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    text = "\n\n".join(f"story number {i}, about the cat" for i in range(25))
    data = write_splits(folder / "c", text, text.replace("cat", "dog"))
    data.packing = "documents"
    data.sequence_length = 40
    return prepared(data, folder / "cache")


def module(corpus: Corpus, *, rank: int = 0, world: int = 1, **changes: Any) -> TokenDataModule:
    experiment = Experiment(name="x", seed=3, train=TrainConfig(horizon="5steps", batch_size=4))
    experiment.data.num_workers = changes.pop("num_workers", 0)
    experiment.data.shuffle = changes.pop("shuffle", True)
    experiment.train.eval_batch_size = changes.pop("eval_batch_size", 4)
    experiment.seed = changes.pop("seed", 3)
    made = TokenDataModule(experiment, corpus, **{"total_steps": 15, **changes})
    made.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
    return made


def equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    def plain(batch: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.tolist() if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }

    return [plain(batch) for batch in one] == [plain(batch) for batch in other]


def test_a_batch_is_what_the_architecture_says(corpus: Corpus) -> None:
    batches = list(module(corpus).train_dataloader())
    assert len(batches) == 15
    windows = corpus.splits["train"]
    for batch in batches:
        assert set(batch) == {"tokens", "targets", "index", "documents", "positions", "batch_tokens"}
        assert all(batch[name].shape == (4, 40) for name in ("tokens", "targets", "documents", "positions"))
        assert all(value.dtype == torch.int64 for name, value in batch.items() if name != "batch_tokens")
        assert type(batch["batch_tokens"]) is int
        assert batch["batch_tokens"] == int((batch["targets"] != IGNORE).sum())
        for row, index in enumerate(batch["index"].tolist()):
            if index >= 0:
                assert batch["tokens"][row].tolist() == windows[index]["tokens"].tolist()
    epoch = torch.cat([batch["index"] for batch in batches[: corpus.steps_per_epoch(4, drop_last=False)]])
    assert sorted(epoch[epoch >= 0].tolist()) == list(range(len(windows)))
    assert len(windows) % 4 > 0, "the last batch of an epoch should be partial for this test"


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(corpus: Corpus, workers: int) -> None:
    assert equal(
        list(module(corpus).train_dataloader()), list(module(corpus, num_workers=workers).train_dataloader())
    )


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_global_batches(corpus: Corpus, world: int) -> None:
    alone = list(module(corpus).train_dataloader())
    ranks = [list(module(corpus, rank=rank, world=world).train_dataloader()) for rank in range(world)]
    for number, batch in enumerate(alone):
        for name in ("tokens", "targets", "index"):
            assert torch.equal(torch.cat([rank[number][name] for rank in ranks]), batch[name])
        assert all(rank[number]["batch_tokens"] == batch["batch_tokens"] for rank in ranks)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_at_any_step_gives_the_same_batches(corpus: Corpus, workers: int) -> None:
    whole = list(module(corpus).train_dataloader())
    for start in (1, 4, 7, 15):
        rest = list(module(corpus, start_step=start, num_workers=workers).train_dataloader())
        assert equal(rest, whole[start:])


def test_loaders_leave_the_global_random_state_alone(corpus: Corpus) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for _ in module(corpus, num_workers=1).train_dataloader():
        pass
    for _ in module(corpus).val_dataloader():
        pass
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("other", "code"), [(0, 3), (1, 0)], ids=["there", "gone"])
def test_a_worker_whose_parent_is_gone_ends(other: int, code: int) -> None:
    """Torch takes init for its parent where it begins to watch too late, and waits for ever."""
    child = os.fork()
    if child == 0:
        stay_with(os.getppid() + other, 0)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_covers_the_split_once_over_ranks(corpus: Corpus, size: int, world: int) -> None:
    windows = corpus.splits["validation"]
    seen: list[int] = []
    targets = 0
    lengths = set()
    for rank in range(world):
        batches = list(module(corpus, rank=rank, world=world, eval_batch_size=size).val_dataloader())
        lengths.add(len(batches))
        for batch in batches:
            assert batch["tokens"].shape == (size, 40)
            seen += [i for i in batch["index"].tolist() if i >= 0]
            targets += int((batch["targets"] != IGNORE).sum())
    assert sorted(seen) == list(range(len(windows)))
    assert targets == windows.targets
    assert len(lengths) == 1, "every rank must make the same number of steps"


def test_another_order_is_refused_on_resuming(corpus: Corpus) -> None:
    state = module(corpus).state_dict()
    module(corpus, start_step=7, num_workers=2, world=2).load_state_dict(state)
    with pytest.raises(
        CheckpointError, match=r"resume: the order of batches would be another: seed was 3, is 4$"
    ):
        module(corpus, seed=4).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"windows was 7, is \d+; corpus was 'other', is '\w+'"):
        module(corpus).load_state_dict({**state, "windows": 7, "corpus": "other"})


def test_endless_loader_goes_on(corpus: Corpus, tmp_path: Path) -> None:
    iterator = iter(module(corpus, total_steps=None).train_dataloader())
    finite = list(module(corpus).train_dataloader())
    assert equal([next(iterator) for _ in range(15)], finite)
    next(iterator)
