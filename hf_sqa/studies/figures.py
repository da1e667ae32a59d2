"""Figures of studies, each from the rows of the results table alone; titles say what is seen, points of several seeds are means.

`by_test_set` and `spread` are Figures 1 and 2 of "Exploring the influence of fine-tuning data on wav2vec 2.0 model for blind speech
quality prediction", `sweep` is Figure 2 of the MTQ-Net paper, `size` Figure 3 of "Distillation and Pruning for Scalable
Self-Supervised Representation-Based Speech Quality Assessment". Bars and bands are 95 % bootstrap intervals over test clips, their
mean where there are several seeds. Colours are those of Okabe and Ito, told apart by the colour-blind, and markers differ too.
"""

from __future__ import annotations

import difflib
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.evaluation.suite import OVERLAP_MARKS
from hf_sqa.metrics import GREATER_IS_BETTER

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F", "#5D3A9B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
NAMES = {"srcc": "SRCC", "lcc": "LCC", "ktau": "Kendall's tau", "mse": "MSE", "rmse": "RMSE", "mae": "MAE"}
UNITS = {"mse": " (MOS points²)", "rmse": " (MOS points)", "mae": " (MOS points)"}
LEVEL_NAMES = {"utt": "clips", "sys": "systems", "con": "conditions"}
#: Of a title.
CHARACTERS_PER_INCH = 11
#: A gain for a doubling of the labels that nobody would pay for, in a correlation or in MOS points.
NEGLIGIBLE_GAIN = 0.01
#: Sizes at the upper end of a learning curve from which its slope is taken.
SLOPE_SIZES = 3


@dataclass(frozen=True)
class Point:
    """Of one model on one test set: the mean over seeds, the mean ends of their intervals, and each seed's value."""

    value: float
    low: float
    high: float
    seeds: dict[Any, float]
    overlap: str | None
    row: dict[str, Any]


@dataclass(frozen=True)
class Growth:
    """What a doubling of the labels is worth at the upper end of a learning curve.

    Args:
        gain (`float`): Change of the metric, positive for the better.
        low, high (`float`): Where it may lie, 95 %, by Student's t over the seeds' slopes (of one seed, over its points); NaN of
            too few.
        verdict (`str`): `"yes"`, `"hardly"` (the interval lies below `NEGLIGIBLE_GAIN`) or `"open"`.
        sentence (`str`): All of it in words.
    """

    gain: float
    low: float
    high: float
    verdict: str
    sentence: str


