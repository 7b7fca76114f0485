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

POINTS = 1000  # stretches of a curve that are drawn, each as its lowest and highest value
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
    "figure.dpi": 110,
}


def save_drawings(folder: Path, drawings: Sequence[Drawing]) -> list[tuple[Path, str]]:
    """Draw each figure that there are records for into `folder`; return (file, what it shows)."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    saved = []
    with matplotlib.rc_context(STYLE):
        for name, text, draw in drawings:
            figure = draw()
            if figure is not None:
                buffer = io.BytesIO()
                # straight to the canvas: `savefig` would lay out and draw everything twice
                FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 4})
                saved.append((write_atomic(folder / f"{name}.png", buffer.getvalue()), text))
    return saved


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of width × height inches that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    gap: tuple[float, float] = (0.95, 0.9),
    right: float = 0.15,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels of width × height inches each, row by row.

    `gap` is the room between columns, for the labels of the vertical axis, and between rows; `right` that
    beside the last column; all in inches. A layout that is measured takes half as long again as the drawing.
    """
    from matplotlib.figure import Figure

    left, bottom, top = 0.8, 0.55, 0.35  # for labels, and for the title
    width = left + columns * size[0] + (columns - 1) * gap[0] + right
    height = bottom + rows * size[1] + (rows - 1) * gap[1] + top
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=gap[0] / size[0],
        hspace=gap[1] / size[1],
    )
    return figure, list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)


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


def thinned(series: Series) -> Series:
    """Keep the lowest and the highest of every few values, where there are more than a figure has pixels."""
    steps, values = series
    size = len(values) // POINTS
    if size < 4:
        return series
    whole = len(values) // size * size
    bins = values[:whole].reshape(-1, size)
    starts = np.arange(0, whole, size)
    kept = np.concatenate([starts + bins.argmin(1), starts + bins.argmax(1), [len(values) - 1]])
    kept = np.unique(kept)
    return steps[kept], values[kept]


def curve(axes: Axes, series: Series, *, smooth: bool = True) -> None:
    """Draw what was recorded while training; where it is noisy, in pale and with its moving mean over it."""
    steps, values = series
    if not len(steps):
        return
    line = smoothed(values) if smooth else values
    if line is not values:
        axes.plot(*thinned((steps, values)), color=TRAIN, alpha=0.25, linewidth=0.8)
    axes.plot(*thinned((steps, line)), color=TRAIN, linewidth=1.6, label="train")


def points(axes: Axes, series: Series, **style: Any) -> None:
    """Draw evaluations: points, joined by a line."""
    if len(series[0]):
        style = {"color": VALIDATION, "label": "validation", "marker": "o", "markersize": 4, **style}
        axes.plot(*series, linewidth=1.4, **style)


def reference(axes: Axes, value: float | None, text: str) -> None:
    """Draw a dashed line across at `value` with `text` on it."""
    if value is not None:
        axes.axhline(value, color=REFERENCE, linestyle="--", linewidth=1.2)
        place: dict[str, Any] = {
            "transform": axes.get_yaxis_transform(),
            "ha": "right",
            "va": "bottom",
            "fontsize": 9,
        }
        axes.text(0.99, value, text, color=REFERENCE, **place)


def mark(axes: Axes, x: float, y: float, text: str) -> None:
    """Ring one point and write `text` below it, to the side where there is more room."""
    axes.plot([x], [y], marker="o", markersize=10, markerfacecolor="none", color=VALIDATION)
    low, high = axes.get_xlim()
    side = "right" if x > (low + high) / 2 else "left"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    style: dict[str, Any] = {"fontsize": 9, "color": VALIDATION, "ha": side, "va": "top", "bbox": box}
    axes.annotate(text, (x, y), xytext=(0, -9), textcoords="offset points", **style)
    bottom, top = axes.get_ylim()
    if axes.get_yscale() == "linear":  # room for the text
        axes.set_ylim(min(bottom, y - 0.12 * (top - bottom)), top)


def decorate(
    axes: Axes, title: str, unit: str, values: np.ndarray | None = None, budget: str = "step"
) -> None:
    """Name title and axes; where `values` are given and span a factor of 3, make the scale logarithmic."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullLocator

    axes.set_title(title)
    axes.set_xlabel(budget)
    axes.set_ylabel(unit)
    axes.set_xlim(left=0)
    whole_numbers = axes.get_xlim()[1] >= 10
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole_numbers))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if values is not None and spans_decades(values):
        axes.set_yscale("log")
        axes.set_ylabel(f"{unit} (log scale)" if unit else "")
        axes.set_yticks(log_ticks(float(values.min()), float(values.max())))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))


def spans_decades(values: np.ndarray) -> bool:
    """Whether values, all positive, span a factor of 3, so that a logarithmic scale shows more."""
    return len(values) > 0 and bool(0 < 3 * values.min() <= values.max())


def log_ticks(low: float, high: float) -> list[float]:
    """At most 8 round numbers from `low` to `high`: the coarsest set of at least 4, or of tenths."""
    halves, tenths = (tuple(part / size for part in range(size, 10 * size)) for size in (2, 10))
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10), halves, tenths):
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


def tick_label(value: float) -> str:
    """A number at an axis: ``0.35``, ``8k``, ``3e-5``, ``1e30``."""
    if 1000 <= abs(value) < 1e9:
        return f"{value / 1000:.6g}k" if abs(value) < 1e6 else f"{value / 1e6:.6g}M"
    if 0 < abs(value) < 1e-3 or abs(value) >= 1e9:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"
