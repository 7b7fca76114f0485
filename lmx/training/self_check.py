"""The model's self-test at the start of a run: what it means for the run, and what is recorded of it."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

from lmx import native
from lmx.config import Experiment
from lmx.model import Decoder
from lmx.model.self_test import SelfTest, self_test
from lmx.objective.self_test import TOLERANCE, head_error
from lmx.training.resume import Say

BUG = "this is a bug in lmx"


def check_model(experiment: Experiment, model: Decoder, accelerator: str, say: Say) -> dict[str, Any]:
    """Return the self-test of a model that is to be trained on `accelerator`, as `run.json` holds it.

    Raises RuntimeError where a model of our own initialisation contradicts its configuration, or C++ plain
    torch; of weights from elsewhere the former is said, for they may do nothing in some place without any
    fault of the code.
    """
    with nullcontext() if accelerator == "cpu" else native.left_out():  # which is not needed there
        seen = self_test(model)
        head = head_error(experiment.model.hidden_size, experiment.model.logit_softcap)
    if not head < TOLERANCE:  # nor where it is NaN
        raise RuntimeError(f"self-test: the head in C++ is {head:.1e} times as inexact as plain torch: {BUG}")
    problems = "; ".join(seen.contradictions(experiment.model))
    if problems and experiment.init_from is None:
        raise RuntimeError(f"self-test of the model: {problems}: {BUG}")
    if problems:
        say(f"self-test: {problems}, with the weights of {experiment.init_from}")
    if experiment.init_from is None and not seen.plain_loss:
        say(_why_not_plain(experiment, seen))
    return {**dataclasses.asdict(seen), "head_error": head}


def _why_not_plain(experiment: Experiment, seen: SelfTest) -> str:
    model = experiment.model
    scale = "" if "model.init_std" in dict(experiment.useless()) else f", model.init_std={model.init_std:g}"
    tied = " and a head tied to the embedding" if model.tie_embeddings else ""
    return (
        f"self-test: the loss before training is {seen.initial_loss:.2f} nats where ln V is "
        f"{seen.log_vocab:.2f}: model.init={model.init}{scale}{tied} give logits that are far from equal, "
        "which the first steps have to undo"
    )
