"""The scaling section: fitted to records, with its prediction, its cost and what it refuses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmx.measure.scaling import ScalingLaw
from lmx.report import render_comparison
from lmx.report.__main__ import main
from lmx.report.scaling import scaling_section
from lmx.runs import Run, RunFolder, read_run

MakeRun = Callable[..., RunFolder]
LAW = ScalingLaw(E=1.2, A=180.0, B=420.0, alpha=0.34, beta=0.30)
SPEED = 8e10  # FLOP/s


@pytest.fixture
def make_sizes(make_run: MakeRun) -> Callable[..., list[RunFolder]]:
    """Write a run for each size and length whose last evaluation is the law's loss."""

    def write(
        sizes: list[int], lengths: list[float], entropy: float | None = None, **options: object
    ) -> list[RunFolder]:
        folders = []
        for size in sizes:
            for tokens in lengths:
                folder = make_run(steps=20, every=10, evaluate=20, floor=None, **options)
                folder.update_identity(parameters={"total": size, "without_embedding": size // 2})
                lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
                flops = 6 * size * tokens
                last = {"tokens": int(tokens), "flops": flops, "seconds": flops / SPEED}
                lines[-1] |= {"val/loss": float(LAW.loss(size, tokens)), **last}
                if entropy is not None:  # beside it some noise, so that the interval has a width
                    lines[-1]["val/loss"] *= 1 + 1e-3 * math.sin(len(folders))
                    bits = {"bits_per_byte": lines[-1]["val/loss"], "floor_bits_per_byte": entropy}
                    lines[-1] |= {f"val/{name}": value / 3 for name, value in bits.items()}
                folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
                folders.append(folder)
        return folders

    return write


def read(folders: list[RunFolder]) -> list[Run]:
    return [read_run(folder.path) for folder in folders]


def test_the_section_holds_the_law_and_the_cost_of_the_next_size(
    make_sizes: Callable[..., list[RunFolder]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = make_sizes([1_000_000, 4_000_000, 16_000_000], [2e7, 8e7, 3e8])
    out = tmp_path / "out"
    assert main(["--scaling", *(str(folder.path) for folder in folders), "--out", str(out)]) == 0
    page = (out / "scaling.md").read_text()
    assert str(out / "scaling.md") in capsys.readouterr().out
    for row in (
        "| E, nats/token | 1.2 |",
        "| A | 180 |",
        "| B | 420 |",
        "| α | 0.34 |",
        "| β | 0.3 |",
    ):
        assert row in page
    loss = float(LAW.loss(32e6, 6e8))
    flops = 6 * 32e6 * 6e8
    assert "| parameters | 32.00M |" in page
    assert "| tokens | 600.0M |" in page
    assert re.search(rf"\| loss, nats/token \| {loss:.4f} \({loss:.4f} to {loss:.4f}\) \|", page)
    assert f"| FLOPs | {flops:.3g} |" in page
    hours, minutes = divmod(round(flops / SPEED / 60), 60)
    assert (
        f"| training time on 1 × a CPU, bf16, at the largest run's speed | {hours} h {minutes:02d} min |"
        in page
    )
    best = LAW.optimal(flops)
    assert f"{best[0] / 1e6:.2f}M parameters" in page
    assert (out / "plots" / "scaling.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "![Measured losses, the fitted law and the next size](plots/scaling.png)" in page


@pytest.mark.parametrize(("entropy", "place"), [(1.2, "within"), (0.8, "outside")])
def test_a_known_entropy_is_set_beside_the_law(
    make_sizes: Callable[..., list[RunFolder]], entropy: float, place: str
) -> None:
    folders = make_sizes([1_000_000, 4_000_000, 16_000_000], [2e7, 8e7, 3e8], entropy)
    page, _ = scaling_section(read(folders))
    assert f"known: {entropy:.4f} nats/token, which E should be. It lies {place} the interval" in page


def test_what_is_missing_is_said_and_nothing_drawn(make_sizes: Callable[..., list[RunFolder]]) -> None:
    markdown, drawings = scaling_section(read(make_sizes([1_000_000], [1e7, 2e7, 4e7])))
    assert (
        "No law is fitted: 3 runs, needed: at least 6; 1 different model sizes, needed: at least 3."
        in markdown
    )
    assert drawings == []


def test_runs_that_are_no_points_are_left_out_and_named(
    make_run: MakeRun, make_sizes: Callable[..., list[RunFolder]]
) -> None:
    folders = make_sizes([1_000_000, 4_000_000, 16_000_000], [2e7, 8e7])
    folders += make_sizes([1_000_000], [3e8], status="interrupted")
    folders.append(make_run(evaluate=None))
    markdown, _ = scaling_section(read(folders))
    assert (
        "2 different training lengths, needed: at least 3" in markdown
    )  # the third belongs to the interrupted one
    assert f"{folders[-2].path.name} (interrupted)" in markdown
    assert f"{folders[-1].path.name} (without parameters, tokens or an evaluation after training)" in markdown


def test_different_tokenizers_make_no_law(make_sizes: Callable[..., list[RunFolder]]) -> None:
    folders = make_sizes([1_000_000, 4_000_000], [2e7, 8e7, 3e8])
    folders += make_sizes([16_000_000], [2e7, 8e7, 3e8], tokenizer="bpe-8k")
    markdown, drawings = scaling_section(read(folders))
    assert "the runs have different tokenizers, so that their losses per token do not compare" in markdown
    assert drawings == []


def test_constants_that_the_runs_leave_open_are_named(make_sizes: Callable[..., list[RunFolder]]) -> None:
    folders = make_sizes([1_000_000, 4_000_000, 16_000_000], [2e7, 8e7, 3e8])
    assert "hardly determine" not in scaling_section(read(folders))[0]
    for number, folder in enumerate(folders):
        lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        lines[-1]["val/loss"] *= 1 + 0.1 * (-1) ** number  # noise as large as what there is to explain
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "**These runs hardly determine E" in scaling_section(read(folders))[0]


def test_many_passes_are_told_of(make_sizes: Callable[..., list[RunFolder]]) -> None:
    folders = make_sizes([1_000_000, 4_000_000, 16_000_000], [2e7, 8e7, 3e8])
    lines = [json.loads(line) for line in folders[0].metrics.read_text().splitlines()]
    lines[-1]["epoch"] = 9.0
    folders[0].metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        "**1 of the runs passed over their corpus more than four times" in scaling_section(read(folders))[0]
    )


def test_a_comparison_of_sizes_and_lengths_leads_with_the_law(
    make_sizes: Callable[..., list[RunFolder]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmx.report.comparison.plot_study", lambda *arguments: [])
    runs = make_sizes([1_000_000, 4_000_000, 16_000_000], [2e7, 8e7, 3e8])
    page = render_comparison([run.path for run in runs], tmp_path / "law").read_text()
    order = [
        page.index(text) for text in ("The runs differ in size and length", "## Scaling law", "## Ranking")
    ]
    assert order == sorted(order)
    assert page.count("## Scaling law") == 1
    page = render_comparison([run.path for run in (runs[0], runs[3])], tmp_path / "none").read_text()
    assert "The runs differ in size and length" not in page
    assert page.index("## Ranking") < page.index("No law is fitted")
