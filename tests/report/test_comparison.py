"""Several runs: order, what differs, and the honest lines; the command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx.report import comparison_table, render_comparison
from lmx.report.__main__ import main
from lmx.report.facts import differing
from lmx.runs import Run, RunFolder, read_run

MakeRun = Callable[..., RunFolder]


def read(*folders: RunFolder) -> list[Run]:
    return [read_run(folder.path) for folder in folders]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest, and is seen in one test."""
    monkeypatch.setattr("lmx.report.comparison.plot_study", lambda *arguments: [])


def compared(out: Path, *folders: RunFolder) -> tuple[str, dict[str, Any]]:
    """Render a comparison; return the page and the data beside it."""
    path = render_comparison([folder.path for folder in folders], out)
    return path.read_text(), json.loads((path.parent / "research_data.json").read_text())


@pytest.mark.usefixtures("no_plots")
def test_the_best_configuration_stands_first_and_a_run_without_evaluation_is_left_out(
    make_run: MakeRun, tmp_path: Path
) -> None:
    worse, none, best = make_run(level=1.5), make_run(evaluate=None), make_run(("seed=2", "optimizer=muon"))
    page, data = compared(tmp_path / "out", worse, none, best)
    ranking = [item["configuration"] for item in data["ranking"]["tokens"]]
    assert ranking == ["optimizer=muon", "optimizer=adamw"]
    assert data["left_out"] == [f"{none.path}: no evaluation was recorded."]
    assert f"- {none.path}: no evaluation was recorded." in page


@pytest.mark.usefixtures("no_plots")
def test_runs_without_bytes_are_ranked_by_loss(make_run: MakeRun, tmp_path: Path) -> None:
    best, other = make_run(level=1.2), make_run(("optimizer=muon",), level=1.5)
    text = best.metrics.read_text()
    best.metrics.write_text(re.sub(r'"val/bits_per_byte":[^,}]*,', "", text))
    _, data = compared(tmp_path / "out", other, best)
    assert data["metric"]["name"] == "val/loss"
    assert data["ranking"]["tokens"][0]["configuration"] == "optimizer=adamw"


@pytest.mark.usefixtures("no_plots")
def test_runs_that_differ_in_the_seed_alone_are_one_configuration(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run((f"seed={seed}",), level=1.2 + seed / 100, noise=seed) for seed in (1, 2, 3)]
    page, data = compared(tmp_path / "out", *runs)
    (item,) = data["ranking"]["tokens"]
    losses = [read_run(run.path).of_kind("val")[-1]["val/bits_per_byte"] for run in runs]
    assert item["best"]["estimate"] == pytest.approx(sum(losses) / 3)
    assert item["best"]["n"] == 3
    assert "## Against the baseline" not in page


def test_what_differs_names_the_choice_and_not_what_follows(make_run: MakeRun) -> None:
    runs = read(make_run(), make_run(("optimizer=muon",)), make_run(("optimizer.lr=2e-3", "seed=3")))
    assert differing(runs) == {
        "optimizer": ["adamw", "muon", "adamw"],
        "seed": ["42", "42", "3"],
        "optimizer.lr": ["0.003", "0.02", "0.002"],
    }


@pytest.mark.usefixtures("no_plots")
def test_equal_configurations_from_different_places_keep_their_names(
    make_run: MakeRun, tmp_path: Path
) -> None:
    runs = [make_run(), make_run(("optimizer=muon", "optimizer.lr=0.01")), make_run(("optimizer.lr=2e-3",))]
    _, data = compared(tmp_path / "out", *runs)
    assert set(data["configurations"]) == {
        "optimizer=adamw lr=0.003",
        "optimizer=muon lr=0.01",
        "optimizer=adamw lr=0.002",
    }


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("overrides", "options", "code"),
    [
        (("optimizer.lr=2e-3",), {"tokenizer": "bpe-8k"}, "different-tokenizers"),
        (("optimizer.lr=2e-3",), {"steps": 900}, "unequal-tokens"),
        (("optimizer.lr=2e-3",), {}, "one-seed"),
        (("optimizer.lr=2e-3", "model.num_layers=2"), {}, "several-knobs"),
        (("optimizer.lr=2e-3",), {"status": "interrupted"}, "unfinished-arms"),
        (("optimizer.lr=2e-3",), {"gpu": True}, "different-hardware"),
    ],
)
def test_the_audit_s_findings_stand_in_the_page(
    make_run: MakeRun, tmp_path: Path, overrides: tuple[str, ...], options: dict[str, Any], code: str
) -> None:
    page, data = compared(tmp_path / "out", make_run(overrides, **options), make_run())
    assert code in [finding["code"] for finding in data["findings"]]
    assert f"`{code}`" in page
    assert len(data["ranking"]["seconds"]) == (0 if "gpu" in options else 2), "seconds of one machine alone"


