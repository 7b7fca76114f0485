"""The presets of the recorded experiments: the record's figures to the digit, and a few steps of each."""

from __future__ import annotations

import dataclasses
import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from config_helpers import composed

from lmx.config import Experiment
from lmx.config.compose import compose, config_dir
from lmx.data import prepare
from lmx.data.packing import PACKINGS
from lmx.data.store import StoredSplit
from lmx.measure import parameter_counts, updates
from lmx.model import Decoder
from lmx.optim import lr_multiplier
from lmx.training import train

FAMILIES = ("ablation", "ars", "cosine", "cs336", "scaling")
VOCABULARY = {"bpe_40k": 40_479, "bpe_10k": 10_000}
RECORDED = sorted(
    f"{file.parent.name}/{file.stem}"
    for family in FAMILIES
    for file in (config_dir() / "experiment" / family).glob("*.yaml")
)

# family and its sizes: parameters, and without the input embedding and positions
PARAMETERS = {
    "ars/adamw": (39_605_248, 18_880_000),
    "ars/mini_adamw": (5_903_360, 722_048),
    "cs336/tinystories_17m": (22_696_448, 17_576_448),
    "cs336/no_norm": (22_691_840, 17_571_840),
    "cs336/silu": (22_827_520, 17_707_520),
    "cs336/log_baseline": (128_625_408, 120_945_408),
    "cosine/baseline_small": (81_912_576, 42_528_768),
    "cosine/from_scratch": (38_473_216, 12_610_560),
    "scaling/exp1": (869_153, 56_849),
    "scaling/exp2": (869_153, 56_849),
    "scaling/exp3": (7_342_033, 843_601),
    "scaling/exp4": (16_206_673, 3_209_809),
    "scaling/exp5": (19_365_713, 6_368_849),
    "scaling/exp6": (63_873_617, 37_879_889),
    "ablation/baseline": (40_117_632, 21_243_264),
    "ablation/small_model": (18_878_720, 6_295_808),
}
# updates, and tokens trained on
LENGTHS = {
    "cs336/tinystories_17m": (10_000, 327_680_000),
    "cs336/baseline": (40_000, 327_680_000),
    "cs336/log_baseline": (10_000, 327_680_000),
    "ablation/baseline": (2000, 8_192_000),
    "ablation/large_batch": (1000, 8_192_000),
    "ablation/short_seq": (2000, 8_192_000),
    "ablation/small_model": (2000, 8_192_000),
    "ablation/baseline_recorded": (2000, 8_192_000),
    "ablation/large_batch_recorded": (2000, 16_384_000),
    "ablation/small_model_recorded": (2000, 12_288_000),
    "ablation/short_seq_recorded": (2000, 6_144_000),
}
# train tokens → windows and updates an epoch
EPOCHS = {
    "scaling/exp1": (2_347_038, 4584, 573),
    "scaling/exp2": (115_716_078, 226_007, 7063),
    "scaling/exp4": (115_716_078, 226_007, 7063),
    "scaling/exp6": (115_716_078, 226_007, 14_126),
    "cosine/baseline_small": (56 * 256 + 17, 56, 28),
    "cosine/baseline_longer": (192 * 256 + 255, 192, 96),
}
# peak, and the rates of some updates (counted from 1) of how many
RATES = {
    "ars/adamw": (12_430, {1: 1e-4, 12_430: 1e-4}),
    "ars/muon": (6215, {1: 0.02, 6215: 0.02}),
    "ars/muon_recorded": (6215, {1: 1e-4, 6215: 1e-4}),
    "ars/mini_adamw": (12_430, {1: 5e-4, 12_430: 5e-4}),
    "cs336/tinystories_17m": (10_000, {500: 3e-3, 10_000: 3e-4}),
    "cs336/baseline": (40_000, {2000: 3e-4, 40_000: 3e-5}),
    "cs336/log_baseline": (10_000, {1: 1.2e-6, 500: 6e-4, 10_000: 6e-5}),
    "cosine/baseline_small": (28, {1: 5e-5, 28: 0.0}),
    "cosine/mixed_longer": (192, {6: 5e-5, 192: 0.0}),
    "scaling/exp1": (100, {1: 3e-4, 100: 3e-4}),
    "scaling/exp3": (100, {1: 6e-4, 100: 6e-4}),
    "scaling/exp6": (100, {1: 4e-4, 100: 4e-4}),
    "ablation/baseline": (2000, {1: 3e-4, 2000: 3e-5}),
    "ablation/high_lr": (2000, {1: 1e-3, 2000: 1e-4}),
    "ablation/low_lr_recorded": (2000, {1: 1e-4, 2000: 1e-5}),
    "ablation/large_batch_recorded": (2000, {1: 5e-4, 2000: 5e-5}),
}


