"""The audit of records that are damaged, empty, moved or of another version, and its speed of reading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_bench import Bench, edit, fresh, put, timed, with_losses
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.audit import Finding, audit_comparison, audit_run, findings_markdown
from lmx.audit.finding import by_severity, findings_text
from lmx.audit.knobs import arms
from lmx.runs import Run, RunFolder, read_run

ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *leaves(item, (*path, key))]]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_value_in_a_record_breaks_it(bench: Bench, data: st.DataObject) -> None:
    run = bench.run()
    for part in (run.config, run.identity, run.lines):
        for _ in range(2):
            place = data.draw(
                st.sampled_from([place for place in leaves(part) if place[1:] or part is not run.lines])
            )
            target: Any = part
            for key in place[:-1]:
                target = target[key]
            if place[-1] not in ("step", "kind"):  # read_run drops lines without them
                target[place[-1]] = data.draw(ODD)
                break
    for finding in [*audit_run(run), *audit_comparison([run, bench.run()])]:
        assert isinstance(finding, Finding)


@pytest.mark.parametrize("missing", ["config.yaml", "run.json", "metrics.jsonl", "checkpoints", "windows"])
def test_what_is_missing_is_not_judged(bench: Bench, tmp_path: Path, missing: str) -> None:
    copied = tmp_path / "moved"
    shutil.copytree(bench.run().path, copied)
    gone = copied / missing
    if gone.is_dir():
        shutil.rmtree(gone)
    elif gone.exists():
        gone.unlink()
    assert {finding.code for finding in audit_run(read_run(copied))} <= {"unfinished"}


def test_damaged_losses_are_not_judged(bench: Bench, tmp_path: Path) -> None:
    run = with_losses(bench.run(), tmp_path, 40)
    path = tmp_path / "windows" / "last.npz"
    for content in (b"", b"PK\x03\x04 and nothing", path.read_bytes()[:200]):
        path.write_bytes(content)
        assert audit_run(fresh(run)) == []
    np.savez(path, loss=np.zeros((2, 2)), tokens=np.zeros(4), step=0)
    assert audit_run(fresh(run)) == []


def test_an_empty_folder_has_no_finding(tmp_path: Path) -> None:
    run = Run(RunFolder(tmp_path), {}, {}, [], [])
    assert audit_run(run) == []
    assert audit_comparison([run]) == []
    assert [finding.code for finding in audit_comparison([run, run])] == ["unfinished-arms"]


def test_copies_of_one_run_are_no_comparison(bench: Bench) -> None:
    assert {finding.code for finding in audit_comparison([bench.run(), bench.run()])} == set()


def test_a_run_in_training_is_not_called_unfinished(bench: Bench) -> None:
    run = put(bench.run(), "status", "running", part="identity")
    run.alive = True
    assert audit_run(run) == []
    run.alive = False
    assert [finding.code for finding in audit_run(run)] == ["unfinished"]


def test_a_longer_horizon_after_a_resume_is_no_fault(bench: Bench) -> None:
    run = bench.run()
    half = [{"step": 15, "status": "completed"}, {"step": 30, "status": "completed"}]
    put(run, "sessions", half, part="identity")
    edit(run, "train", lambda line: line.update({"train/lr": 1e-3}) if line["step"] <= 15 else None)
    assert audit_run(run) == []


def test_seeds_of_one_configuration_are_one_arm(bench: Bench) -> None:
    runs = [put(bench.run(), "seed", seed) for seed in (1, 2, 3)]
    faster = [put(put(bench.run(), "seed", seed), "optimizer.lr", 1e-3) for seed in (1, 2)]
    first, second = arms([*runs, *faster])
    assert (len(first.seeds), len(second.seeds)) == (3, 2)
    assert first.differs(second) == ["optimizer.lr"]
    assert (first.title, second.title) == ("lr=0.003", "lr=0.001")


def test_what_follows_from_one_choice_is_one_setting(bench: Bench) -> None:
    muon = put(put(bench.run(), "optimizer.update", {"_target_": "lmx.optim.Muon"}), "optimizer.lr", 0.02)
    muon = put(muon, "optimizer.rest", {"_target_": "torch.optim.AdamW", "lr": 1e-3})
    wide = put(put(bench.run(), "model.hidden_size", 64), "model.intermediate_size", 128)
    silu = put(put(bench.run(), "model.activation", "silu"), "model.intermediate_size", 96)
    plain, *others = arms([bench.run(), muon, wide, silu])
    assert [plain.differs(other) for other in others] == [["optimizer"], ["model size"], ["feed-forward"]]


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("train.eval_windows", 64, True),
        ("train.eval_mean", "batches", True),
        ("data.held_out_batch", 8, True),
        ("data.mask_padding", False, False),  # no padding in a stream
    ],
)
def test_arms_that_evaluate_differently_are_told_of(
    bench: Bench, key: str, value: object, found: bool
) -> None:
    findings = audit_comparison([put(bench.run(), key, value), bench.run()])
    seen = [finding.seen for finding in findings if finding.code == "different-validation"]
    assert [text.startswith(f"{key} differs: ") for text in seen] == [True] * found
    padded = [put(bench.run(), "data.packing", "documents") for _ in range(2)]
    findings = audit_comparison([put(padded[0], key, value), padded[1]])
    assert "different-validation" in {finding.code for finding in findings}


def test_results_that_agree_in_many_runs_are_one_finding(bench: Bench) -> None:
    runs = [put(bench.run(), "seed", seed) for seed in (1, 2, 3)]
    runs.append(put(bench.run(), "optimizer.lr", 0.5))
    found = [finding for finding in audit_comparison(runs) if finding.code == "identical-results"]
    assert len(found) == 2, "one by the seed, one by the rate"
    assert found[0].seen.startswith("two runs of ")
    twice = audit_comparison([*runs, put(bench.run(), "optimizer.lr", 0.25)])
    (rates,) = (finding.seen for finding in twice if "differ in optimizer.lr" in finding.seen)
    assert rates.endswith("; so do lr=0.25 and lr=0.003")


def test_an_objective_counts_where_it_has_an_effect(bench: Bench) -> None:
    def mixed(alpha: float, temperature: float) -> Run:
        run = put(put(bench.run(), "objective.kind", "cosine_mix"), "objective.alpha", alpha)
        return put(run, "objective.temperature", temperature)

    assert len(arms([bench.run(), mixed(0.0, 1.0), mixed(0, 0.7)])) == 1
    plain, first, second = arms([bench.run(), mixed(0.5, 1.0), mixed(0.5, 0.7)])
    assert first.differs(second) == ["objective.temperature"]
    assert plain.differs(first) == ["objective.kind"]


def test_keys_added_since_are_no_difference(bench: Bench) -> None:
    old = bench.run()
    del old.config["train"]["eval_mean"], old.config["data"]["holdout"]
    assert len(arms([old, bench.run()])) == 1


@pytest.mark.parametrize(("confidence", "wrong"), [(1.0, False), (0.5, True), (None, True)])
def test_a_model_that_is_sure_and_wrong_has_no_entropy(
    bench: Bench, confidence: float | None, wrong: bool
) -> None:
    """Huge logits: 100 nats of loss beside no entropy are no fault where the confidence says the same."""

    def spoiled(line: dict[str, Any]) -> None:
        line.update({"val/loss": 100.0, "val/perplexity": float(np.exp(100)), "val/entropy": 1e-20})
        line["val/confidence"] = confidence

    found = audit_run(edit(bench.run(), "val", spoiled))
    seen = [finding.seen for finding in found if finding.code == "entropy-wrong-denominator"]
    assert bool(seen) == wrong
    assert all("1e+22 times less" in text for text in seen)


def codes(run: Run) -> set[str]:
    return {finding.code for finding in audit_run(run)}


def fact(key: str, value: object) -> Callable[[Run], Run]:
    return lambda run: put(run, key, value, part="identity")


def shown(kind: str, name: str, value: float) -> Callable[[Run], Run]:
    return lambda run: edit(run, kind, lambda line: line.update({name: value}))


def shared(words: int, count: int) -> Callable[[Run], Run]:
    """A leak check that found so many of a thousand sequences of the validation split in the train split."""
    seen = {"sequences": 1000, "shared": count, "sampled": False}
    return fact(f"data.overlap.validation.{words}_words", seen)


def at_speed(of_peak: float, devices: int) -> Callable[[Run], Run]:
    """As many tokens a second as make this share of the peak of one H100."""

    def change(run: Run) -> Run:
        device = {"device_name": "NVIDIA H100 80GB HBM3", "precision": "bf16", "devices": devices}
        fact("hardware", device)(run)
        rate = of_peak * 989.5e12 / run.identity["flops_per_token"]
        return shown("train", "speed/tokens_per_second", rate)(run)

    return change


def last_covers_one(run: Run) -> Run:
    run.of_kind("train")[-1]["steps"] = 1
    return run


def jumping(at: int) -> Callable[[Run], Run]:
    """Thirty records, one of them with a gradient of twenty times the others'."""

    def change(run: Run) -> Run:
        line = run.of_kind("train")[0]
        norms = [20.0 if number == at else 1.0 for number in range(30)]
        run.lines[:] = [{**line, "step": n + 1, "train/grad_norm": norm} for n, norm in enumerate(norms)]
        return fresh(run)

    return change


