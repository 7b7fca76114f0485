"""How figures look: colours, axes, scales, smoothing. matplotlib is imported only when something is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmx.runs import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[np.ndarray, np.ndarray]  # steps (N,), values (N,)
Drawing = tuple[str, str, Callable[[], "Figure | None"]]  # file name, what it shows, how it is drawn

# Okabe and Ito's palette: told apart by colour-blind readers too
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
TRAIN, VALIDATION, REFERENCE = CYCLE[0], CYCLE[1], CYCLE[6]
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 110,
}


def save_drawings(folder: Path, drawings: Sequence[Drawing]) -> list[tuple[Path, str]]:
    """Draw each figure that there are records for into `folder`; return (file, what it shows)."""
    import matplotlib

    saved = []
    with matplotlib.rc_context(STYLE):
        for name, text, draw in drawings:
            figure = draw()
            if figure is not None:
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png")
                saved.append((write_atomic(folder / f"{name}.png", buffer.getvalue()), text))
    return saved


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of width × height inches that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def finite(series: Series) -> Series:
    """Leave out NaN and infinities."""
    steps, values = series
    keep = np.isfinite(values)
    return steps[keep], values[keep]


def smoothed(values: np.ndarray) -> np.ndarray:
    """Moving mean (N,) over a fiftieth of the values, centred; over fewer where an end is near."""
    half = len(values) // 100
    if half == 0:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    # symmetric at the start, where curves fall steeply; at the end the window just runs out
    before = np.minimum(half, index)
    after = np.minimum(before, len(values) - 1 - index)
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def curve(axes: Axes, series: Series, *, smooth: bool = True) -> None:
    """Draw what was recorded while training; where it is noisy, in pale and with its moving mean over it."""
    steps, values = series
    if not len(steps):
        return
    line = smoothed(values) if smooth else values
    if line is not values:
        axes.plot(steps, values, color=TRAIN, alpha=0.25, linewidth=0.8)
    axes.plot(steps, line, color=TRAIN, linewidth=1.6, label="train")


def points(axes: Axes, series: Series, **style: Any) -> None:
    """Draw evaluations: points, joined by a line."""
    if len(series[0]):
        style = {"color": VALIDATION, "label": "validation", "marker": "o", "markersize": 4, **style}
        axes.plot(*series, linewidth=1.4, **style)


def reference(axes: Axes, value: float | None, name: str) -> None:
    """Draw a dashed line across at `value`, which its label gives."""
    if value is not None:
        axes.axhline(value, color=REFERENCE, linestyle="--", linewidth=1.2, label=f"{name} {value:.4f}")


def decorate(axes: Axes, title: str, unit: str, values: np.ndarray | None = None) -> None:
    """Name title and axes; where `values` are given and span a factor of 3, make the scale logarithmic."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullLocator

    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if values is not None and len(values) and 0 < 3 * values.min() <= values.max():
        axes.set_yscale("log")
        axes.set_ylabel(f"{unit} (log scale)")
        axes.set_yticks(log_ticks(float(values.min()), float(values.max())))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def log_ticks(low: float, high: float) -> list[float]:
    """At most 8 round numbers from `low` to `high`: the coarsest set of at least 4, or of tenths."""
    tenths = tuple(part / 10 for part in range(10, 100))
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tenths):
        ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: max(1, math.ceil(len(ticks) / 8))]


def span(values: np.ndarray) -> tuple[float, float]:
    """Limits that hold all values and a twentieth more on both sides."""
    low, high = float(values.min()), float(values.max())
    margin = (high - low) / 20 or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"