@cache
def experiment(name: str) -> Experiment:
    """The preset, its vocabulary and context filled in as training would."""
    preset = composed(f"experiment={name}")
    vocabulary = preset.model.vocab_size or VOCABULARY[preset.tokenizer.name]
    model = dataclasses.replace(preset.model, vocab_size=vocabulary, context_length=preset.context_length)
    return dataclasses.replace(preset, model=model)


def test_every_preset_of_the_issue_is_there() -> None:
    wanted = {
        *(f"ars/{name}" for name in ("adamw", "muon", "rmsuon", "adarmsuon", "ars2_neo", "mini_adamw")),
        *(
            f"cs336/{name}"
            for name in ("tinystories_17m", "log_baseline", "no_norm", "post_norm", "nope", "silu")
        ),
        *(f"cosine/{size}_{length}" for size in ("baseline", "mixed") for length in ("small", "longer")),
        "cosine/from_scratch",
        *(f"scaling/exp{number}" for number in range(1, 7)),
        *(f"ablation/{name}" for name in ("baseline", "small_model", "high_lr", "low_lr", "large_batch")),
        "ablation/short_seq",
    }
    assert wanted <= set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_name_header_and_its_honest_twin(name: str) -> None:
    assert experiment(name).name == name
    head = (config_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert head[0] == "# @package _global_"
    assert [line.startswith("# ") for line in head[1:4]] == [True, True, False], "two lines say what differs"
    if name.endswith("_recorded"):
        twin = name.removesuffix("_recorded")
        assert "As recorded: " in head[1]
        assert f"eside it: {twin}." in head[2]
        assert experiment(twin) != experiment(name)
    else:
        assert not faults(experiment(name)), "a plain preset keeps no fault"


def faults(of: Experiment) -> list[str]:
    """The keys of docs/experiments.md that keep a recorded fault."""
    found = {
        "data.mask_padding": not of.data.mask_padding,
        "data.holdout": of.data.holdout != "documents",
        "data.held_out_batch": of.data.held_out_batch is not None,
        "train.eval_windows": of.train.eval_windows is not None,
        "train.eval_mean": of.train.eval_mean != "tokens",
        "train.eval_at_start": not of.train.eval_at_start,
        "checkpoint.best_mode": of.checkpoint.best_mode != "auto",
        "model.init": of.model.init == "torch_default",
        "schedule.decay_steps": of.schedule.decay_steps is not None,
    }
    return [key for key, kept in found.items() if kept]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("ars/adamw", ["data.mask_padding", "data.held_out_batch", "checkpoint.best_mode"]),
        ("cs336/tinystories_17m", ["data.holdout", "train.eval_windows", "schedule.decay_steps"]),
        ("cs336/log_baseline", ["data.holdout", "train.eval_windows"]),
        ("cosine/mixed_small", ["train.eval_at_start"]),
        ("scaling/exp6", ["data.held_out_batch", "train.eval_mean", "model.init"]),
        ("ablation/baseline", ["data.holdout", "train.eval_windows"]),
    ],
)
def test_the_recorded_twin_keeps_its_faults(name: str, kept: list[str]) -> None:
    assert faults(experiment(f"{name}_recorded")) == kept


def test_faults_that_need_no_key() -> None:
    assert experiment("ablation/baseline").model.position == "rope"
    assert experiment("ablation/baseline_recorded").model.position == "none"
    nope, baseline = experiment("cs336/nope_recorded"), experiment("cs336/baseline_recorded")
    assert dataclasses.replace(nope, name=baseline.name) == baseline
    assert experiment("cs336/nope").model.position == "none"
    integrity = experiment("ars/adamw_recorded").callbacks["predictive_integrity"]
    assert integrity["alpha"] == pytest.approx(1 / 40_479, rel=1e-15)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_records(name: str) -> None:
    counts = parameter_counts(experiment(name).model)
    assert (counts.total, counts.without_embedding) == PARAMETERS[name]
    with torch.device("meta"):
        model = Decoder(experiment(name).model)
    assert (model.num_parameters(), model.num_parameters(with_embedding=False)) == PARAMETERS[name]


@pytest.mark.parametrize("name", LENGTHS)
def test_updates_and_tokens_are_the_records(name: str) -> None:
    composed = experiment(name)
    per_update = composed.train.batch_size * composed.data.sequence_length
    steps = updates(*composed.train.horizon_amount, per_update, None)
    assert steps is not None
    assert (steps, steps * per_update) == LENGTHS[name]


