"""Several runs: order, what differs, and the honest lines; the command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx.report import comparison_table, render_comparison
from lmx.report.__main__ import main
from lmx.report.comparison import labels, ranked, remarks
from lmx.report.facts import differing
from lmx.runs import Run, RunFolder, read_run

MakeRun = Callable[..., RunFolder]


def read(*folders: RunFolder) -> list[Run]:
    return [read_run(folder.path) for folder in folders]


def test_the_best_run_stands_first_and_one_without_evaluation_last(make_run: MakeRun) -> None:
    worse, none, best = make_run(level=1.5), make_run(evaluate=None), make_run(level=1.2)
    assert [run.path for run in ranked(read(worse, none, best))] == [best.path, worse.path, none.path]


def test_runs_without_bytes_are_ranked_by_loss(make_run: MakeRun) -> None:
    best, other = make_run(level=1.2), make_run(level=1.5)
    text = best.metrics.read_text()
    best.metrics.write_text(re.sub(r'"val/bits_per_byte":[^,}]*,', "", text))
    assert [run.path for run in ranked(read(other, best))] == [best.path, other.path]


def test_what_differs_names_the_choice_and_not_what_follows(make_run: MakeRun) -> None:
    runs = read(make_run(), make_run(("optimizer=muon",)), make_run(("optimizer.lr=2e-3", "seed=3")))
    assert differing(runs) == {
        "optimizer": ["adamw", "muon", "adamw"],
        "seed": ["42", "42", "3"],
        "optimizer.lr": ["0.003", "0.02", "0.002"],
    }
    assert labels(runs)[1] == "optimizer=muon seed=42 lr=0.02"


def test_equal_runs_still_have_different_labels(make_run: MakeRun) -> None:
    assert len(set(labels(read(make_run(), make_run(), make_run())))) == 3


def test_a_fair_comparison_has_no_remarks(make_run: MakeRun) -> None:
    settings = [(f"optimizer.lr={rate}", f"seed={seed}") for rate in (1e-3, 2e-3) for seed in (1, 2)]
    runs = [make_run(overrides, noise=number) for number, overrides in enumerate(settings)]
    assert remarks(read(*runs)) == []


@pytest.mark.parametrize(
    ("overrides", "options", "expected"),
    [
        (
            (),
            {"tokenizer": "bpe-8k"},
            "Different tokenizers: loss and perplexity per token are not",
        ),
        ((), {"steps": 900}, r"Unequal training: from 4\.92M to 7\.37M tokens"),
        (("data.story_seed=1",), {}, "Different corpora"),
        (("data.sequence_length=128",), {}, "Different sequence lengths"),
        (("optimizer.lr=2e-3",), {}, "One seed: "),
        (("optimizer.lr=2e-3", "seed=5"), {}, "No configuration has two seeds"),
        (("optimizer.lr=2e-3", "model.num_layers=2"), {}, r"More than one setting differs \("),
        ((), {"status": "interrupted"}, r"Not completed: run \d \(interrupted\)"),
        ((), {"gpu": True}, "Different hardware or precision"),
        ((), {"floor": 1.0}, r"Below the corpus's floor, which cannot be: run \d"),
    ],
)
def test_each_reason_not_to_compare_is_one_line(
    make_run: MakeRun, overrides: tuple[str, ...], options: dict[str, Any], expected: str
) -> None:
    found = remarks(read(make_run(), make_run(overrides, **options)))
    assert [text for text in found if re.match(expected, text)], found


def test_the_page_holds_the_records(make_run: MakeRun, tmp_path: Path) -> None:
    first, second = make_run(level=1.2), make_run(("seed=2",), level=1.4)
    path = render_comparison([second.path, first.path], tmp_path / "out")
    report = path.read_text()
    assert report.startswith("# 2 runs compared\n")
    rows = [line for line in report.splitlines() if line.startswith("| ")][2:4]
    for row, folder in zip(rows, (first, second), strict=True):
        final = read_run(folder.path).of_kind("val")[-1]
        assert f"| {final['val/bits_per_byte']:.4f} |" in row
        assert f"| {final['val/perplexity']:,.2f} |" in row
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert len(pictures) == 3
    assert all((path.parent / picture).is_file() for picture in pictures)
    links = re.findall(r"\d\. \[.*?\]\((.*?)\)", report)
    assert [(path.parent / link).resolve() for link in links] == [first.path.resolve(), second.path.resolve()]


def test_the_terminal_s_table_fits_it(make_run: MakeRun) -> None:
    runs = read(make_run(), make_run(("optimizer=muon", "model.num_layers=2", "data.stories=1000", "seed=7")))
    text = comparison_table(runs)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "More than one setting differs" in text


def test_one_run_is_rendered_and_its_path_printed_last(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run()
    assert main([str(folder.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder.report)


def test_a_folder_of_runs_is_compared_in_the_outputs(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run()
    make_run(("seed=2", "name=family/two"))
    assert main([str(tmp_path / "outputs")]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path.name == "report.md"
    assert path.parents[1] == tmp_path / "outputs" / "comparisons"
    assert main([str(tmp_path / "outputs"), "--out", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "report.md").is_file()


def test_a_run_given_twice_is_one_run(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    assert main([str(folder.path), str(folder.path.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder.report)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], r"^lmx: nowhere: no such run folder"),
        (["{outputs}/storyworld_tinny"], r"^lmx: .*: no such run folder; did you mean 'storyworld_tiny'\?$"),
        (
            ["{empty}"],
            r"^lmx: .*: not a run folder, none of run\.json, .* is in it$",
        ),
        (["{run}", "--out", "x"], r"^lmx: --out: has no effect with one run"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    run = make_run().path
    (tmp_path / "empty").mkdir()
    places = {"outputs": tmp_path / "outputs", "empty": tmp_path / "empty", "run": run}
    assert main([argument.format(**places) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(expected, said.err)
    assert said.err.count("\n") == 1


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys\nfrom lmx.report.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib', 'lightning')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m lmx.report" in done.stdout
    assert "examples:" in done.stdout
