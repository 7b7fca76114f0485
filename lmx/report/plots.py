"""The figures of a run's report and of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.report.drawing import (
    CYCLE,
    Drawing,
    Series,
    curve,
    decorate,
    finite,
    new_figure,
    points,
    reference,
    save_drawings,
    smoothed,
    span,
)
from lmx.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_run(run: Run) -> list[tuple[Path, str]]:
    """Draw every figure that the run has records for; return (file, what it shows)."""
    drawings: list[Drawing] = [
        ("loss", "Training and validation loss by step", lambda: _loss(run)),
        ("bits_per_byte", "Validation bits per byte by step", lambda: _bits_per_byte(run)),
        ("dynamics", "What else was measured while training", lambda: _dynamics(run)),
    ]
    return save_drawings(run.folder.plots, drawings)


def plot_comparison(runs: Sequence[Run], labels: Sequence[str], folder: Path) -> list[tuple[Path, str]]:
    """Draw the runs over each other, by tokens; return (file, what it shows)."""

    def drawing(name: str, key: str, title: str, unit: str) -> Drawing:
        return name, f"{title}, by tokens", lambda: _overlaid(runs, labels, key, title, unit)

    drawings = [
        drawing("bits_per_byte", "val/bits_per_byte", "Validation bits per byte", "bits per byte"),
        drawing("validation_loss", "val/loss", "Validation loss", "nats per token"),
        drawing("training_loss", "train/loss", "Training loss (smoothed)", "nats per token"),
    ]
    return save_drawings(folder, drawings)


def _loss(run: Run) -> Figure | None:
    train, validation = finite(run.series("train/loss")), finite(run.series("val/loss"))
    return _whole_and_late(f"{run.name}: loss", "nats per token", train, validation)


def _bits_per_byte(run: Run) -> Figure | None:
    validation = finite(run.series("val/bits_per_byte"))
    nothing = (validation[0][:0], validation[1][:0])
    floor = run.last("val/floor_bits_per_byte")
    return _whole_and_late(f"{run.name}: bits per byte", "bits per byte", nothing, validation, floor)


def _whole_and_late(
    title: str, unit: str, train: Series, validation: Series, floor: float | None = None
) -> Figure | None:
    """Draw the curves whole; beside it without the first fifth, where its fall hides what comes after."""
    if not len(train[0]) and not len(validation[0]):
        return None
    known = [] if floor is None else [floor]
    whole = np.concatenate([train[1], validation[1], known])
    end = max(int(steps[-1]) for steps, _ in (train, validation) if len(steps))
    late = [values[steps >= end / 5] for steps, values in (train, validation)]
    rest = np.concatenate([*late, known])
    zoomed = max(map(len, late)) >= 3 and 2 * np.ptp(rest) < np.ptp(whole)
    figure = new_figure(11 if zoomed else 8, 4.2)
    panels = figure.subplots(1, 2 if zoomed else 1, squeeze=False)[0]
    for axes in panels:
        curve(axes, train)
        points(axes, validation)
        reference(axes, floor, "floor")
    decorate(panels[0], title, unit, whole)
    panels[0].legend(loc="upper right")
    if zoomed:
        decorate(panels[1], "the same without the first fifth", unit)
        panels[1].set_xlim(left=end / 5)
        panels[1].set_ylim(*span(rest))
    return figure


def _dynamics(run: Run) -> Figure | None:
    panels = [
        _panel(run, "train/pi", "Predictive integrity", "PI", log=True),
        _panel(run, "train/effective_gamma", "Effective gamma", "share of the exponent"),
        _panel(run, "train/entropy", "Entropy", "nats per token", other="val/entropy", log=True),
        _panel(run, "train/grad_norm", "Gradient norm, before clipping", "L2 norm", log=True),
        _panel(run, "train/lr", "Learning rate", "rate", smooth=False),
        _panel(run, "speed/tokens_per_second", "Throughput", "tokens per second", from_zero=True),
    ]
    known = [draw for draw in panels if draw is not None]
    if not known:
        return None
    columns = min(3, len(known))
    rows = math.ceil(len(known) / columns)
    figure = new_figure(4 * columns, 3 * rows)
    for place, draw in enumerate(known, start=1):
        draw(figure.add_subplot(rows, columns, place))
    return figure


def _panel(
    run: Run,
    key: str,
    title: str,
    unit: str,
    *,
    other: str | None = None,
    log: bool = False,
    smooth: bool = True,
    from_zero: bool = False,
) -> Callable[[Axes], None] | None:
    """Return how to draw one small panel, or None where nothing was recorded under `key`."""
    steps, values = finite(run.series(key))
    if not len(steps):
        return None

    def draw(axes: Axes) -> None:
        curve(axes, (steps, values), smooth=smooth)
        evaluations = finite(run.series(other)) if other else (steps[:0], values[:0])
        points(axes, evaluations, markersize=3)
        if len(evaluations[0]):
            axes.legend(loc="upper right")
        decorate(axes, title, unit, values if log else None)
        if from_zero:
            axes.set_ylim(0, float(np.quantile(values, 0.99)) * 1.15)

    return draw


def _overlaid(runs: Sequence[Run], labels: Sequence[str], key: str, title: str, unit: str) -> Figure | None:
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    kind = key.split("/")[0]
    drawn: list[np.ndarray] = []
    for number, (run, label) in enumerate(zip(runs, labels, strict=True)):
        tokens, values = run.column("tokens", kind), run.column(key, kind)
        keep = np.isfinite(tokens) & np.isfinite(values)
        if not keep.any():
            continue
        line = values[keep] if kind == "val" else smoothed(values[keep])
        style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if kind == "val" else {}
        style["linestyle"] = ("-", "--", ":")[number // len(CYCLE) % 3]
        axes.plot(tokens[keep], line, color=CYCLE[number % len(CYCLE)], linewidth=1.5, label=label, **style)
        drawn.append(line)
    if not drawn:
        return None
    floors = {floor for run in runs if (floor := run.last("val/floor_bits_per_byte")) is not None}
    if key == "val/bits_per_byte" and len(floors) == 1:
        reference(axes, next(iter(floors)), "floor")
        drawn.append(np.array(list(floors)))
    decorate(axes, title, unit, np.concatenate(drawn))
    axes.set_xlabel("tokens trained on")
    if len(runs) <= 14:  # more names would cover the curves; the table has them
        axes.legend(loc="upper right", fontsize=8)
    return figure
