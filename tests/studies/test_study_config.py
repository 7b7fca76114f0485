"""Studies: every one of conf/study composes, and what cannot be run is refused in one line."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmx.config import ConfigError
from lmx.config.compose import config_dir
from lmx.config.study import StudyJob, compose_jobs, folder_name, parse_study, read_study, study_names
from lmx.measure import parameter_counts
from lmx.measure.scaling import missing_for_scaling

PLAIN: dict[str, Any] = {
    "question": "Which rate?",
    "baseline": "lr=1e-3",
    "grid": {"optimizer.lr": ["1e-3", "2e-3"]},
    "seeds": [1, 2],
}
NAMES = ("ars_optimizers", "cosine_alpha", "cs336_ablations", "cs336_batch", "cs336_lr", "scaling_series")


def study(**changes: Any) -> dict[str, Any]:
    return {**PLAIN, **changes}


@functools.cache
def jobs_of(name: str) -> list[StudyJob]:
    """The jobs of one seed; another differs in that alone."""
    return compose_jobs(read_study(name), seeds=[1])


def test_the_studies_of_the_record_are_there() -> None:
    assert set(study_names()) == {*NAMES, "six_configs", "scaling_law"}


def test_a_law_can_be_fitted_to_scaling_law() -> None:
    """To sizes and lengths that vary apart, on text that is not seen twice."""
    experiments = [job.experiment for job in jobs_of("scaling_law")]
    sizes = [parameter_counts(replace(job.model, vocab_size=1024)).total for job in experiments]
    tokens = [job.train.horizon_amount[0] for job in experiments]
    assert missing_for_scaling(sizes, tokens) is None
    assert len({job.data.stories for job in experiments}) == 1, "one text, one tokenizer"


@pytest.mark.parametrize("name", study_names())
def test_every_job_composes(name: str) -> None:
    found = read_study(name)
    assert found.question.endswith("?")
    jobs = jobs_of(name)
    assert [(job.seed, job.arm) for job in jobs] == [(1, arm) for arm in found.arms]
    for job in jobs:
        assert job.experiment.name == f"{name}/{job.arm}/seed{job.seed}"
        assert job.experiment.seed == job.seed


def test_the_grid_of_cosine_alpha_leaves_out_what_has_no_effect() -> None:
    arms = read_study("cosine_alpha").arms
    assert len(arms) == 1 + 4 * 3
    assert arms["alpha=0.25,temperature=0.7"][1:] == ("objective.alpha=0.25", "objective.temperature=0.7")
    assert not any("temperature" in line for line in arms["alpha=0"])


def test_batches_are_evaluated_at_equal_tokens() -> None:
    tokens = {
        job.experiment.train.batch_size * (job.experiment.train.eval_every_steps or 0)
        for job in jobs_of("cs336_batch")
    }
    assert len(tokens) == 1


def test_all_arms_of_a_seed_come_before_the_next_seed() -> None:
    jobs = compose_jobs(parse_study("mine", PLAIN))
    assert [(job.seed, job.arm) for job in jobs] == [(s, f"lr={n}e-3") for s in (1, 2) for n in (1, 2)]


def test_a_job_runs_what_its_arm_and_the_command_say() -> None:
    jobs = compose_jobs(parse_study("mine", PLAIN), ["train.horizon=50steps", "paths.outputs=o"], seeds=[5])
    assert [job.experiment.optimizer.lr for job in jobs] == [1e-3, 2e-3]
    assert jobs[0].overrides == (
        "optimizer.lr=1e-3",
        "train.horizon=50steps",
        "paths.outputs=o",
        "seed=5",
        "name='mine,train.horizon=50steps/lr=1e-3/seed5'",
    )


def test_what_the_overrides_of_a_job_compose_to_is_that_job() -> None:
    from lmx.config.compose import compose

    job = compose_jobs(parse_study("mine", PLAIN), ["train.horizon=50steps"])[3]
    assert compose(job.overrides) == job.experiment


def test_a_trial_has_a_folder_of_its_own() -> None:
    assert folder_name("lr", []) == "lr"
    assert folder_name("lr", ["paths.outputs=x", "data.local_dir=/a/b"]) == "lr"
    assert folder_name("lr", ["train.horizon=5steps"]) == "lr,train.horizon=5steps"
    long = [folder_name("lr", [f"data.name={letter * 150}"]) for letter in "ab"]
    assert len({*long, folder_name("lr", ["data.name='a b'"]), folder_name("lr", ["data.name='a/b'"])}) == 4
    assert all(len(name) < 120 for name in long)


def test_a_study_of_ones_own_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("question: q\nbaseline: a\narms: {a: [], b: [optimizer=muon]}\nseeds: [0]\n")
    found = read_study(str(file))
    assert (found.name, found.arms, found.metric) == (
        "mine",
        {"a": (), "b": ("optimizer=muon",)},
        "val/bits_per_byte",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": [1]}, r"seed: unknown key; did you mean 'seeds'\?"),
        ({"seeds": []}, r"seeds: got \[\], allowed: different whole numbers from 0"),
        ({"seeds": [1, 1]}, r"seeds: got \[1, 1\], allowed: different"),
        ({"seeds": [-1]}, r"seeds: got \[-1\], allowed"),
        ({"seeds": 3}, r"seeds: got 3, allowed: a list of whole numbers"),
        ({"seeds": [True]}, r"seeds: got \[True\], allowed: a list of whole numbers"),
        ({"question": ""}, r"question: got nothing"),
        ({"baseline": "lr=1e-4"}, r"baseline: got 'lr=1e-4', allowed: lr=1e-3, lr=2e-3; did you mean"),
        ({"grid": {}}, r"arms: got none"),
        ({"grid": [1]}, r"grid: got \[1\], allowed: names, each with a list"),
        ({"arms": {"a b": []}}, r"arms: got 'a b', allowed: letters"),
        ({"arms": {"plots": []}}, r"arms: got 'plots', allowed: letters"),
        ({"arms": {"..": []}}, r"arms: got '\.\.', allowed: letters"),
        ({"arms": {"a": "optimizer=muon"}}, r"arms\.a: got 'optimizer=muon', allowed: a list of overrides"),
        ({"arms": {"lr=1e-3": []}}, r"arms: got 'lr=1e-3' more than once"),
        ({"overrides": "x=1"}, r"overrides: got 'x=1', allowed: a list of overrides"),
        ({"metric": "val/los"}, r"metric: got 'val/los', allowed: .*; did you mean 'val/loss'\?"),
    ],
)
def test_each_problem_of_a_file_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^study mine: {expected}"):
        parse_study("mine", study(**changes))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study: got 'cs336_rl', allowed: .*; did you mean 'cs336_lr'\?"):
        read_study("cs336_rl")
    with pytest.raises(ConfigError, match=r"study: got 'no\.yaml', which cannot be read \(No such file"):
        read_study("no.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"study: .*a\.yaml is no YAML"):
        read_study(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("- a")
    with pytest.raises(ConfigError, match=r"study b: got \['a'\], allowed: the keys question, "):
        read_study(str(tmp_path / "b.yaml"))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["seed=3"], r"seed: got 'seed=3', allowed: --seeds 1,2,3"),
        (["name=x"], r"name: got 'name=x', allowed: none"),
        (["resume=auto"], r"resume: got 'resume=auto', allowed: none"),
        (["optimizer.lr=1e-3"], r"study mine: arms lr=1e-3 and lr=2e-3 are one and the same experiment"),
        (["model.hiden_size=3"], r"study mine, arm lr=1e-3: model\.hiden_size: unknown key"),
        (["train.horizon=1steps,2steps"], r"study mine, arm lr=1e-3: train\.horizon: got 1steps,2steps"),
    ],
)
def test_overrides_that_a_study_cannot_take(extra: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{expected}"):
        compose_jobs(parse_study("mine", PLAIN), extra)


def test_a_study_is_no_option_of_a_training_run() -> None:
    from lmx.config.compose import compose

    with pytest.raises(
        ConfigError, match=r"^study: got 'study=cs336_lr', allowed: python -m lmx\.study cs336_lr$"
    ):
        compose(["study=cs336_lr"])


def test_no_file_is_left_without_a_header() -> None:
    for file in (config_dir() / "study").glob("*.yaml"):
        assert file.read_text().startswith("# "), file.name
