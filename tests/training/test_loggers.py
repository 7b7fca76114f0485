"""TensorBoard really shows scalars, text and hyper-parameters; what cannot be built is refused early."""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_helpers import Place, Start, door, lines, wait_for_step

from lmx.config import ConfigError
from lmx.config.compose import compose
from lmx.data.tokenizers import ByteTokenizer
from lmx.model import GenerationOptions
from lmx.runs import RunFolder
from lmx.train import main
from lmx.training.callbacks import Samples
from lmx.training.trainer import build_callbacks


def test_tensorboard_shows_scalars_text_and_hyper_parameters(place: Place) -> None:
    from tensorboard.plugins.hparams import metadata

    folder = place.train("train.horizon=9steps", "logger=tensorboard", "train.eval_every_steps=3").folder
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for kind in ("train", "val"):
        for name in (
            "train/loss",
            "train/log_pi",
            "train/grad_norm",
            "speed/tokens_per_second",
            "val/bits_per_byte",
        ):
            expected = [(line["step"], line[name]) for line in lines(folder, kind) if name in line]
            if expected:
                found = [(event.step, event.value) for event in events.Scalars(name)]
                assert [step for step, _ in found] == [step for step, _ in expected]
                assert [value for _, value in found] == pytest.approx(
                    [value for _, value in expected], rel=1e-6
                )
    texts = events.Tensors("samples/text_summary")
    assert [event.step for event in texts] == [0, 3, 6, 9]
    assert texts[0].tensor_proto.string_val[0].decode().startswith("The")
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    shown = metadata.parse_session_start_info_plugin_data(plugin.content).hparams
    assert shown["optimizer.lr"].number_value == 1e-3
    assert shown["model.name"].string_value == "tiny"
    assert shown["train.horizon"].string_value == "9steps"
    assert events.Scalars("hp/loss")[-1].value == pytest.approx(
        lines(folder, "val")[-1]["val/loss"], rel=1e-6
    )
    assert "hp_metric" not in tags["scalars"]


def test_csv(place: Place) -> None:
    folder = place.train("train.horizon=3steps", "logger=csv").folder
    losses = [float(row["val/loss"]) for row in read_csv(folder) if row["val/loss"]]
    assert losses == pytest.approx([line["val/loss"] for line in lines(folder, "val")], rel=1e-6)


def test_loggers_of_a_killed_run_show_each_step_once(place: Place, start: Start) -> None:
    process = start(
        door,
        place.overrides(
            *("train.horizon=60steps", "train.log_every_steps=1", "train.eval_every_steps=4"),
            *("logger=[tensorboard,csv]", "checkpoint.every_steps=7"),
        ),
    )
    killed = wait_for_step(place.outputs, 12, process.is_alive)
    process.kill()
    process.join()
    steps = [int(row["step"]) for row in read_csv(RunFolder(killed))]
    assert steps[:9] == [0, 1, 2, 3, 4, 4, 5, 6, 7], "what came before a checkpoint"
    time.sleep(1.1)  # TensorBoard reads its files in the order of the seconds in their names
    folder = place.resume(RunFolder(killed)).folder
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    rows = read_csv(folder)
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines(folder)]
    for name in ("train/loss", "train/pi", "val/loss", "val/seconds"):
        expected = {line["step"]: pytest.approx(line[name]) for line in lines(folder) if name in line}
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in shown] == list(expected), name
        assert dict(shown) == expected
        assert {int(row["step"]): float(row[name]) for row in rows if row[name]} == expected
    evaluated = [line["step"] for line in lines(folder, "val")]
    assert [event.step for event in events.Scalars("hp/loss")] == evaluated
    assert len(set(evaluated)) == 16


