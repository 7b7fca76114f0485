"""The order of batches: each window once an epoch, from (seed, step) alone."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from lmx.data.sampler import EvaluationOrder, TrainingOrder, permutation


def order(count: int, batch: int, **changes: object) -> TrainingOrder:
    drop = bool(changes.pop("drop_last", False))
    settings = {"seed": 1, "shuffle": True, "steps_per_epoch": count // batch if drop else -(-count // batch)}
    return TrainingOrder(count, batch, **{**settings, **changes})  # type: ignore[arg-type]


def test_permutation_never_drifts() -> None:
    """Golden: a change here would change every recorded run."""
    assert permutation(42, 0, 8).tolist() == [4, 1, 3, 6, 0, 7, 2, 5]
    assert permutation(42, 1, 8).tolist() == [1, 2, 5, 3, 6, 0, 4, 7]
    assert sorted(permutation(7, 3, 1000)) == list(range(1000))


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (12, 4), (3, 8), (1, 1)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_each_epoch_has_each_window_once(count: int, batch: int, drop_last: bool) -> None:
    if drop_last and count < batch:
        return
    sampler = order(
        count,
        batch,
        drop_last=drop_last,
        total_steps=3 * (count // batch if drop_last else -(-count // batch)),
    )
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert {len(rows) for rows in batches} == {batch}
    per_epoch = sampler.steps_per_epoch
    epochs = [np.concatenate(batches[i * per_epoch : (i + 1) * per_epoch]) for i in range(3)]
    for rows in epochs:
        real = rows[rows >= 0]
        assert len(set(real.tolist())) == len(real) == (count // batch * batch if drop_last else count)
        assert drop_last <= (len(real) == len(rows))
    if count > 4:
        assert epochs[0].tolist() != epochs[1].tolist()


def test_any_start_continues_the_same_sequence() -> None:
    whole = [rows.tolist() for rows in order(10, 4, total_steps=11)]
    for start in range(12):
        assert [rows.tolist() for rows in order(10, 4, start_step=start, total_steps=11)] == whole[start:]
    endless = order(10, 4, start_step=2)
    assert [rows.tolist() for rows in islice(endless, 9)] == whole[2:]


def test_unshuffled_is_reading_order() -> None:
    assert np.concatenate(list(order(6, 4, shuffle=False, total_steps=2))).tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        -1,
        -1,
    ]


def test_evaluation_has_each_window_once() -> None:
    for count, batch in ((10, 4), (8, 4), (3, 7)):
        sampler = EvaluationOrder(count, batch)
        rows = np.concatenate(list(sampler))
        assert len(rows) == len(sampler) * batch
        assert rows[rows >= 0].tolist() == list(range(count))
