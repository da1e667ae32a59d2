"""Figures of studies, drawn from the results table alone. Titles state the result; points of several seeds are means.

`by_test_set` and `spread` are Figures 1 and 2 of "Exploring the influence of fine-tuning data on wav2vec 2.0 model for blind speech
quality prediction", `sweep` is Figure 2 of the MTQ-Net paper, `size` Figure 3 of "Distillation and Pruning for Scalable
Self-Supervised Representation-Based Speech Quality Assessment". Bars and bands are 95 % bootstrap intervals over test clips; with
several seeds, their ends are averaged.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.choices import did_you_mean
from hf_sqa.evaluation.suite import OVERLAP_MARKS, Point, legend
from hf_sqa.metrics import GREATER_IS_BETTER
from hf_sqa.studies.plotting import (
    LEVEL_NAMES,
    NAMES,
    ResultTable,
    best_of,
    colour,
    draw_line,
    draw_point,
    legend_beside,
    marker,
    metric_label,
    panels,
    rotation,
    save_figure,
    style_axis,
)
from hf_sqa.studies.results import clip_weighted_means

#: For the title of `size`, a model within this distance of the best counts as equally good.
MARGIN = 0.02
#: Doubling the labels is not worth its cost if it gains less than this, in a correlation or in MOS points.
NEGLIGIBLE_GAIN = 0.01
#: Number of sizes at the upper end of a learning curve to fit its slope to.
SLOPE_SIZES = 3


def draw(
    kind: str,
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    level: str = "utt",
    score: str | None = None,
    test_sets: Sequence[str] | None = None,
    clip_weighted: bool = False,
    **options: Any,
) -> Any:
    """Draw a figure of the table into a PNG, SVG or PDF. `kind` is one of `KINDS`; further options are those of its function.

    With `clip_weighted`, [`clip_weighted_means`] replace the test sets, as in Figure 3 of the paper on distillation.

    Raises:
        ValueError: If the kind is unknown, or the rows lack what it shows.
        TypeError: If the kind does not have an option.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected a figure out of {', '.join(KINDS)}, got {kind!r}{did_you_mean(kind, KINDS)}")
    known = [*list(inspect.signature(KINDS[kind]).parameters)[2:], "level", "score", "test_sets", "clip_weighted"]
    for option in options:
        if option not in known:
            raise TypeError(f"Unknown option {option!r} of the figure {kind!r}; expected one of {', '.join(known)}.")
    if clip_weighted:
        rows, test_sets = clip_weighted_means(rows, test_sets), None
    return KINDS[kind](ResultTable(rows, score, level, test_sets=test_sets), path, **options)


