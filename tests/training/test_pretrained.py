"""`init_from=hf:…`: model, tokenizer and weights of a transformers checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_helpers import Place, exact, last, signal_at

from lmx.config import CheckpointError, ConfigError, ModelConfig
from lmx.config.compose import compose
from lmx.model import Decoder
from lmx.model.to_transformers import save_transformers
from lmx.training import train
from lmx.training.fit import build
from lmx.training.pretrained import adopt, weights_folder

SHAPE = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}


@pytest.fixture
def source(tmp_path: Path) -> tuple[Decoder, Path]:
    """A Llama of random weights for bytes, and the folder transformers would read it from."""
    torch.manual_seed(5)
    model = Decoder(ModelConfig(name="source", vocab_size=257, context_length=64, norm_eps=1e-5, **SHAPE))
    save_transformers(model, tmp_path / "theirs")
    return model, tmp_path / "theirs"


def overrides(place: Place, folder: Path, *more: str) -> list[str]:
    small = ["data.stories=60", "data.held_out_stories=4", "data.sequence_length=32", "train.horizon=2steps"]
    return [f"init_from=hf:{folder}", *small, f"paths.cache={place.cache}", *more]


def test_model_and_weights_are_the_checkpoints(place: Place, source: tuple[Decoder, Path]) -> None:
    model, folder = source
    lines = overrides(place, folder, "tokenizer=byte", "model.residual_dropout=0.1")
    experiment = adopt(compose(lines), lines)
    assert experiment.model.hidden_size == SHAPE["hidden_size"]
    assert experiment.model.context_length == 64
    assert experiment.model.residual_dropout == 0.1
    assert experiment.name == f"storyworld_{experiment.model.name}"
    job = build(experiment, lambda text: None, fresh=True)
    state = job.module.model.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name


def test_the_tokenizer_is_the_checkpoints_unless_one_is_chosen(
    place: Place, source: tuple[Decoder, Path]
) -> None:
    lines = overrides(place, source[1])
    tokenizer = adopt(compose(lines), lines).tokenizer
    assert (tokenizer.kind, tokenizer.path) == ("pretrained", str(source[1]))


def test_an_override_of_its_shape_is_refused(place: Place, source: tuple[Decoder, Path]) -> None:
    lines = overrides(place, source[1], "model.num_layers=3")
    with pytest.raises(
        ConfigError, match=r"model\.num_layers: has no effect with init_from=.*model\.residual_dropout"
    ):
        adopt(compose(lines), lines)


def test_a_sequence_beyond_its_context_is_refused(place: Place, source: tuple[Decoder, Path]) -> None:
    lines = overrides(place, source[1], "data.sequence_length=65")
    with pytest.raises(
        ConfigError, match=r"data\.sequence_length: got 65, allowed: at most model\.context_length=64"
    ):
        adopt(compose(lines), lines)


def test_a_missing_checkpoint_is_one_line(place: Place, tmp_path: Path) -> None:
    lines = overrides(place, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        adopt(compose(lines), lines)


def test_a_tokenizer_that_does_not_fit_is_refused(place: Place, source: tuple[Decoder, Path]) -> None:
    lines = overrides(place, source[1], "tokenizer=bpe", "tokenizer.vocab_size=300")
    with pytest.raises(
        ConfigError, match=r"model\.vocab_size: got 257, allowed: at least tokenizer\.vocab_size=300"
    ):
        adopt(compose(lines), lines)


@pytest.mark.parametrize("name", ["/nowhere", "./nowhere", "~/nowhere", "a/b/c", "distilgpt2"])
def test_what_is_neither_a_folder_nor_a_name_on_the_hub(place: Place, name: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"hf:{name}: no such folder; allowed: a folder, or namespace/name on the Hub$"
    ):
        weights_folder(name)


def test_a_name_on_the_hub_is_fetched_in_the_time_that_was_set(
    place: Place, source: tuple[Decoder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def fetch(name: str, seconds: float) -> Path:
        asked.append((name, seconds))
        return source[1]

    monkeypatch.setattr("lmx.training.pretrained.fetch_weights", fetch)
    lines = overrides(place, source[1], "tokenizer=byte", "data.timeout_seconds=7")
    lines[0] = "init_from=hf:some/model"
    experiment = adopt(compose(lines), lines)
    assert experiment.model.hidden_size == SHAPE["hidden_size"]
    assert asked == [("some/model", 7.0)]
    job = build(experiment, lambda text: None, fresh=True)
    assert torch.equal(job.module.model.embedding.weight, source[0].embedding.weight)


@pytest.mark.parametrize("name", [None, "mine/own"])
def test_auto_finds_the_run_and_needs_the_weights_no_more(
    name: str | None, place: Place, source: tuple[Decoder, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run lies under the name of the model that it took over, or under one of its own."""
    named = [] if name is None else [f"name={name}"]
    lines = overrides(
        *(place, source[1], "tokenizer=byte", "resume=auto", "train.horizon=4steps", "hardware=cpu"),
        *("train.batch_size=8", "logger=none", "callbacks.samples.max_new_tokens=4", *named),
    )
    whole = train(compose([*lines, f"paths.outputs={place.outputs}/whole"]), lines)
    lines.append(f"paths.outputs={place.outputs}/stopped")
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        stopped = train(compose(lines), lines)
    assert (stopped.exit_status, stopped.step) == (143, 2)
    fingerprint = stopped.folder.read_identity()["config_fingerprint"]
    source[1].rename(source[1].with_name("moved"))
    resumed = train(compose(lines), lines)
    assert resumed.folder.path == stopped.folder.path
    assert resumed.step == 4
    assert exact(resumed.folder) == exact(whole.folder)
    assert last(resumed.folder)["lmx"]["config"]["model"]["hidden_size"] == SHAPE["hidden_size"]
    assert resumed.folder.read_identity()["config_fingerprint"] == fingerprint, "auto would not find it again"
