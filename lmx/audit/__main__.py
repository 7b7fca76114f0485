"""`python -m lmx.audit RUN [RUN ...]`: question runs; `--report FILE.md`: a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx.config.door import Parser, guarded
from lmx.config.errors import ConfigError, LmxError
from lmx.runs import named_runs

DESCRIPTION = """\
Say what is wrong or doubtful in the records of runs: each by itself, and several as a comparison.
With --report, read a report in Markdown, ours or another's, and say what in it contradicts itself.
Exit status: 0 for no finding or notes only, 1 for a warning or an error, 2 where nothing could be read."""
EXAMPLES = """\
examples:
  python -m lmx.audit outputs/storyworld_tiny/2025-01-31_12-00-00_1a2b3c
  python -m lmx.audit outputs/my_study                  # all runs in it, and their comparison
  python -m lmx.audit --report report.md --json
  python -m lmx.audit --list                            # every code and what it means"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, audit, print; return the exit status."""
    return guarded(lambda: run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m lmx.audit",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="*", metavar="RUN", help="a run folder, or a folder that holds some")
    parser.add_argument("--report", metavar="FILE.md", help="a report to read instead of runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--list", action="store_true", help="print every code with its severity and title")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask for."""
    asked = [bool(arguments.run), arguments.report is not None, arguments.list]
    if sum(asked) != 1:
        raise ConfigError(
            "got " + ("nothing" if not any(asked) else "several") + ", allowed: RUN …, --report or --list"
        )
    try:
        if arguments.list:
            return _list(arguments.json)
        return _report(Path(arguments.report), arguments.json) if arguments.report else _runs(arguments)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LmxError(f"{error.filename}: {error.strerror}") from error


def _list(as_json: bool) -> int:
    from lmx.audit.registry import tables

    rows = [
        {"about": about, "code": check.code, "severity": check.severity, "title": check.title}
        for about, checks in tables().items()
        for check in checks
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        width = max(len(row["code"]) for row in rows)
        print(
            "\n".join(
                f"{row['about']:<11}{row['severity']:<8} {row['code']:<{width}}  {row['title']}"
                for row in rows
            )
        )
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    from lmx.audit.finding import counted, findings_json, findings_text
    from lmx.audit.registry import audit_comparison, audit_run
    from lmx.runs import read_run

    runs = [read_run(folder) for folder in named_runs(arguments.run)]
    own = [audit_run(each) for each in runs]
    together = audit_comparison(runs)
    found = [finding for findings in own for finding in findings] + together
    if arguments.json:
        print(
            json.dumps(
                {"runs": [str(each.path) for each in runs], "findings": findings_json(found)}, indent=2
            )
        )
        return _status(found)
    for each, findings in zip(runs, own, strict=True):
        if len(runs) == 1 or findings:
            damage = "".join(f"\n({problem})" for problem in each.problems)
            print(
                f"{each.path}: {counted(findings)}{damage}\n\n{findings_text(findings)}\n"
                if findings
                else f"{each.path}: no finding{damage}"
            )
    if len(runs) > 1:
        clean = sum(not findings for findings in own)
        print(f"{clean} of {len(runs)} runs have no finding of their own.\n")
        print(
            f"as a comparison: {counted(together)}" + (f"\n\n{findings_text(together)}" if together else "")
        )
    return _status(found)


def _report(path: Path, as_json: bool) -> int:
    from lmx.audit.report import audit_report

    audit = audit_report(path)
    print(json.dumps(audit.plain(), indent=2) if as_json else audit.text())
    return _status(audit.findings)


def _status(findings: Sequence[Any]) -> int:
    return int(any(finding.severity != "note" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
