"""The report of one run: its numbers are the records', whatever the records lack."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmx.config import CheckpointError
from lmx.measure import chinchilla, lower_is_better
from lmx.report import final_table, render_run
from lmx.report.columns import COLUMNS, best_index, extremes, intervals
from lmx.report.drawing import log_ticks, smoothed, tick_label
from lmx.report.drawing import thinned as thinned_curve
from lmx.report.facts import settings, verdict
from lmx.report.page import thinned
from lmx.report.text import amount, code_block, duration, show
from lmx.runs import MetricsLog, Run, RunFolder, read_run

MakeRun = Callable[..., RunFolder]
PNG = b"\x89PNG\r\n"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read numbers: drawing takes nearly all the time."""
    monkeypatch.setattr("lmx.report.page.plot_run", lambda run: [])


def table(report: str, heading: str) -> list[dict[str, str]]:
    """The first Markdown table under `## heading`, as rows by column title (a doubled title gets a 2)."""
    lines = report.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines if line.startswith("|")]
    titles = [title if title not in cells[0][:n] else f"{title} 2" for n, title in enumerate(cells[0])]
    return [dict(zip(titles, row, strict=True)) for row in cells[2:]]


def report_of(folder: RunFolder) -> str:
    path = render_run(read_run(folder.path))
    assert path == folder.report
    return path.read_text()


def values(run: Run, name: str) -> list[float]:
    return [line[name] for line in run.lines if name in line]


@pytest.mark.usefixtures("no_plots")
def test_best_and_final_are_the_records(make_run: MakeRun) -> None:
    folder = make_run(steps=600, every=10, evaluate=100)
    run = read_run(folder.path)
    rows = {row["Metric"]: row for row in table(report_of(folder), "Best and final")}
    for title, name, pick, spec in (
        ("Train Loss", "train/loss", min, ".4f"),
        ("PI", "train/pi", max, ".3g"),
        ("Eval Perplexity", "val/perplexity", min, ",.2f"),
        ("Eval Accuracy", "val/accuracy", max, ".4f"),
        ("Excess over Floor", "val/excess_bits_per_byte", min, ".4f"),
    ):
        best = pick(values(run, name))
        step = next(line["step"] for line in run.lines if line.get(name) == best)
        assert (rows[title]["Best"], rows[title]["at step"]) == (format(best, spec), f"{step:,}")
        assert rows[title]["Final"] == format(values(run, name)[-1], spec)
    assert rows["Grad Norm"]["Best"] == ""  # neither way is better


@pytest.mark.parametrize(
    ("numbers", "better", "expected"),
    [
        ([3.0, 1.0, 2.0, 1.0], "low", 1),
        ([3.0, 1.0, 2.0, 3.0], "high", 0),
        ([math.nan, 2.0, math.nan, 1.0], "low", 3),
        ([math.inf, 2.0], "low", 1),
        ([-math.inf, math.nan], "high", 0),
        ([math.nan], "low", None),
        ([1.0], None, None),
        ([], "low", None),
    ],
)
def test_best_by_its_own_direction(numbers: list[float], better: str | None, expected: int | None) -> None:
    assert best_index(numbers, better) == expected  # type: ignore[arg-type]


def test_directions_agree_with_those_that_choose_checkpoints() -> None:
    for column in COLUMNS:
        if column.key is not None and column.better is not None:
            assert (column.better == "low") == lower_is_better(column.key), column.key