def chosen_by_accuracy(run: Run) -> Run:
    put(run, "checkpoint.best", "val/accuracy")
    return edit(run, "val", lambda line: line.update({"val/accuracy": line["step"] / 100}))


def known_by_heart(run: Run) -> Run:
    """Six passes by its tokens, where an epoch of overlapping windows is many passes; validation rises."""
    run.of_kind("val")[-1]["val/loss"] += 5
    return fact("data.splits.train.tokens", run.lines[-1]["tokens"] / 6)(run)


OVERLAP, SPEED = "validation-overlaps-train", "timing-not-synchronised"
COUNT, JUMP = "steps-miscounted", "gradient-jumps"
FURTHER: dict[str, tuple[Callable[[Run], Run], str, bool]] = {
    "1 % of the passages": (shared(50, 10), OVERLAP, True),
    "less than 1 % of the passages": (shared(50, 9), OVERLAP, False),
    "a tenth of the phrases": (shared(13, 100), OVERLAP, True),
    "less than a tenth of the phrases": (shared(13, 99), OVERLAP, False),
    "faster than the device": (at_speed(1.5, 1), SPEED, True),
    "not faster than two devices": (at_speed(1.5, 2), SPEED, False),
    "a text that is known before": (shown("val", "val/loss", 2.0), "initial-loss-far-from-ln-v", True),
    "entropy above ln V": (shown("val", "val/entropy", 6.0), "entropy-wrong-denominator", True),
    "norms of zero": (shown("train", "train/grad_norm", 0.0), "gradient-norm-after-update", True),
    "all the tokens there are": (shown("val", "tokens", 30 * 8 * 32), COUNT, False),
    "a token more": (shown("val", "tokens", 30 * 8 * 32 + 1), COUNT, True),
    "updates that no record covers": (last_covers_one, COUNT, True),
    "a jump": (jumping(10), JUMP, True),
    "a jump in the first tenth": (jumping(2), JUMP, False),
    "the best of a rising measure": (chosen_by_accuracy, "best-by-wrong-direction", False),
    "passes by tokens": (known_by_heart, "many-passes", True),
    "an end before the schedule's": (fact("total_steps", 100), "schedule-horizon", True),
}


