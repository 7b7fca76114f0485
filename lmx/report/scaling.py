"""The scaling law that several runs make: constants, prediction of the next size, and its cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.measure.scaling import ScalingFit, fit_scaling, missing_for_scaling
from lmx.measure.statistics import Interval
from lmx.report.drawing import CYCLE, REFERENCE, Drawing, log_ticks, new_figure, save_drawings, tick_label
from lmx.report.facts import floor_nats, machine
from lmx.report.text import amount, duration, markdown_table, show
from lmx.runs import Run, read_run, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEXT = 2.0  # the next size, in the largest of today's
VAGUE = 3.0  # an interval whose ends differ by more
CONSTANTS = {"E": "E, nats/token", "A": "A", "B": "B", "alpha": "α", "beta": "β"}
NOTHING = 1e-4  # nats: an E below it is none
HEADING = "## Scaling law"
PANEL, LINE = 240.0, 11.0  # points: what the losses span of a figure's height, and a line of text


@dataclass(frozen=True)
class Point:
    """What one run says about scaling: its last evaluation."""

    name: str
    parameters: int  # all of them, as Hoffmann et al. count
    loss: float  # nats per token
    tokens: float  # trained on until then
    flops: float  # of training until then
    seconds: float
    passes: float | None  # over the train split
    machine: str


@dataclass(frozen=True)
class NextRun:
    """The run that would come next, at the largest run's tokens a parameter."""

    parameters: float
    tokens: float
    flops: float
    seconds: float
    loss: Interval


def render_scaling(folders: Sequence[Path], out: Path) -> Path:
    """Write `scaling.md` and its figure, fitted to the runs in `folders`, into `out`; return the page.

    Raises CheckpointError when one of `folders` is not a run folder.
    """
    markdown, drawings = scaling_section([read_run(folder) for folder in folders])
    figures = [f"![{text}]({path.relative_to(out).as_posix()})" for path, text in _saved(drawings, out)]
    return write_atomic(out / "scaling.md", "\n\n".join(["# Scaling", markdown.rstrip(), *figures]) + "\n")


def _saved(drawings: Sequence[Drawing], out: Path) -> list[tuple[Path, str]]:
    return save_drawings(out / "plots", drawings) if drawings else []


def scaling_section(runs: Sequence[Run], names: Sequence[str] = ()) -> tuple[str, list[Drawing]]:
    """Return the section as Markdown, and its figures to be drawn with `save_drawings`.

    `names` are those of the runs where they have shorter ones than their folders'. Where the runs cannot tell
    the constants apart the section says what is missing, and there is no figure.
    """
    points, left_out = _points(runs, names or [f"{run.name}/{run.path.name}" for run in runs])
    lacking = _comparable(runs) or missing_for_scaling(
        [point.parameters for point in points], [point.tokens for point in points]
    )
    notes = [f"Left out: {'; '.join(left_out)}."] if left_out else []
    if lacking:
        return "\n\n".join([HEADING, f"No law is fitted: {lacking}.", *notes]) + "\n", []
    fit = fit_scaling(
        *(np.array([getattr(p, key) for p in points]) for key in ("parameters", "tokens", "loss"))
    )
    following = next_run(points, fit)
    parts = [HEADING, _introduction(points), *notes, _constants(fit), *_entropy(runs, fit)]
    parts += _prediction(points, fit, following)
    parts.append(_table(points, fit))
    drawings: list[Drawing] = [
        (
            "scaling",
            "Measured losses, the fitted law and the next size",
            lambda: _draw(points, fit, following),
        )
    ]
    return "\n\n".join(parts) + "\n", drawings


def next_run(points: Sequence[Point], fit: ScalingFit) -> NextRun:
    """Return the prediction for NEXT times the largest size, and its cost at the largest run's speed.

    FLOPs a token grow in proportion to parameters, as those of the matrices do.
    """
    largest = _largest(points)
    parameters, tokens = NEXT * largest.parameters, NEXT * largest.tokens
    flops = NEXT**2 * largest.flops
    seconds = flops * largest.seconds / largest.flops if largest.flops else math.nan
    return NextRun(parameters, tokens, flops, seconds, fit.predict(parameters, tokens))


def _largest(points: Sequence[Point]) -> Point:
    return max(points, key=lambda point: (point.parameters, point.tokens))


def _points(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[Point], list[str]]:
    """Return a point for each run that reached its end, and why the others have none."""
    points, left_out = [], []
    for run, name in zip(runs, names, strict=True):
        total = (run.identity.get("parameters") or {}).get("total")
        last = next((line for line in reversed(run.of_kind("val")) if line.get("val/loss") is not None), None)
        if run.status != "completed":
            left_out.append(f"{name} ({run.status})")
        elif not total or last is None or not last.get("tokens"):
            left_out.append(f"{name} (without parameters, tokens or an evaluation after training)")
        elif not 0 < last["val/loss"] < math.inf:
            left_out.append(f"{name} (loss {last['val/loss']})")
        else:
            tokens, flops, seconds = (float(last.get(key) or 0.0) for key in ("tokens", "flops", "seconds"))
            loss, passes = float(last["val/loss"]), last.get("epoch")
            points.append(
                Point(name, int(total), loss, tokens, flops, seconds, passes, machine(run.identity))
            )
    return points, left_out


