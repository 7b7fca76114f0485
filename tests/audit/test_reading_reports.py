"""Reading others' reports: numbers, names, tables, and any text at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted_reports import FAULTY_REPORTS, REPORTS

from lmx.audit.markdown import cells, parse
from lmx.audit.names import Key, key_of, quantity
from lmx.audit.reading import LARGEST
from lmx.audit.report import ReportAudit, audit_report
from lmx.config import DataError


def audited(tmp_path: Path, text: str) -> ReportAudit:
    path = tmp_path / "report.md"
    path.write_text(text)
    return audit_report(path)


def codes(tmp_path: Path, text: str) -> set[str]:
    return {finding.code for finding in audited(tmp_path, text).findings}


@pytest.mark.parametrize(
    ("text", "value", "error"),
    [
        ("39,605,248", 39_605_248, 0),
        ("17M", 17e6, 0.5e6),
        ("22.7 million", 22.7e6, 0.05e6),
        ("3e-4", 3e-4, 0.5e-4),
        ("≈ 1.2 × 10^9", 1.2e9, 0.05e9),
        ("204.85 (epoch 1)", 204.85, 0.005),
        ("-1.5", -1.5, 0.05),
        ("1,457.12", 1457.12, 0.005),
    ],
)
def test_numbers(text: str, value: float, error: float) -> None:
    found = quantity(text)
    assert found is not None
    assert (found.value, found.error) == pytest.approx((value, error))


@pytest.mark.parametrize("text", ["", "n/a", "—", "about 3", "<= 1.45", "M", "1e999"])
def test_no_numbers(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Eval Perplexity", Key("ppl", "val")),
        ("best_val_loss", Key("loss", "val", "best")),
        ("Final train loss (nats)", Key("loss", "train", "final")),
        ("val/loss", Key("loss", "val")),
        ("n_layer", Key("num_layers")),
        ("d_model", Key("hidden_size")),
        ("D/N ratio", Key("ratio")),
        ("Eff. Gamma", Key("effective_gamma")),
        ("target validation loss", Key("loss", "val", "other")),
        ("Peak GPU Mem (MB)", None),
        ("Epoch Time (s)", None),
        ("", None),
    ],
)
def test_names(text: str, key: Key | None) -> None:
    assert key_of(text) == key


def test_sections_tables_and_data() -> None:
    root = parse(
        'a\n# One\n```json\n{"x": 1}\n```\n## Two\n| a | b |\n|---|:-:|\n| **1** | `x\\|y` |\n# Three\n'
    )
    one, three = root.children
    assert [section.title for section in root.walk()] == ["", "One", "Two", "Three"]
    assert one.data == [(4, {"x": 1})]
    assert one.children[0].tables[0].rows == [["1", "x|y"]]
    assert three.number == 10
    assert cells("| a | b |") == ["a", "b"]


def test_settings_count_where_they_stand(tmp_path: Path) -> None:
    """One experiment's dimensions are not another's."""
    size = "- vocab: 1000\n- layers: 2\n- heads: 2\n- d_ff: 64\n- d_model: {}\n- parameters: {}\n"
    small, large = size.format(16, "24,272"), size.format(32, "52,640")
    assert codes(tmp_path, f"# A\n{small}# B\n{large}") == set()
    assert codes(tmp_path, f"# A\n{large.replace('32', '16')}# B\n{large}") == {"parameter-count"}


def test_a_label_far_from_its_dimensions(tmp_path: Path) -> None:
    """A model called 17M that has 128,625,408 parameters."""
    sizes = "- vocab size: 10,000\n- layers: 12\n- d_model: 768\n- heads: 12\n- d_ff: 3072\n"
    card = sizes + "- parameters: {}\n"
    assert codes(tmp_path, card.format("17M")) == {"parameter-count"}
    assert codes(tmp_path, card.format("128.6M")) == set()
    assert codes(tmp_path, card.format("128,625,408")) == set()


def test_rounding_is_no_contradiction(tmp_path: Path) -> None:
    lines = "Epoch 1: val_loss=5.32 ppl=204.85\nEpoch 2: val_loss=4.9 ppl=140\n"
    assert codes(tmp_path, lines) == set()
    assert codes(tmp_path, lines.replace("204.85", "214.85")) == {"perplexity-not-exp-loss"}


def test_best_so_far_must_be(tmp_path: Path) -> None:
    lines = "Epoch {}: val_loss={} {}\n"
    rows = [(1, "5.1", "(best so far)"), (2, "4.9", "(best so far)"), (3, "5.0", "")]
    good = "".join(lines.format(*row) for row in rows)
    assert codes(tmp_path, good) == set()
    assert codes(tmp_path, good.replace("5.0 ", "5.0 (best so far)")) == {"best-by-wrong-direction"}


def test_a_curve_ends_with_the_steps(tmp_path: Path) -> None:
    text = "- total steps: {}\n\n| Step | Val loss |\n|---|---|\n| 10 | 5.1 |\n| 20 | 4.9 |\n| 30 | 4.8 |\n"
    assert codes(tmp_path, text.format(30)) == set()
    assert codes(tmp_path, text.format(20)) == {"steps-miscounted"}


def test_one_equal_pair_of_losses_is_chance_and_two_are_not(tmp_path: Path) -> None:
    rows = "| 1 | 5.1000 | 5.1000 |\n| 2 | 4.9000 | {} |\n| 3 | 4.8000 | 4.9500 |\n"
    text = f"| Epoch | Train loss | Val loss |\n|---|---|---|\n{rows}"
    assert codes(tmp_path, text.format("5.0000")) == set()
    assert codes(tmp_path, text.format("4.9000")) == {"train-equals-validation"}


def test_a_best_between_the_rows_of_a_thinned_table(tmp_path: Path) -> None:
    """A table every 10,000 steps need not hold the best; a table of every epoch must."""
    text = (
        "| {0} | Val loss |\n|---|---|\n| 1 | 1.60 |\n| 2 | 1.50 |\n| 3 | 1.55 |\n\n- Best val loss: 1.45\n"
    )
    assert codes(tmp_path, text.format("Step")) == set()
    assert codes(tmp_path, text.format("Epoch")) == {"best-by-wrong-direction"}


def test_mixed_loss_has_the_perplexity_of_its_cross_entropy(tmp_path: Path) -> None:
    line = "- Validation: loss 2.1290, CE loss 3.8453, perplexity 46.77\n"
    assert codes(tmp_path, line) == set()
    assert codes(tmp_path, line.replace("CE loss 3.8453, ", "")) == {"perplexity-not-exp-loss"}


@pytest.mark.parametrize("name", [name for name in FAULTY_REPORTS if "published" in name])
def test_a_clean_report_is_compared_in_what_its_twin_has_wrong(name: str) -> None:
    audit = audit_report(REPORTS / name.replace("faulty", "clean"))
    assert [code for code in FAULTY_REPORTS[name] if not audit.compared[code]] == []


def test_an_object_in_a_line_is_read(tmp_path: Path) -> None:
    """JSON, or what Python prints of a dict, after the name of what was evaluated."""
    for line in (
        '- Eval metrics: {"eval_loss": 2.1, "eval_ce_loss": 3.8457, "eval_perplexity": 46.79}\n',
        "**Final**: `{'loss': 3.8457, 'perplexity': 46.79}`\n",
    ):
        assert audited(tmp_path, line).compared["perplexity-not-exp-loss"] == 2  # of the line and its section
        assert codes(tmp_path, line) == set()
        assert codes(tmp_path, line.replace("46.79", "56.79")) == {"perplexity-not-exp-loss"}


def test_objects_in_one_line_stay_apart(tmp_path: Path) -> None:
    line = '- Metrics: {"a": {"loss": 3.0, "perplexity": 20.09}, "b": {"loss": 4.0, "perplexity": 54.6}}\n'
    assert codes(tmp_path, line) == set()
    assert codes(tmp_path, line.replace("54.6", "20.09")) == {"perplexity-not-exp-loss"}


EPOCHS = (
    "Epoch {}:\n  Val Loss: {}\n  Val Perplexity: {}\n\n",
    "**Epoch {}**\n\n- Val loss: {}\n- Val perplexity: {}\n\n",
    "- Epoch {}/3:\n  - Step: 70\n  - Val loss: {}\n  - Val perplexity: {}\n",
    "Epoch {}: lr 3e-4\n    val loss {},\n    val perplexity {}\n",
)


@pytest.mark.parametrize("layout", EPOCHS)
def test_what_stands_beneath_an_epoch_is_its_own(tmp_path: Path, layout: str) -> None:
    rows = [(1, 5.0, 148.41), (2, 4.0, 54.6), (3, 4.5, 90.02)]
    text = "# Run\n" + "".join(layout.format(*row) for row in rows) + "Best val loss: 4.0\n"
    audit = audited(tmp_path, text)
    assert audit.findings == []
    assert audit.compared["perplexity-not-exp-loss"] == 3
    assert codes(tmp_path, text.replace("54.6", "64.6")) == {"perplexity-not-exp-loss"}
    assert codes(tmp_path, text.replace("Best val loss: 4.0", "Best val loss: 4.5")) == {
        "best-by-wrong-direction"
    }


@pytest.mark.parametrize(
    "text",
    [
        "Current Ratio = D / N\n   = 2,347,038 / 869,153\n   = 2.70",
        "- D/N = 2,347,038 / 869,153",
        "- D/N: 2.35M tokens / 869K parameters = 2.70",
        "| D/N |\n|---|\n| 2,347,038 / 869,153 |",
        "Your ratio: 2.70:1 (optimal: 20:1)",
        "Tokens/parameter ratio: 2.70",
        "- D/N: 2.70 / 20",
    ],
)
def test_a_ratio_may_show_how_it_was_computed(tmp_path: Path, text: str) -> None:
    card = "- Parameters: 869,153\n- Train tokens: 2,347,038\n- Validation tokens: 242,643\n\n"
    assert audited(tmp_path, card + text).compared["d-over-n-wrong"]
    assert codes(tmp_path, card + text) == set()
    held = text.replace("2,347,038", "242,643").replace("2.35M", "243K").replace("2.70", "0.279")
    assert codes(tmp_path, card + held) == {"d-over-n-wrong"}


def test_a_progress_bar_and_what_follows_it_are_one_epoch(tmp_path: Path) -> None:
    bar = "Epoch {0}/2: 100%|███| 9/9 [00:18<00:00, 7.6it/s, loss={1}]\n\n"
    block = "Epoch {0}:\n  Val loss: {1}\n  Best so far\n"
    text = "# Run\n" + "".join(part.format(*row) for row in ((1, 5.0), (2, 4.0)) for part in (bar, block))
    assert audited(tmp_path, text).compared["best-by-wrong-direction"] == 2
    assert codes(tmp_path, text.replace("4.0", "6.0")) == {"best-by-wrong-direction"}


def test_what_a_section_says_of_other_models_is_not_its_own(tmp_path: Path) -> None:
    """Settings given twice, optimal counts, sizes before a change, perplexity of another experiment."""
    text = (
        "# Small\n- seeds: 1, 2, 3\n- vocab: 1000\n- layers: 2\n- heads: 2\n- d_ff: 64\n- d_model: 32\n"
        "## Reasons\n- d_model=16: too small\n- d_model=16→32: better\n**Optimal here:** 9M params\n"
        "A prose of 5M params goes on:\n**This model:** 52,640 params\n"
        "## Results\n- Val loss: 3.0\n- Val perplexity: 20.09\n- Perplexity: 300 to 20\n"
    )
    audit = audited(tmp_path, text)
    assert audit.findings == []
    assert audit.compared["parameter-count"] == 1
    assert codes(tmp_path, text.replace("52,640", "252,640")) == {"parameter-count"}


def test_a_table_whose_first_column_names_the_figures(tmp_path: Path) -> None:
    table = (
        "| Metric | one | two | change |\n|---|---|---|---|\n| Epochs | 3 | 3 | 0 |\n"
        "| Val loss | 3.0 | 4.0 | 1.0 |\n| Val perplexity | 20.09 | 54.60 | 34.51 |\n"
    )
    audit = audited(tmp_path, table)
    assert audit.findings == []
    assert (audit.compared["perplexity-not-exp-loss"], audit.compared["unequal-tokens"]) == (2, 1)
    assert codes(tmp_path, table.replace("54.60", "64.60")) == {"perplexity-not-exp-loss"}
    assert codes(tmp_path, table.replace("| 3 | 3 |", "| 3 | 9 |")) == {"unequal-tokens"}


def test_a_weight_that_two_parts_of_a_configuration_give(tmp_path: Path) -> None:
    """The optimizer's alpha is not the one of PI; a smoothed PI is not that of its row."""
    text = (
        '```json\n{"optimizer": {"alpha": 0.1, "seed": 1}, "pi": {"alpha": 1.0, "ema_beta": 0.0}}\n```\n'
        "| Epoch | Train loss | PI | Entropy | Grad norm |\n|---|---|---|---|---|\n"
        "| 1 | 5.15 | 0.00304 | 5.173 | 0.6209 |\n| 2 | 4.17 | 0.00856 | 4.232 | 0.5238 |\n"
    )
    assert codes(tmp_path, text) == set()
    late = text.replace("0.00856", "0.006")
    assert codes(tmp_path, late) == {"pi-not-its-formula"}
    assert codes(tmp_path, late.replace('"ema_beta": 0.0', '"ema_beta": 0.9')) == set()


