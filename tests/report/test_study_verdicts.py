"""What the page of a study concludes: against which arm, how surely, and what the audit says to it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.measure import WindowBootstrap
from lmx.report import comparison_table, render_comparison, render_study, study_audit
from lmx.report.arms import of_study
from lmx.report.differences import differences
from lmx.report.standings import standings
from lmx.report.study_audit import audited
from lmx.report.study_plots import plot_study
from lmx.runs import RunFolder, find_runs, read_digest, read_windows, write_windows

MakeRun = Callable[..., RunFolder]
MakeStudy = Callable[..., Path]
STEP_0 = "no evaluation after step 0 with a finite loss"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest, and is seen in other tests."""
    monkeypatch.setattr("lmx.report.comparison.plot_study", lambda *arguments: [])


def rendered(study: Path) -> tuple[str, dict[str, Any]]:
    """Render a study; return its page and the data beside it."""
    return render_study(study).read_text(), json.loads((study / "research_data.json").read_text())


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


# ---- which runs count


@pytest.mark.usefixtures("no_plots")
def test_a_run_that_ended_before_its_first_step_does_not_empty_a_comparison(
    make_run: MakeRun, tmp_path: Path
) -> None:
    good, other = make_run(level=1.2), make_run(("optimizer=muon",), level=1.1)
    begun = make_run(("optimizer.lr=1e-3",), steps=0, status="interrupted")
    page = render_comparison([run.path for run in (begun, good, other)], tmp_path / "out").read_text()
    data = json.loads((tmp_path / "out" / "research_data.json").read_text())
    assert [item["configuration"] for item in data["ranking"]["tokens"]] == [
        "optimizer=muon",
        "optimizer=adamw",
    ]
    assert data["left_out"] == [f"{begun.path}: {STEP_0}."]
    assert "Nothing to compare" not in page


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("diverged", [False, True])
def test_a_job_without_a_result_does_not_empty_a_study(make_study: MakeStudy, diverged: bool) -> None:
    options: dict[str, Any] = {"level": float("nan")} if diverged else {"steps": 0}
    study = make_study({"a": {}, "b": {}, "c": options}, seeds=(1,))
    _, data = rendered(study)
    assert [item["configuration"] for item in data["ranking"]["tokens"]] == ["a", "b"]
    assert data["left_out"] == [f"c/seed1: {STEP_0}."]
    assert data["metric"]["name"] == "val/bits_per_byte"


@pytest.mark.usefixtures("no_plots")
def test_what_a_run_did_not_measure_ranks_nobody(make_study: MakeStudy) -> None:
    """The study's own metric is missing in one run: all of them are ranked by their loss."""
    study = make_study({"a": {}, "b": {}}, seeds=(1,))
    log = RunFolder.open(find_runs(study / "a")[0]).metrics
    log.write_text(re.sub(r'"val/bits_per_byte":[^,}]*,', "", log.read_text()))
    _, data = rendered(study)
    assert data["metric"]["name"] == "val/loss"
    assert [item["configuration"] for item in data["ranking"]["tokens"]] == ["a", "b"]


# ---- a baseline without runs


@pytest.mark.usefixtures("no_plots")
def test_without_a_baseline_the_best_is_compared_with_the_next(make_study: MakeStudy) -> None:
    study = make_study({"a": {"status": "failed"}, "b": {}, "c": {}, "d": {}}, seeds=(1, 2, 3))
    page, data = rendered(study)
    said = "The baseline, a, has no run that counts: the best is compared with the next instead."
    assert said in page
    lead = next(line for line in page.splitlines() if line.startswith("**b did best:"))
    assert lead.endswith(data["differences"][0]["verdict"])
    assert "b is ahead of c by" in lead
    rows = re.findall(r"^\| (\w) \| (\w+) \| \+0\.\d{4} \|", section(page, "Against the best, b"), flags=re.M)
    assert rows == [("c", "worse"), ("d", "worse")]
    assert "## Against the baseline" not in page
    assert "the baseline, a, has no run that counts" in comparison_table(study)


@pytest.mark.usefixtures("no_plots")
def test_one_arm_without_a_baseline_is_no_comparison(make_study: MakeStudy) -> None:
    page, _ = rendered(make_study({"a": {"status": "failed"}, "b": {}}))
    assert "The baseline, a, has no run that counts.\n" in page


@pytest.mark.parametrize(("status", "whose"), [("completed", "the baseline"), ("failed", "the last")])
def test_a_panel_names_the_baseline_only_where_there_is_one(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, status: str, whose: str
) -> None:
    comparison = of_study(make_study({"a": {"status": status}, "b": {}, "c": {}}, seeds=(1,)))
    places, amount = standings(comparison.arms, comparison.metric)
    drawn: dict[str, Callable[[], Any]] = {}
    monkeypatch.setattr(
        "lmx.report.study_plots.save_drawings",
        lambda folder, drawings: drawn.update({name: draw for name, _, draw in drawings}),
    )
    assert amount is not None
    plot_study(comparison, places, amount, Path())
    titles = [axes.get_title() for axes in drawn["convergence_analysis"]().axes]
    assert titles[1].endswith(f", {whose}'s best")


# ---- every pair