@pytest.mark.parametrize("name", EPOCHS)
def test_windows_and_updates_an_epoch_are_the_records(name: str) -> None:
    composed, (tokens, windows, per_epoch) = experiment(name), EPOCHS[name]
    split = StoredSplit(Path("nowhere"), "train", "uint16", 1, {"tokens": tokens})
    layout = PACKINGS[composed.data.packing](composed.data, 0, 0).layout(split, held_out=False)
    assert len(layout) == windows
    batch = composed.train.batch_size
    assert (windows // batch if composed.data.drop_last else -(-windows // batch)) == per_epoch


def test_the_held_out_windows_of_the_scaling_series() -> None:
    split = StoredSplit(Path("nowhere"), "validation", "uint16", 1, {"tokens": 242_643})
    data = experiment("scaling/exp6").data
    layout = PACKINGS["rows"](data, 0, 0).layout(split, held_out=True)
    assert len(layout) == 473 + 1, "the partial one is evaluated too, unless data.held_out_batch=1"


@pytest.mark.parametrize(("name", "blocks"), [("cosine/baseline_small", 29), ("cosine/mixed_longer", 56)])
def test_the_held_out_blocks_of_real_rows_are_the_records(name: str, blocks: int, tmp_path: Path) -> None:
    folder = os.environ.get("LMX_TEST_DATA")
    if not folder:
        pytest.skip("set LMX_TEST_DATA to a folder with wikitext-2 and tokenizers to run this")
    for split in ("train", "valid"):
        shutil.copy(Path(folder) / "wikitext-2/wiki.valid.raw", tmp_path / f"wiki.{split}.raw")
    tokenizer = f"tokenizer.path={folder}/tokenizers/gpt2"
    composed = compose([f"experiment={name}", f"data.local_dir={tmp_path}", tokenizer])
    corpus = prepare(composed.data, composed.tokenizer, tmp_path / "cache", lambda text: None)
    assert len(corpus.splits["validation"]) == blocks


@pytest.mark.parametrize("name", RATES)
def test_rates_are_the_records(name: str) -> None:
    composed, (total, wanted) = experiment(name), RATES[name]
    found = {
        step: composed.optimizer.lr * lr_multiplier(composed.schedule, step - 1, total) for step in wanted
    }
    assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "betas", "decay", "clip"),
    [
        ("ars/adamw", [0.9, 0.999], (0.1, "all"), None),
        ("ars/mini_adamw", [0.9, 0.95], (0.1, "all"), None),
        ("cs336/log_baseline", [0.9, 0.999], (0.1, "matrices"), 1.0),
        ("cosine/baseline_small", [0.9, 0.999], (0.01, "matrices"), 1.0),
        ("scaling/exp3", [0.9, 0.999], (0.1, "all"), 1.0),
        ("ablation/baseline", [0.9, 0.999], (0.1, "matrices"), 1.0),
    ],
)
def test_adamw_is_the_records(
    name: str, betas: list[float], decay: tuple[float, str], clip: float | None
) -> None:
    composed = experiment(name)
    assert composed.optimizer.update["betas"] == betas
    assert (composed.optimizer.weight_decay, composed.optimizer.decay) == decay
    assert composed.train.clip_grad_norm == clip
    assert composed.seed == 42


def test_patience_and_prompts_of_the_scaling_series() -> None:
    for number, patience in ((1, 20), (2, 5), (6, 5)):
        callbacks = experiment(f"scaling/exp{number}").callbacks
        assert callbacks["early_stopping"]["patience"] == patience
        assert callbacks["samples"]["prompts"][0] == "The history of India is"
        assert (callbacks["samples"]["top_k"], callbacks["samples"]["max_new_tokens"]) == (50, 40)


# ---- a few steps

SHRUNK = (
    *("tokenizer=byte", "model.vocab_size=null", "model.hidden_size=32", "model.num_layers=1"),
    *("model.num_heads=2", "model.head_dim=null", "model.intermediate_size=48", "model.context_length=null"),
    *("data.sequence_length=48", "train.horizon=3steps", "train.batch_size=2", "train.eval_every_steps=2"),
    *("schedule.warmup_steps=1", "schedule.warmup_fraction=0", "hardware=cpu", "hardware.threads=1"),
    *("init_from=null", "logger=none", "checkpoint.every_minutes=null", "data.min_characters=0"),
    *("callbacks.samples.max_new_tokens=2", "data.max_documents=40", "data.held_out_batch=null"),
    "train.test_at_end=false",
)


@pytest.mark.parametrize("name", RECORDED)
def test_a_few_steps(name: str, tmp_path: Path) -> None:
    """Train three steps of the preset's every setting but its size, on a text of twenty kilobytes."""
    corpus = tmp_path / "corpus.txt"
    story = "Once upon a time the fox went to the river. It saw a fish. The fish said: hello, {}."
    corpus.write_text("\n\n".join(story.format(number) for number in range(200)))
    shrunk = [line for line in SHRUNK if not (name.endswith("_recorded") and "held_out_batch" in line)]
    overrides = [f"experiment={name}", "data=text", f"data.files={corpus}", *shrunk]
    composed = compose([*overrides, f"paths.outputs={tmp_path}/out", f"paths.cache={tmp_path}/cache"])
    assert train(composed, overrides).step == 3
