"""Several runs side by side: what differs, how they did, and what the comparison is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx.report.arms import Comparison, of_runs, of_study
from lmx.report.differences import differences
from lmx.report.drawing import save_drawings
from lmx.report.exports import research_data, write_metrics, write_samples
from lmx.report.html import write_page
from lmx.report.scaling import scaling_section
from lmx.report.standings import BUDGETS, Standing, seed_of, standings
from lmx.report.study_audit import audited
from lmx.report.study_page import Results, page, picture
from lmx.report.study_plots import plot_study
from lmx.runs import Run, write_atomic, write_json


def render_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the report that compares the runs in `folders` into `out`; return `report.md`.

    Beside it stand `report.html`, `research_data.json`, `performance_metrics.csv`, `plots/`, `text_samples/`.

    Raises CheckpointError when one of `folders` is not a run folder.
    """
    return _render(of_runs([Path(folder) for folder in folders]), Path(out))


def render_study(folder: str | Path) -> Path:
    """Write the report of the study in `folder` there, as `render_comparison` does; return `report.md`.

    Raises CheckpointError where its `study.json` is missing or damaged.
    """
    return _render(of_study(Path(folder)), Path(folder))


def _render(comparison: Comparison, out: Path) -> Path:
    results = _results(comparison)
    order, budget = results.places["tokens"]
    if budget is not None:
        results.plots = plot_study(comparison, order, budget, out / "plots")
        results.scaling, results.has_law = _scaling(comparison, out)
    data = research_data(comparison, results.places, results.differences, results.audit.findings)
    write_json(out / "research_data.json", data)
    write_metrics(out / "performance_metrics.csv", order, comparison.metric)
    write_samples(out / "text_samples", comparison)
    report = write_atomic(out / "report.md", page(comparison, results, out))
    write_page(report)
    return report


def _results(comparison: Comparison) -> Results:
    places: dict[str, tuple[list[Standing], float | None]] = {}
    one_machine = len({str(_hardware(run.run)) for run in comparison.runs}) <= 1
    for budget in BUDGETS:
        fair = budget != "seconds" or one_machine
        places[budget] = standings(comparison.arms, comparison.metric, budget) if fair else ([], None)
    order, amount_of_tokens = places["tokens"]
    found = []
    if amount_of_tokens is not None:
        found = differences(order, comparison.baseline, comparison.metric, amount_of_tokens)
    return Results(places, found, audited(comparison, order))


def _scaling(comparison: Comparison, out: Path) -> tuple[str, bool]:
    """The section on the scaling law, where the runs have several sizes, and whether one is fitted."""
    runs = [run.run for run in comparison.runs]
    names = [f"{arm.name}, seed {seed_of(run)}" for arm in comparison.arms for run in arm.runs]
    if len({(run.identity.get("parameters") or {}).get("total") for run in runs}) < 2:
        return "", False
    section, drawings = scaling_section(runs, names)
    figures = save_drawings(out / "plots", drawings) if drawings else []
    pictures = [picture(path, text, out) for path, text in figures]
    return "\n\n".join([section.rstrip(), *pictures]), bool(pictures)


def _hardware(run: Run) -> tuple[Any, ...]:
    hardware = run.identity.get("hardware") or {}
    return tuple(hardware.get(key) for key in ("device_name", "devices", "precision", "threads", "compile"))
