"""What a check says, and how a list of it is read: by a person, in a report, by a machine."""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
WIDTH = 100  # of the lines for a terminal
Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or doubtful: what was seen, why it matters, and what to type against it."""

    code: str
    severity: Severity
    seen: str
    why: str
    fix: str
    run: str | None = (
        None  # `<experiment>/<folder>`, names of runs, a place in a report; None: the comparison
    )


class Seen(NamedTuple):
    """What one check saw, with its numbers, and how to mend it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One row of the registry: a stable code, and the pure function that looks for it."""

    code: str
    severity: Severity
    title: str
    why: str
    look: Callable[[Subject], Iterator[Seen]]

    def findings(self, subject: Subject, run: str | None) -> Iterator[Finding]:
        """Yield a finding for each thing seen in `subject`."""
        for seen in self.look(subject):
            yield Finding(self.code, self.severity, seen.what, self.why, seen.fix, run)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return errors first, then warnings and notes; within each the order stays."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Return the section of a report: one paragraph a finding, the gravest first."""
    if not findings:
        return "No finding.\n"
    parts = [f"{counted(findings)}. `docs/audit.md` says what each code means.\n"]
    for finding in by_severity(findings):
        place = f" ({finding.run})" if finding.run else ""
        parts.append(
            f"- **{finding.severity}: `{finding.code}`**{place}: {finding.seen}. {finding.why} "
            f"*Mend:* {finding.fix}."
        )
    return "\n".join(parts) + "\n"


def findings_text(findings: Sequence[Finding]) -> str:
    """Return the findings for a terminal, the gravest first."""
    if not findings:
        return "No finding."
    blocks = []
    for finding in by_severity(findings):
        place = f"  {finding.run}" if finding.run else ""
        lines = {"seen": finding.seen, "why": finding.why, "mend": finding.fix}
        told = (_wrapped(f"  {name:<6}{text}") for name, text in lines.items())
        blocks.append("\n".join([f"{finding.severity:<8}{finding.code}{place}", *told]))
    return "\n\n".join([*blocks, counted(findings) + "."])


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(
        text, WIDTH, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def findings_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as plain values, the gravest first."""
    return [dataclasses.asdict(finding) for finding in by_severity(findings)]


def counted(findings: Sequence[Finding]) -> str:
    """Say how many there are of each severity: ``1 error, 2 warnings``; ``no finding`` for none."""
    counts = Counter(finding.severity for finding in findings)
    parts = [f"{counts[name]} {name}{'s' if counts[name] > 1 else ''}" for name in SEVERITIES if counts[name]]
    return ", ".join(parts) or "no finding"
