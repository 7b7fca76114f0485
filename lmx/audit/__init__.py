"""Checks that question a run, a comparison, or a report that somebody else wrote."""

from lmx.audit.finding import Check, Finding, findings_markdown
from lmx.audit.registry import COMPARISON_CHECKS, RUN_CHECKS, audit_comparison, audit_run
from lmx.audit.report import REPORT_CHECKS, ReportAudit, audit_report

__all__ = [
    "COMPARISON_CHECKS",
    "REPORT_CHECKS",
    "RUN_CHECKS",
    "Check",
    "Finding",
    "ReportAudit",
    "audit_comparison",
    "audit_report",
    "audit_run",
    "findings_markdown",
]
