"""The figures of a comparison: family E's four, and the two panels of family B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.measure import lower_is_better
from lmx.report.arms import Comparison
from lmx.report.drawing import (
    CYCLE,
    REFERENCE,
    Drawing,
    Series,
    decorate,
    new_figure,
    save_drawings,
    smoothed,
    span,
)
from lmx.report.exports import phase_losses
from lmx.report.standings import UNITS, Arm, Digest, Standing, curve
from lmx.report.text import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALE = "#B8B8B8"  # of those for which no colour is left: one that stands for two tells nothing
POINTS = 500  # of a curve: more than a figure has pixels for


@dataclass(frozen=True)
class Look:
    """How one configuration is drawn, the same in every figure."""

    name: str
    colour: str
    style: str
    front: bool

    @property
    def line(self) -> dict[str, Any]:
        """Options of a line."""
        return {
            "color": self.colour,
            "linestyle": self.style,
            "linewidth": 1.8 if self.front else 0.9,
            "zorder": 3 if self.front else 2,
        }


def plot_study(
    comparison: Comparison, places: Sequence[Standing], budget: float, folder: Path
) -> list[tuple[Path, str]]:
    """Draw every figure that there are records for; `places` by tokens, the best first."""
    if not places:
        return []
    looks = looks_of(comparison, places)
    metric, unit = comparison.metric, UNITS.get(comparison.metric, comparison.metric)
    drawings: list[Drawing] = [
        (
            "final_performance_comparison",
            f"Validation {unit} of each configuration within {amount(budget)} tokens",
            lambda: _final(comparison, places, looks, budget),
        ),
        (
            "validation_curves",
            f"Validation {unit} by step and by training time; the fall of the first tenth leaves the frame",
            lambda: _two_panels(comparison, looks, metric, unit),
        ),
        (
            "training_loss_comparison",
            "Training loss by tokens; the fall of the first tenth leaves the frame",
            lambda: _training(comparison, looks),
        ),
        (
            "convergence_analysis",
            "How far and how soon training loss fell",
            lambda: _convergence(comparison, places, looks),
        ),
        (
            "efficiency_analysis",
            f"Speed, and validation {unit} for the time spent",
            lambda: _efficiency(comparison, places, looks, unit),
        ),
    ]
    return save_drawings(folder, drawings)


def looks_of(comparison: Comparison, places: Sequence[Standing]) -> dict[str, Look]:
    """Give each configuration its look: the baseline black, the best ones coloured, the rest grey."""
    colours = iter(CYCLE[:-1])
    looks = {}
    for place in places:
        name = place.arm.name
        if name == comparison.baseline and len(places) > 1:
            looks[name] = Look(name, REFERENCE, "--", True)
        else:
            colour = next(colours, None)
            looks[name] = Look(name, colour or PALE, "-", colour is not None)
    return looks


# ---- figures


def _final(
    comparison: Comparison, places: Sequence[Standing], looks: dict[str, Look], budget: float
) -> Figure:
    """Each configuration's mean with its interval, and a point for every seed."""
    figure = new_figure(9, 1.3 + 0.34 * len(places))
    axes = figure.add_subplot()
    for row, place in enumerate(places):
        look = looks[place.arm.name]
        if place.best.known:
            axes.plot(
                [place.best.low, place.best.high], [row, row], color=look.colour, linewidth=2.2, alpha=0.55
            )
        values = list(place.by_seed.values())
        _dots(axes, values, [row] * len(values), look, 3.5, alpha=0.6)
        _dots(axes, [place.best.estimate], [row], look, 7)
    base = next((place for place in places if place.arm.name == comparison.baseline), None)
    if base is not None and len(places) > 1:
        axes.axvline(base.best.estimate, color=REFERENCE, linestyle="--", linewidth=1, zorder=1)
    axes.set_yticks(range(len(places)), [_short(place.arm.name) for place in places])
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    unit = UNITS.get(comparison.metric, comparison.metric)
    way = "lower" if lower_is_better(comparison.metric) else "higher"
    axes.set_title(f"Best evaluation within {amount(budget)} tokens")
    axes.set_xlabel(f"validation {unit}, {way} is better; dots: seeds, bars: 95 % interval of the mean")
    return figure


