"""The registry: every check by its code, and the calls that run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmx.audit import comparison_checks as comparison
from lmx.audit import data_checks as data
from lmx.audit import figure_checks as figures
from lmx.audit import learning_checks as learning
from lmx.audit import timing_checks as timing
from lmx.audit.finding import Check, Finding, by_severity
from lmx.audit.knobs import Arm, arms
from lmx.audit.record import label
from lmx.audit.report import REPORT_CHECKS, ReportCheck
from lmx.runs import Run

RUN_CHECKS: tuple[Check[Run], ...] = (
    # the data
    Check(
        "validation-overlaps-train", "error", "Validation text is training text",
        "Remembering lowers this loss, so it says nothing about unseen text.",
        data.validation_overlaps_train,
    ),
    Check(
        "padding-in-loss", "error", "Padding counts in loss and perplexity",
        "Pads are certain, so they lower both, by a share that depends on the packing.",
        data.padding_in_loss,
    ),
    Check(
        "evaluation-not-whole-split", "error", "The evaluation is not the whole split",
        "A sample has an error of its own, and one drawn anew changes from time to time.",
        data.not_whole_split,
    ),
    Check(
        "last-batch-dropped", "warning", "The evaluation drops its end",
        "The figure depends on the batch size and leaves the same text out each time.",
        data.last_batch_dropped,
    ),
    Check(
        "rows-not-shuffled", "warning", "Rows come in a fixed order",
        "Neighbouring updates are alike and their order repeats, so curves show the order as well.",
        data.not_shuffled,
    ),
    Check(
        "many-passes", "warning", "More than four passes, and validation rises",
        "The model learns its text by heart; the last weights are worse than earlier ones.",
        data.many_passes,
    ),
    Check(
        "no-test-split", "note", "The split that chooses is the split that reports",
        "The best of many evaluations is lower than the same weights' loss on other text.",
        data.no_test_split,
    ),
    # the figures
    Check(
        "perplexity-not-exp-loss", "error", "Perplexity is not exp of the loss",
        "One of the two is averaged in another way, so neither compares with other reports.",
        figures.perplexity_not_exp_loss,
    ),
    Check(
        "evaluation-not-token-weighted", "error", "The validation loss is no mean over tokens",
        "A mean of means weighs short windows as much as long ones.",
        figures.not_token_weighted,
    ),
    Check(
        "train-equals-validation", "error", "Train and validation loss are one number",
        "One was logged in the other's place, so overfitting cannot be seen.",
        figures.train_equals_validation,
    ),
    Check(
        "best-by-wrong-direction", "error", "`best` is not the best evaluation",
        "Whatever is reported of the best weights belongs to others.",
        figures.best_by_wrong_direction,
    ),
    Check(
        "below-entropy-floor", "error", "The loss is below the corpus's entropy",
        "No model can do that: the loss, the bytes or the split are counted wrongly.",
        figures.below_floor,
    ),
    Check(
        "initial-loss-far-from-ln-v", "warning", "The initial loss is far from ln V",
        "The first steps only undo the initialisation, and runs compare by how well they do that.",
        figures.initial_loss_far,
    ),
    Check(
        "no-initial-evaluation", "warning", "A fine-tuned model was not evaluated before",
        "Without its reference nobody can say what fine-tuning gained.",
        figures.no_initial_evaluation,
    ),
    Check(
        "entropy-wrong-denominator", "error", "Entropy is no mean per token",
        "It looks like certainty, and everything computed from it, such as PI, loses its meaning.",
        figures.entropy_denominator,
    ),
    Check(
        "pi-not-its-formula", "error", "PI is not what its formula gives",
        "Its curve then shows something else, the gradient norm alone where the entropy is missing.",
        figures.integrity_without_entropy,
    ),
    Check(
        "gradient-norm-after-update", "error", "The gradient norm was taken too late",
        "After clipping, zeroing or orthogonalising it no longer tells how large the gradient was.",
        figures.gradient_norm_after_update,
    ),
    Check(
        "objective-part-not-logged", "warning", "A part of the objective was never logged",
        "Whether it fell at all, or was large enough to matter, cannot be said.",
        figures.part_not_logged,
    ),
    Check(
        "steps-miscounted", "error", "Steps, records and tokens contradict each other",
        "Budgets, schedules and curves over steps rest on this count.",
        figures.steps_and_tokens,
    ),
    Check(
        "final-loss-of-one-batch", "note", "The last training loss is one batch's",
        "It is as much the batch's as the model's.",
        figures.last_loss_of_one_batch,
    ),
    # what was trained
    Check(
        "positions-not-as-claimed", "error", "Positions are not what the configuration says",
        "A comparison of positional encodings compares something else.",
        learning.positions_not_as_claimed,
    ),
    Check(
        "sees-the-future", "error", "A position sees later tokens",
        "It predicts what it was shown; no loss of this model means anything.",
        learning.sees_the_future,
    ),
    Check(
        "dead-parameters", "warning", "Parameters never get a gradient",
        "They count in the model's size and do nothing.",
        figures.dead_parameters,
    ),
    Check(
        "muon-on-embeddings", "warning", "Embeddings are orthogonalised",
        "Muon is made for matrices that map; an embedding's rows are seen one by one.",
        learning.muon_on_embeddings,
    ),
    Check(
        "schedule-horizon", "warning", "The schedule and the run end at different steps",
        "A decay cut off leaves part of the loss on the table, and other runs end elsewhere.",
        learning.schedule_horizon,
    ),
    Check(
        "rate-unlike-schedule", "error", "The recorded rate is not the schedule's",
        "A warm-up or decay that stands in the configuration did not take place.",
        learning.rate_unlike_schedule,
    ),
    Check(
        "gradient-jumps", "warning", "The gradient's norm jumps",
        "Such updates are clipped to nothing or far too large; chance decides more than the settings do.",
        learning.gradient_jumps,
    ),
    Check(
        "key-without-effect", "warning", "A setting has no effect",
        "Whoever reads the configuration believes that it was set.",
        learning.key_without_effect,
    ),
    Check(
        "no-seed", "warning", "No seed was recorded",
        "The run cannot be repeated, and no difference to it can be checked.",
        learning.no_seed,
    ),
    Check(
        "prompt-trailing-space", "warning", "A prompt ends with a space",
        "The text that follows is judged on a token that training never showed there.",
        learning.prompt_trailing_space,
    ),
    Check(
        "unfinished", "note", "The run did not reach its end",
        "Its last figures are not those of the planned length.",
        learning.unfinished,
    ),
    # the clock
    Check(
        "timing-includes-compilation", "warning", "The clock counts compilation",
        "A constant of many seconds is taken for slowness, above all in short runs.",
        timing.includes_compilation,
    ),
    Check(
        "timing-includes-evaluation", "warning", "The clock counts evaluation",
        "Seconds then depend on how often was evaluated.",
        timing.includes_evaluation,
    ),
    Check(
        "timing-not-synchronised", "error", "The clock does not wait for the device",
        "It measures how fast work is handed out, which says nothing about how fast it is done.",
        timing.not_synchronised,
    ),
)  # fmt: skip

COMPARISON_CHECKS: tuple[Check[list[Arm]], ...] = (
    Check(
        "identical-results", "error", "Different settings, the same result",
        "The changed setting never reached the computation.",
        comparison.identical_results,
    ),
    Check(
        "unequal-tokens", "error", "The arms read unequal amounts of text",
        "More tokens lower the loss by themselves.",
        comparison.unequal_tokens,
    ),
    Check(
        "different-validation", "error", "The arms are evaluated differently",
        "Another text, or another way to count in it, is another figure for the same weights.",
        comparison.different_validation,
    ),
    Check(
        "different-tokenizers", "warning", "The arms have different tokenizers",
        "Loss and perplexity are per token, and the tokens are not the same.",
        comparison.different_tokenizers,
    ),
    Check(
        "several-knobs", "warning", "More than one setting was changed",
        "Which of them made the difference cannot be said.",
        comparison.several_knobs,
    ),
    Check(
        "one-seed", "warning", "One seed",
        "Two seeds of one configuration differ too; without them a difference has no scale.",
        comparison.one_seed,
    ),
    Check(
        "untuned-rate", "warning", "The rate was not tuned on every side",
        "The side whose rate happens to fit wins.",
        comparison.untuned_rate,
    ),
    Check(
        "few-updates", "warning", "Fewer than a hundred updates",
        "The optimizer's own averages have hardly settled; the order may turn.",
        comparison.few_updates,
    ),
    Check(
        "different-order", "warning", "The arms met their text in another order",
        "Order and initial weights differ beside what was changed, and no pair of runs shares them.",
        comparison.different_order,
    ),
    Check(
        "different-hardware", "warning", "The arms ran on different machines",
        "Seconds do not compare, and other roundings are other results.",
        comparison.different_hardware,
    ),
    Check(
        "different-code", "note", "The arms ran with different code",
        "What changed in between may be the difference.",
        comparison.different_code,
    ),
    Check(
        "unfinished-arms", "warning", "Not every run is complete",
        "The others had longer to learn.",
        comparison.unfinished_arms,
    ),
)  # fmt: skip


def audit_run(run: Run) -> list[Finding]:
    """Return what is wrong or doubtful in one run's record, the gravest first; empty for a clean run."""
    return by_severity(finding for check in RUN_CHECKS for finding in check.findings(run, label(run)))


def audit_comparison(runs: Sequence[Run]) -> list[Finding]:
    """Return what stands against comparing these runs, and not what is wrong in each by itself.

    Runs that differ in their seeds alone are one arm. Empty for fewer than two runs.
    """
    if len(runs) < 2:
        return []
    found = arms(runs)
    return by_severity(finding for check in COMPARISON_CHECKS for finding in check.findings(found, None))


def tables() -> dict[str, Sequence[Check[Any] | ReportCheck]]:
    """Return every check, by what it is about."""
    return {"run": RUN_CHECKS, "comparison": COMPARISON_CHECKS, "report": REPORT_CHECKS}
