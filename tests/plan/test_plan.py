"""The plan as the command line prints it, and its refusals."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmx.config import ConfigError, DataError
from lmx.config.compose import compose
from lmx.measure import checkpoint_space, memory
from lmx.measure.estimate import BYTE_VOCABULARY, Rate, estimate, measured_rate
from lmx.plan import main
from lmx.report.plan_table import PRODUCTS_UP_TO, plan_rows, plan_table


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No corpus is prepared, whatever this machine has cached."""
    monkeypatch.setenv("LMX_CACHE", str(tmp_path / "cache"))


def rows(*overrides: str, rate: Rate | None = None) -> dict[str, tuple[str, str]]:
    """What stands beside each name, without the further corners of the learning rate, which have none."""
    found = plan_rows(estimate(compose(overrides)), rate)
    return {what.strip(): (much, remark) for what, much, remark in found if what}


FAMILY_A = ("model=rope_4l", "data=wikitext2", "data.sequence_length=255", "train.batch_size=8")


def test_family_a_to_the_digit() -> None:
    found = rows(*FAMILY_A, "train.horizon=1243steps")
    assert found["parameters"][0] == "39,605,248"
    assert found["without embedding"][0] == "18,880,000"
    assert found["embedding"][0] == "20,725,248"
    assert found["head"] == ("0", "tied to the embedding")
    assert found["steps"] == ("1,243", "1243steps")
    assert found["tokens"][0] == f"{1243 * 8 * 255:,}"
    assert found["batch"] == ("8 sequences", "2,040 tokens an update; 1 device, 1 pass of 8")
    assert found["tokens a parameter"][0] == "0.064"
    assert found["vocabulary"] == ("40,479", "bpe_40k tokenizer")
    assert found["epochs"] == ("unknown", "known after preparing the corpus")


def test_a_prepared_corpus_tells_epochs_and_distinct_tokens(tmp_path: Path) -> None:
    from lmx.data import prepare

    text = tmp_path / "text"
    text.mkdir()
    for split, paragraphs in (("train", 40), ("valid", 4)):
        (text / f"{split}.txt").write_text(
            "\n\n".join(f"Paragraph {i} of {split}." for i in range(paragraphs))
        )
    overrides = (
        "data=text",
        f"data.files={text}",
        "tokenizer=byte",
        "data.sequence_length=16",
        "train.batch_size=4",
    )
    overrides = (*overrides, "train.horizon=3epochs", f"paths.cache={tmp_path / 'cache'}")
    assert rows(*overrides)["steps"][0] == "unknown"
    experiment = compose(overrides)
    corpus = prepare(experiment.data, experiment.tokenizer, experiment.paths.cache, lambda _: None)
    per_epoch = corpus.steps_per_epoch(4, drop_last=False)
    found = rows(*overrides)
    assert found["steps"] == (f"{3 * per_epoch:,}", "3epochs")
    assert found["epochs"] == ("3", f"{per_epoch:,} steps each")
    partial = corpus.facts["splits"]["train"]["windows"] - 1  # a whole batch, and one of a single window
    others = [item for item in overrides if not item.startswith("train.batch_size")]
    for drop, steps in (("true", 1), ("false", 2)):
        given = rows(*others, f"train.batch_size={partial}", f"data.drop_last={drop}")
        assert given["epochs"] == ("3", f"{steps} steps each")
    assert found["vocabulary"][0] == f"{corpus.tokenizer.vocab_size:,}"
    distinct = corpus.facts["splits"]["train"]["tokens"]
    parameters = int(found["parameters"][0].replace(",", ""))
    assert float(found["of distinct tokens"][0]) == pytest.approx(distinct / parameters, rel=0.01)


def test_batch_over_devices_and_passes() -> None:
    batch = rows("train.batch_size=48", "hardware=ddp", "hardware.micro_batch_size=8")["batch"]
    assert batch == ("48 sequences", "12,288 tokens an update; 2 devices, 3 passes of 8")