def _two_panels(comparison: Comparison, looks: dict[str, Look], metric: str, unit: str) -> Figure:
    figure = new_figure(11.5, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    drawn: list[Series] = []
    for axes, budget in zip(panels, ("step", "seconds"), strict=True):
        for arm in _back_to_front(comparison.arms, looks):
            drawn += _band(axes, [curve(run, metric, budget) for run in arm.runs], looks[arm.name])
    values = telling(drawn, lower_is_better(metric))
    for axes, title, label in zip(
        panels, ("By step", "By training time"), (f"validation {unit}", ""), strict=True
    ):
        _frame(axes, title, label, values)
    panels[1].set_xlabel("seconds of training, without evaluation and start-up")
    _legend(figure, looks)
    return figure


def _training(comparison: Comparison, looks: dict[str, Look]) -> Figure | None:
    figure = new_figure(11.5, 4.6)
    axes = figure.add_subplot()
    drawn: list[Series] = []
    for arm in _back_to_front(comparison.arms, looks):
        lines = [_thinned(*_logged(run)) for run in arm.runs]
        drawn += _band(axes, [line for line in lines if len(line[0])], looks[arm.name])
    if not drawn:
        return None
    _frame(axes, "Training loss, moving mean", "nats per token", telling(drawn, lower=True))
    axes.set_xlabel("tokens trained on")
    _legend(figure, looks)
    return figure


def _convergence(comparison: Comparison, places: Sequence[Standing], looks: dict[str, Look]) -> Figure | None:
    """Left: train loss, first to last tenth. Right: what each needs to reach the best of one of them."""
    figure = new_figure(11.5, 1.5 + 0.34 * len(places))
    left, right = figure.subplots(1, 2, sharey=True)
    ends: list[float] = []
    for row, place in enumerate(places):
        look = looks[place.arm.name]
        pairs = [pair for run in place.arm.runs if None not in (pair := phase_losses(run))]
        if not pairs:
            continue
        early, late = (float(np.mean([pair[side] for pair in pairs])) for side in (0, 1))
        left.plot([early, late], [row, row], color=look.colour, linewidth=1.6, alpha=0.5)
        _dots(left, [early], [row], look, 5.5, markerfacecolor="white")
        _dots(left, [late], [row], look)
        ends += [early, late]
    if not ends:
        return None
    left.set_yticks(range(len(places)), [_short(place.arm.name) for place in places])
    left.set_ylim(len(places) - 0.4, -0.6)
    left.set_title("Train loss: first tenth ○ to last tenth ●")
    left.set_xlabel("nats per token")
    _reach(right, comparison, places, looks)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
    return figure


def _reach(axes: Axes, comparison: Comparison, places: Sequence[Standing], looks: dict[str, Look]) -> None:
    """The level to reach is the baseline's; without one, that of the last, which all others were ahead of."""
    base = next((place for place in places if place.arm.name == comparison.baseline), places[-1])
    whose = "the baseline" if comparison.has_baseline else "the last"
    lower = lower_is_better(comparison.metric)
    means = {
        place.arm.name: _mean_curve([curve(run, comparison.metric, "tokens") for run in place.arm.runs])
        for place in places
    }
    values = means[base.arm.name][1]
    target = float(values.min() if lower else values.max())
    grey: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": "#777777"}
    for row, place in enumerate(places):
        look = looks[place.arm.name]
        needed = spent_to_reach(means[place.arm.name], target, lower)
        if needed is None:
            axes.annotate("not reached", (0, row), (4, 0), **grey)
        else:
            axes.plot([0, needed], [row, row], color=look.colour, linewidth=1.6, alpha=0.5)
            _dots(axes, [needed], [row], look)
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title(f"Tokens to reach {target:.4f}, {whose}'s best")
    axes.set_xlabel("tokens trained on, by the mean curve over seeds")


def _efficiency(
    comparison: Comparison, places: Sequence[Standing], looks: dict[str, Look], unit: str
) -> Figure | None:
    """Left: tokens a second. Right: what was reached against the time it took."""
    figure = new_figure(11.5, max(3.6, 1.5 + 0.34 * len(places)))
    left, right = figure.subplots(1, 2)
    for row, place in enumerate(places):
        look = looks[place.arm.name]
        spent = [curve(run, comparison.metric, "seconds")[0][-1:] for run in place.arm.runs]
        tokens = [curve(run, comparison.metric, "tokens")[0][-1:] for run in place.arm.runs]
        pairs = [(t[0], s[0]) for t, s in zip(tokens, spent, strict=True) if len(t) and len(s) and s[0] > 0]
        if not pairs:
            continue
        speed = float(np.mean([t / s for t, s in pairs]))
        left.plot([0, speed], [row, row], color=look.colour, linewidth=1.6, alpha=0.5)
        _dots(left, [speed], [row], look)
        seconds = float(np.mean([s for _, s in pairs]))
        _dots(right, [seconds], [place.best.estimate], look)
    if not left.lines:
        return None
    from matplotlib.ticker import EngFormatter

    left.set_xlim(left=0)
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.set_yticks(range(len(places)), [_short(place.arm.name) for place in places])
    left.set_ylim(len(places) - 0.4, -0.6)
    left.grid(visible=False, axis="y")
    left.set_title("Throughput")
    left.set_xlabel("tokens a second")
    right.set_title("Reached, for the time it took")
    right.set_xlabel("seconds of training")
    right.set_ylabel(f"validation {unit}")
    right.margins(0.16)
    return figure


# ---- parts


def spent_to_reach(line: Series, target: float, lower: bool) -> float | None:
    """Return what was spent when a curve first reached `target`, interpolated; None where it never did."""
    spent, values = line
    reached = values <= target if lower else values >= target
    if not reached.any():
        return None
    first = int(np.argmax(reached))
    if first == 0:
        return float(spent[0])
    gap = values[first] - values[first - 1]
    share = (target - values[first - 1]) / gap
    return float(spent[first - 1] + share * (spent[first] - spent[first - 1]))


def _dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], look: Look, size: float = 6.5, **style: Any
) -> None:
    """Draw points, `size` across; `scatter` takes five times as long for the few there are."""
    axes.plot(x, y, "o", color=look.colour, markersize=size, zorder=3, **style)


