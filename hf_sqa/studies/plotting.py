"""Shared parts of the figures of studies: reading the results table, colours, markers, labels, saving."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.evaluation.suite import Point
from hf_sqa.metrics import GREATER_IS_BETTER

#: The colours of Okabe and Ito, which colour-blind readers can tell apart, and some more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F", "#5D3A9B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
NAMES = {"srcc": "SRCC", "lcc": "LCC", "ktau": "Kendall's tau", "mse": "MSE", "rmse": "RMSE", "mae": "MAE"}
UNITS = {"mse": " (MOS points²)", "rmse": " (MOS points)", "mae": " (MOS points)"}
LEVEL_NAMES = {"utt": "clips", "sys": "systems", "con": "conditions"}
TITLE_CHARACTERS_PER_INCH = 11


class ResultTable:
    """Rows of one score and level, by model and test set, in the order of the table."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], score: str | None, level: str, test_sets: Sequence[str] | None = None):
        self.rows, self.level, self.asked_score, self.asked_test_sets = [dict(row) for row in rows], level, score, test_sets
        if not self.rows:
            raise ValueError("Expected rows of results to draw, got none.")
        score = score or self.rows[0]["score"]
        kept = [row for row in self.rows if row["score"] == score and row["level"] == level]
        if not kept:
            there = sorted({f"{row['score']} at level {row['level']}" for row in self.rows})
            raise ValueError(f"Expected rows of {score} at level {level}, got {', '.join(there)}.")
        known = list(dict.fromkeys(row["test_set"] for row in kept))
        absent = [name for name in test_sets or () if name not in known]
        if absent:
            raise ValueError(f"Expected test sets out of {', '.join(known)}, got {absent[0]!r}.")
        self.test_sets = list(test_sets or known)
        self.models = list(dict.fromkeys(row["model"] for row in kept))
        self._rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in kept:
            self._rows.setdefault((row["model"], row["test_set"], row["metric"]), []).append(row)

    def check(self, models: Sequence[str]) -> None:
        for model in models:
            if model not in self.models:
                raise ValueError(f"Expected models out of {', '.join(self.models)}, got {model!r}.")

    def point(self, model: str, test_set: str, metric: str) -> Point | None:
        return Point.of(self._rows.get((model, test_set, metric), []))

    def points(self, metric: str, models: Sequence[str] | None = None) -> list[Point]:
        """Return the points of some models, or of all, on every test set."""
        found = (self.point(model, name, metric) for model in models or self.models for name in self.test_sets)
        return [point for point in found if point is not None]

    def values_on(self, test_set: str, metric: str, models: Sequence[str] | None = None) -> dict[str, float]:
        """Return the values of some models, or of all, on one test set; models without a value are left out."""
        points = {model: self.point(model, test_set, metric) for model in models or self.models}
        return {model: point.value for model, point in points.items() if point is not None}

    def column(self, model: str, name: str) -> Any:
        """Return the value that all rows of a model have in a column."""
        return next((rows[0].get(name) for key, rows in self._rows.items() if key[0] == model), None)

    def number(self, model: str, name: str) -> float | None:
        value = self.column(model, name)
        return None if value is None or math.isnan(float(value)) else float(value)

    def mean_of(self, model: str, test_set: str, name: str) -> float | None:
        rows = [row for key, rows in self._rows.items() if key[:2] == (model, test_set) for row in rows]
        values = np.array([row.get(name) for row in rows], dtype=np.float64)  # None becomes NaN
        return None if np.isnan(values).all() else float(np.nanmean(values))


def best_of(values: Mapping[Any, float], metric: str) -> Any:
    """Return the key of the best value of a metric."""
    choose: Callable[..., Any] = max if GREATER_IS_BETTER[metric] else min
    return choose(values, key=lambda name: values[name])


def panels(lines: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Any, Any]:
    """Return a figure of a size in inches, drawn without a display, and its axes, `(lines, columns)`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False, **shared)


def draw_point(axis: Any, x: float, point: Point, number: int, filled: bool = True) -> None:
    """Draw a marker with its interval in the colour of a series."""
    if not math.isnan(point.low):
        axis.plot([x, x], [point.low, point.high], "-", color=colour(number), linewidth=1.0, alpha=0.55)
    face = colour(number) if filled else "white"
    axis.plot([x], [point.value], marker(number), color=colour(number), markersize=5.5, markerfacecolor=face)


def draw_line(axis: Any, points: Iterable[tuple[float, Point]], number: int, label: str, connected: bool = True) -> None:
    """Draw points with their intervals in the colour of a series, and add its entry to the legend."""
    points = list(points)
    for x, point in points:
        draw_point(axis, x, point, number)
    style, places = f"{'-' if connected else ''}{marker(number)}", [x for x, _ in points]
    axis.plot(places, [point.value for _, point in points], style, color=colour(number), linewidth=1.5, label=label)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def metric_label(metric: str, level: str | None = None) -> str:
    """Return the label of a metric with its unit and, if a level is given, the units it is computed over."""
    return NAMES[metric] + UNITS.get(metric, "") + (f", {LEVEL_NAMES[level]}" if level else "")


def rotation(names: Sequence[str]) -> int:
    """Return the rotation, in degrees, that makes tick labels fit."""
    longest = max((len(name) for name in names), default=0)
    return 0 if longest * len(names) < 40 else 45 if len(names) <= 8 else 90


def style_axis(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e3e3e3", linewidth=0.6)
    axis.set_axisbelow(True)


def legend_beside(axis: Any, title: str | None = None) -> None:
    """Place the legend to the right of an axis."""
    axis.legend(title=title or None, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def save_figure(figure: Any, path: str | Path, title: str) -> Any:
    """Save a figure with a title, wrapped to its width. The suffix of the file gives the format."""
    width = round(TITLE_CHARACTERS_PER_INCH * figure.get_figwidth())
    wrapped = "\n".join(line for part in title.split("\n") for line in textwrap.wrap(part, width) or [""])
    figure.suptitle(wrapped, fontsize=11, x=0.01, ha="left", parse_math=False)
    figure.savefig(path)
    return figure
