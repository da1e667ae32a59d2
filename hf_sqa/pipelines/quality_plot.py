"""Plot of a recording's waveform, with its quality over time below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.audio import Recording
from hf_sqa.cells import clock

#: The five categories of an absolute category rating (ITU-T P.800), with colours that differ in grey and for the colour-blind.
CATEGORIES = (
    (1, "bad", "#b2182b"),
    (2, "poor", "#ef8a62"),
    (3, "fair", "#e6c229"),
    (4, "good", "#67a9cf"),
    (5, "excellent", "#2166ac"),
)
COLUMNS = 1200
#: Most points drawn; in a longer timeline each point is the mean of several, with their range behind it.
MOST_POINTS = 600
INK, QUIET, WORST = "#222222", "#6b6b6b", "#8c1020"


def plot_quality(
    recording: Recording,
    course: dict[str, Any],
    overall: float,
    path: str | Path,
    *,
    title: str = "",
    score: str = "mos",
    method: str = "",
) -> None:
    """Draw a waveform with its local quality below, coloured by the five-point scale, into a PNG, PDF or SVG file.

    Args:
        recording (`Recording`): The scored recording, at any sampling rate.
        course (`dict`): `timeline` and `faults` as returned by the pipeline with `return_timeline=True`.
        overall (`float`): Score of the whole recording.
        path, title, score, method: The file to write, the title, the score to draw, and in small print how it was found.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    from hf_sqa.blocks.timeline import worst_of

    timeline, faults = course["timeline"], course["faults"]
    worst = worst_of(timeline, score)
    seconds, low, high = envelope(recording)
    figure = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    wave_axis, score_axis = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    peak = max(1e-3, float(np.abs([low, high]).max()))
    values = np.full(len(seconds), np.nan)
    for row in timeline:
        values[np.searchsorted(seconds, row["start"]) : np.searchsorted(seconds, row["end"], "right")] = row[score]
    shades = [colour_of(value) for value in values]
    hair = 0.004 * peak  # draws digital silence as a line, not as a gap
    wave_axis.vlines(seconds, low - hair, high + hair, color=shades, linewidth=max(0.5, 700 / len(seconds)))
    wave_axis.set(ylim=(-1.08 * peak, 1.08 * peak), ylabel="amplitude")
    wave_axis.set_title(title or recording.source, loc="left", fontsize=11, parse_math=False)

    for piece in pieces_of(timeline, score):
        score_axis.fill_between(piece[:, 0], piece[:, 2], piece[:, 3], color="#bbbbbb", linewidth=0)
        score_axis.plot(piece[:, 0], piece[:, 1], color=INK, linewidth=1.3)
        score_axis.scatter(
            piece[:, 0], piece[:, 1], c=[colour_of(value) for value in piece[:, 1]], s=14 if len(timeline) < 200 else 4, zorder=3
        )
    score_axis.axhline(overall, color=INK, linestyle="--", linewidth=1)
    marked = [("fault", fault) for fault in faults] or ([("lowest", worst)] if worst else [])
    for word, stretch in marked:
        for axis in (wave_axis, score_axis):
            axis.axvspan(stretch["start"], stretch["end"], color="#b2182b", alpha=0.13 if word == "fault" else 0.06, linewidth=0)
    if worst:
        words = f"worst: {worst[score]:.1f} from {clock(worst['start'])} to {clock(worst['end'])}"
        middle = (worst["start"] + worst["end"]) / 2
        share = middle / recording.duration_seconds
        side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
        at = worst["start"] if side == "left" else worst["end"] if side == "right" else middle
        above = score_axis.get_xaxis_transform()  # x in seconds, y as a fraction of the axis
        score_axis.plot([middle], [1.0], "v", color=WORST, markersize=7, transform=above, clip_on=False, zorder=4)
        score_axis.text(at, 1.045, words, transform=above, ha=side, va="bottom", fontsize=9, color=WORST, weight="bold")
    whole = f"whole recording {overall:.2f}" + (f"; {len(faults)} fault{'s' * (len(faults) != 1)}" if timeline else "")
    wave_axis.set_title(whole, loc="right", fontsize=9, color=INK)
    score_axis.set(xlim=(0, recording.duration_seconds), ylim=(1, 5), ylabel=f"local quality ({score.upper()})")
    score_axis.set_xlabel("time" if recording.duration_seconds >= 60 else "time in seconds")
    if recording.duration_seconds >= 60:
        steps = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
        whole_times = next((step for step in steps if recording.duration_seconds / step <= 10), steps[-1])
        score_axis.xaxis.set_major_locator(MultipleLocator(whole_times))
        score_axis.xaxis.set_major_formatter(lambda seconds, _: clock(seconds) if seconds else "0")
    score_axis.set_yticks([value for value, _, _ in CATEGORIES], [f"{value} {name}" for value, name, _ in CATEGORIES])
    score_axis.grid(axis="y", color="#cccccc", linewidth=0.6)
    score_axis.set_axisbelow(True)
    for axis in (wave_axis, score_axis):
        axis.spines[["top", "right"]].set_visible(False)
    _key(figure, method)
    figure.savefig(path)