@pytest.mark.usefixtures("no_plots")
def test_every_pair_is_compared_and_the_best_shown_against_each(make_study: MakeStudy) -> None:
    arms = {"base": {"level": 1.2}, "good": {"level": 1.1}, "best": {"level": 1.0}, "bad": {"level": 1.3}}
    page, data = rendered(make_study(arms, seeds=(1,)))
    pairs = [(item["configuration"], item["minus"]) for item in data["differences"]]
    assert pairs == [
        *(("best", "base"), ("good", "base"), ("bad", "base")),
        *(("good", "best"), ("bad", "best"), ("bad", "good")),
    ]
    ranked = {item["configuration"]: item["best"]["estimate"] for item in data["ranking"]["tokens"]}
    for item in data["differences"]:
        gap = ranked[item["configuration"]] - ranked[item["minus"]]
        assert item["over_seeds"]["estimate"] == pytest.approx(gap)
    names = [
        re.findall(r"^\| (\w+) \| not known", section(page, title), flags=re.M)
        for title in ("Against the baseline, base", "Against the best, best")
    ]
    assert names == [["best", "good", "bad"], ["good", "bad"]]
    assert "its lead over the others is flattered" in page
    assert "`research_data.json` has all 6 pairs" in page
    assert "by chance alone" not in page, "at one seed and without windows none can seem real"


@pytest.mark.usefixtures("no_plots")
def test_what_chance_alone_would_show_is_said(make_study: MakeStudy) -> None:
    page, data = rendered(make_study({"a": {}, "b": {"level": 1.0}, "c": {}}))
    assert "With 3 differences at 95 % each, 0.15 would seem real by chance alone." in page
    assert data["differences_real_by_chance"] == pytest.approx(0.15)
    page, _ = rendered(make_study({"a": {"level": 0.9}, "b": {}, "c": {}}))
    assert "With 2 differences at 95 % each, 0.1 would seem real by chance alone." in page
    assert "flattered" not in page
    assert "## Against the best" not in page
    assert "`research_data.json` has all 3 pairs, of which 0.15 would" in page


def test_windows_are_read_and_resampled_once(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study({name: {} for name in "abcdef"}, seeds=(1, 2))
    rng = np.random.default_rng(0)
    for path in find_runs(study):
        windows = RunFolder.open(path).windows
        windows.mkdir()
        write_windows(windows / "best.npz", rng.gamma(4, 77, 50), np.full(50, 256), 600)
    calls = []
    for function in (read_windows, WindowBootstrap):
        counted = functools.partial(_counted, calls, function)
        monkeypatch.setattr(f"lmx.report.differences.{function.__name__}", counted)
    comparison = of_study(study)
    places, amount = standings(comparison.arms, comparison.metric)
    assert amount is not None
    found = differences(places, "a", comparison.metric, amount)
    assert len(found) == 15
    assert all(item.over_windows is not None and item.over_windows.n == 50 for item in found)
    assert calls == [*["read_windows"] * 12, "WindowBootstrap"]


def _counted(calls: list[str], function: Callable[..., Any], *arguments: Any) -> Any:
    calls.append(function.__name__)
    return function(*arguments)


# ---- the audit


def spoil(run: Path, value: float, name: str = "val/perplexity") -> None:
    """Give the last evaluation a figure that is wrong."""
    file = RunFolder.open(run).metrics
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    next(line for line in reversed(lines) if line["kind"] == name.split("/")[0])[name] = value
    file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("records", [20_000, 0])
def test_every_run_is_questioned_and_named(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    monkeypatch.setattr(study_audit, "RECORDS", records)
    study = make_study({"a": {}, "b": {}, "c": {}, "d": {}})
    wrong = {"c": (2,), "d": (1, 2)}  # neither the best nor the baseline
    for arm, seeds in wrong.items():
        for seed in seeds:
            spoil(*find_runs(study / arm / f"seed{seed}"), value=30.0 + seed)
    page, data = rendered(study)
    (found,) = (item for item in data["findings"] if item["code"] == "perplexity-not-exp-loss")
    assert found["run"] == "c, seed 2; d"
    assert found["seen"].endswith("(the figures of c, seed 2)")
    assert page.count("`perplexity-not-exp-loss`") == 1
    note = page.split("The audit questions the comparison, and each of its runs")[1].split("\n")[0]
    assert note == (
        "."
        if records
        else ", 8 of them without their training records, which `python -m lmx.audit RUN` reads."
    )


def test_what_all_runs_share_is_said_once(make_study: MakeStudy) -> None:
    study = make_study({"a": {}, "b": {}, "c": {}}, every=1)
    for path in find_runs(study):
        spoil(path, 1.0, "train/pi")
    comparison = of_study(study)
    found = audited(comparison, standings(comparison.arms, comparison.metric)[0]).findings
    shared = [finding for finding in found if finding.code == "final-loss-of-one-batch"]
    assert [finding.run for finding in shared] == ["all 6 runs"]
    assert len({(finding.code, finding.run) for finding in found}) == len(found)


def test_first_runs_of_all_arms_are_read_whole_before_further_ones(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 training records a run: room for four, the first of each arm."""
    monkeypatch.setattr(study_audit, "RECORDS", 3 * 60 + 1)
    read: list[Path] = []
    monkeypatch.setattr(study_audit, "read_run", lambda path: read.append(path) or read_digest(path).run)
    comparison = of_study(make_study({"a": {}, "b": {"level": 1.0}, "c": {}, "d": {}}))
    assert audited(comparison, standings(comparison.arms, comparison.metric)[0]).whole == 4
    assert [path.parents[1].name for path in read] == ["b", "a", "c", "d"]
    assert {path.parent.name for path in read} == {"seed1"}