def draw_by_test_set(
    table: ResultTable,
    path: str | Path,
    groups: Mapping[str, Sequence[str]] | None = None,
    metrics: Sequence[str] = ("srcc", "lcc", "mse"),
) -> Any:
    """Draw agreement on every test set: a series for each model, a column for each metric, a row for each group of models."""
    groups = groups or {"": table.models}
    figure, axes = panels(len(groups), len(metrics), 4.3 * len(metrics), 3.1 * len(groups) + 0.9, sharex=True)
    # A model has the same colour in every group.
    numbers = {model: number for number, model in enumerate(dict.fromkeys(name for models in groups.values() for name in models))}
    for row, (group, models) in enumerate(groups.items()):
        table.check(models)
        for axis, metric in zip(axes[row], metrics, strict=True):
            for at, model in enumerate(models):
                shift = (at - (len(models) - 1) / 2) * 0.7 / max(len(models), 1)
                for place, test_set in enumerate(table.test_sets):
                    point = table.point(model, test_set, metric)
                    if point is not None:
                        draw_point(axis, place + shift, point, numbers[model], filled=point.overlap != "clips")
                axis.plot([], [], marker(numbers[model]), color=colour(numbers[model]), label=model)
            axis.set_xticks(range(len(table.test_sets)), table.test_sets, rotation=rotation(table.test_sets), ha="center")
            axis.set_ylabel(metric_label(metric))
            for place in range(1, len(table.test_sets)):
                axis.axvline(place - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
            if row == 0:
                better = "higher" if GREATER_IS_BETTER[metric] else "lower"
                axis.set_title(f"{NAMES[metric]} ({better} is better)", fontsize=10)
            style_axis(axis)
        legend_beside(axes[row][-1], group)
    hollow = any(point.overlap == "clips" for metric in metrics for point in table.points(metric, list(numbers)))
    note = f"\nhollow: {OVERLAP_MARKS['clips'][1]}" if hollow else ""
    return save_figure(figure, path, _wins(table, list(numbers), metrics[0]) + note)


def _wins(table: ResultTable, models: Sequence[str], metric: str) -> str:
    values_on_each = filter(None, (table.values_on(test_set, metric, models) for test_set in table.test_sets))
    wins = Counter(best_of(values, metric) for values in values_on_each)
    counts = ", ".join(f"{model} on {count}" for model, count in wins.most_common())
    return f"Best {NAMES[metric]} of {len(table.test_sets)} test sets: {counts}"


def draw_spread(
    table: ResultTable, path: str | Path, models: Sequence[str] | None = None, metrics: Sequence[str] = ("srcc", "lcc", "mse")
) -> Any:
    """Draw box plots over test sets, one per model: median, quartiles, whiskers to the extremes, a dot for every test set."""
    models = list(models or table.models)
    table.check(models)
    if len(table.test_sets) < 2:
        raise ValueError(f"Expected two test sets or more for box plots, got {', '.join(table.test_sets)}.")
    columns = min(len(metrics), 3 if len(models) < 6 else 2)
    lines = math.ceil(len(metrics) / columns)
    figure, grid = panels(lines, columns, max(3.6, 0.5 * len(models) + 1.4) * columns, 3.7 * lines + 0.4)
    axes = grid.ravel()
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    grey = {"color": "#555555"}
    median = {"color": "black", "linewidth": 1.8}
    for axis, metric in zip(axes, metrics, strict=False):
        values = [[point.value for point in table.points(metric, [model])] for model in models]
        axis.boxplot(values, whis=(0, 100), widths=0.55, medianprops=median, boxprops=grey, whiskerprops=grey, capprops=grey)
        for place, values_of_model in enumerate(values, start=1):
            count = len(values_of_model)
            offsets = np.linspace(-0.16, 0.16, count) if count > 1 else np.zeros(count)
            axis.plot(place + offsets, values_of_model, marker(place - 1), color=colour(place - 1), markersize=5)
        axis.set_xticks(range(1, len(models) + 1), models, rotation=rotation(models))
        axis.set_ylabel(f"{metric_label(metric)}, {len(table.test_sets)} test sets")
        style_axis(axis)
    values_of = {model: found for model in models if (found := [point.value for point in table.points(metrics[0], [model])])}
    if not values_of:
        raise ValueError(f"Expected {NAMES[metrics[0]]} of a model on a test set, got none that is defined.")
    medians = {model: float(np.median(values)) for model, values in values_of.items()}
    spans = {model: float(np.ptp(values)) for model, values in values_of.items()}
    best, steady = best_of(medians, metrics[0]), min(spans, key=lambda name: spans[name])
    title = f"{best} has the best median {NAMES[metrics[0]]} over {len(table.test_sets)} test sets ({medians[best]:.2f}); "
    if best == steady:
        title += f"it also varies least ({spans[best]:.2f})"
    else:
        title += f"{steady} varies least ({spans[steady]:.2f} from end to end)"
    return save_figure(figure, path, title)


def draw_transfer_matrix(table: ResultTable, path: str | Path, metric: str = "srcc", own: Mapping[str, str] | None = None) -> Any:
    """Draw a heat map with numbers: training sets (rows) against test sets (columns).

    `own` names the test set that matches a model and is framed; by default, the test set of the same name.
    """
    from matplotlib.patches import Rectangle

    models = table.models
    own = own or {model: model for model in models if model in table.test_sets}
    if absent := [name for name in own.values() if name not in table.test_sets]:
        raise ValueError(f"Expected test sets out of {', '.join(table.test_sets)} in `own`, got {absent[0]!r}.")
    figure, [[axis]] = panels(1, 1, max(6.4, 1.15 * len(table.test_sets) + 3.2), 0.62 * len(models) + 2.0)
    points = {(model, test_set): table.point(model, test_set, metric) for model in models for test_set in table.test_sets}
    values = {cell: math.nan if point is None else point.value for cell, point in points.items()}
    grid = np.array([[values[model, test_set] for test_set in table.test_sets] for model in models])
    colours = "cividis" if GREATER_IS_BETTER[metric] else "cividis_r"
    image = axis.imshow(np.ma.masked_invalid(grid), cmap=colours, aspect="auto")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for row, model in enumerate(models):
        for column, test_set in enumerate(table.test_sets):
            point = points[model, test_set]
            if point is None:
                axis.text(column, row, "-", ha="center", va="center", color="#777777")
                continue
            shade = "black" if (point.value > middle) == GREATER_IS_BETTER[metric] else "white"
            spread = "" if point.deviation is None else f"\n± {point.deviation:.2f}"
            text = f"{point.value:.2f}{point.mark}{spread}"
            axis.text(column, row, text, ha="center", va="center", fontsize=9, linespacing=1.1, color=shade)
            if own.get(model) == test_set:
                corner = (column - 0.48, row - 0.46)
                axis.add_patch(Rectangle(corner, 0.96, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.2))
    axis.set_xticks(range(len(table.test_sets)), table.test_sets)
    axis.set_yticks(range(len(models)), models)
    axis.set(xlabel="tested on", ylabel="model, by what it was trained on")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label=metric_label(metric))
    present = [point for point in points.values() if point is not None]
    seeds = max((len(point.seeds) for point in present), default=1)
    notes = [f"mean of {seeds} seeds ± their standard deviation"] if seeds > 1 else []
    return save_figure(
        figure, path, "\n".join([_matched_or_not(values, models, own, metric, table.level), *notes, *legend(present)])
    )


