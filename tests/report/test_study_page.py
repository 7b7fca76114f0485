"""The files of a comparison: the page, its data and figures, and one HTML file that needs nothing else."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.report import render_comparison
from lmx.report.html import to_html, write_page
from lmx.report.results_log import append_result
from lmx.report.study_plots import telling
from lmx.runs import RunFolder, read_run

MakeRun = Callable[..., RunFolder]
# family E's columns, as its report has them
COLUMNS = (
    *(
        "configuration",
        "train_loss",
        "eval_loss",
        "accuracy",
        "perplexity",
        "avg_confidence",
        "top5_accuracy",
    ),
    *("convergence_total_improvement", "convergence_early_phase_loss", "convergence_late_phase_loss"),
    *("convergence_converged", "efficiency_avg_step_time", "efficiency_steps_per_second"),
    "efficiency_step_time_std",
)
PLOTS = {
    "training_loss_comparison.png",
    "final_performance_comparison.png",
    "efficiency_analysis.png",
    "convergence_analysis.png",
    "validation_curves.png",
}


@pytest.fixture
def rendered(make_run: MakeRun, tmp_path: Path) -> Path:
    """A comparison of two optimizers at two seeds."""
    runs = [
        make_run((f"optimizer={name}", f"seed={seed}"), level=level + seed / 50, noise=10 * seed + rank)
        for rank, (name, level) in enumerate((("adamw", 1.2), ("muon", 1.1)))
        for seed in (1, 2)
    ]
    return render_comparison([run.path for run in runs], tmp_path / "out").parent


def test_every_file_is_there_and_says_the_same(rendered: Path) -> None:
    """One rendering, for drawing takes a second: the CSV, the JSON, the figures, the texts, the page."""
    data = json.loads((rendered / "research_data.json").read_text())
    with open(rendered / "performance_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    assert [row["configuration"] for row in rows] == ["optimizer=muon", "optimizer=adamw"]
    for row in rows:
        figures = data["configurations"][row["configuration"]]
        assert float(row["eval_loss"]) == figures["eval_loss"]
        assert float(row["convergence_late_phase_loss"]) == figures["convergence"]["late_phase_loss"]
        evaluations = [read_run(run["folder"]).of_kind("val")[-1]["val/loss"] for run in figures["runs"]]
        assert figures["eval_loss"] == pytest.approx(sum(evaluations) / 2)
    assert {path.name for path in (rendered / "plots").iterdir()} == PLOTS
    assert {path.name for path in (rendered / "text_samples").iterdir()} == {
        "optimizer=adamw.md",
        "optimizer=muon.md",
    }
    page = (rendered / "report.md").read_text()
    assert "**optimizer=muon did best:" in page
    (found,) = data["differences"]
    assert (found["configuration"], found["minus"]) == ("optimizer=muon", "optimizer=adamw")
    assert found["verdict"] in page
    assert f"| {found['over_seeds']['estimate']:+.4f} |" in page
    assert found["over_windows_missing"] == "no record of single windows"
    sections = re.findall(r"^## (.*)$", page, flags=re.M)
    assert sections[:3] == [
        "Ranking at equal tokens",
        "Against the baseline, optimizer=adamw",
        "Before believing it",
    ]
    check_page(rendered / "report.html")


class Checker(HTMLParser):
    """Notes what a page would fetch or run, and whether its elements are closed in order."""

    VOID = ("meta", "img", "br", "hr", "link", "wbr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        values = dict(attrs)
        assert not any(name.startswith("on") for name in values), "no handler"
        assert tag not in ("script", "iframe", "link", "object", "form"), tag
        if tag not in self.VOID:
            self.open.append(tag)
        self.images += tag == "img"
        if not str(values.get("src") or "data:").startswith("data:image/png;base64,") and "src" in values:
            self.fetched.append(str(values["src"]))
        if "id" in values:
            self.anchors.add(f"#{values['id']}")

    def handle_endtag(self, tag: str) -> None:
        """It closes what was opened last."""
        assert self.open.pop() == tag


def check_page(path: Path) -> None:
    text = path.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert (checker.fetched, checker.images) == ([], len(PLOTS))
    assert "url(" not in text
    assert "@import" not in text
    links = re.findall(r"<nav>(.*?)</nav>", text)[0]
    assert set(re.findall(r'href="(#[^"]+)"', links)) <= checker.anchors


def test_raw_html_in_a_report_is_text(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text(
        "# A <script>alert(1)</script>\n\n| a |\n| :-- |\n| <b onclick=x> |\n\n<img src=x onerror=y>\n\n"
        "```text\n</pre><script>\n```\n\n![gone](plots/no.png)\n\n![out](../secret.txt)\n"
    )
    page = write_page(report).read_text()
    Checker().feed(page)
    assert "&lt;b onclick=x&gt;" in page
    assert "<p>gone (plots/no.png)</p>" in page
    assert "<p>out (../secret.txt)</p>" in page


def test_a_name_in_a_table_breaks_at_its_commas_and_a_link_stays_whole(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    report.write_text("| a,b |\n| :-- |\n| [c,d 1,000](../lr,wd/report.md) |\n\ne,f\n")
    page = write_page(report).read_text()
    assert ">a,<wbr>b<" in page
    assert '<a href="../lr,wd/report.md">c,<wbr>d 1,000</a>' in page
    assert "<p>e,f</p>" in page


def test_markdown_becomes_html() -> None:
    body = to_html("## One & two\n\n- **a**\n- `b|c`\n\n| x | y |\n| :-- | --: |\n| 1 | 2 |\n")
    assert '<h2 id="one-two">One &amp; two</h2>' in body
    assert "<strong>a</strong>" in body
    assert '<td style="text-align: right;">2</td>' in body


def test_the_log_of_results_only_grows(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(("objective=cosine_mix", "objective.alpha=0.25", "objective.temperature=0.7"))
    path = append_result(tmp_path, "alpha=0.25 seed 1", "completed", run.path)
    first = path.read_text()
    assert "tiny | storyworld | block 256 | alpha 0.25 | temp 0.7 | top-k 256 | " in first
    final = read_run(run.path).of_kind("val")[-1]
    assert f"| best | 600 | 2.00 | {final['val/loss']:.4f} | {final['val/perplexity']:,.2f} |" in first
    assert "| step 0 | 0 | 0.00 | 6.9315 |" in first
    # 600 steps of 8,192 tokens in 96 s
    assert "2.00 epochs, 1 min 36 s; 200 samples/s, 6.25 steps/s;" in first
    append_result(tmp_path, "alpha=1 seed 1", "failed (1)", None, "boom")
    text = path.read_text()
    assert text.startswith(first)
    assert text.count("# Results, as they came") == 1
    assert re.search(r"## alpha=1 seed 1, .*\n\nfailed \(1\): boom\n$", text)


def test_sizes_that_differ_bring_the_scaling_section(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmx.report.comparison.plot_study", lambda *arguments: [])
    small, large = make_run(), make_run(("model.num_layers=2",))
    identity: dict[str, Any] = json.loads(large.identity.read_text())
    large.identity.write_text(json.dumps({**identity, "parameters": {"total": 600_000}}))
    page = render_comparison([small.path, large.path], tmp_path / "out").read_text()
    assert "## Scaling law" in page
    assert (
        "## Scaling law" not in render_comparison([small.path, make_run().path], tmp_path / "b").read_text()
    )


def test_a_frame_leaves_out_what_a_curve_falls_through_in_its_first_tenth() -> None:
    steps = np.arange(0, 101, 5.0)
    falling = np.where(steps < 10, 9.0, 3 - steps / 100)
    early = np.where(steps == 5, 0.5, 4.0)  # the best of all, before anything else counts
    assert telling([(steps, falling)], lower=True).max() == 2.9
    assert telling([(steps, falling)], lower=True).min() == 2.0
    assert telling([(steps, falling), (steps, early)], lower=True).min() == 0.5
    assert telling([(steps, -falling), (steps, -early)], lower=False).max() == -0.5
    assert len(telling([], lower=True)) == 0
