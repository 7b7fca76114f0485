"""`python -m lmx.audit`: what it prints, its exit statuses, and its refusals in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from audit_bench import Bench
from planted import SHORT
from planted_reports import REPORTS

from lmx.audit.__main__ import main, run
from lmx.audit.registry import tables
from lmx.config import CheckpointError, ConfigError, DataError


@pytest.fixture
def faulty(bench: Bench) -> Path:
    """A run with a fault."""
    return bench.run("train.eval_mean=batches", *SHORT).path


def test_a_clean_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = bench.run().path
    capsys.readouterr()
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: no finding\n"


def test_a_finding_is_read_by_a_person(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(faulty)]) == 1
    out = capsys.readouterr().out
    assert "error   evaluation-not-token-weighted" in out
    assert "seen  train.eval_mean=batches" in out
    assert "mend  train.eval_mean=tokens" in out


def test_a_folder_is_audited_as_a_comparison(
    bench: Bench, faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (bench.run().path, faulty):
        shutil.copytree(path, tmp_path / "study" / path.name)
    capsys.readouterr()
    assert main([str(tmp_path / "study"), str(tmp_path / "study" / faulty.name)]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 runs have no finding of their own." in out
    assert "unequal-tokens" in out


def test_notes_alone_are_no_failure(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = tmp_path / "run"
    shutil.copytree(bench.run().path, copied)
    identity = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**identity, "status": "failed"}))
    assert main([str(copied)]) == 0
    assert "note    unfinished" in capsys.readouterr().out


def test_json_is_for_programs(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(faulty), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["code"] for finding in found] == ["evaluation-not-token-weighted"]
    assert set(found[0]) == {"code", "severity", "seen", "why", "fix", "run"}


def test_the_list_has_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(map(len, tables().values()))
    assert main(["--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(lines)


def test_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report", str(REPORTS / "d_faulty.md")]) == 1
    out = capsys.readouterr().out
    assert (
        "D/N = 0.279 is the 242,643 validation tokens over 869,153 parameters; the train split gives 2.7"
        in " ".join(out.split())
    )
    assert main(["--report", str(REPORTS / "d_clean.md"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("nothing")
    for arguments, error, text in (
        ([], ConfigError, "got nothing, allowed: RUN …, --report or --list"),
        (["x", "--list"], ConfigError, "got several, allowed"),
        ([str(tmp_path / "x")], CheckpointError, "no such run folder"),
        ([str(tmp_path)], CheckpointError, "not a run folder"),
        (["--report", str(tmp_path / "reprot.md")], DataError, "no such report; did you mean 'report.md'"),
        (["--report", str(tmp_path)], DataError, "a folder, not a report"),
    ):
        with pytest.raises(error, match=text):
            run(_arguments(arguments))
        assert main(arguments) == 2
    with pytest.raises(ConfigError, match="--jason: unknown option; did you mean '--json'"):
        _arguments(["x", "--jason"])


def _arguments(arguments: list[str]):  # type: ignore[no-untyped-def]
    from lmx.audit.__main__ import _parser

    return _parser().parse_args(arguments)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from lmx.audit.__main__ import main; main(['--list']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
