"""The Markdown of a comparison: the answer first, then what it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmx.audit import findings_markdown
from lmx.measure import lower_is_better
from lmx.measure.statistics import Interval
from lmx.report.arms import Comparison
from lmx.report.differences import Difference, real_by_chance
from lmx.report.exports import arm_figures, last_samples
from lmx.report.facts import differing, facts
from lmx.report.standings import BITS, BUDGETS, LOSS, UNITS, Arm, Standing, seed_of
from lmx.report.study_audit import Audit
from lmx.report.study_sources import sources
from lmx.report.text import MISSING, amount, code_block, duration, markdown_table, show
from lmx.runs.studies import JOB_STATUSES

_PLACED = (
    "final_performance_comparison",
    "convergence_analysis",
    "efficiency_analysis",
)  # figures with a place of their own
FEW_ARMS = 6  # beyond which a table has a row for each, not a column
LEVEL = "95\u00a0%"  # one word, also in a narrow column
METHOD = (
    "Each run counts with its best evaluation within the largest number of tokens that every run reached, "
    "{amount}; its validation curve is interpolated linearly between the two evaluations around that point. "
    "“At the end” is the curve's value there, overfitting included. Intervals are Student's, at 95 %, over "
    "seeds."
)


LAW_FIRST = (
    "The runs differ in size and length: the law says what they show together. The ranking after it compares "
    "them at the tokens of the shortest, before the longer ones have come to the end of their schedules."
)


@dataclass
class Results:
    """What was worked out of a comparison, once, for all of its files."""

    places: dict[str, tuple[list[Standing], float | None]]  # budget → standings and the budget
    differences: list[Difference]
    audit: Audit
    plots: list[tuple[Path, str]] = field(default_factory=list)
    scaling: str = ""
    has_law: bool = False  # whether `scaling` fits one

    @property
    def order(self) -> list[Standing]:
        """The standings by tokens, the best first."""
        return self.places["tokens"][0]


def page(comparison: Comparison, results: Results, out: Path) -> str:
    """Return the report's Markdown; links and pictures are relative to `out`."""
    plots = {path.stem: picture(path, text, out) for path, text in results.plots}
    parts = [f"# {comparison.title}"]
    if comparison.question:
        parts.append(f"> {comparison.question}")
    if changed := [line for line in comparison.changes if not line.startswith("paths.")]:
        parts.append(f"Every job with {', '.join(f'`{line}`' for line in changed)}.")
    parts += [*_answer(comparison, results)]
    if results.has_law:
        parts += [LAW_FIRST, results.scaling]
    parts += [*_ranking(comparison, results)]
    parts += [plots[name] for name in _PLACED[:1] if name in plots]
    parts += [*_differences(comparison, results), *_findings(comparison, results)]
    if plots:
        parts += ["## Curves", *(plots[name] for name in plots if name not in _PLACED)]
    parts += [*_figures(results), *(plots[name] for name in _PLACED[1:] if name in plots)]
    parts += [results.scaling] if results.scaling and not results.has_law else []
    parts += [*_settings(comparison), *_cost(results), *_samples(comparison, results, out)]
    parts += sources(comparison, out)
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def picture(path: Path, text: str, out: Path) -> str:
    """A picture in Markdown, with what it shows; the page lies in `out`."""
    return f"![{text}]({path.relative_to(out).as_posix()})"


# ---- the answer


def _answer(comparison: Comparison, results: Results) -> Iterator[str]:
    order, unit = results.order, _unit(comparison)
    if not order:
        yield "**Nothing to compare yet: no run with an evaluation counts.**"
    else:
        best = order[0]
        budget = amount(results.places["tokens"][1])
        value = f"{best.best.estimate:.4f} {unit} within {budget} tokens"
        if len(order) > 1:
            yield f"**{best.arm.name} did best: {value}{_of_seeds(best.best)}.** {_lead(comparison, results)}"
        else:
            yield f"**{best.arm.name}: {value}{_of_seeds(best.best)}.**"
        if not comparison.has_baseline:
            instead = ": the best is compared with the next instead" if len(order) > 1 else ""
            yield f"The baseline, {comparison.baseline}, has no run that counts{instead}."
    if comparison.jobs:
        counts = Counter(state.status for state in comparison.jobs)
        done = f"{counts['completed']} of {len(comparison.jobs)} jobs are completed"
        rest = ", ".join(f"{counts[name]} {name}" for name in JOB_STATUSES[1:] if counts[name])
        yield f"{done}{f'; {rest}' if rest else ''}."