ARMS = (
    '# Arms\n```json\n{"arms": {"baseline": {"about": "x", "batch_size": 8, "seq_len": 64, "lr": 0.1,'
    ' "d_model": 16, "max_steps": 10}, "rate": {"about": "x", "lr": 0.2}, "wide": {"about": "x", '
    '"d_model": 32%s}}}\n```\n',
    "# Arms\n## Baseline\n- batch_size: 8\n- seq_len: 64\n- lr: 0.1\n- d_model: 16\n- max_steps: 10\n"
    "## Rate\n- lr: 0.2\n## Wide\n- d_model: 32\n%s",
    "| Arm | Batch size | Seq len | LR | Width | Max steps |\n|---|---|---|---|---|---|\n"
    "| Baseline | 8 | 64 | 0.1 | 16 | 10 |\n| Rate | | | 0.2 | | |\n| Wide | %s | | | 32 | |\n",
)


MORE = (', "batch_size": 16', "- batch_size: 16\n", "16")


@pytest.mark.parametrize(("arms", "more"), [*zip(ARMS, MORE, strict=True)])
def test_an_arm_that_lists_what_differs_has_the_rest_from_its_baseline(
    tmp_path: Path, arms: str, more: str
) -> None:
    audit = audited(tmp_path, arms % "")
    assert audit.findings == []
    assert (audit.compared["unequal-tokens"], audit.compared["several-knobs"]) == (1, 3)
    assert codes(tmp_path, arms % more) == {"unequal-tokens", "several-knobs"}