def _matched_or_not(
    values: Mapping[tuple[str, str], float], models: Sequence[str], own: Mapping[str, str], metric: str, level: str
) -> str:
    """Return the title of a matrix: agreement where training and test sets match, against where they do not."""
    pairs = [(model, test_set) for model, test_set in own.items() if model in models]
    matched = [values[pair] for pair in pairs]
    others = [values[model, other] for model, test_set in pairs for other in dict.fromkeys(own.values()) if other != test_set]
    if matched and others:
        means = np.nanmean(matched), np.nanmean(others)
        return f"{NAMES[metric]} {means[0]:.2f} where training and test match (framed), {means[1]:.2f} where not"
    return f"{NAMES[metric]} of {LEVEL_NAMES[level]} with listeners, trained on against tested on"


def draw_sweep(table: ResultTable, path: str | Path, variable: str, metrics: Sequence[str] = ("lcc", "srcc", "mse")) -> Any:
    """Draw agreement against a variable of `for`, such as the delta of a Huber loss, or the loss itself.

    The lines are the scores of the models on one test set if there are several scores, else the test sets.
    """
    column = f"variable_{variable}"
    rows = [row for row in table.rows if row.get(column) is not None]
    if not rows:
        raise ValueError(f"Expected models made with `for: {{{variable}: [...]}}` in the table, got none.")
    scores = list(dict.fromkeys(row["score"] for row in rows)) if table.asked_score is None else [table.asked_score]
    sets = ResultTable(rows, scores[0], table.level, test_sets=table.asked_test_sets).test_sets
    if len(scores) > 1:
        lines = {name: (ResultTable(rows, name, table.level, test_sets=sets[:1]), sets[0]) for name in scores}
    else:
        lines = {name: (ResultTable(rows, scores[0], table.level), name) for name in sets}
    values = list(dict.fromkeys(row[column] for row in rows))
    numeric = all(isinstance(value, (int, float)) for value in values)
    places = {value: float(value) if numeric else float(place) for place, value in enumerate(sorted(values) if numeric else values)}
    gap = 0.012 * (max(places.values()) - min(places.values())) if numeric else 0.12
    figure, [axes] = panels(1, len(metrics), 4.3 * len(metrics), 3.9)
    for axis, metric in zip(axes, metrics, strict=True):
        for number, (label, (drawn, test_set)) in enumerate(lines.items()):
            shift = (number - (len(lines) - 1) / 2) * gap
            points = [(places[value] + shift, point) for value in places for point in _at(drawn, test_set, metric, column, value)]
            draw_line(axis, points, number, label, connected=numeric)
        axis.set_xticks(list(places.values()), None if numeric else [str(value) for value in places])
        if not numeric:
            axis.set_xlim(-0.5, len(values) - 0.5)
        axis.set(xlabel=variable, ylabel=metric_label(metric, table.level))
        style_axis(axis)
    legend_beside(axes[-1])
    points_at = {
        value: [point for drawn, test_set in lines.values() for point in _at(drawn, test_set, metrics[0], column, value)]
        for value in places
    }
    means = {value: float(np.mean([point.value for point in points])) for value, points in points_at.items() if points}
    best, spread = best_of(means, metrics[0]), max(means.values()) - min(means.values())
    typical = np.mean([point.high - point.low for drawn, _ in lines.values() for point in drawn.points(metrics[0])])
    title = f"Best {NAMES[metrics[0]]} at {variable} = {best} ({means[best]:.3f}); all values span {spread:.3f}, "
    return save_figure(figure, path, title + f"{'less' if spread < typical else 'more'} than one interval ({typical:.3f})")