def _lead(comparison: Comparison, results: Results) -> str:
    """The verdict on the best: against the baseline, or against the next where there is no other baseline."""
    best, second = (place.arm.name for place in results.order[:2])
    rival = comparison.baseline if comparison.has_baseline and best != comparison.baseline else second
    return next(item.words for item in results.differences if {item.a, item.b} == {best, rival})


def _of_seeds(interval: Interval) -> str:
    if not interval.known:
        return " at one seed" if interval.n == 1 else ""
    return f", mean of {interval.n} seeds ({interval.low:.4f} to {interval.high:.4f})"


# ---- who is ahead


def _ranking(comparison: Comparison, results: Results) -> Iterator[str]:
    order = results.order
    if not order:
        return
    unit = _unit(comparison)
    others = {
        budget: {place.arm.name: place for place in results.places[budget][0]}
        for budget in ("flops", "seconds")
    }
    known = [budget for budget, places in others.items() if places]
    headers = ["", "Configuration", "Seeds", f"{unit.capitalize()}", "95 % interval", "At the end"]
    headers += [f"at equal {BUDGETS[budget]}" for budget in known]
    rows = []
    for place in order:
        name = place.arm.name
        row = [
            str(place.rank),
            f"**{name}**" if place.rank == 1 else name,
            str(len(place.arm.runs)),
            f"{place.best.estimate:.4f}",
            _ends(place.best),
            f"{place.end.estimate:.4f}",
        ]
        for budget in known:
            other = others[budget][name]
            row.append(f"{other.best.estimate:.4f} (rank {other.rank})")
        rows.append(row)
    yield "## Ranking at equal tokens"
    yield markdown_table(headers, rows, left=2)
    notes = [METHOD.format(amount=amount(results.places["tokens"][1]))]
    if known:
        sizes = {"flops": "{:.3g} FLOPs", "seconds": "{:.4g} s of training"}
        budgets = [sizes[budget].format(results.places[budget][1]) for budget in known]
        notes.append(f"The same within {' and within '.join(budgets)} stands beside it.")
    if "seconds" not in known:
        notes.append("Runs on different hardware are not compared by time.")
    notes.append(_better(comparison))
    yield " ".join(notes)


def _better(comparison: Comparison) -> str:
    what = {BITS: "Bits per byte compare across tokenizers", LOSS: "Loss compares under one tokenizer only"}
    way = "lower is better" if lower_is_better(comparison.metric) else "higher is better"
    return f"{what.get(comparison.metric, f'Ranked by {comparison.metric}')}; {way}."


def _differences(comparison: Comparison, results: Results) -> Iterator[str]:
    """Each configuration against the baseline; where that is not the best, the others against the best."""
    if not results.differences:
        return
    unit, best, shown = _unit(comparison), results.order[0].arm.name, []
    headers = ["Configuration", "What this shows", f"{unit} over seeds", LEVEL, "over windows", LEVEL]
    for name in dict.fromkeys((comparison.baseline, best)):
        found = [item for item in results.differences if item.b == name]
        if found:
            yield f"## Against the {'baseline' if name == comparison.baseline else 'best'}, {name}"
            yield markdown_table(headers, [_difference_row(item) for item in found], left=2)
            shown += found
    yield _difference_notes(results.differences, shown, flattered=shown[-1].b != comparison.baseline)


def _difference_row(item: Difference) -> list[str]:
    over_windows = item.over_windows
    return [
        item.a,
        item.outcome,
        f"{item.over_seeds.estimate:+.4f}",
        _ends(item.over_seeds, "+.4f"),
        MISSING if over_windows is None else f"{over_windows.estimate:+.4f}",
        MISSING if over_windows is None else _ends(over_windows, "+.4f"),
    ]


def _difference_notes(found: Sequence[Difference], shown: Sequence[Difference], flattered: bool) -> str:
    notes = [
        "Over seeds: paired by seed where both sides have the same (Student), else Welch; how far another "
        "training run may differ. Over windows: a paired bootstrap over the windows of the validation text, "
        "each run at its best evaluation; how far another text may."
    ]
    if len(shown) > 1 and real_by_chance(shown):
        count = f"With {len(shown)} differences at 95 % each"
        notes.append(f"{count}, {real_by_chance(shown):.2g} would seem real by chance alone.")
    if flattered:
        notes.append("The best was found by these same figures, so its lead over the others is flattered.")
    if len(found) > len(shown):
        chance = f"of which {real_by_chance(found):.2g} would seem real by chance"
        notes.append(f"`research_data.json` has all {len(found)} pairs, {chance}.")
    if whys := sorted({item.why for item in shown if item.why}):
        notes.append(f"Where nothing stands under windows: {'; '.join(whys)}.")
    return " ".join(notes)


