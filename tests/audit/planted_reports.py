"""The reports in `reports/`: what each faulty one holds, and the clean ones."""

from __future__ import annotations

from pathlib import Path

REPORTS = Path(__file__).with_name("reports")
FAULTY_REPORTS: dict[str, dict[str, str]] = {  # file → code → fault
    "a_faulty.md": {
        "pi-not-its-formula": "PI = exp(−G)",
        "entropy-wrong-denominator": "entropy 0.000",
        "best-by-wrong-direction": "best by max",
        "parameter-count": "a parameter count of other dimensions",
    },
    "a_published_faulty.md": {
        "parameter-count": "a parameter count of other dimensions",
        "perplexity-not-exp-loss": "perplexity of other weights",
        "best-by-wrong-direction": "best by max",
        "pi-not-its-formula": "PI = exp(−G)",
        "entropy-wrong-denominator": "entropy 0.000",
    },
    "b_faulty.md": {
        "identical-results": "one result for two experiments",
        "steps-miscounted": "steps counted as lines",
        "evaluation-not-whole-split": "evaluation on 20 batches",
        "schedule-horizon": "cosine longer than the run",
        "validation-overlaps-train": "validation on the training file",
        "one-seed": "one seed",
    },
    "b_published_faulty.md": {
        "identical-results": "one result for two experiments",
        "one-seed": "one seed",
    },
    "c_faulty.md": {
        "few-updates": "28 updates",
        "one-seed": "one seed",
        "no-initial-evaluation": "no step-0 reference",
        "objective-part-not-logged": "cosine part never logged",
        "perplexity-not-exp-loss": "perplexity of other weights",
    },
    "c_published_faulty.md": {
        "perplexity-not-exp-loss": "perplexity of other weights",
        "few-updates": "28 updates",
        "no-initial-evaluation": "no step-0 reference",
        "objective-part-not-logged": "cosine part never logged",
        "no-seed": "no seed",
    },
    "d_faulty.md": {
        "d-over-n-wrong": "D/N from validation tokens",
        "train-equals-validation": "train loss equal to validation loss",
        "initial-loss-far-from-ln-v": "initial loss 27 times ln V",
        "unequal-tokens": "unequal epochs compared",
        "word-perplexity-mixed": "perplexity of subwords beside words",
        "prompt-trailing-space": "trailing space in a prompt",
        "one-seed": "one seed",
    },
    "d_published_faulty.md": {
        "d-over-n-wrong": "D/N from validation tokens",
        "perplexity-not-exp-loss": "perplexity of other weights",
        "best-by-wrong-direction": "best of another epoch",
        "unequal-tokens": "unequal epochs compared",
        "no-seed": "no seed",
    },
    "e_faulty/report.md": {
        "validation-overlaps-train": "stride-1 windows split at random",
        "unequal-tokens": "unequal tokens",
        "several-knobs": "two settings changed at once",
        "no-seed": "no seed",
    },
    "e_published_faulty/research_report.md": {
        "unequal-tokens": "unequal tokens",
        "several-knobs": "two settings changed at once",
        "no-seed": "no seed",
    },
}
CLEAN_REPORTS = (
    *("a_clean.md", "b_clean.md", "c_clean.md", "d_clean.md", "e_clean/report.md"),
    *("a_published_clean.md", "b_published_clean.md", "c_published_clean.md", "d_published_clean.md"),
    "e_published_clean/research_report.md",
)


def layout(name: str) -> str:
    """Return how a report is laid out: as its family's was published, or in a plainer way."""
    return "the published layout" if "published" in name else "a report"