def test_learning_rate_at_its_corners() -> None:
    shown = [
        row
        for row in plan_rows(
            estimate(compose(["schedule=wsd", "train.horizon=600steps", "optimizer.lr=1e-3"]))
        )
        if row[2].startswith("step ")
    ]
    assert [(much, remark) for _, much, remark in shown] == [
        ("3.333e-05", "step 1, first step"),
        ("0.001", "step 30, end of the warm-up"),
        ("0.001", "step 480, last step at the peak"),
        ("0", "step 600, last step"),
    ]
    single = [
        row
        for row in plan_rows(
            estimate(compose(["schedule=constant", "train.horizon=1steps", "optimizer.lr=1e-3"]))
        )
        if "step 1," in row[2]
    ]
    assert single == [("learning rate", "0.001", "step 1, last step")]


def test_time_is_unknown_without_a_rate_and_follows_from_one() -> None:
    assert rows()["time"] == ("unknown", "declare hardware.peak_tflops, or give --measure")
    flops = float(rows()["FLOPs of the run"][0])
    declared = rows("hardware.peak_tflops=2")["time, at least"]
    assert float(declared[0].removesuffix(" s")) == pytest.approx(flops / 2e12, rel=0.01)
    assert "2 TFLOP/s a device (hardware.peak_tflops)" in declared[1]
    measured = rows("hardware.peak_tflops=2", rate=Rate(4e12, "measured: here"))["time, at least"]
    assert float(measured[0].removesuffix(" s")) == pytest.approx(flops / 4e12, rel=0.01)
    assert "measured: here" in measured[1]
    two = rows("hardware=ddp", "hardware.peak_tflops=2")["time, at least"]
    assert float(two[0].removesuffix(" s")) == pytest.approx(flops / 4e12, rel=0.01)


def test_lengths_that_only_the_run_will_tell() -> None:
    epochs = rows("train.horizon=3epochs")
    assert epochs["steps"] == ("unknown", "3epochs: known after preparing the corpus")
    assert "tokens a parameter" not in epochs
    hours = rows("train.horizon=2hours", "schedule=constant", "hardware.peak_tflops=1")
    assert hours["steps"] == ("unknown", "2hours: depends on the speed")
    assert hours["tokens a second"][0].startswith("under ")


def test_tokens_are_rounded_up_to_whole_updates() -> None:
    assert rows("train.horizon=8193tokens", "train.batch_size=32", "schedule=constant")["steps"][0] == "2"


def test_vocabularies(tmp_path: Path) -> None:
    assert rows("tokenizer=byte")["vocabulary"][0] == "257"
    assert rows("tokenizer=gpt2", "model.vocab_size=50304")["vocabulary"][0] == "50,304"
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 6}}, "added_tokens": [{"id": 9}]}))
    local = ("tokenizer=pretrained", f"tokenizer.path={tmp_path}")
    assert rows(*local)["vocabulary"][0] == "10"
    file.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}))
    assert rows(*local)["vocabulary"][0] == "2"
    file.write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer: JSONDecodeError"):
        rows(*local)
    with pytest.raises(ConfigError, match=r"model\.vocab_size: got nothing, and tokenizer\.path='openai"):
        rows("tokenizer=gpt2")


@pytest.mark.skipif(
    "LMX_TEST_DATA" not in os.environ, reason="set LMX_TEST_DATA to the folder of test corpora"
)
@pytest.mark.parametrize(("name", "size"), [("gpt2", "50,257"), ("smollm", "49,152")])
def test_vocabularies_of_real_tokenizers(name: str, size: str) -> None:
    folder = Path(os.environ["LMX_TEST_DATA"]) / "tokenizers" / name
    assert rows("tokenizer=pretrained", f"tokenizer.path={folder}")["vocabulary"][0] == size


def test_memory_parts_and_precision() -> None:
    found = rows(*FAMILY_A, "train.horizon=1steps", "schedule=constant")
    assert found["weights"][0] == found["gradients"][0] == "151 MiB"
    assert found["optimizer state"][0] == "302 MiB"
    assert "as if precision=auto took fp32" in found["memory a device"][1]
    assert rows(*FAMILY_A, "train.horizon=1steps", "schedule=constant", "hardware=gpu")["memory a device"][
        1
    ].startswith("an estimate, bf16;")