@pytest.mark.usefixtures("no_plots")
def test_an_epoch_a_row_when_there_are_no_more_evaluations(make_run: MakeRun) -> None:
    folder = make_run(steps=900, every=10, evaluate=300)  # 300 steps an epoch
    run = read_run(folder.path)
    rows = table(report_of(folder), "Training")
    assert [row["Epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["Step"] for row in rows] == ["0", "300", "600", "900"]
    assert {row["Task"] for row in rows} == {"storyworld"}
    second = [line for line in run.of_kind("train") if 300 < line["step"] <= 600]
    evaluation = run.of_kind("val")[2]

    def mean(name: str) -> float:
        return float(np.mean([line[name] for line in second]))

    assert rows[2] == {
        "Epoch": "2",
        "Task": "storyworld",
        "Step": "600",
        "Train Loss": f"{mean('train/loss'):.4f}",
        "LR": f"{second[-1]['train/lr']:.2e}",
        "PI": f"{math.exp(-mean('train/entropy') - mean('train/grad_norm')):.3g}",
        "log PI": f"{-mean('train/entropy') - mean('train/grad_norm'):.4f}",
        "Eff. Gamma": f"{mean('train/effective_gamma'):.4f}",
        "Entropy": f"{mean('train/entropy'):.4f}",
        "Grad Norm": f"{mean('train/grad_norm'):.4f}",
        "Epoch Time (s)": f"{300 * 0.16:.1f}",
        "Peak RSS (MiB)": "812.2",
        "Eval Loss": f"{evaluation['val/loss']:.4f}",
        "Eval Perplexity": f"{math.exp(evaluation['val/loss']):,.2f}",
        "Eval Bits/Byte": f"{evaluation['val/bits_per_byte']:.4f}",
        "Best so far": "✓",
    }


@pytest.mark.usefixtures("no_plots")
def test_an_evaluation_a_row_when_those_are_more(make_run: MakeRun) -> None:
    folder = make_run(steps=350, every=10, evaluate=100)
    rows = table(report_of(folder), "Training")
    assert [row["Step"] for row in rows] == ["0", "100", "200", "300", "350"]
    assert [row["Epoch"] for row in rows] == ["0.00", "0.33", "0.67", "1.00", "1.17"]
    assert [row["Time (s)"] for row in rows] == ["—", "16.0", "16.0", "16.0", "8.0"]
    assert "Epoch Time (s)" not in rows[0]


def test_means_are_weighted_by_tokens_for_the_loss_and_by_steps_for_the_rest(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "toy")
    log = MetricsLog(folder.metrics)
    first = {"step": 3, "steps": 3, "tokens": 900, "epoch": 0.5, "train/loss": 2.0, "train/entropy": 1.0}
    second = {"step": 4, "steps": 1, "tokens": 1000, "epoch": 1.0, "train/loss": 4.0, "train/entropy": 3.0}
    for line in (first, second):
        log.append({"kind": "train", **line})
    (row,) = intervals(read_run(folder.path))
    read = {column.title: column.read(row) for column in COLUMNS}
    assert read["Train Loss"] == pytest.approx(2.2)
    assert read["Entropy"] == pytest.approx(1.5)
    assert read["Epoch"] == "1"


@pytest.mark.usefixtures("no_plots")
def test_gpu_memory_has_the_record_s_column(make_run: MakeRun) -> None:
    rows = table(report_of(make_run(gpu=True)), "Training")
    assert rows[-1]["Peak GPU Mem (MiB)"] == "2,786.7"
    assert "Peak RSS (MiB)" not in rows[-1]


@pytest.mark.usefixtures("no_plots")
def test_progression_lists_each_improvement_once(make_run: MakeRun) -> None:
    folder = make_run(steps=400, evaluate=100)
    log = MetricsLog(folder.metrics)
    last = read_run(folder.path).of_kind("val")[-1]
    log.append({**last, "step": 500, "val/loss": last["val/loss"] + 0.1})
    log.append({**last, "step": 600, "val/loss": last["val/loss"] / 2})
    report = report_of(folder)
    rows = table(report, "Progression")
    assert [row["Step"] for row in rows] == ["0", "100", "200", "300", "400", "600"]
    assert rows[-1]["better by"] == "50.00 %"
    marks = {row["Step"]: row["Best so far"] for row in table(report, "Training")}
    assert marks == {"0": "✓", "100": "✓", "200": "✓", "300": "✓", "400": "✓", "500": "", "600": "✓"}
    assert "6 of 7 evaluations were the best so far." in report


@pytest.mark.usefixtures("no_plots")
def test_verdict_and_accounting(make_run: MakeRun) -> None:
    folder = make_run(steps=600)
    run = read_run(folder.path)
    final = run.of_kind("val")[-1]
    bits, excess = final["val/bits_per_byte"], final["val/excess_bits_per_byte"]
    assert verdict(run) == (
        f"Completed at step 600. Best validation: {bits:.4f} bits/byte at step 600, "
        f"{excess:.4f} above the corpus's floor of 0.8500."
    )
    report = report_of(folder)
    ratio = chinchilla(950_000, 300 * 8192).ratio  # two passes: the distinct tokens count
    assert f"| D/N | {ratio:.3g}, few tokens for this size |" in report
    assert f"| optimal D for these parameters | {amount(20 * 950_000)} tokens |" in report
    assert f"| optimal N for these tokens | {amount(300 * 8192 / 20)} parameters |" in report
    assert f"| tokens a parameter with repetition | {600 * 8192 / 950_000:.3g} |" in report
    assert "| parameters, without embedding | 818,928 |" in report
    assert "| tokens trained on | 4,915,200 |" in report
    assert "| epochs | 2.00 |" in report
    assert "Once upon a time there was a cat who saw a cat and a dog." in report
    assert "(distinct-1 0.727, distinct-2 0.900, seed 0)" in report  # 8 of 11 words, 9 of 10 pairs
    assert "```sh\npython -m lmx.train\n```" in report
    assert (
        "optimizer | adamw, lr 0.003, weight_decay 0.1, update AdamW(betas=[0.9, 0.95], eps=1e-08" in report
    )


def test_below_the_floor_is_called_a_bug(make_run: MakeRun) -> None:
    run = read_run(make_run(floor=1.0).path)
    assert re.search(r"0\.\d{4} below the corpus's floor of 1\.0000, which cannot be: a bug", verdict(run))


def test_every_picture_in_the_report_is_there(make_run: MakeRun) -> None:
    folder = make_run()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report_of(folder))
    assert pictures == ["plots/loss.png", "plots/cost.png", "plots/dynamics.png"]
    assert all((folder.path / picture).read_bytes().startswith(PNG) for picture in pictures)


def test_without_evaluations(make_run: MakeRun) -> None:
    folder = make_run(evaluate=None, floor=None)
    report = report_of(folder)
    assert "No evaluation was recorded." in report
    assert [row["Epoch"] for row in table(report, "Training")] == ["1", "2"]
    assert "## Progression" not in report
    assert "No evaluation was recorded." in final_table(read_run(folder.path))


@pytest.mark.usefixtures("no_plots")
def test_without_a_floor(make_run: MakeRun) -> None:
    folder = make_run(floor=None)
    assert "loor" not in report_of(folder)
    assert "loor" not in final_table(read_run(folder.path))


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        ("interrupted", "signal SIGTERM", "Interrupted at step 600 (signal SIGTERM)."),
        ("failed", "loss not finite", "Failed at step 600 (loss not finite)."),
        ("completed", None, "Completed at step 600."),
        (None, None, "Still running, at step 600."),
    ],
)
def test_status_stands_first(
    make_run: MakeRun, status: str | None, reason: str | None, expected: str
) -> None:
    folder = make_run(status=status, reason=reason)
    assert verdict(read_run(folder.path)).startswith(expected)
    if status is None:
        folder.set_status("completed")