@pytest.mark.parametrize("name", FURTHER)
def test_what_the_planted_faults_leave_open(bench: Bench, name: str) -> None:
    """Further ways to the same codes, and the sound records beside them."""
    change, code, found = FURTHER[name]
    assert (code in codes(change(timed(bench.run())))) == found


@pytest.mark.parametrize(("size", "found"), [(300, False), (500, True)])
def test_a_few_bits_below_the_entropy_are_luck(bench: Bench, size: int, found: bool) -> None:
    run = fact("data.splits.validation.bytes", size)(bench.run())
    assert ("below-entropy-floor" in codes(shown("val", "val/excess_bits_per_byte", -0.1)(run))) == found


def test_arms_of_which_one_is_not_shuffled_have_another_order(bench: Bench) -> None:
    found = audit_comparison([bench.run(), put(bench.run(), "data.shuffle", False)])
    assert "different-order" in {finding.code for finding in found}


def test_findings_read_from_the_gravest(bench: Bench) -> None:
    run = edit(timed(bench.run()), "val", lambda line: line.update({"val/perplexity": 1.0}))
    put(run, "callbacks.samples", {"prompts": ["So "]})
    put(run, "status", "failed", part="identity")
    found = audit_run(run)
    assert [finding.severity for finding in found] == ["error", "warning", "note"]
    assert by_severity(reversed(found)) == found
    text, page = findings_text(found), findings_markdown(found)
    assert text.endswith("1 error, 1 warning, 1 note.")
    assert page.startswith("1 error, 1 warning, 1 note.")
    assert page.count("\n- **") == 3
    unwrapped = " ".join(text.split())
    assert all(finding.seen in unwrapped and finding.fix in page for finding in found)
    assert max(map(len, text.splitlines())) <= 100
    assert findings_markdown([]) == "No finding.\n"


def test_ten_thousand_records_are_read_as_a_few(bench: Bench) -> None:
    """The checks are linear in the records: each is looked at a bounded number of times."""
    run = bench.run()
    lines = run.of_kind("train")
    run.lines[:] = [
        {**lines[at % len(lines)], "step": 5 * (at + 1), "tokens": 1280 * (at + 1)} for at in range(10_000)
    ]
    codes = {finding.code for finding in audit_run(fresh(run))}
    assert codes <= {
        "rate-unlike-schedule",
        "schedule-horizon",
        "steps-miscounted",
        "timing-not-synchronised",
    }
    assert json.dumps([finding.seen for finding in audit_run(fresh(run))])
