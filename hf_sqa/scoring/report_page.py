"""The report as one HTML page that needs no network: tables, plots, and the worst and best recordings to listen to."""

import io
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.scoring.report import NUM_GROUPS, Report, RunComparison, Spread
from hf_sqa.scoring.shards import writing_whole

INK, ACCENT, SOFT = "#1d3557", "#2a6f97", "#a9c6d9"
#: Limits of the axis for scores on the five-point scale, and the names of these scores.
FIVE_POINTS = (0.9, 5.1)
FIVE_POINT_SCORES = ("mos", "s_mos", "n_mos", "g_mos", "noisiness", "coloration", "discontinuity", "loudness")
#: Groups drawn in one plot.
NUM_DRAWN = 20


def write_page(report: Report, path: Path, comparison: RunComparison | None = None) -> None:
    """Write the report page, whole or not at all."""
    with writing_whole(path) as temporary:
        temporary.write_text(render(report, comparison), encoding="utf-8")


def render(report: Report, comparison: RunComparison | None = None) -> str:
    """Return the page as HTML, from the template `report.html` beside this module."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "number": lambda value: "" if value is None or math.isnan(value) else f"{value:.2f}",
        "signed": lambda value: "" if math.isnan(value) else f"{value:+.3f}",
        "hours": lambda hours: f"{hours:,.0f}" if hours >= 1000 else f"{hours:.1f}" if hours >= 10 else f"{hours:.3f}",
        "count": "{:,}".format,
    }
    plots: dict[str, Any] = {"distribution": "", "differences": ""}
    if len(report.scores):
        plots["distribution"] = _histogram(report.scores, report.score, report.seconds)
    if comparison is not None and len(comparison.differences) > 1:
        plots["differences"] = _histogram(comparison.differences, f"difference in {comparison.score}", None)
    plots["groups"] = {column: _boxes(spreads, report.score) for column, spreads in report.groups.items()}
    ordered_groups = []
    for column, groups in comparison.groups.items() if comparison is not None else ():
        ordered = sorted(groups, key=lambda group: (math.isnan(group.mean), group.mean))
        ordered_groups.append((column, [(group.name, group) for group in ordered[:NUM_GROUPS]]))
    template = environment.from_string(files("hf_sqa.scoring").joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        comparison=comparison,
        plots=plots,
        ordered_groups=ordered_groups,
        name=report.run["source"].rstrip("/").rsplit("/", 1)[-1],
        all_hours=float(report.seconds.sum()) / 3600,
        num_groups=NUM_GROUPS,
        worst=[_playable(row) for row in report.worst],
        best=[_playable(row) for row in report.best],
    )


def _playable(row: dict[str, Any]) -> dict[str, Any]:
    """Add the address of the recording to a row; `None` unless it is a file on this machine."""
    path = Path(row["audio"])
    return {**row, "address": path.resolve().as_uri() if path.is_file() else None}


def _histogram(values: np.ndarray, label: str, seconds: np.ndarray | None) -> str:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    bins = np.linspace(low, high, min(60, max(8, round(math.sqrt(len(values))))) + 1)
    figure, axis = _figure(3.0)
    weights = None if seconds is None else np.nan_to_num(seconds) / 3600
    axis.hist(values, bins=bins, weights=weights, color=SOFT, edgecolor=ACCENT, linewidth=0.5)
    mean = float(values.mean())
    axis.axvline(mean, color=INK, linewidth=1.2, linestyle="--")
    axis.text(mean, axis.get_ylim()[1] * 1.02, f"mean {mean:.2f}", ha="center", va="bottom", color=INK, fontsize=9)
    axis.set(xlabel=label, ylabel="recordings" if seconds is None else "hours", xlim=(low, high))
    return _svg(figure)


def _boxes(spreads: Sequence[Spread], score: str) -> str:
    drawn = [spread for spread in spreads if spread.num_scored][:NUM_DRAWN]
    if len(drawn) < 2:
        return ""
    drawn = drawn[::-1]  # the first row of the table on top
    figure, axis = _figure(0.7 + 0.27 * len(drawn))
    for place, spread in enumerate(drawn):
        at = spread.percentiles
        axis.plot([at[5], at[95]], [place, place], color=ACCENT, linewidth=1)
        axis.barh(place, at[75] - at[25], left=at[25], height=0.55, color=SOFT, edgecolor=ACCENT, linewidth=0.8)
        axis.plot([at[50], at[50]], [place - 0.275, place + 0.275], color=ACCENT, linewidth=1.2)
        if not math.isnan(spread.low):
            axis.plot([spread.low, spread.high], [place, place], color=INK, linewidth=2.4, solid_capstyle="butt")
        axis.plot(spread.mean, place, "o", color=INK, markersize=4.5)
    names = [spread.name if len(spread.name) <= 28 else f"{spread.name[:27]}…" for spread in drawn]
    axis.set_yticks(range(len(drawn)), [name.replace("$", r"\$") for name in names])
    label = f"{score}: mean with its 95 % interval (dark), median and half of the recordings (box), 5 to 95 % (line)"
    axis.set(xlabel=label, xlim=_scale(score, drawn), ylim=(-0.7, len(drawn) - 0.3))
    return _svg(figure)


def _scale(score: str, drawn: Sequence[Spread]) -> tuple[float, float] | None:
    """Limits of the five-point scale if the scores are on it, so that pages compare at a glance; else `None`."""
    ends = [spread.percentiles[at] for spread in drawn for at in (5, 95)]
    return FIVE_POINTS if score in FIVE_POINT_SCORES and min(ends) >= 1 and max(ends) <= 5 else None


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", color="#e6eaee", linewidth=0.7)
    axis.set_axisbelow(True)
    return figure, axis


def _svg(figure: Any) -> str:
    import markupsafe
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hf-sqa", "font.family": "sans-serif"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    content = file.getvalue()
    return markupsafe.Markup(content[content.index("<svg") :])