def draw(kind: str, rows: Iterable[Mapping[str, Any]], path: str | Path, **options: Any) -> Any:
    """Draw a figure of the table into a PNG, SVG or PDF; `kind` is one of `KINDS`, options are those of its function.

    Raises:
        ValueError: If the kind is unknown, or the rows lack what it shows.
        TypeError: If it has no such option.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"Expected a figure out of {', '.join(KINDS)}, got {kind!r}{hint}")
    known = list(inspect.signature(KINDS[kind]).parameters)[2:]
    for option in options:
        if option not in known:
            raise TypeError(f"Unknown option {option!r} of the figure {kind!r}; expected one of {', '.join(known)}.")
    return KINDS[kind](rows, path, **options)


def draw_by_test_set(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    groups: Mapping[str, Sequence[str]] | None = None,
    metrics: Sequence[str] = ("srcc", "lcc", "mse"),
    level: str = "utt",
    score: str | None = None,
    test_sets: Sequence[str] | None = None,
) -> Any:
    """Agreement on every test set, a series a model, a column a metric, a row a group of models (such as an experiment)."""
    table = _Table(rows, score, level, test_sets=test_sets)
    groups = groups or {"": table.models}
    figure = _figure(4.3 * len(metrics), 3.1 * len(groups) + 0.9)
    axes = figure.subplots(len(groups), len(metrics), squeeze=False, sharex=True)
    hollow = False
    numbers = {model: number for number, model in enumerate(dict.fromkeys(one for models in groups.values() for one in models))}
    for row, (group, models) in enumerate(groups.items()):
        table.check(models)
        for column, metric in enumerate(metrics):
            axis = axes[row][column]
            for at, model in enumerate(models):
                shift = (at - (len(models) - 1) / 2) * 0.7 / max(len(models), 1)
                for place, name in enumerate(table.test_sets):
                    point = table.point(model, name, metric)
                    if point is not None:
                        trained = point.overlap == "clips"
                        hollow |= trained
                        _mark(axis, place + shift, point, numbers[model], filled=not trained)
                axis.plot([], [], _marker(numbers[model]), color=_colour(numbers[model]), label=model)
            axis.set_xticks(range(len(table.test_sets)), table.test_sets, rotation=_rotation(table.test_sets), ha="center")
            axis.set_ylabel(_label(metric))
            for place in range(1, len(table.test_sets)):
                axis.axvline(place - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
            if row == 0:
                axis.set_title(
                    f"{NAMES[metric]} {'(higher is better)' if GREATER_IS_BETTER[metric] else '(lower is better)'}", fontsize=10
                )
            _plain(axis)
        told = f"{group}\n" if group else ""
        axes[row][-1].legend(title=told.strip() or None, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    note = f"\nhollow: {OVERLAP_MARKS['clips'][1]}" if hollow else ""
    return _save(figure, path, _best_by_test_set(table, list(numbers), metrics[0]) + note)


def draw_spread(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    models: Sequence[str] | None = None,
    metrics: Sequence[str] = ("srcc", "lcc", "mse"),
    level: str = "utt",
    score: str | None = None,
    test_sets: Sequence[str] | None = None,
) -> Any:
    """Box plots over test sets, a box a model: median, quartiles, whiskers to the ends, every test set a dot."""
    table = _Table(rows, score, level, test_sets=test_sets)
    models = list(models or table.models)
    table.check(models)
    if len(table.test_sets) < 2:
        raise ValueError(f"Expected two test sets or more for box plots, got {', '.join(table.test_sets)}.")
    columns = min(len(metrics), 3 if len(models) < 6 else 2)
    lines = math.ceil(len(metrics) / columns)
    figure = _figure(max(3.6, 0.5 * len(models) + 1.4) * columns, 3.7 * lines + 0.4)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes, metrics, strict=False):
        values = [table.values(model, metric) for model in models]
        axis.boxplot(
            values,
            whis=(0, 100),
            widths=0.55,
            medianprops={"color": "black", "linewidth": 1.8},
            boxprops={"color": "#555555"},
            whiskerprops={"color": "#555555"},
            capprops={"color": "#555555"},
        )
        for place, of_model in enumerate(values, start=1):
            offsets = np.linspace(-0.16, 0.16, len(of_model)) if len(of_model) > 1 else [0.0]
            axis.plot(place + np.asarray(offsets), of_model, _marker(place - 1), color=_colour(place - 1), markersize=5)
        axis.set_xticks(range(1, len(models) + 1), models, rotation=_rotation(models))
        axis.set_ylabel(f"{_label(metric)}, {len(table.test_sets)} test sets")
        _plain(axis)
    medians = {model: float(np.median(table.values(model, metrics[0]))) for model in models}
    spans = {model: float(np.ptp(table.values(model, metrics[0]))) for model in models}
    best = _best(medians, metrics[0])
    steady = min(spans, key=lambda name: spans[name])
    word = NAMES[metrics[0]]
    title = f"{best} has the best median {word} over {len(table.test_sets)} test sets ({medians[best]:.2f}); "
    title += (
        f"it also varies least ({spans[best]:.2f})"
        if best == steady
        else f"{steady} varies least ({spans[steady]:.2f} from end to end)"
    )
    return _save(figure, path, title)


def draw_transfer_matrix(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    metric: str = "srcc",
    models: Sequence[str] | None = None,
    own: Mapping[str, str] | None = None,
    level: str = "utt",
    score: str | None = None,
    test_sets: Sequence[str] | None = None,
) -> Any:
    """A heat map with numbers: trained on (rows) against tested on (columns).

    `own` names the test set that belongs to a model (framed); by default the one of the same name.
    """
    table = _Table(rows, score, level, test_sets=test_sets)
    models = list(models or table.models)
    table.check(models)
    own = own or {model: model for model in models if model in table.test_sets}
    values = np.full((len(models), len(table.test_sets)), np.nan)
    figure = _figure(max(6.4, 1.15 * len(table.test_sets) + 3.2), 0.62 * len(models) + 2.0)
    axis = figure.subplots()
    kinds = set()
    for row, model in enumerate(models):
        for column, name in enumerate(table.test_sets):
            point = table.point(model, name, metric)
            if point is not None:
                values[row, column] = point.value
    colours = "cividis" if GREATER_IS_BETTER[metric] else "cividis_r"
    image = axis.imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for row, model in enumerate(models):
        for column, name in enumerate(table.test_sets):
            point = table.point(model, name, metric)
            if point is None:
                axis.text(column, row, "-", ha="center", va="center", color="#777777")
                continue
            mark = OVERLAP_MARKS[point.overlap][0] if point.overlap else ""
            kinds |= {point.overlap} if point.overlap else set()
            bright = (point.value > middle) == GREATER_IS_BETTER[metric]
            spread = f"\n± {np.std(list(point.seeds.values()), ddof=1):.2f}" if len(point.seeds) > 1 else ""
            axis.text(
                column,
                row,
                f"{point.value:.2f} {mark}{spread}",
                ha="center",
                va="center",
                fontsize=9,
                linespacing=1.1,
                color="black" if bright else "white",
            )
            if own.get(model) == name:
                axis.add_patch(_frame(column, row))
    axis.set_xticks(range(len(table.test_sets)), table.test_sets)
    axis.set_yticks(range(len(models)), models)
    axis.set(xlabel="tested on", ylabel="model, by what it was trained on")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label=_label(metric))
    matched = [values[models.index(one), table.test_sets.index(name)] for one, name in own.items() if one in models]
    others = [
        values[models.index(one), column]
        for one, name in own.items()
        if one in models
        for column, other in enumerate(table.test_sets)
        if other in own.values() and other != name
    ]
    title = f"{NAMES[metric]} of {LEVEL_NAMES[level]} with listeners, trained on against tested on"
    if matched and others:
        title = (
            f"{NAMES[metric]} {np.nanmean(matched):.2f} where training and test match (framed), {np.nanmean(others):.2f} where not"
        )
    seeds = max((len(one.seeds) for one in table.points(metric)), default=1)
    note = [f"mean of {seeds} seeds ± their standard deviation"] if seeds > 1 else []
    note += [f"{OVERLAP_MARKS[kind][0]} {OVERLAP_MARKS[kind][1]}" for kind in OVERLAP_MARKS if kind in kinds]
    return _save(figure, path, title + "".join(f"\n{line}" for line in note))


def draw_learning_curve(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    metric: str = "srcc",
    x: str = "num_train",
    models: Sequence[str] | None = None,
    series: Sequence[str] | None = None,
    references: Sequence[str] = (),
    level: str = "utt",
    score: str | None = None,
    test_sets: Sequence[str] | None = None,
) -> Any:
    """Score against number of labelled clips, a panel a test set, a line a series, and whether more labels would help.

    Args:
        x (`str`, *optional*, defaults to `"num_train"`): Column with the number of clips; `variable_n` for `for: {n: ...}`.
        models (sequence of `str`, *optional*): Points of the curves; all that have a number of clips by default.
        series (sequence of `str`, *optional*): Curves; all by default.
        references (sequence of `str`, *optional*): Models drawn as a horizontal line.
    """
    table = _Table(rows, score, level, test_sets=test_sets)
    table.check([*(models or []), *references])
    chosen = [model for model in models or table.models if table.number(model, x) is not None and model not in references]
    curves: dict[str, list[str]] = {}
    for model in sorted(chosen, key=lambda one: table.number(one, x) or 0):
        name = str(table.column(model, "series") or "")
        if series is None or name in series:
            curves.setdefault(name, []).append(model)
    if not curves or any(len({table.number(model, x) for model in line}) < 2 for line in curves.values()):
        raise ValueError(f"Expected curves of two sizes or more, told by the column {x!r}, got {curves or 'none'}.")
    columns = min(len(table.test_sets), 3)
    lines = math.ceil(len(table.test_sets) / columns)
    figure = _figure(max(4.4 * columns, 7.0), 3.5 * lines + 1.1)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    verdicts: dict[tuple[str, str], Growth] = {}
    every = sorted({table.number(model, x) or 0.0 for line in curves.values() for model in line})
    for place, name in enumerate(table.test_sets):
        axis = axes[place]
        for number, (curve, members) in enumerate(curves.items()):
            found = [(table.number(model, x) or 0.0, table.point(model, name, metric)) for model in members]
            points = [(size, point) for size, point in found if point is not None]
            sizes, colour = [size for size, _ in points], _colour(number)
            axis.fill_between(
                sizes, [one.low for _, one in points], [one.high for _, one in points], color=colour, alpha=0.15, lw=0
            )
            axis.plot(sizes, [one.value for _, one in points], "-", color=colour, linewidth=1.8, label=curve or "mean of the seeds")
            for size, point in points:
                axis.plot([size] * len(point.seeds), list(point.seeds.values()), _marker(number), color=colour, ms=3.5, alpha=0.7)
            verdicts[curve, name] = growth([(size, point.seeds) for size, point in points], metric)
        for number, reference in enumerate(references, start=len(curves)):
            known = table.point(reference, name, metric)
            if known is not None:
                style = (0, (4, 2)) if number % 2 else ":"
                axis.axhline(known.value, color=_colour(number), linestyle=style, linewidth=1.4, label=reference)
        axis.set_xscale("log", base=2)
        axis.set_xticks(every, [f"{size:,.0f}" for size in every], rotation=45 if len(every) > 6 else 0)
        axis.minorticks_off()
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("labelled clips trained on" if x == "num_train" else "labelled clips")
        if place % columns == 0:
            axis.set_ylabel(f"{_label(metric)}, {LEVEL_NAMES[level]}")
        _plain(axis)
    for axis in axes[len(table.test_sets) :]:
        axis.set_visible(False)
    axes[0].legend(frameon=False, fontsize=9, loc="best")
    return _save(figure, path, f"{_told(verdicts, metric, every[-1])}\nband: 95 % interval over test clips; dots: seeds")


def _told(verdicts: Mapping[tuple[str, str], Growth], metric: str, largest: float) -> str:
    """The sentence of the only curve, or a line for each of several."""
    if len(verdicts) == 1:
        return next(iter(verdicts.values())).sentence
    words = {"yes": "more labels would help", "hardly": "more labels would hardly help", "open": "open"}
    lines = [f"What doubling the labels gains in {NAMES[metric]} at the upper end, up to {largest:,.0f} clips:"]
    for (curve, name), verdict in verdicts.items():
        interval = "" if math.isnan(verdict.low) else f" [{verdict.low:+.3f}, {verdict.high:+.3f}]"
        lines.append(f"{' on '.join(filter(None, (curve, name)))}: {verdict.gain:+.3f}{interval}, {words[verdict.verdict]}")
    return "\n".join(lines)


def growth(points: Sequence[tuple[float, Mapping[Any, float]]], metric: str) -> Growth:
    """Would more labels help? From the slope over the logarithm of the number of clips, at the three largest sizes.

    Args:
        points (sequence of `(num_clips, {seed: value})`): The curve.
        metric (`str`): Which metric the values are of, to know what is better.
    """
    sign = 1.0 if GREATER_IS_BETTER[metric] else -1.0
    last = sorted(points, key=lambda point: point[0])[-SLOPE_SIZES:]
    if len(last) < 2:
        return Growth(math.nan, math.nan, math.nan, "open", "Whether more labels would help cannot be said of one size.")
    seeds = [seed for seed in last[0][1] if all(seed in values for _, values in last)]
    logs = np.log2([size for size, _ in last])
    slopes = np.array([sign * _slope(logs, [values[seed] for _, values in last])[0] for seed in seeds])
    half = math.nan
    if len(slopes) > 1:
        half = _student(len(slopes) - 1) * float(slopes.std(ddof=1)) / math.sqrt(len(slopes))
    elif len(slopes) == 1 and len(last) > 2:
        half = _student(len(last) - 2) * _slope(logs, [values[seeds[0]] for _, values in last])[1]
    gain = float(slopes.mean()) if len(slopes) else math.nan
    low, high = gain - half, gain + half
    name = f"{NAMES[metric]}" + ("" if GREATER_IS_BETTER[metric] else " (less error)")
    told = f"a doubling gains {gain:+.3f} [{low:+.3f}, {high:+.3f}] {name} at {last[-1][0]:,.0f} clips"
    if high < NEGLIGIBLE_GAIN:
        return Growth(gain, low, high, "hardly", f"More labels would hardly help: {told}")
    if low > 0:
        return Growth(gain, low, high, "yes", f"More labels would help: {told}")
    if math.isnan(half):
        return Growth(gain, math.nan, math.nan, "open", f"A doubling gained {gain:+.3f} {name}; one seed does not say how surely")
    return Growth(gain, low, high, "open", f"Whether more labels would help is open: {told}")


def draw_sweep(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    variable: str,
    metrics: Sequence[str] = ("lcc", "srcc", "mse"),
    level: str = "utt",
    score: str | None = None,
    series: Sequence[str] | None = None,
    test_sets: Sequence[str] | None = None,
) -> Any:
    """Agreement against a variable of `for`, such as the delta of a Huber loss, or the loss itself; a line a score or test set.

    Lines are the scores of the models where there are several and one test set, else the test sets.
    """
    rows = [dict(row) for row in rows]
    column = f"variable_{variable}"
    rows = [row for row in rows if row.get(column) is not None and (series is None or row.get("series") in series)]
    if not rows:
        raise ValueError(f"Expected models made with `for: {{{variable}: [...]}}` in the table, got none.")
    first = _Table(rows, None, level, test_sets=test_sets)
    scores = list(dict.fromkeys(row["score"] for row in rows)) if score is None else [score]
    tables: dict[str, tuple[_Table, str]]
    if len(scores) > 1:
        tables = {one: (_Table(rows, one, level, test_sets=first.test_sets[:1]), first.test_sets[0]) for one in scores}
    else:
        tables = {name: (_Table(rows, scores[0], level), name) for name in first.test_sets}
    values = list(dict.fromkeys(row[column] for row in rows))
    numeric = all(isinstance(value, (int, float)) for value in values)
    values = sorted(values) if numeric else values
    places = {value: float(value) if numeric else float(place) for place, value in enumerate(values)}
    figure = _figure(4.3 * len(metrics), 3.9)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    means: dict[Any, list[float]] = {value: [] for value in values}
    for axis, metric in zip(axes, metrics, strict=True):
        for number, (label, (table, test_set)) in enumerate(tables.items()):
            line = []
            for value in values:
                models = [model for model in table.models if table.column(model, column) == value]
                found = [point for point in (table.point(model, test_set, metric) for model in models) if point is not None]
                for point in found:
                    shift = (number - (len(tables) - 1) / 2) * (0.12 if not numeric else 0.012 * (values[-1] - values[0]))
                    _mark(axis, places[value] + shift, point, number)
                    line.append((places[value] + shift, point.value))
                    if metric == metrics[0]:
                        means[value].append(point.value)
            xs, ys = zip(*line, strict=True) if line else ((), ())
            style = "-" if numeric else ""
            axis.plot(xs, ys, f"{style}{_marker(number)}", color=_colour(number), linewidth=1.4, markersize=4, label=label)
        if not numeric:
            axis.set_xticks(list(places.values()), [str(value) for value in values])
            axis.set_xlim(-0.5, len(values) - 0.5)
        else:
            axis.set_xticks(list(places.values()))
        axis.set(xlabel=variable, ylabel=f"{_label(metric)}, {LEVEL_NAMES[level]}")
        _plain(axis)
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    average = {value: float(np.mean(one)) for value, one in means.items() if one}
    best = _best(average, metrics[0])
    spread = max(average.values()) - min(average.values())
    typical = np.mean([point.high - point.low for table, _ in tables.values() for point in table.points(metrics[0])])
    compared = "less than" if spread < typical else "more than"
    title = f"Best {NAMES[metrics[0]]} at {variable} = {best} ({average[best]:.3f}); all values span {spread:.3f}, {compared} one "
    return _save(figure, path, title + f"interval ({typical:.3f})")


def draw_size(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    metric: str = "srcc",
    test_sets: Sequence[str] | None = None,
    level: str = "utt",
    score: str | None = None,
    margin: float = 0.02,
) -> Any:
    """Agreement against number of weights and against CPU time, a line a series; a row of panels a test set.

    The title names the smallest model that is within `margin` of the best on the first test set.
    """
    table = _Table(rows, score, level, test_sets=test_sets)
    columns = {"num_parameters": "weights", "cpu_seconds_per_second": "CPU seconds for a second of audio"}
    figure = _figure(10.4, 3.4 * len(table.test_sets) + 0.8)
    axes = figure.subplots(len(table.test_sets), 2, squeeze=False, sharey="row", sharex="col")
    series = list(dict.fromkeys(str(table.column(model, "series") or model) for model in table.models))
    for row, name in enumerate(table.test_sets):
        for axis, (column, label) in zip(axes[row], columns.items(), strict=True):
            for number, one in enumerate(series):
                members = [model for model in table.models if str(table.column(model, "series") or model) == one]
                points = [(table.mean_of(model, name, column), table.point(model, name, metric), model) for model in members]
                line = sorted(((at, point, model) for at, point, model in points if point and at), key=lambda each: each[0])
                for at, point, _ in line:
                    _mark(axis, at, point, number)
                axis.plot(
                    [at for at, _, _ in line],
                    [point.value for _, point, _ in line],
                    "-" if len(line) > 1 else "",
                    marker=_marker(number),
                    color=_colour(number),
                    linewidth=1.5,
                    label=one,
                )
            axis.set_xscale("log")
            axis.set_xlabel(label if row == len(table.test_sets) - 1 else "")
            _plain(axis)
        axes[row][0].set_ylabel(f"{_label(metric)}, {LEVEL_NAMES[level]}")
        axes[row][0].set_title(name, fontsize=10, loc="left")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    first = table.test_sets[0]
    values = {model: known.value for model in table.models if (known := table.point(model, first, metric)) is not None}
    best = _best(values, metric)
    near = [model for model, value in values.items() if abs(value - values[best]) <= margin]
    smallest = min(near, key=lambda model: table.mean_of(model, first, "num_parameters") or math.inf)
    weights = table.mean_of(smallest, first, "num_parameters") or math.nan
    title = f"{smallest} ({weights:,.0f} weights, {NAMES[metric]} {values[smallest]:.3f} on {first}) is the smallest within "
    title += (
        f"{margin:g} of the best, {best} ({values[best]:.3f})"
        if smallest != best
        else f"{margin:g} of the best, which it is itself"
    )
    return _save(figure, path, title)


KINDS: dict[str, Callable[..., Any]] = {
    "by_test_set": draw_by_test_set,
    "spread": draw_spread,
    "transfer_matrix": draw_transfer_matrix,
    "learning_curve": draw_learning_curve,
    "sweep": draw_sweep,
    "size": draw_size,
}


class _Table:
    """Rows of one score and level, by model and test set, in the order of the table."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], score: str | None, level: str, test_sets: Sequence[str] | None = None):
        every = [dict(row) for row in rows]
        if not every:
            raise ValueError("Expected rows of results to draw, got none.")
        score = score or every[0]["score"]
        kept = [row for row in every if row["score"] == score and row["level"] == level]
        if not kept:
            there = sorted({f"{row['score']} at level {row['level']}" for row in every})
            raise ValueError(f"Expected rows of {score} at level {level}, got {', '.join(there)}.")
        found = list(dict.fromkeys(row["test_set"] for row in kept))
        absent = [name for name in test_sets or () if name not in found]
        if absent:
            raise ValueError(f"Expected test sets out of {', '.join(found)}, got {absent[0]!r}.")
        self.test_sets = list(test_sets or found)
        self.models = list(dict.fromkeys(row["model"] for row in kept))
        self._rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in kept:
            self._rows.setdefault((row["model"], row["test_set"], row["metric"]), []).append(row)

    def check(self, models: Sequence[str]) -> None:
        for model in models:
            if model not in self.models:
                raise ValueError(f"Expected models out of {', '.join(self.models)}, got {model!r}.")

    def point(self, model: str, test_set: str, metric: str) -> Point | None:
        rows = self._rows.get((model, test_set, metric), [])
        values = np.array([row["value"] for row in rows], dtype=np.float64)
        if not len(values) or np.isnan(values).all():
            return None
        ends = [np.array([row[end] for row in rows], dtype=np.float64) for end in ("low", "high")]
        low, high = (float(np.nanmean(end)) if np.isfinite(end).any() else math.nan for end in ends)
        seeds = {row.get("seed"): float(row["value"]) for row in rows}
        return Point(float(np.nanmean(values)), low, high, seeds, rows[0].get("overlap"), rows[0])

    def points(self, metric: str) -> list[Point]:
        found = (self.point(model, name, metric) for model in self.models for name in self.test_sets)
        return [point for point in found if point is not None]

    def values(self, model: str, metric: str) -> list[float]:
        found = (self.point(model, name, metric) for name in self.test_sets)
        return [point.value for point in found if point is not None]

    def column(self, model: str, name: str) -> Any:
        """What all rows of a model have in a column."""
        return next((rows[0].get(name) for key, rows in self._rows.items() if key[0] == model), None)

    def number(self, model: str, name: str) -> float | None:
        value = self.column(model, name)
        return None if value is None or math.isnan(float(value)) else float(value)

    def mean_of(self, model: str, test_set: str, name: str) -> float | None:
        values = [
            float(row[name])
            for key, rows in self._rows.items()
            if key[:2] == (model, test_set)
            for row in rows
            if row.get(name) is not None and not math.isnan(float(row[name]))
        ]
        return float(np.mean(values)) if values else None