def test_figures_of_a_baseline_are_no_arms(tmp_path: Path) -> None:
    """An arm takes over settings, not results, nor what follows from settings."""
    text = (
        "# Sizes\n- seeds: 1, 2, 3\n- vocab: 1000\n- layers: 2\n- heads: 2\n- d_ff: 64\n"
        "## Baseline\n- d_model: 16\n- parameters: 24,272\n- loss: 3.0\n"
        "## Wide\n- d_model: 32\n- perplexity: 9.0\n"
    )
    audit = audited(tmp_path, text)
    assert audit.findings == []
    assert (audit.compared["parameter-count"], audit.compared["perplexity-not-exp-loss"]) == (1, 0)


def test_a_budget_of_tokens_is_not_counted_in_the_steps_of_the_baseline(tmp_path: Path) -> None:
    text = (
        "# Batch size\n## Baseline\n- batch_size: 8\n- seq_len: 64\n- max_steps: 10\n%s"
        "## Larger\n- batch_size: 16\n## Smaller\n- batch_size: 4\n"
    )
    assert codes(tmp_path, text % "") == {"unequal-tokens"}
    assert codes(tmp_path, text % "- total tokens: 5,120\n") == set()


def test_a_maximum_in_a_name_is_a_setting(tmp_path: Path) -> None:
    text = "- max_steps: 100 | batch size: 8 | max_seq_len: 64\n- total tokens: 51,200\n"
    assert audited(tmp_path, text).compared["steps-miscounted"] == 1
    assert codes(tmp_path, text) == set()
    assert codes(tmp_path, text.replace("51,200", "91,200")) == {"steps-miscounted"}


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    """The width of a head is one of the usual ones then."""
    text = (
        "- vocabulary_size: 40,479\n- embedding_size: 512\n- num_heads: 6\n- num_layers: 4\n"
        "- intermediate_size: 2048\n- parameters: {}\n"
    )
    assert audited(tmp_path, text.format("39,605,248")).compared["parameter-count"] == 1
    assert codes(tmp_path, text.format("39,605,248")) == set()
    assert codes(tmp_path, text.format("43,605,248")) == {"parameter-count"}


