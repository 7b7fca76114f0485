"""The audit of a comparison: of itself and of each run; what many runs share is said once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmx.audit import Finding, audit_comparison, audit_run
from lmx.audit.finding import by_severity
from lmx.report.arms import Comparison
from lmx.report.standings import Arm, Digest, Standing, seed_of
from lmx.runs import Run, read_run

# training records that are read again, in all, because some checks need each of them: under a second. The
# other runs are questioned by what was read already, 5 ms each
RECORDS = 20_000
_FIGURE = re.compile(r"[-+−]?\d[\d.,]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Audit:
    """What was found, the gravest first, and how many runs were questioned by all of their records."""

    findings: list[Finding]
    whole: int


def audited(comparison: Comparison, order: Sequence[Standing]) -> Audit:
    """Question the comparison and each of its runs; `order` are its standings by tokens."""
    arms = [place.arm for place in order] or comparison.arms
    runs = [_under_name(run.run, arm) for arm in comparison.arms for run in arm.runs]
    found = audit_comparison(runs) if len(runs) > 1 else []
    whole = _whole(arms, comparison.baseline)
    of_runs = [
        (finding, arm, run)
        for arm in arms
        for run in arm.runs
        for finding in audit_run(read_run(run.path) if run.path in whole else run.run)
    ]
    return Audit(by_severity([*found, *_together(of_runs, len(runs))]), len(whole))


def _whole(arms: Sequence[Arm], baseline: str) -> set[Path]:
    """The runs that are read in full: first of the best, of the baseline, of each arm; then further ones."""
    firsts = sorted(arms, key=lambda arm: (arm is not arms[0], arm.name != baseline))
    runs = [arm.runs[0] for arm in firsts] + [run for arm in arms for run in arm.runs[1:]]
    chosen, records = set(), 0
    for run in runs:
        if records < RECORDS:
            chosen.add(run.path)
        records += len(run.train["step"])
    return chosen


def _together(found: Sequence[tuple[Finding, Arm, Digest]], total: int) -> Iterator[Finding]:
    """Yield one finding for those that differ in their figures alone, with the names of their runs."""
    groups: dict[tuple[str, str], list[tuple[Finding, Arm, Digest]]] = {}
    for item in found:
        groups.setdefault((item[0].code, _FIGURE.sub("#", item[0].seen)), []).append(item)
    for members in groups.values():
        first, arm, run = members[0]
        seen = first.seen
        if any(finding.seen != seen for finding, _, _ in members):
            seen = f"{seen} (the figures of {_name(arm, [run])})"
        yield dataclasses.replace(first, seen=seen, run=_names(members, total))


def _names(members: Sequence[tuple[Finding, Arm, Digest]], total: int) -> str:
    by_arm: dict[str, tuple[Arm, list[Digest]]] = {}
    for _, arm, run in members:
        runs = by_arm.setdefault(arm.name, (arm, []))[1]
        if all(run is not other for other in runs):
            runs.append(run)
    count = sum(len(runs) for _, runs in by_arm.values())
    return f"all {total} runs" if count == total > 1 else "; ".join(_name(*item) for item in by_arm.values())


def _name(arm: Arm, runs: Sequence[Digest]) -> str:
    """An arm with all of its runs, or some of them by their seeds; by their folders where seeds repeat."""
    if len(runs) == len(arm.runs):
        return arm.name
    if len(set(arm.seeds)) < len(arm.runs):
        return f"{arm.name}, {', '.join(run.path.name for run in runs)}"
    return f"{arm.name}, seed {', '.join(str(seed_of(run)) for run in runs)}"


def _under_name(run: Run, arm: Arm) -> Run:
    """The run under its configuration's name, so that the audit calls it as the report does."""
    return dataclasses.replace(run, identity={**run.identity, "name": arm.name})
