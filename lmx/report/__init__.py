"""Tables, plots and pages, rendered from records only: no number in a report was typed by hand."""

from lmx.report.comparison import render_comparison, render_study
from lmx.report.page import render_run
from lmx.report.summary import comparison_table
from lmx.report.terminal import final_table

__all__ = [
    "comparison_table",
    "final_table",
    "render_comparison",
    "render_run",
    "render_study",
]
