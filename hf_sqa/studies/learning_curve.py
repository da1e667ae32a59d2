"""The figure that shows whether more labels would help: agreement against the number of labelled clips."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.evaluation.suite import Point
from hf_sqa.metrics import GREATER_IS_BETTER
from hf_sqa.studies.plotting import NAMES, ResultTable, colour, marker, metric_label, panels, save_figure, style_axis

#: Doubling the labels is not worth its cost if it gains less than this, in a correlation or in MOS points.
NEGLIGIBLE_GAIN = 0.01
#: Number of sizes at the upper end of a learning curve to fit its slope to.
SLOPE_SIZES = 3


@dataclass(frozen=True)
class Growth:
    """The gain from doubling the labels at the upper end of a learning curve."""

    gain: float  # change of the metric, positive for better
    # its 95 % interval, by Student's t over the seeds' slopes (with one seed, over its points); NaN if there are too few
    low: float
    high: float
    verdict: str  # `"yes"`, `"hardly"` (the interval lies below `NEGLIGIBLE_GAIN`) or `"open"`
    sentence: str  # the result in words


def draw_learning_curve(
    table: ResultTable, path: str | Path, metric: str = "srcc", x: str = "num_train", references: Sequence[str] = ()
) -> Any:
    """Draw agreement against the number of labelled clips: a panel for each test set, a line for each series.

    Args:
        x (`str`, *optional*, defaults to `"num_train"`): Column with the number of clips; `variable_n` for `for: {n: ...}`.
        references (sequence of `str`, *optional*): Models drawn as a horizontal line.
    """
    curves = _curves(table, x, references)
    columns = min(len(table.test_sets), 3)
    lines = math.ceil(len(table.test_sets) / columns)
    figure, grid = panels(lines, columns, max(4.4 * columns, 7.0), 3.5 * lines + 1.1, sharex=True, sharey=True)
    axes = grid.ravel()
    verdicts: dict[tuple[str, str], Growth] = {}
    sizes = sorted({table.number(model, x) or 0.0 for members in curves.values() for model in members})
    for place, test_set in enumerate(table.test_sets):
        axis = axes[place]
        for number, (curve, members) in enumerate(curves.items()):
            placed = [(table.number(model, x) or 0.0, table.point(model, test_set, metric)) for model in members]
            points = [(size, point) for size, point in placed if point is not None]
            _draw_curve(axis, points, number, curve)
            verdicts[curve, test_set] = growth([(size, point.seeds) for size, point in points], metric)
        for number, reference in enumerate(references, start=len(curves)):
            known = table.point(reference, test_set, metric)
            if known is not None:
                style = (0, (4, 2)) if number % 2 else ":"
                axis.axhline(known.value, color=colour(number), linestyle=style, linewidth=1.4, label=reference)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=45 if len(sizes) > 6 else 0)
        axis.minorticks_off()
        axis.set_title(test_set, fontsize=10, loc="left")
        axis.set_xlabel("labelled clips trained on" if x == "num_train" else "labelled clips")
        if place % columns == 0:
            axis.set_ylabel(metric_label(metric, table.level))
        style_axis(axis)
    for axis in axes[len(table.test_sets) :]:
        axis.set_visible(False)
    axes[0].legend(frameon=False, fontsize=9, loc="best")
    title = _title(verdicts, metric, sizes[-1])
    return save_figure(figure, path, f"{title}\nband: 95 % interval over test clips; dots: seeds")


def _curves(table: ResultTable, x: str, references: Sequence[str]) -> dict[str, list[str]]:
    table.check(references)
    sizes = {model: table.number(model, x) for model in table.models if model not in references}
    curves: dict[str, list[str]] = {}
    for model, _ in sorted(((model, size) for model, size in sizes.items() if size is not None), key=lambda entry: entry[1]):
        curves.setdefault(str(table.column(model, "series") or ""), []).append(model)
    if not curves or any(len({sizes[model] for model in members}) < 2 for members in curves.values()):
        raise ValueError(f"Expected curves of two sizes or more in the column {x!r}, got {curves or 'none'}.")
    return curves


def _draw_curve(axis: Any, points: Sequence[tuple[float, Point]], number: int, name: str) -> None:
    sizes = [size for size, _ in points]
    lows, highs = [point.low for _, point in points], [point.high for _, point in points]
    axis.fill_between(sizes, lows, highs, color=colour(number), alpha=0.15, lw=0)
    means = [point.value for _, point in points]
    axis.plot(sizes, means, "-", color=colour(number), linewidth=1.8, label=name or "mean of the seeds")
    for size, point in points:
        values = list(point.seeds.values())
        axis.plot([size] * len(values), values, marker(number), color=colour(number), ms=3.5, alpha=0.7)


def _title(verdicts: Mapping[tuple[str, str], Growth], metric: str, largest: float) -> str:
    """Return the sentence of a single curve, or a line for each of several."""
    if len(verdicts) == 1:
        return next(iter(verdicts.values())).sentence
    words = {"yes": "more labels would help", "hardly": "more labels would hardly help", "open": "open"}
    lines = [f"What doubling the labels gains in {NAMES[metric]} at the upper end, up to {largest:,.0f} clips:"]
    for (curve, name), verdict in verdicts.items():
        interval = "" if math.isnan(verdict.low) else f" [{verdict.low:+.3f}, {verdict.high:+.3f}]"
        lines.append(f"{' on '.join(filter(None, (curve, name)))}: {verdict.gain:+.3f}{interval}, {words[verdict.verdict]}")
    return "\n".join(lines)


def growth(points: Sequence[tuple[float, Mapping[Any, float]]], metric: str) -> Growth:
    """Estimate whether more labels would help, from the slope over the log of the number of clips at the three largest sizes."""
    from scipy.special import stdtrit
    from scipy.stats import linregress

    sign = 1.0 if GREATER_IS_BETTER[metric] else -1.0
    last = sorted(points, key=lambda point: point[0])[-SLOPE_SIZES:]
    if len(last) < 2:
        return Growth(math.nan, math.nan, math.nan, "open", "Whether more labels would help cannot be said from one size.")
    seeds = [seed for seed in last[0][1] if all(seed in values for _, values in last)]
    logs = np.log2([size for size, _ in last])
    lines = [linregress(logs, [values[seed] for _, values in last]) for seed in seeds]
    slopes = np.array([sign * line.slope for line in lines])
    half = math.nan
    if len(slopes) > 1:
        half = float(stdtrit(len(slopes) - 1, 0.975) * slopes.std(ddof=1)) / math.sqrt(len(slopes))
    elif len(slopes) == 1 and len(last) > 2:
        half = float(stdtrit(len(last) - 2, 0.975) * lines[0].stderr)
    gain = float(slopes.mean()) if len(slopes) else math.nan
    low, high = gain - half, gain + half
    name = f"{NAMES[metric]}" + ("" if GREATER_IS_BETTER[metric] else " (less error)")
    sentence = f"a doubling gains {gain:+.3f} [{low:+.3f}, {high:+.3f}] {name} at {last[-1][0]:,.0f} clips"
    if high < NEGLIGIBLE_GAIN:
        return Growth(gain, low, high, "hardly", f"More labels would hardly help: {sentence}")
    if low > 0:
        return Growth(gain, low, high, "yes", f"More labels would help: {sentence}")
    if math.isnan(half):
        return Growth(gain, low, high, "open", f"A doubling gained {gain:+.3f} {name}; one seed does not say how certain that is")
    return Growth(gain, low, high, "open", f"Whether more labels would help is open: {sentence}")