@pytest.mark.usefixtures("no_plots")
def test_a_fair_comparison_has_no_grave_finding_of_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    settings = [(f"optimizer.lr={rate}", f"seed={seed}") for rate in (1e-3, 2e-3) for seed in (1, 2)]
    runs = [make_run(overrides, noise=n, level=1.1 + n / 50) for n, overrides in enumerate(settings)]
    _, data = compared(tmp_path / "out", *runs)
    of_the_comparison = [finding["code"] for finding in data["findings"] if finding["run"] is None]
    assert of_the_comparison == []


@pytest.mark.usefixtures("no_plots")
def test_what_is_wrong_with_a_run_stands_in_the_comparison(make_run: MakeRun, tmp_path: Path) -> None:
    best = make_run(("optimizer.lr=2e-3",), floor=1.3)
    identity = json.loads(best.identity.read_text())
    identity["data"]["splits"]["validation"] = {"bytes": 10**6}
    best.identity.write_text(json.dumps(identity))
    page, _ = compared(tmp_path / "out", best, make_run(level=1.2))
    assert "`below-entropy-floor`" in page


def test_the_page_holds_the_records(make_run: MakeRun, tmp_path: Path) -> None:
    first, second = make_run(level=1.2), make_run(("optimizer=muon",), level=1.4)
    path = render_comparison([second.path, first.path], tmp_path / "out")
    report = path.read_text()
    assert report.startswith("# 2 runs compared\n")
    table = report.split("## Runs\n")[1]
    for folder in (first, second):
        final = read_run(folder.path).of_kind("val")[-1]
        row = next(line for line in table.splitlines() if folder.path.name in line)
        assert f"| {final['val/bits_per_byte']:.4f} |" in row
        assert f"| {final['val/perplexity']:,.2f} |" in row
        link = re.search(r"\[.*?\]\((.*?)\)", row)
        assert link is not None
        assert (path.parent / link[1]).resolve() == folder.path.resolve()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert len(pictures) == 5
    assert all((path.parent / picture).is_file() for picture in pictures)


@pytest.mark.usefixtures("no_plots")
def test_the_terminal_s_table_fits_it(make_run: MakeRun, tmp_path: Path) -> None:
    other = make_run(("optimizer=muon", "model.num_layers=2", "data.stories=1000", "seed=7"), level=1.3)
    compared(tmp_path / "out", make_run(), other)
    text = comparison_table(tmp_path / "out")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "several-knobs" in text


def test_one_run_is_rendered_and_its_path_printed_last(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run()
    assert main([str(folder.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder.report)


@pytest.mark.usefixtures("no_plots")
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


@pytest.mark.usefixtures("no_plots")
def test_a_copy_of_a_run_counts_once(make_run: MakeRun, tmp_path: Path) -> None:
    run, other = make_run(), make_run(("optimizer=muon",))
    copied = RunFolder(Path(shutil.copytree(run.path, tmp_path / "copied")))
    _, data = compared(tmp_path / "out", run, other, copied)
    assert data["left_out"] == [f"{copied.path}: a copy of {run.path}."]
    assert [len(item["runs"]) for item in data["configurations"].values()] == [1, 1]


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


@pytest.mark.usefixtures("no_plots")
def test_runs_of_a_study_are_named_as_their_arms(make_run: MakeRun, tmp_path: Path) -> None:
    """Without the study's name and the seed; a name too long for the terminal keeps its beginning."""
    arms = ("rate=1", "rate=2", "a" * 90)
    runs = [
        make_run((f"name='rates/{arm}/seed3'", "seed=3", f"optimizer.lr={place}e-3"))
        for place, arm in enumerate(arms, start=1)
    ]
    _, data = compared(tmp_path / "out", *runs)
    assert set(data["configurations"]) == set(arms)
    table = comparison_table(tmp_path / "out")
    assert max(len(line) for line in table.splitlines()[:8]) <= 80
    assert re.search(r"1  a{30,}…$", table, flags=re.M)
