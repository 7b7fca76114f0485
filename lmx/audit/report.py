"""`--report FILE.md`: read a report and say what in it contradicts itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.audit import budget_checks as budget
from lmx.audit import prose_checks as prose
from lmx.audit import report_checks as figures
from lmx.audit.finding import Finding, Severity, by_severity, findings_json, findings_text
from lmx.audit.reading import Reading, read_report
from lmx.audit.report_checks import Looked, Wrong

SHOWN = 3  # places of one contradiction that are spelled out


@dataclass(frozen=True)
class ReportCheck:
    """One row of the registry of what is looked for in a report."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    look: Callable[[Reading], Looked]


REPORT_CHECKS: tuple[ReportCheck, ...] = (
    ReportCheck(
        "perplexity-not-exp-loss", "error", "Perplexity is not exp of the loss",
        "One of the two is averaged in another way, or belongs to other weights.",
        "give exp of the token-weighted mean loss", figures.perplexity,
    ),
    ReportCheck(
        "best-by-wrong-direction", "error", "The best figure is not the best of its table",
        "Whatever is concluded from it belongs to other weights.",
        "take the lowest loss, and its step", figures.best,
    ),
    ReportCheck(
        "d-over-n-wrong", "error", "D/N is not train tokens over parameters",
        "The verdict on too few or too many tokens rests on it.",
        "divide the tokens of the train split by all parameters", budget.tokens_per_parameter,
    ),
    ReportCheck(
        "parameter-count", "error", "The parameters are not those of the dimensions",
        "Another model was trained than the one that is named.",
        "count them: python -m lmx.plan model=…", budget.parameters,
    ),
    ReportCheck(
        "pi-not-its-formula", "error", "PI is not what its formula gives",
        "Its curve then shows the gradient norm alone.",
        "compute it from the entropy in nats per token", figures.integrity,
    ),
    ReportCheck(
        "entropy-wrong-denominator", "error", "Entropy is no mean per token",
        "It looks like certainty, and everything computed from it loses its meaning.",
        "divide the sum of entropies by the number of tokens", figures.entropy,
    ),
    ReportCheck(
        "train-equals-validation", "error", "Train and validation loss are one number",
        "One was printed in the other's place, so overfitting cannot be seen.",
        "print both", figures.equal_losses,
    ),
    ReportCheck(
        "steps-miscounted", "error", "Steps, batches and tokens contradict each other",
        "Budgets and curves over steps rest on this count.",
        "count updates of the weights, not lines of a log", budget.steps,
    ),
    ReportCheck(
        "identical-results", "error", "Different experiments, one result",
        "The change that gives the experiment its name may never have reached the model.",
        "check that the model computes something else: shuffle its input", figures.identical,
    ),
    ReportCheck(
        "initial-loss-far-from-ln-v", "warning", "The initial loss is far from ln V",
        "The first steps only undo the initialisation.",
        "initialise with a standard deviation of about 0.02", figures.initial_loss,
    ),
    ReportCheck(
        "unequal-tokens", "error", "What is compared read unequal amounts of text",
        "More tokens lower the loss by themselves.",
        "compare at equal tokens", budget.unequal,
    ),
    ReportCheck(
        "several-knobs", "warning", "More than one setting was changed",
        "Which of them made the difference cannot be said.",
        "add the arms between them, which change one setting each", budget.several_knobs,
    ),
    ReportCheck(
        "schedule-horizon", "warning", "The schedule and the run end at different steps",
        "A decay cut off leaves part of the loss on the table.",
        "let the schedule end with the run", budget.schedule,
    ),
    ReportCheck(
        "validation-overlaps-train", "error", "Validation text is training text",
        "Remembering lowers this loss, so it says nothing about unseen text.",
        "hold whole documents out", prose.overlap,
    ),
    ReportCheck(
        "evaluation-not-whole-split", "warning", "The evaluation is not the whole split",
        "A sample has an error of its own, which no table shows.",
        "evaluate the whole split, once", prose.part_of_split,
    ),
    ReportCheck(
        "one-seed", "warning", "One seed",
        "Two seeds of one configuration differ too; without them a difference has no scale.",
        "three seeds or more, and their spread", prose.seeds,
    ),
    ReportCheck(
        "no-seed", "note", "No seed is named",
        "The run cannot be repeated.",
        "name the seed", prose.no_seed,
    ),
    ReportCheck(
        "few-updates", "warning", "Fewer than a hundred updates",
        "The optimizer's own averages have hardly settled; the order may turn.",
        "train longer before comparing", prose.few_updates,
    ),
    ReportCheck(
        "no-initial-evaluation", "warning", "A fine-tuned model was not evaluated before",
        "Without its reference nobody can say what fine-tuning gained.",
        "evaluate at step 0", prose.no_reference,
    ),
    ReportCheck(
        "objective-part-not-logged", "warning", "A part of the objective is in no table",
        "Whether it fell at all cannot be said.",
        "print both parts", prose.part_not_logged,
    ),
    ReportCheck(
        "word-perplexity-mixed", "warning", "Perplexities of different units stand side by side",
        "A word is more than one token, so its perplexity is higher.",
        "give word perplexity or bits per byte", prose.word_level,
    ),
    ReportCheck(
        "prompt-trailing-space", "warning", "A prompt ends with a space",
        "The text that follows is judged on a token that training never showed there.",
        "leave the space out", prose.prompts,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class ReportAudit:
    """What was read of a report, what was compared in it, and what does not agree."""

    path: Path
    tables: int
    settings: int  # distinct names
    figures: int
    compared: dict[str, int]  # code → comparisons made
    findings: list[Finding]

    def text(self) -> str:
        """Return it for a terminal."""
        read = f"{self.tables} tables read" if self.tables != 1 else "1 table read"
        found = f"{self.settings} settings" if self.settings else "no configuration found"
        parts = [f"{self.path}: {found}; {read}; {self.figures} figures"]
        if not any(self.compared.values()):
            parts.append("Nothing to check.")
        else:
            made = ", ".join(f"{code} {count}" for code, count in self.compared.items() if count)
            parts += [f"compared: {made}", "", findings_text(self.findings)]
        return "\n".join(parts)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "report": str(self.path),
            "read": {"tables": self.tables, "settings": self.settings, "figures": self.figures},
            "compared": self.compared,
            "findings": findings_json(self.findings),
        }


def audit_report(path: Path) -> ReportAudit:
    """Read a Markdown report, and the data files that it names beside it, and question it.

    Any text gives an answer. Raises DataError for a file that cannot be read.
    """
    reading = read_report(path)
    compared, findings = {}, []
    for check in REPORT_CHECKS:
        looked = list(check.look(reading))
        wrong = list(dict.fromkeys(item for item in looked if item is not None))
        compared[check.code] = len(looked)
        if wrong:
            findings.append(_finding(check, wrong, len(looked)))
    counts = reading.counts
    return ReportAudit(
        path, counts["tables"], counts["settings"], counts["figures"], compared, by_severity(findings)
    )


def _finding(check: ReportCheck, wrong: list[Wrong], compared: int) -> Finding:
    texts = list(dict.fromkeys(item.text for item in wrong))
    more = f"; and {len(texts) - SHOWN} more of {compared} compared" if len(texts) > SHOWN else ""
    seen = "; ".join(texts[:SHOWN]) + more
    return Finding(check.code, check.severity, seen, check.why, check.fix, f"line {wrong[0].number}")