def test_the_disk_that_checkpoints_take() -> None:
    """Weights and Adam's two moments in fp32, and as many of them as lie there at once."""
    length = ("train.horizon=1steps", "schedule=constant")
    found = rows(*FAMILY_A, *length)
    weights, beside = 39_605_248 * 4, 2**18
    last, best = 3 * weights + beside, weights + beside
    assert found["last"] == (f"{last / 2**20:.0f} MiB", "all that a run goes on from; checkpoint.keep_last=2")
    assert found["best"] == (f"{best / 2**20:.0f} MiB", "weights alone, by val/loss")
    assert found["disk for checkpoints"][0] == f"{(3 * last + 4 * best) / 2**20:,.0f} MiB"
    few = rows(*FAMILY_A, *length, "checkpoint.best=null", "checkpoint.keep_last=3")
    assert "best" not in few
    assert few["disk for checkpoints"][0] == f"{4 * last / 2**20:,.0f} MiB"


def test_what_is_kept_while_weights_are_moved_is_memory_and_no_disk() -> None:
    plain, sharp = (
        estimate(compose(["train.horizon=1steps", "schedule=constant", f"optimizer.sharpness_rho={rho}"]))
        for rho in (0, 0.1)
    )
    spaces = [
        checkpoint_space(known.experiment.model, known.experiment.optimizer, known.experiment.checkpoint)
        for known in (plain, sharp)
    ]
    assert spaces[0] == spaces[1]
    states = [{row[0].strip(): row[1] for row in plan_rows(known)} for known in (plain, sharp)]
    assert states[0]["optimizer state"] != states[1]["optimizer state"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("schedule.warmup_fraction=0", "schedule.warmup_steps=600"),
            "schedule.warmup_steps: got 600, allowed",
        ),
        (
            ("train.horizon=2hours", "schedule.decay_steps=9", "schedule.warmup_fraction=1"),
            "fewer than the 9 steps",
        ),
        (("train.horizon=0steps",), "train.horizon: got '0steps', allowed: "),
    ],
)
def test_refuses_what_training_would_refuse(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(*overrides)


def test_columns_are_aligned() -> None:
    shown = plan_table("name", [("a", "1", "x"), ("  long", "1,000", ""), ("", "20", "y")])
    assert shown.splitlines() == [
        "lmx plan: name",
        "",
        "a           1  x",
        "  long  1,000",
        "           20  y",
    ]


def test_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=llama_tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lmx plan: storyworld_llama_tiny"
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.hidden_siz=3"], "lmx: model.hidden_siz: "),
        (["--mesure"], "lmx: --mesure: unknown option; did you mean '--measure'?"),
        (["tokenizer=gpt2"], "lmx: model.vocab_size: got nothing"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_measures_a_rate() -> None:
    rate = measured_rate(compose(["hardware=cpu"]).hardware, seconds=0.01)
    assert rate.flops > 1e8
    assert re.fullmatch(r"measured: CPU, \d+ threads?, fp32", rate.source)


def test_a_rate_is_two_operations_a_multiplication(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # a second from one look to the next: two products in four seconds
    monkeypatch.setattr("lmx.measure.estimate.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measured_rate(compose(["hardware=cpu"]).hardware, seconds=2.5).flops == 2 * 2 * 1024**3 / 4


def test_needs_no_torch_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import sys, lmx.plan; assert lmx.plan.main(['model=tiny']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "parameters" in done.stdout
    assert not done.stderr
    assert not list(tmp_path.iterdir())


def test_what_it_assumes_of_other_rooms() -> None:
    """Three constants stand here again, because asking for them would import torch."""
    from lmx.data.tokenizers import ByteTokenizer
    from lmx.model import native
    from lmx.model.mask import CPU_PRODUCTS_UP_TO

    assert (PRODUCTS_UP_TO, memory.QUERIES) == (CPU_PRODUCTS_UP_TO, native.QUERIES)
    assert ByteTokenizer().vocab_size == BYTE_VOCABULARY
