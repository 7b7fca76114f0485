"""Runs started at the same moment keep apart, and what they share is prepared once."""

from __future__ import annotations

import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from harness import door_at
from training_helpers import Place, last, same_end

from lmx.runs import RunFolder


@pytest.mark.slow
def test_two_runs_at_the_same_moment(tmp_path: Path, server: ForkServerContext) -> None:
    """In the same outputs, on a store that neither has prepared yet."""
    place = Place(tmp_path / "outputs", tmp_path / "cache")
    arguments = place.overrides("train.horizon=4steps", "model.residual_dropout=0.1")
    # the fork server hands out processes one after the other; a common moment makes them start as one
    moment = time.time() + 3.0
    processes = [
        server.Process(target=door_at, args=(moment, arguments, str(tmp_path / f"log-{number}")))
        for number in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (RunFolder(path) for path in place.runs())
    same_end(first, second)
    said = "".join((tmp_path / f"log-{number}").read_text() for number in range(2))
    assert said.count(": prepared ") == 1, said
    assert len(list((tmp_path / "cache" / "stores").glob("[!.]*"))) == 1


def test_two_that_would_continue_the_same_run(
    place: Place, tmp_path: Path, server: ForkServerContext
) -> None:
    """One does; the other says in a line that the run is taken, or that nothing is left of it."""
    folder = place.train("train.horizon=4steps", "schedule=constant").folder
    arguments = [f"resume={folder.path}", "train.horizon=30steps"]
    moment = time.time() + 3.0
    logs = [tmp_path / f"log-{number}" for number in range(2)]
    processes = [server.Process(target=door_at, args=(moment, arguments, str(log))) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert sorted(process.exitcode or 0 for process in processes) == [0, 2]
    refused = next(log for log, process in zip(logs, processes, strict=True) if process.exitcode)
    line = refused.read_text().splitlines()[-1]
    assert line.startswith("lmx: ")
    assert "another process is training in this run folder" in line or "already completed" in line
    whole = place.train("train.horizon=30steps", "schedule=constant").folder
    for name, value in last(whole)["state_dict"].items():
        assert value.equal(last(folder)["state_dict"][name]), name