def _at(table: ResultTable, test_set: str, metric: str, column: str, value: Any) -> list[Point]:
    points = [table.point(model, test_set, metric) for model in table.models if table.column(model, column) == value]
    return [point for point in points if point is not None]


def draw_size(table: ResultTable, path: str | Path, metric: str = "srcc") -> Any:
    """Draw agreement against number of weights and CPU time: a line for each series, a row of panels for each test set.

    The title names the smallest model within `MARGIN` of the best, when each is judged by its worst test set.
    """
    columns = {"num_parameters": "weights", "cpu_seconds_per_second": "CPU seconds for a second of audio"}
    figure, axes = panels(len(table.test_sets), 2, 10.4, 3.4 * len(table.test_sets) + 0.8, sharey="row", sharex="col")
    series: dict[str, list[str]] = {}
    for model in table.models:
        series.setdefault(str(table.column(model, "series") or model), []).append(model)
    for row, test_set in enumerate(table.test_sets):
        for axis, (column, label) in zip(axes[row], columns.items(), strict=True):
            for number, (name, models) in enumerate(series.items()):
                placed = [(table.mean_of(model, test_set, column), table.point(model, test_set, metric)) for model in models]
                points = sorted(((x, point) for x, point in placed if point and x), key=lambda entry: entry[0])
                draw_line(axis, points, number, name, connected=len(points) > 1)
            axis.set_xscale("log")
            axis.set_xlabel(label if row == len(table.test_sets) - 1 else "")
            style_axis(axis)
        axes[row][0].set_ylabel(metric_label(metric, table.level))
        axes[row][0].set_title(test_set, fontsize=10, loc="left")
    legend_beside(axes[0][-1])
    return save_figure(figure, path, _smallest(table, metric))


def _smallest(table: ResultTable, metric: str) -> str:
    """Name the smallest model near the best, in words. Each is judged by its worst test set, so it must not fail on any."""
    on_each = [table.values_on(test_set, metric) for test_set in table.test_sets]
    worst = min if GREATER_IS_BETTER[metric] else max
    everywhere = [model for model in on_each[0] if all(model in values for values in on_each)]
    values = {model: worst(values[model] for values in on_each) for model in everywhere}
    if not values:
        return f"No model has {NAMES[metric]} on all {len(on_each)} test sets"
    best = best_of(values, metric)
    weights = {model: table.mean_of(model, table.test_sets[0], "num_parameters") or math.inf for model in values}
    smallest = min((model for model in values if abs(values[model] - values[best]) <= MARGIN), key=lambda model: weights[model])
    where = f"on {table.test_sets[0]}" if len(on_each) == 1 else f"on its worst of {len(on_each)} test sets"
    text = f"{smallest} ({weights[smallest]:,.0f} weights, {NAMES[metric]} {values[smallest]:.3f} {where}) is the smallest within "
    return f"{text}{MARGIN:g} of the best, " + ("which it is itself" if smallest == best else f"{best} ({values[best]:.3f})")


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
    title = _title_of_curves(verdicts, metric, sizes[-1])
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


def _title_of_curves(verdicts: Mapping[tuple[str, str], Growth], metric: str, largest: float) -> str:
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


KINDS: dict[str, Callable[..., Any]] = {
    "by_test_set": draw_by_test_set,
    "spread": draw_spread,
    "transfer_matrix": draw_transfer_matrix,
    "learning_curve": draw_learning_curve,
    "sweep": draw_sweep,
    "size": draw_size,
}