def _findings(comparison: Comparison, results: Results) -> Iterator[str]:
    yield "## Before believing it"
    yield findings_markdown(results.audit.findings)
    if results.order:
        others = len(comparison.runs) - results.audit.whole
        short = f", {others} of them without their training records, which `python -m lmx.audit RUN` reads"
        yield f"The audit questions the comparison, and each of its runs{short if others else ''}."


# ---- what each is, and did


def _figures(results: Results) -> Iterator[str]:
    """Family E's figures, a row a configuration."""
    if not results.order:
        return
    headers = [
        *("Configuration", "Train loss", "Eval loss", "Perplexity", "Accuracy", "Top-5", "Confidence"),
        *("First tenth", "Converged", "s/step", "± s"),
    ]
    rows = []
    for place in results.order:
        figures = arm_figures(place.arm)
        convergence, efficiency = figures["convergence"], figures["efficiency"]
        done = convergence["converged"]
        rows.append(
            [
                place.arm.name,
                show(figures["train_loss"], ".4f"),
                show(figures["eval_loss"], ".4f"),
                show(figures["perplexity"], ",.2f"),
                *(show(figures[key], ".4f") for key in ("accuracy", "top5_accuracy", "avg_confidence")),
                show(convergence["early_phase_loss"], ".4f"),
                MISSING if done is None else "yes" if done else "no",
                show(efficiency["avg_step_time"], ".4g"),
                show(efficiency["step_time_std"], ".2g"),
            ]
        )
    yield "## Loss, convergence and speed"
    yield markdown_table(headers, rows)
    yield (
        "Means over seeds. Train loss: over the last tenth of the steps, beside it that over the first. "
        "Evaluation: each run's best. Converged: the best evaluation improved by under 1 % over the last "
        "fifth. Seconds a step are without evaluation and start-up, and ± is their spread between log lines."
    )


def _settings(comparison: Comparison) -> Iterator[str]:
    firsts = [arm.runs[0].run for arm in comparison.arms]
    found = (
        {key: values for key, values in differing(firsts).items() if key != "seed"} if len(firsts) > 1 else {}
    )
    if not found:
        return
    names = [arm.name for arm in comparison.arms]
    yield "## What differs"
    if len(names) <= FEW_ARMS:
        yield markdown_table(["Setting", *names], [[key, *values] for key, values in found.items()])
    else:
        rows = [[name, *(values[place] for values in found.values())] for place, name in enumerate(names)]
        yield markdown_table(["Configuration", *found], rows)


def _cost(results: Results) -> Iterator[str]:
    if not results.order:
        return
    headers = [
        *("Configuration", "Parameters", "Steps", "Tokens", "FLOPs", "Training time"),
        *("Tokens/s", "Peak memory (MiB)"),
    ]
    rows = []
    for place in results.order:
        totals = [facts(run.run) for run in place.arm.runs]
        means = {
            key: _mean([getattr(item, key) for item in totals])
            for key in ("step", "tokens", "flops", "train_seconds", "tokens_per_second", "peak_memory")
        }
        rows.append(
            [
                place.arm.name,
                show(totals[0].parameters, ","),
                show(means["step"], ",.0f"),
                amount(means["tokens"]),
                show(means["flops"], ".3g"),
                duration(means["train_seconds"]),
                show(means["tokens_per_second"], ",.0f"),
                show(means["peak_memory"], ",.0f"),
            ]
        )
    yield "## Size and cost of a run"
    yield markdown_table(headers, rows)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _samples(comparison: Comparison, results: Results, out: Path) -> Iterator[str]:
    """One text of the best and of the baseline; all of them stand in text_samples/."""
    shown: list[Arm] = [place.arm for place in results.order[:1]]
    shown += [arm for arm in comparison.arms if arm.name == comparison.baseline and arm not in shown]
    blocks = []
    for arm in shown:
        samples = last_samples(arm.runs[0])
        if samples:
            sample = samples[0]
            blocks.append(f"{arm.name}, seed {seed_of(arm.runs[0])}, step {sample['step']:,}:")
            blocks.append(code_block(sample["prompt"] + sample["text"]))
    if blocks:
        yield "## Text"
        yield from blocks
        yield "The last texts of every run stand in [text_samples/](text_samples/)."


def _unit(comparison: Comparison) -> str:
    return UNITS.get(comparison.metric, comparison.metric.removeprefix("val/").replace("_", " "))


def _ends(interval: Interval, spec: str = ".4f") -> str:
    return f"{interval.low:{spec}} to {interval.high:{spec}}" if interval.known else MISSING