def _best_by_test_set(table: _Table, models: Sequence[str], metric: str) -> str:
    firsts: dict[str, int] = {}
    for name in table.test_sets:
        values = {model: point.value for model in models if (point := table.point(model, name, metric)) is not None}
        if values:
            best = _best(values, metric)
            firsts[best] = firsts.get(best, 0) + 1
    told = ", ".join(f"{model} on {count}" for model, count in sorted(firsts.items(), key=lambda item: -item[1]))
    return f"Best {NAMES[metric]} of {len(table.test_sets)} test sets: {told}"


def _best(values: Mapping[Any, float], metric: str) -> Any:
    choose = max if GREATER_IS_BETTER[metric] else min
    return choose(values, key=lambda name: values[name])


def _slope(logs: np.ndarray, values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope and its standard error (NaN of two points)."""
    ys = np.asarray(values, dtype=np.float64)
    centred = logs - logs.mean()
    slope = float(centred @ ys / (centred @ centred))
    residuals = ys - ys.mean() - slope * centred
    freedom = len(ys) - 2
    return slope, math.sqrt(float(residuals @ residuals) / freedom / float(centred @ centred)) if freedom else math.nan


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _mark(axis: Any, x: float, point: Point, number: int, filled: bool = True) -> None:
    colour = _colour(number)
    if not math.isnan(point.low):
        axis.plot([x, x], [point.low, point.high], "-", color=colour, linewidth=1.0, alpha=0.55)
    axis.plot([x], [point.value], _marker(number), color=colour, markersize=5.5, markerfacecolor=colour if filled else "white")


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.2)


def _label(metric: str) -> str:
    return NAMES[metric] + UNITS.get(metric, "")


def _rotation(names: Sequence[str]) -> int:
    longest = max((len(name) for name in names), default=0)
    return 0 if longest * len(names) < 40 else 45 if len(names) <= 8 else 90


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e3e3e3", linewidth=0.6)
    axis.set_axisbelow(True)


def _save(figure: Any, path: str | Path, title: str) -> Any:
    width = round(CHARACTERS_PER_INCH * figure.get_figwidth())
    wrapped = "\n".join(line for part in title.split("\n") for line in textwrap.wrap(part, width) or [""])
    figure.suptitle(wrapped, fontsize=11, x=0.01, ha="left", parse_math=False)
    figure.savefig(path)
    return figure
