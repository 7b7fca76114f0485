"""Where a comparison comes from: its runs, its open jobs, the machine, and the command that repeats it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lmx.report.arms import Comparison
from lmx.report.exports import best_evaluation
from lmx.report.facts import facts, machine
from lmx.report.standings import BITS, LOSS, Digest, seed_of
from lmx.report.text import MISSING, code_block, markdown_table, show


def sources(comparison: Comparison, out: Path) -> Iterator[str]:
    """Yield the last parts of a comparison's page; links are relative to `out`."""
    yield from _runs(comparison, out)
    yield from _jobs(comparison)
    yield from _environment(comparison)
    yield from _again(comparison)


def _runs(comparison: Comparison, out: Path) -> Iterator[str]:
    rows = []
    for arm in comparison.arms:
        for run in arm.runs:
            best = best_evaluation(run)
            rows.append(
                [
                    arm.name,
                    str(seed_of(run)),
                    run.run.status,
                    show(best.get(BITS), ".4f"),
                    show(best.get(LOSS), ".4f"),
                    show(best.get("val/perplexity"), ",.2f"),
                    show(best.get("step"), ","),
                    show(facts(run.run).step, ","),
                    _link(run, out),
                ]
            )
    if rows:
        yield "## Runs"
        headers = [
            "Configuration",
            "Seed",
            "Status",
            "Bits/byte",
            "Loss",
            "Perplexity",
            "at step",
            "Steps",
            "Run",
        ]
        yield markdown_table(headers, rows)
    wrong = [f"{run.path.name}: {problem}" for run in comparison.runs for problem in run.run.problems]
    if wrong or comparison.left_out:
        yield "Wrong with these records, or left out:"
        yield "\n".join(f"- {line}" for line in (*wrong, *comparison.left_out))


def _link(run: Digest, out: Path) -> str:
    place = Path(os.path.relpath(run.path.resolve(), out.resolve())).as_posix()
    return f"[{run.path.name}]({place}{'/report.md' if run.run.folder.report.exists() else ''})"


def _jobs(comparison: Comparison) -> Iterator[str]:
    left = [state for state in comparison.jobs if state.status != "completed"]
    if not left:
        return
    begun = [state for state in left if state.status != "missing"]
    rows = [
        [
            state.job.arm,
            str(state.job.seed),
            state.status,
            show(state.step, ","),
            state.reason or MISSING,
            f"[{state.job.place}]({state.job.place}/)",
        ]
        for state in begun
    ]
    yield "## Jobs that are not completed"
    if rows:
        yield markdown_table(["Configuration", "Seed", "Status", "at step", "Why", "Where"], rows, left=6)
    if len(begun) < len(left):
        yield f"Not begun: {', '.join(state.job.place for state in left if state.status == 'missing')}."
    yield (
        "They do not count above. The study's command runs them; one that was begun goes on from its last "
        "checkpoint."
    )


def _environment(comparison: Comparison) -> Iterator[str]:
    identities = [run.run.identity for run in comparison.runs]
    found = {
        "machine": {machine(identity) for identity in identities},
        "versions": {
            ", ".join(
                f"{name} {(identity.get('versions') or {}).get(name)}" for name in ("lmx", "torch", "python")
            )
            for identity in identities
        },
        "commit": {_commit(identity) for identity in identities},
        "data": {str((identity.get("data") or {}).get("fingerprint", MISSING)) for identity in identities},
    }
    if identities:
        yield "## Environment"
        yield markdown_table(
            ["", ""], [[key, "; ".join(sorted(values))] for key, values in found.items()], left=2
        )


def _commit(identity: dict[str, object]) -> str:
    git = identity.get("git")
    if not isinstance(git, dict):
        return MISSING
    return str(git.get("commit", ""))[:12] + (" and uncommitted changes" if git.get("dirty") else "")


def _again(comparison: Comparison) -> Iterator[str]:
    yield "## Again"
    yield code_block(comparison.command, "sh")
    yield (
        "Beside this page: `report.html` (the same for a browser, in one file), `research_data.json`, "
        "`performance_metrics.csv`, `plots/`, `text_samples/`."
    )
