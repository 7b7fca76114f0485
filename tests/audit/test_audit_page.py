"""docs/audit.md names every check, and its table of planted faults is what was found.

`LMX_WRITE_DOCS=1 python -m pytest tests/audit/test_audit_page.py` writes both anew.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

import pytest
from audit_bench import Bench
from planted import CLEAN, PLANTED

from lmx.audit.finding import SEVERITIES
from lmx.audit.registry import tables

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
WRITE = os.environ.get("LMX_WRITE_DOCS") == "1"


def codes() -> str:
    """Every check, as a table a subject."""
    parts = []
    for about, checks in tables().items():
        parts += [f"### Of a {about}\n", "| code | severity | what it says |", "|---|---|---|"]
        parts += [f"| `{check.code}` | {check.severity} | {check.title}. {check.why} |" for check in checks]
        parts.append("")
    return "\n".join(parts)


def outcomes(bench: Bench) -> str:
    """What was planted, what was found, and the false alarms."""
    rows = ["| family | fault | planted as | code | found | false alarms |", "|---|---|---|---|---|--:|"]
    found = alarms = 0
    for plant in PLANTED:
        seen, others = plant.outcome(bench)
        found, alarms = found + seen, alarms + len(others)
        family = plant.family if len(plant.family) == 1 else "—"
        cells = [
            family,
            plant.fault,
            plant.how,
            f"`{plant.code}`",
            "yes" if seen else "**no**",
            str(len(others)),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    clean = sum(len(make(bench)) for make in CLEAN.values())
    rows += [
        "",
        f"{len(PLANTED)} faults planted, {found} found, {alarms} false alarms beside them; {clean} findings "
        f"in {len(CLEAN)} clean runs, comparisons and reports: {'; '.join(CLEAN)}.",
    ]
    return "\n".join(rows) + "\n"


def check(name: str, content: str) -> None:
    """Compare a part of the page between its markers, or write it."""
    text, begin, end = PAGE.read_text(), f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, after = text.split(begin)[0], text.split(end)[1]
    if WRITE:
        PAGE.write_text(f"{before}{begin}{content}{end}{after}")
    assert PAGE.read_text() == f"{before}{begin}{content}{end}{after}"


def test_the_page_names_every_check() -> None:
    check("codes", codes())


def test_the_table_of_planted_faults_is_what_was_found(bench: Bench) -> None:
    check("planted faults", outcomes(bench))


def test_every_check_of_a_run_or_comparison_is_planted() -> None:
    planted = {plant.code for plant in PLANTED}
    assert {check.code for checks in tables().values() for check in checks} <= planted


@pytest.mark.parametrize("about", tables())
def test_codes_are_distinct_and_explained(about: str) -> None:
    checks = tables()[about]
    assert len({check.code for check in checks}) == len(checks)
    assert [key for key, _ in groupby(sorted(check.severity for check in checks))] <= sorted(SEVERITIES)
    assert all(check.title and check.why.endswith(".") for check in checks)