def _comparable(runs: Sequence[Run]) -> str | None:
    """Say why the losses of these runs are no points of one law; None where they may be."""
    tokenizers = {(run.identity.get("tokenizer") or {}).get("fingerprint") for run in runs}
    texts = {_validation_text(run) for run in runs}
    for found, what in ((tokenizers, "tokenizers"), (texts, "validation texts")):
        if len(found - {None}) > 1:
            return f"the runs have different {what}, so that their losses per token do not compare"
    return None


def _validation_text(run: Run) -> Any:
    splits = (run.identity.get("data") or {}).get("splits") or {}
    return (splits.get("validation") or {}).get("text_sha256")


def _introduction(points: Sequence[Point]) -> str:
    sizes = len({point.parameters for point in points})
    repeated = sum((point.passes or 0) > 4 for point in points)
    text = (
        f"L(N, D) = E + A / N^α + B / D^β, fitted to the last evaluation of {len(points)} runs of {sizes} "
        "sizes. N are all parameters, D the tokens trained on, L nats per token (Hoffmann et al. 2022, "
        "approach 3: Huber loss of log residuals). Intervals come from refits with residuals drawn anew; "
        "they hold as far as the form of the law does."
    )
    more = (
        f" **{repeated} of the runs passed over their corpus more than four times: D counts repeated tokens "
        "as new ones, though they teach less.**"
    )
    return text + (more if repeated else "")


def _constants(fit: ScalingFit) -> str:
    rows = []
    for name, label in CONSTANTS.items():
        found = fit.interval(name)
        value, low, high = (
            f"{0 if name == 'E' and number < NOTHING else number:.4g}"
            for number in (found.estimate, found.low, found.high)
        )
        rows.append([label, value, f"{low} to {high}"])
    table = markdown_table(["Constant", "Value", "95 % interval"], rows)
    vague = [
        name.partition(",")[0]
        for key, name in CONSTANTS.items()
        if key not in "AB"  # whose size follows from the exponents
        and fit.interval(key).high > VAGUE * fit.interval(key).low
    ]
    if not vague:
        return table
    return (
        f"{table}\n\n**These runs hardly determine {', '.join(vague)}: an interval spans more than a factor "
        f"of {VAGUE:g}. The prediction rests on the form of the law more than on the runs.**"
    )


def _entropy(runs: Sequence[Run], fit: ScalingFit) -> Iterator[str]:
    """Where the corpus knows its entropy, what E should be."""
    floor, found = next(filter(None, map(floor_nats, runs)), None), fit.interval("E")
    if floor is None:
        return
    within = "within" if found.low <= floor <= found.high else "outside"
    yield (
        f"The entropy of this text is known: {floor:.4f} nats/token, which E should be. It lies {within} the "
        "interval of the fit; where it is outside, the form of the law does not hold so far from the runs."
    )


def _prediction(points: Sequence[Point], fit: ScalingFit, following: NextRun) -> Iterator[str]:
    largest = _largest(points)
    loss = following.loss
    chosen = fit.law.optimal(6 * following.parameters * following.tokens)
    rows = [
        ["parameters", amount(following.parameters)],
        ["tokens", amount(following.tokens)],
        ["loss, nats/token", f"{loss.estimate:.4f} ({loss.low:.4f} to {loss.high:.4f})"],
        [
            "perplexity",
            f"{math.exp(loss.estimate):,.2f} ({math.exp(loss.low):,.2f} to {math.exp(loss.high):,.2f})",
        ],
        ["loss of the largest run so far", f"{largest.loss:.4f}"],
        ["FLOPs", show(following.flops, ".3g")],
        [f"training time on {largest.machine}, at the largest run's speed", duration(following.seconds)],
    ]
    yield f"### The next size: {NEXT:g} times the largest, at its tokens a parameter"
    yield markdown_table(["", ""], rows)
    ratio = chosen[1] / chosen[0]
    yield (
        f"For the same 6·N·D the law would choose {amount(chosen[0])} parameters and {amount(chosen[1])} "
        f"tokens, {ratio:.3g} a parameter (this run: {following.tokens / following.parameters:.3g})."
    )


def _table(points: Sequence[Point], fit: ScalingFit) -> str:
    rows = []
    for point in sorted(points, key=lambda point: (point.parameters, point.tokens)):
        fitted = float(fit.law.loss(point.parameters, point.tokens))
        off = f"{100 * (point.loss / fitted - 1):+.2f} %"
        numbers = [f"{point.parameters:,}", amount(point.tokens), f"{point.loss:.4f}", f"{fitted:.4f}", off]
        rows.append([point.name, *numbers])
    return markdown_table(["Run", "N", "D", "Measured", "Fitted", "Off by"], rows)