def test_figures_beside_the_report_are_read(tmp_path: Path) -> None:
    (tmp_path / "performance_metrics.csv").write_text(
        "configuration,eval_loss,perplexity\na,2.0,9.39\nb,1.5,4.48\n"
    )
    assert audited(tmp_path, "Figures: performance_metrics.csv").compared["perplexity-not-exp-loss"] == 2
    assert audited(tmp_path, "No figures.").compared["perplexity-not-exp-loss"] == 0


@pytest.mark.parametrize("text", ["", "Words.", "| a | b |\n|---|---|\n| x | y |\n", "\x00\ufffd", "```\n{"])
def test_a_text_without_figures_has_nothing_to_check(tmp_path: Path, text: str) -> None:
    audit = audited(tmp_path, text)
    assert audit.findings == []
    assert "no configuration found" in audit.text()
    assert audit.text().endswith("Nothing to check.")


def test_what_is_too_large_for_a_report(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(DataError, match=r"got 20,971,521 bytes, allowed: at most 20,971,520"):
        audit_report(path)


MARKS = (
    "# ",
    "## Results",
    "\n",
    "\n\n",
    "- ",
    "| ",
    " |",
    "\n|---|---|\n",
    "```json\n",
    "\n```\n",
    ": ",
    "=",
)
NAMES = "val_loss perplexity PI Entropy best final seed parameters d_model layers heads vocab D/N tokens step"
NUMBERS = ("1e308", "-0", "0", "1e-320", "17M", "5.32", "204.85", "nan", "∞", "9" * 40, "1e999", '{"a": 1}')
PHRASES = (
    *("Grad Norm", "Epoch 3: ", "Epoch 4:\n  ", "d/heads/ff/L", "16/2/64/2", "## Baseline\n"),
    *("= 2 / 3 = ", "{", "}"),
)
WORDS = st.sampled_from([*MARKS, *NAMES.split(), *PHRASES, *NUMBERS])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(WORDS | st.text(max_size=8), max_size=60).map("".join))
def test_any_text_has_an_answer(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.md"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    audit = audit_report(path)
    assert audit.text()
    assert audit.plain()["report"] == str(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_report_has_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(sorted(REPORTS.glob("*_faulty.md")))).read_text()
    start = data.draw(st.integers(0, len(text)))
    piece = data.draw(WORDS)
    path = tmp_path / "any.md"
    path.write_text(text[:start] + piece + text[start + data.draw(st.integers(0, 400)) :])
    assert audit_report(path).text()