def read_csv(folder: RunFolder) -> list[dict[str, str]]:
    """The rows that the CSV logger wrote."""
    with (folder.path / "csv" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_none(place: Place) -> None:
    folder = place.train("train.horizon=1steps", "logger=none").folder
    assert not (folder.path / "tensorboard").exists()
    assert not (folder.path / "lightning_logs").exists()


MISSPELLED = "+callbacks.early={_target_: lmx.training.callbacks.EarlyStopping, "
REFUSED = {
    "option of a callback": (
        "+callbacks.samples.temprature=1",
        r"^callbacks\.samples\.temprature: unknown option of .*Samples; did you mean 'temperature'\?$",
    ),
    "option without a near one": (
        "+callbacks.peak_memory.zzz=1",
        r"^callbacks\.peak_memory\.zzz: unknown option of .*PeakMemory; allowed: no options$",
    ),
    "value of a callback": (
        MISSPELLED + "patience: 0}",
        r"^callbacks\.early: .*EarlyStopping refused its options: patience: got 0, allowed: ≥ 1$",
    ),
    "monitor of a callback": (
        MISSPELLED + "monitor: val/los}",
        r"^callbacks\.early\.monitor: got 'val/los', allowed: val/loss, .*mean 'val/loss'\?$",
    ),
    "monitor of best": (
        "checkpoint.best=val/los",
        r"^checkpoint\.best: got 'val/los', allowed: val/loss, .*did you mean 'val/loss'\?$",
    ),
    "logger without its package": (
        "+logger.wandb={_target_: lightning.pytorch.loggers.WandbLogger}",
        r"^logger\.wandb: lightning\.pytorch\.loggers\.WandbLogger needs a package that is not .*wandb",
    ),
    "option of a logger": (
        "+logger.csv={_target_: lightning.pytorch.loggers.CSVLogger, flush_every_n_step: 1}",
        r"^logger\.csv\.flush_every_n_step: unknown option of .*; did you mean 'flush_logs_every_n_steps'\?$",
    ),
    "value of a logger": (
        "+logger.board={_target_: lightning.pytorch.loggers.CSVLogger, save_dir: 3}",
        r"^logger\.board: lightning\.pytorch\.loggers\.CSVLogger refused its options: ",
    ),
    "horizon": ("train.horizon=0steps", r"^train\.horizon: got '0steps', allowed: a number above 0"),
    "schedule": (
        ["schedule.warmup_steps=5", "schedule.warmup_fraction=0", "train.horizon=3steps"],
        r"^schedule\.warmup_steps: got 5, allowed: fewer than the 3 steps of the schedule$",
    ),
    "heads": ("model.num_heads=3", r"^model\.num_heads: got 3, allowed: a divisor of model\.hidden_size=32"),
    "vocabulary": (
        "model.vocab_size=100",
        r"^model\.vocab_size: got 100, allowed: at least the tokenizer's 257",
    ),
    "optimizer": ("+optimizer.update.beta=1", r"^optimizer\.update\.beta: .*did you mean 'betas'\?"),
    "prompt": (
        "callbacks.samples.prompts=[a, 'a prompt of more than thirty-two bytes, which is too long']",
        r"^callbacks\.samples\.prompts\[1\]: got 57 tokens, allowed: fewer than the model's context of 32$",
    ),
    "batches": (
        ["train.batch_size=500", "data.drop_last=true"],
        r"^train\.batch_size: got 500 with data\.drop_last=true, allowed: at most the windows of",
    ),
    "GPU": (
        ["hardware=gpu"],
        r"^hardware\.accelerator: got 'gpu', allowed here: cpu, auto \(no CUDA device was found\)$",
    ),
    "weights": ("init_from=no/such/run", r"^no/such/run: no such run folder"),
    "run": ("resume=no/such/run", r"^no/such/run: no such run folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line_and_makes_no_folder(
    case: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, message = REFUSED[case]
    if case == "GPU":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    overrides = place.overrides(*([given] if isinstance(given, str) else given))
    capsys.readouterr()
    assert main(overrides) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error.removeprefix("lmx: ")), error
    assert error.startswith("lmx: ")
    assert not place.outputs.exists()


def test_outputs_that_cannot_be_written(place: Place, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where a folder should be")
    with pytest.raises(
        ConfigError, match=r"^paths\.outputs: got '.*outputs', where no run folder can be made"
    ):
        place.train("train.horizon=1steps")


def test_callbacks_of_lightning(place: Place) -> None:
    """What the allow-list offers either works or is refused before the run."""
    averaging = (
        "+callbacks.swa={_target_: lightning.pytorch.callbacks.StochasticWeightAveraging, swa_lrs: -1}"
    )
    with pytest.raises(
        ConfigError, match=r"^callbacks\.swa: .*StochasticWeightAveraging refused its options: "
    ):
        place.train("train.horizon=1steps", averaging)
    two = [averaging.replace("-1", "0.1").replace("swa=", f"{name}=") for name in "ab"]
    with pytest.raises(ConfigError, match=r"^callbacks\.a: got one StochasticWeightAveraging more, "):
        place.train("train.horizon=1steps", *two)
    assert not place.outputs.exists()


def test_each_samples_entry_has_a_page_of_its_own() -> None:
    more = "+callbacks.more={_target_: lmx.training.callbacks.Samples, prompts: [A]}"
    built = build_callbacks(compose((more,)))
    assert [callback.name for callback in built if isinstance(callback, Samples)] == ["samples", "more"]


def test_samples_are_drawn_as_they_were_asked_for() -> None:
    """As long as the longest prompt leaves room for."""
    samples, tokenizer = Samples(["a", "abc"], 60, 0.25, 7, 5), ByteTokenizer()
    samples.read_prompts(tokenizer, 8)
    assert tokenizer.eos_id is not None
    assert samples._options == GenerationOptions(
        max_new_tokens=5, temperature=0.25, top_k=7, seed=5, stop_tokens=(tokenizer.eos_id,)
    )
