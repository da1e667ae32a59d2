"""Plot of compared systems, one row per model: mean scores with intervals, and the differences from the first system."""

import math
from pathlib import Path
from typing import Any

from hf_sqa.metrics import SystemComparison
from hf_sqa.scoring.comparison import ComparedSystems

#: Colours of groups, best first, that colour-blind readers can tell apart; with more groups they repeat.
GROUP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
UNTESTED, INK = "#666666", "#222222"
MOST_CHARACTERS = 32


def plot_comparison(compared: ComparedSystems, path: str | Path) -> None:
    """Draw a comparison into a PNG, PDF or SVG file.

    The left side shows the means with their intervals, best on top, with one colour for each group of systems that are not shown to
    differ; the right side shows the paired differences from the first system given.
    """
    from matplotlib.figure import Figure

    num_systems = max(len(found.systems) for found in compared.by_model.values())
    height = (1.5 + 0.32 * num_systems) * len(compared.by_model)
    figure = Figure(figsize=(11, max(2.6, height)), dpi=150, layout="constrained")
    axes = figure.subplots(len(compared.by_model), 2, squeeze=False, width_ratios=(5, 4))
    for (left, right), (model, found) in zip(axes, compared.by_model.items(), strict=True):
        _draw(left, right, model, found, compared.score)
    figure.savefig(path)


def _draw(left: Any, right: Any, model: str, found: SystemComparison, score: str) -> None:
    systems = sorted(found.systems, key=lambda system: (not math.isnan(system.mean.value), system.mean.value))
    group_of = {name: place for place, group in enumerate(found.groups) for name in group}
    place_of = {system.name: place for place, system in enumerate(systems)}
    for place, system in enumerate(systems):
        colour = GROUP_COLOURS[group_of[system.name] % len(GROUP_COLOURS)] if system.name in group_of else UNTESTED
        mean = system.mean
        if math.isnan(mean.value):
            left.text(0.02, place, "no scores", transform=left.get_yaxis_transform(), va="center", color=UNTESTED)
            continue
        if not math.isnan(mean.low):
            left.plot([mean.low, mean.high], [place, place], color=colour, linewidth=3, solid_capstyle="round")
        left.plot(mean.value, place, "o", color=colour, markersize=6)
        left.annotate(
            f"{mean.value:.2f}", (mean.value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=INK
        )
    labels = []
    for system in systems:
        name = system.name if len(system.name) <= MOST_CHARACTERS else f"{system.name[: MOST_CHARACTERS - 1]}…"
        failed = f", {system.num_failed} failed" if system.num_failed else ""
        labels.append(f"{name} ({system.num_clips}{failed})")
    left.set_yticks(range(len(systems)), labels, parse_math=False)
    level = 100 * found.systems[0].mean.confidence_level
    left.set(xlabel=f"mean {score} with {level:g} % interval; one colour: no difference shown", ylim=(-0.6, len(systems) - 0.2))
    left.set_title(f"by {model}", loc="left", fontsize=10, parse_math=False)
    reference = found.systems[0].name
    for pair in found.pairs:
        if pair.first != reference:
            continue
        difference, place = pair.difference, place_of[pair.second]
        colour = INK if pair.better else UNTESTED
        if not math.isnan(difference.low):
            right.plot([difference.low, difference.high], [place, place], color=colour, linewidth=3, solid_capstyle="round")
        right.plot(difference.value, place, "o", markersize=6, color=colour, markerfacecolor=colour if pair.better else "white")
    right.plot(0, place_of[reference], "|", color=INK, markersize=14)
    right.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    right.set_yticks(range(len(systems)), [])
    right.set(xlabel=f"difference from {reference}; filled: shown", ylim=left.get_ylim())
    right.xaxis.label.set_parse_math(False)
    for axis in (left, right):
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
