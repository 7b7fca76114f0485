"""Tables, plots and pages, rendered from records only: no number in a report was typed by hand."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_PLACES = {
    "comparison_table": "summary",
    "final_table": "terminal",
    "render_comparison": "comparison",
    "render_run": "page",
    "render_study": "comparison",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first used: one run's report needs nothing of a comparison's."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lmx.report.{_PLACES[name]}"), name)
