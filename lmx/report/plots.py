"""The figures of a run's report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.report.columns import best_index
from lmx.report.drawing import (
    Drawing,
    Series,
    curve,
    decorate,
    finite,
    log_ticks,
    mark,
    new_panels,
    points,
    reference,
    save_drawings,
    span,
    tick_label,
)
from lmx.report.facts import bits_of_a_nat, floor_nats
from lmx.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_run(run: Run) -> list[tuple[Path, str]]:
    """Draw every figure that the run has records for; return (file, what it shows)."""
    drawings: list[Drawing] = [
        ("loss", "Training and validation loss by step", lambda: _loss(run)),
        ("cost", "The same loss by tokens, training time and FLOPs", lambda: _cost(run)),
        ("dynamics", "What else was measured while training", lambda: _dynamics(run)),
    ]
    return save_drawings(run.folder.plots, drawings)


@dataclass(frozen=True)
class _Loss:
    """What the figures of loss show: against the step, or against one of the budgets."""

    train: Series
    validation: Series
    floor: float | None  # nats per token
    ratio: float | None  # bits per byte of one nat per token, on the validation text

    @property
    def values(self) -> np.ndarray:
        """Everything that is drawn."""
        known = [] if self.floor is None else [self.floor]
        return np.concatenate([self.train[1], self.validation[1], known])

    def late(self) -> _Loss | None:
        """Without the first fifth, where its fall hides what comes after; None where it does not."""
        end = max(float(spent[-1]) for spent, _ in (self.train, self.validation) if len(spent))
        kept = [(spent[spent >= end / 5], values[spent >= end / 5]) for spent, values in self.curves]
        late = _Loss(kept[0], kept[1], self.floor, self.ratio)
        enough = max(len(spent) for spent, _ in kept) >= 3
        return late if enough and 2 * np.ptp(late.values) < np.ptp(self.values) else None

    @property
    def curves(self) -> tuple[Series, Series]:
        """Training, validation."""
        return self.train, self.validation


def _loss_by(run: Run, budget: str) -> _Loss | None:
    """Read the losses against `budget`, a name in every record; None where there are none."""
    train, validation = (
        finite((run.column(budget, kind), run.column(f"{kind}/loss", kind))) for kind in ("train", "val")
    )
    if not len(train[0]) and not len(validation[0]):
        return None
    return _Loss(train, validation, floor_nats(run), bits_of_a_nat(run))


def _loss(run: Run) -> Figure | None:
    """The whole run, and beside it its later part, with the best evaluation marked."""
    found = _loss_by(run, "step")
    if found is None:
        return None
    late = found.late()
    right = 0.15 if found.ratio is None else 0.85  # for bits per byte
    size = (4.5, 3.3) if late else (6.4, 3.3)
    figure, panels = new_panels(1, 2 if late else 1, size, gap=(0.6, 0), right=right)
    for axes in panels:
        _draw_loss(axes, found)
    decorate(panels[0], f"{run.name}: loss", "nats per token", found.values)
    panels[0].legend(loc="upper right")
    if late is not None:
        decorate(panels[1], "Without the first fifth", "")
        panels[1].set_xlim(left=float(min(spent[0] for spent, _ in late.curves if len(spent))))
        panels[1].set_ylim(*span(late.values))
    best = best_index(found.validation[1], "low")
    if best is not None and best > 0:
        step, value = (float(part[best]) for part in found.validation)
        mark(panels[-1], step, value, f"best {value:.4f} at step {step:,.0f}")
    _add_bits_axis(panels[-1], found.ratio)
    return figure


def _draw_loss(axes: Axes, found: _Loss) -> None:
    curve(axes, found.train)
    points(axes, found.validation)
    if found.floor is not None and found.ratio is not None:
        reference(axes, found.floor, f"entropy of the corpus, {found.floor * found.ratio:.4f} bits per byte")


def _add_bits_axis(axes: Axes, ratio: float | None) -> None:
    """Show the same heights in bits per byte at the right: for one text and tokenizer a constant factor."""
    if ratio is None:
        return
    from matplotlib.ticker import FuncFormatter, NullLocator

    def to_bits(nats: Any) -> Any:
        return nats * ratio

    def to_nats(bits: Any) -> Any:
        return bits / ratio

    axis = axes.secondary_yaxis("right", functions=(to_bits, to_nats))
    axis.set_ylabel("validation bits per byte")
    if axes.get_yscale() == "log":
        low, high = (limit * ratio for limit in axes.get_ylim())
        axis.set_yticks(log_ticks(low, high))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))


def _cost(run: Run) -> Figure | None:
    """What the loss cost: of the later part where there is one, else of the whole."""
    scale, unit = _time_unit(run.last("seconds"))
    budgets = {"tokens": "tokens trained on", "seconds": f"{unit} of training", "flops": "FLOPs of training"}
    known = {name: found for name in budgets if (found := _loss_by(run, name)) is not None}
    if not known:
        return None
    figure, panels = new_panels(1, len(known), (9.9 / len(known), 2.7), gap=(0.2, 0), sharey=True)
    late = {name: found.late() for name, found in known.items()}
    for axes, (name, found) in zip(panels, known.items(), strict=True):
        per = scale if name == "seconds" else 1.0
        train, validation = ((spent / per, loss) for spent, loss in (late[name] or found).curves)
        curve(axes, train)
        points(axes, validation)
        values = None if late[name] else found.values
        decorate(axes, "", "nats per token" if axes is panels[0] else "", values, budget=budgets[name])
    panels[0].set_title("What it cost" + (", without the first fifth" if any(late.values()) else ""))
    panels[0].legend(loc="upper right")
    return figure


def _time_unit(seconds: float | None) -> tuple[float, str]:
    """Seconds in the unit, and its name, that suits a run of this length."""
    if seconds is None or seconds < 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def _dynamics(run: Run) -> Figure | None:
    panels = [
        _panel(run, "train/pi", "Predictive integrity", "PI", log=True),
        _panel(run, "train/effective_gamma", "Effective gamma", "share of the exponent"),
        _panel(run, "train/entropy", "Entropy", "nats per token", other="val/entropy", log=True),
        _panel(run, "train/grad_norm", "Gradient norm, before clipping", "L2 norm", log=True),
        _panel(run, "train/cosine", "Cosine distance", "1 − cos", other="val/cosine"),
        _panel(run, "train/lr", "Learning rate", "rate", smooth=False),
        _panel(run, "speed/tokens_per_second", "Throughput", "tokens per second", from_zero=True),
    ]
    known = [draw for draw in panels if draw is not None]
    if not known:
        return None
    columns = min(3, len(known))
    rows = math.ceil(len(known) / columns)
    figure, places = new_panels(rows, columns, (3.0, 2.1))
    for axes in places[len(known) :]:
        axes.remove()
    for axes, draw in zip(places, known, strict=False):
        draw(axes)
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