def test_a_run_without_a_single_record(make_run: MakeRun) -> None:
    folder = make_run()
    folder.metrics.unlink()
    report = report_of(folder)
    assert "Completed at step 600. No evaluation was recorded." in report
    assert "![" not in report
    assert final_table(read_run(folder.path))


@pytest.mark.usefixtures("no_plots")
def test_half_written_and_moved_runs_are_rendered_and_say_so(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    moved = RunFolder(tmp_path / "moved")
    shutil.move(folder.path, moved.path)
    moved.identity.write_text('{"status": "comp')
    moved.config.unlink()
    moved.metrics.write_bytes(moved.metrics.read_bytes()[:-100])
    report = report_of(moved)
    assert "Status unknown, at step 600." in report
    assert "- config.yaml: missing" in report
    assert "- run.json: damaged" in report


@pytest.mark.usefixtures("no_plots")
def test_non_finite_values_are_shown_as_such(make_run: MakeRun) -> None:
    folder = make_run(steps=100, evaluate=50)
    log = MetricsLog(folder.metrics)
    log.append({"kind": "train", "step": 110, "tokens": 1, "train/loss": math.nan})
    log.append({"kind": "val", "step": 110, "val/loss": 1e3, "val/perplexity": math.inf})
    rows = {row["Metric"]: row for row in table(report_of(folder), "Best and final")}
    assert rows["Train Loss"]["Final"] == "nan"
    assert rows["Eval Perplexity"]["Final"] == "inf"
    assert rows["Train Loss"]["at step"] == "100"


def test_rendering_twice_gives_the_same(make_run: MakeRun) -> None:
    folder = make_run()
    first = report_of(folder)
    assert report_of(folder) == first
    names = ["cost.png", "dynamics.png", "loss.png"]
    assert sorted(path.name for path in folder.plots.iterdir()) == names


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run folder"):
        render_run(read_run(tmp_path))


def test_final_table_fits_a_terminal_and_holds_the_records(make_run: MakeRun) -> None:
    run = read_run(make_run().path)
    text = final_table(run)
    assert max(len(line) for line in text.splitlines()) <= 80
    loss = values(run, "val/loss")
    assert re.search(rf"^Eval Loss +nats/token +{min(loss):.4f} +600 +{loss[-1]:.4f}$", text, re.M)
    assert re.search(r"^Floor of the corpus +bits/byte +0\.8500$", text, re.M)
    for expected in ("log PI", "Grad Norm", "51,200 tokens/s", "812 MiB", "4.92M in 600 steps, 2.00 epochs"):
        assert expected in text


def test_long_tables_are_thinned_around_the_best(make_run: MakeRun) -> None:
    rows = intervals(read_run(make_run(steps=3000, evaluate=10).path))
    assert len(rows) == 301
    kept = thinned(rows, best=137)
    assert len(kept) <= 63
    assert kept[0] is rows[0]
    assert kept[-1] is rows[-1]
    assert rows[137] in kept


def test_ten_thousand_logged_steps(make_run: MakeRun) -> None:
    folder = make_run(steps=10_000, every=1, evaluate=500)
    report = report_of(folder)
    assert "Completed at step 10,000." in report
    assert len(table(report, "Training")) == 35


def test_settings_are_those_that_differ_from_the_defaults(make_run: MakeRun) -> None:
    run = read_run(make_run(("model=llama_tiny", "train.clip_grad_norm=null")).path)
    rows = dict(settings(run))
    assert "num_kv_heads 4" in rows["model"]
    assert "tie_embeddings false" in rows["model"]
    assert "rope_theta" not in rows["model"]
    assert "clip_grad_norm null" in rows["train"]


def test_extremes_have_no_best_without_a_direction(make_run: MakeRun) -> None:
    found = {item.column.title: item for item in extremes(read_run(make_run().path))}
    assert found["Entropy"].best is None
    assert found["Eval Loss"].best is not None


def test_smoothing_against_a_plain_loop() -> None:
    data = np.random.default_rng(0).normal(size=1000)
    half = 10
    expected = []
    for i in range(len(data)):
        before = min(half, i)
        after = min(before, len(data) - 1 - i)
        expected.append(data[i - before : i + after + 1].mean())
    np.testing.assert_allclose(smoothed(data), expected)
    assert smoothed(data[:99]) is not None
    np.testing.assert_array_equal(smoothed(data[:99]), data[:99])


def test_thinning_keeps_order_ends_and_every_spike() -> None:
    data = np.random.default_rng(0).normal(size=9_999)
    data[[17, 5_001]] = 40.0, -40.0
    steps, values = thinned_curve((np.arange(9_999), data))
    assert 1000 < len(steps) < 2_500
    assert (np.diff(steps) > 0).all()
    assert (steps[0] < 9, steps[-1]) == (True, 9_998)
    assert {17, 5_001} <= set(steps.tolist())
    np.testing.assert_array_equal(values, data[steps])
    few = (np.arange(10), data[:10])
    assert thinned_curve(few) is few


@pytest.mark.parametrize(("low", "high"), [(1.2, 7.7), (1e-4, 0.3), (0.31, 1.6), (2.0, 6.5), (1e-9, 1e9)])
def test_ticks_of_a_logarithmic_axis_are_few_and_inside(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)


def test_numbers_at_an_axis() -> None:
    found = [tick_label(value) for value in (0, 0.35, 12, 8000, 12_500, 1.5e6, 3e-5, 0.00015, -2000)]
    assert found == ["0", "0.35", "12", "8k", "12.5k", "1.5M", "3e-5", "1.5e-4", "-2k"]


def test_numbers_as_text() -> None:
    assert [amount(n) for n in (812, 9216, 4.9152e6, 327.68e6, 1.5e12, None)] == [
        "812",
        "9.22k",
        "4.92M",
        "327.7M",
        "1.50T",
        "—",
    ]
    assert [duration(s) for s in (8.34, 102, 3599.6, 7500, None)] == [
        "8.3 s",
        "1 min 42 s",
        "1 h 00 min",
        "2 h 05 min",
        "—",
    ]
    assert [show(x, ".2f") for x in (1.005, 1.29e54, None, math.inf, -math.inf, math.nan, "a")] == [
        "1.00",
        "1.29e+54",
        "—",
        "inf",
        "-inf",
        "nan",
        "a",
    ]
    assert code_block("a ``` b", "text") == "````text\na ``` b\n````"