def _key(figure: Any, method: str) -> None:
    """Add the legend of colours, and how the curve was made."""
    from matplotlib.patches import Patch

    handles = [Patch(color=shade, label=f"{value} {name}") for value, name, shade in CATEGORIES]
    handles += [Patch(color="#d9d9d9", label="nobody speaks"), Patch(color="#f3d5d9", label="fault")]
    figure.legend(handles=handles, loc="outside lower left", ncols=7, fontsize=8, frameon=False, handlelength=1, columnspacing=1.2)
    if method:
        figure.text(0.995, 0.004, f"local quality: {method}", fontsize=6.5, color=QUIET, ha="right", va="bottom")


def pieces_of(timeline: Sequence[dict[str, float]], score: str) -> list[np.ndarray]:
    """Split a timeline at the silences into curves, with rows of time in seconds, mean, lowest and highest score."""
    if not timeline:
        return []
    size = max(1, -(-len(timeline) // MOST_POINTS))
    curves, run = [], [timeline[0]]
    for before, row in zip(timeline, [*timeline[1:], None], strict=True):
        # In a long recording, pauses of a few points do not break the curve, which would look frayed.
        if row is not None and row["start"] - before["end"] < 0.01 + (size - 1) * (before["end"] - before["start"]):
            run.append(row)
            continue
        parts = [run[first : first + size] for first in range(0, len(run), size)]
        scores = [[point[score] for point in part] for part in parts]
        times = [(part[0]["start"] + part[-1]["end"]) / 2 for part in parts]
        curves.append(np.array([[time, np.mean(of), min(of), max(of)] for time, of in zip(times, scores, strict=True)]))
        run = [row] if row is not None else []
    return curves


def envelope(recording: Recording, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return seconds, lowest and highest sample of every column of the picture, or of every sample if there are fewer."""
    columns = min(columns, recording.num_samples)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    position = 0
    for block in recording.blocks():
        column = (np.arange(position, position + len(block)) * columns) // recording.num_samples
        np.minimum.at(low, column, block)
        np.maximum.at(high, column, block)
        position += len(block)
    return np.linspace(0, recording.duration_seconds, columns), low, high


def colour_of(value: float) -> str:
    """Return the colour of a score on the five-point scale; grey for NaN, where nobody speaks."""
    return "#d9d9d9" if np.isnan(value) else category_of(value)[2]


def category_of(value: float) -> tuple[int, str, str]:
    """Return the category of `CATEGORIES` that a score on the five-point scale falls into."""
    return next(category for category in reversed(CATEGORIES) if value >= category[0] - 0.5 or category[0] == 1)