def telling(drawn: Sequence[Series], lower: bool) -> np.ndarray:
    """Return the values that a frame must hold: the best of all, and those after each curve's first tenth.

    What comes before falls so far that it would hide the differences that follow.
    """
    if not drawn:
        return np.empty(0)
    whole = np.concatenate([values for _, values in drawn])
    best = whole[[whole.argmin() if lower else whole.argmax()]]
    return np.concatenate([best, *(values[spent >= spent[-1] / 10] for spent, values in drawn)])


def _frame(axes: Axes, title: str, unit: str, values: np.ndarray) -> None:
    """Name title and axes, and let the vertical one hold `values` alone."""
    decorate(axes, title, unit, values)
    if len(values):
        low, high = span(values)
        axes.set_ylim(max(low, 0.95 * float(values.min())) if axes.get_yscale() == "log" else low, high)


def _band(axes: Axes, lines: Sequence[Series], look: Look) -> list[Series]:
    """Draw the mean over seeds as far as all of them go, and the span between them in pale; return it."""
    lines = [line for line in lines if len(line[0])]
    if not lines:
        return []
    grid, values = _together(lines)
    if len(lines) > 1 and look.front:
        axes.fill_between(grid, values.min(0), values.max(0), color=look.colour, alpha=0.15, linewidth=0)
    axes.plot(grid, values.mean(0), marker="o" if len(grid) == 1 else None, markersize=4, **look.line)
    return [(grid, values.mean(0))]


def _together(lines: Sequence[Series]) -> Series:
    """Return the points (N,) of any curve as far as all of them go, and each curve's values (curves, N)."""
    end = min(line[0][-1] for line in lines)
    grid = np.unique(np.concatenate([line[0] for line in lines]))
    grid = grid[grid <= end]
    return grid, np.stack([np.interp(grid, *line) for line in lines])


def _mean_curve(lines: Sequence[Series]) -> Series:
    grid, values = _together(lines)
    return grid, values.mean(0)


def _logged(run: Digest) -> Series:
    tokens, loss = run.train["tokens"], run.train["train/loss"]
    keep = np.isfinite(tokens) & np.isfinite(loss)
    return tokens[keep], smoothed(loss[keep])


def _thinned(spent: np.ndarray, values: np.ndarray) -> Series:
    keep = np.unique(np.linspace(0, len(spent) - 1, min(len(spent), POINTS)).astype(int))
    return spent[keep], values[keep]


def _back_to_front(arms: Sequence[Arm], looks: dict[str, Look]) -> list[Arm]:
    order = list(looks)
    return sorted((arm for arm in arms if arm.name in looks), key=lambda arm: -order.index(arm.name))


def _legend(figure: Figure, looks: dict[str, Look]) -> None:
    """Names beside the panels, in the order of the standings."""
    from matplotlib.lines import Line2D

    front = [look for look in looks.values() if look.front]
    handles = [Line2D([], [], label=_short(look.name), **look.line) for look in front]
    if len(front) < len(looks):
        handles.append(Line2D([], [], label=f"{len(looks) - len(front)} others", color=PALE, linewidth=0.9))
    if len(looks) > 1:
        figure.legend(handles=handles, loc="outside right upper", fontsize=9)


def _short(name: str, most: int = 32) -> str:
    """A name that leaves room for the figure, cut in the middle: arms often differ at their ends."""
    half = most // 2
    return name if len(name) <= most else f"{name[: half - 1]}…{name[-half:]}"
