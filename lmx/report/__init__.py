"""Tables, plots and pages, rendered from records only: no number in a report was typed by hand."""

from lmx.report.comparison import render_comparison
from lmx.report.page import render_run
from lmx.report.terminal import comparison_table, final_table

__all__ = ["comparison_table", "final_table", "render_comparison", "render_run"]