# ---- the figure


def _draw(points: Sequence[Point], fit: ScalingFit, following: NextRun) -> Figure:
    figure = new_figure(11.5, 4.8)
    left, right = figure.subplots(1, 2, sharey=True)
    values = [*(point.loss for point in points), following.loss.low, following.loss.high]
    low, high = min(values), max(values)
    _curves(left, points, fit, following, math.log(high / low))
    _frontier(right, points, fit, following)
    for axes in (left, right):
        axes.set_ylim(low * (low / high) ** 0.1, high * (high / low) ** 0.08)
        axes.set_yscale("log")
        axes.set_yticks(log_ticks(low, high))
    _plain_ticks(left)
    left.set_ylabel("validation loss, nats per token (log scale)")
    return figure


def _curves(axes: Axes, points: Sequence[Point], fit: ScalingFit, following: NextRun, height: float) -> None:
    """One curve a size, through its runs, named at its end; the next size dashed.

    `height` is the span of the losses in logarithms, over which the names keep their distance.
    """
    above = math.inf  # the name before, in points
    sizes = sorted({point.parameters for point in points})
    ends = min(point.tokens for point in points) / 1.5, following.tokens * 1.3
    tokens = np.geomspace(*ends, 100)
    for size, colour in zip([*sizes, following.parameters], _shades(len(sizes)), strict=True):
        dashed = size not in sizes
        axes.plot(tokens, fit.law.loss(size, tokens), color=colour, linewidth=1.4, ls="--" if dashed else "-")
        own = [point for point in points if point.parameters == size]
        axes.scatter([p.tokens for p in own], [p.loss for p in own], s=28, color=colour, zorder=3)
        place = (tokens[-1], float(fit.law.loss(size, tokens[-1])))
        level = PANEL * math.log(place[1]) / height if height else 0.0
        above = min(level, above - LINE)
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "va": "center",
            "fontsize": 9,
            "color": colour,
        }
        axes.annotate(amount(size), place, xytext=(5, above - level), annotation_clip=False, **style)
    _predicted(axes, following.tokens, following, above=False)
    _log_axis(axes, ends)
    axes.set_title("Loss by tokens, a curve for each number of parameters")
    axes.set_xlabel("tokens trained on (log scale)")


def _frontier(axes: Axes, points: Sequence[Point], fit: ScalingFit, following: NextRun) -> None:
    """The same runs by their compute, over the lowest loss that the law gives for it."""
    sizes = sorted({point.parameters for point in points})
    shades = dict(zip(sizes, _shades(len(sizes)), strict=False))
    for point in points:
        spent = 6 * point.parameters * point.tokens
        axes.scatter([spent], [point.loss], s=28, color=shades[point.parameters], zorder=3)
    least = min(6 * point.parameters * point.tokens for point in points)
    budgets = np.geomspace(least / 1.5, 6 * following.parameters * following.tokens * 1.5, 100)
    best = [float(fit.law.loss(*fit.law.optimal(flops))) for flops in budgets]
    axes.plot(budgets, best, color=REFERENCE, linewidth=1.2)
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 9}
    axes.annotate("lowest by the law", (budgets[55], best[55]), xytext=(-4, -4), color=REFERENCE, **style)
    _predicted(axes, 6 * following.parameters * following.tokens, following, above=True)
    _log_axis(axes, (budgets[0], budgets[-1]))
    axes.set_title("Loss by compute")
    axes.set_xlabel("6·N·D, FLOPs (log scale)")


def _predicted(axes: Axes, x: float, following: NextRun, *, above: bool) -> None:
    loss = following.loss
    errors = [[max(0.0, loss.estimate - loss.low)], [max(0.0, loss.high - loss.estimate)]]
    style: dict[str, Any] = {"fmt": "D", "markersize": 6, "capsize": 4, "zorder": 4}
    axes.errorbar([x], [loss.estimate], yerr=errors, color=CYCLE[1], markerfacecolor="white", **style)
    text: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 9, "color": CYCLE[1]}
    if above:
        axes.annotate("next size", (x, loss.high), xytext=(0, 5), va="bottom", **text)
    else:
        axes.annotate("next size", (x, loss.low), xytext=(0, -5), va="top", **text)


def _shades(sizes: int) -> list[Any]:
    """A colour for each size from light to dark, and one more for the next."""
    from matplotlib import colormaps

    return [*colormaps["viridis_r"](np.linspace(0.2, 0.9, sizes)), CYCLE[1]]


def _log_axis(axes: Axes, ends: tuple[float, float]) -> None:
    from matplotlib.ticker import EngFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xticks(log_ticks(*ends))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
