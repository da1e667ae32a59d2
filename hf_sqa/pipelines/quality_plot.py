"""One recording's waveform, and its quality over time under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.audio import Recording

#: The five categories of an absolute category rating (ITU-T P.800), with colours that stay apart in grey and for the colour-blind.
CATEGORIES = (
    (1, "bad", "#b2182b"),
    (2, "poor", "#ef8a62"),
    (3, "fair", "#e6c229"),
    (4, "good", "#67a9cf"),
    (5, "excellent", "#2166ac"),
)
COLUMNS = 1200


def plot_quality(
    recording: Recording, segments: list[dict[str, float]], overall: float, path: str | Path, *, title: str = "", score: str = "mos"
) -> None:
    """Draw a waveform with its quality over time into a PNG, PDF or SVG file.

    Args:
        recording (`Recording`): What was scored, at any rate.
        segments (`list[dict]`): As returned by the pipeline with `return_segments=True`: `start`, `end` and the score.
        overall (`float`): Score of the whole recording.
        path (`str` or `Path`): Where to; the suffix decides the format.
        title (`str`, *optional*): Printed above.
        score (`str`, *optional*, defaults to `"mos"`): Which score to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds, low, high = envelope(recording)
    edges, means = quality_over_time(segments, recording.duration_seconds, score)

    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    wave_axis, score_axis = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    wave_axis.fill_between(seconds, low, high, color="#4d4d4d", linewidth=0.3)
    peak = max(1e-3, float(np.abs([low, high]).max()))
    wave_axis.set(ylim=(-1.08 * peak, 1.08 * peak), ylabel="amplitude")
    wave_axis.set_title(title or recording.source, loc="left", fontsize=11, parse_math=False)

    centres, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    score_axis.bar(centres, means - 1, widths, bottom=1, color=[_colour(mean) for mean in means], linewidth=0)
    score_axis.step(edges, np.append(means, means[-1]), where="post", color="black", linewidth=1.2)
    score_axis.axhline(overall, color="black", linestyle="--", linewidth=1, label=f"whole recording: {overall:.2f}")
    score_axis.set(xlim=(0, recording.duration_seconds), ylim=(1, 5), ylabel=f"quality ({score.upper()})", xlabel="time in seconds")
    score_axis.set_yticks([value for value, _, _ in CATEGORIES], [f"{value} {name}" for value, name, _ in CATEGORIES])
    score_axis.grid(axis="y", color="#cccccc", linewidth=0.6)
    score_axis.set_axisbelow(True)
    score_axis.legend(loc="upper right", frameon=True, framealpha=0.9)
    for axis in (wave_axis, score_axis):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def quality_over_time(segments: list[dict[str, float]], duration: float, score: str = "mos") -> tuple[np.ndarray, np.ndarray]:
    """Mean score of the windows that cover each stretch of time.

    Returns:
        `(edges, means)`: `means[i]` holds from `edges[i]` to `edges[i + 1]` seconds; a stretch ends where a window starts or ends.
    """
    edges = np.unique([0.0, duration, *(segment[key] for segment in segments for key in ("start", "end"))])
    edges = edges[edges <= duration + 1e-9]
    centres = (edges[:-1] + edges[1:]) / 2
    covers = np.array([[segment["start"] <= centre < segment["end"] for segment in segments] for centre in centres])
    scores = np.array([segment[score] for segment in segments])
    return edges, (covers * scores).sum(axis=1) / np.maximum(covers.sum(axis=1), 1)


def envelope(recording: Recording, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest sample of every column of the picture, read block by block.

    Returns:
        `(seconds, low, high)`, each of as many values as there are columns, or samples if these are fewer.
    """
    columns = min(columns, recording.num_samples)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    position = 0
    for block in recording.blocks():
        column = (np.arange(position, position + len(block)) * columns) // recording.num_samples
        np.minimum.at(low, column, block)
        np.maximum.at(high, column, block)
        position += len(block)
    return np.linspace(0, recording.duration_seconds, columns), low, high


def _colour(value: Any) -> str:
    return next(colour for at, _, colour in reversed(CATEGORIES) if value >= at - 0.5 or at == 1)
