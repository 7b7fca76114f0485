"""Promise 1: killed with SIGKILL at any moment and resumed, a run ends bit for bit as if left alone."""

from __future__ import annotations

from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from harness import CASES, PHASES, Arena
from tally import Tally

KILLS = dict.fromkeys(CASES, 25) | {"two processes": 10}
IN_A_CHAIN = 5


def soak(arena: Arena, kills: int, tally: Tally, phases: tuple[str, ...]) -> None:
    """Kill one run after another until there were so many kills; count them."""
    done = 0
    while done < kills:
        wanted = min(IN_A_CHAIN, kills - done)
        try:
            killed = arena.chain(wanted, phases)
        except AssertionError:
            tally.count("kill and resume", arena.case, wanted, 0)
            raise
        tally.count("kill and resume", arena.case, killed, killed)
        done += killed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", CASES)
def test_many_kills(case: str, tmp_path: Path, cache: Path, server: ForkServerContext, tally: Tally) -> None:
    arena = Arena(case, tmp_path / "arena", cache, server, seed=0)
    soak(arena, KILLS[case], tally, tuple(PHASES))


def test_a_few_kills(tmp_path: Path, cache: Path, server: ForkServerContext, tally: Tally) -> None:
    """The short form: one run, killed in each phase once or so."""
    arena = Arena("accumulation, 2 workers", tmp_path / "arena", cache, server, seed=1)
    assert arena.chain(4) >= 1
