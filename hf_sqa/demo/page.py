"""Renders results as HTML and SVG, with the macros of `page.html`."""

import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from hf_sqa.cells import clock
from hf_sqa.demo.scorers import Judgement, Scale, Scorers
from hf_sqa.metrics import compare_systems
from hf_sqa.pipelines.quality_plot import CATEGORIES, category_of

#: Longer courses are averaged down to this many stretches.
STRETCHES = 400
STATUS_WORDS = {"failed": "Could not be read", "abstained": "Nothing to judge"}
CSS = files("hf_sqa.demo").joinpath("page.css").read_text(encoding="utf-8")


@cache
def _macros() -> Any:
    """Load the macros of `page.html`, which escape every text passed to them."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # Text between backticks becomes code; the rest is escaped.
    environment.filters["prose"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    environment.filters["clock"] = clock
    environment.tests["nan"] = math.isnan
    environment.globals |= {"colour": colour, "word": word, "stretches": stretches}
    environment.globals["depth"] = lambda scale, value: 100 - 100 * scale.share(value)  # below the top of the axis, in per cent
    environment.globals |= {"outline": _outline, "ticks": _ticks, "categories": CATEGORIES, "status_words": STATUS_WORDS}
    return environment.from_string(files("hf_sqa.demo").joinpath("page.html").read_text(encoding="utf-8")).module


def judged(judgement: Judgement) -> str:
    """Render scores, warnings, picture and facts of one recording, or why it has no score."""
    return str(_macros().judged(judgement, None))


def compared(first: Judgement, second: Judgement) -> str:
    """Render two recordings on one time axis, with the difference of their scores."""
    both = [judgement for judgement in (first, second) if judgement.is_scored]
    span = max((judgement.row["duration_seconds"] for judgement in both), default=None)
    words = ""
    if len(both) == 2:
        name = first.scales[0].name
        difference = round(second.row[name], 2) - round(first.row[name], 2)
        words = "as much as" if abs(difference) < 0.005 else f"{abs(difference):.2f} {'more' if difference > 0 else 'less'} than"
    return str(_macros().compared(first, second, span, words))


def message(text: str, alert: bool = False) -> str:
    """Render a sentence in place of a result."""
    return str(_macros().message(text, alert))


def tabled(judgements: Sequence[tuple[str, Judgement]]) -> str:
    """Render a table with one row per `(label, judgement)`: sorted by the first score, worst on top, rows without a score last."""
    if not judgements:
        return ""
    scales = judgements[0][1].scales

    def goodness(labelled: tuple[str, Judgement]) -> float:
        return scales[0].goodness(labelled[1].row[scales[0].name]) if labelled[1].is_scored else math.inf

    return str(_macros().tabled(scales, sorted(judgements, key=goodness)))


def judged_sets(scorers: Scorers, model: str, first: Sequence[str], second: Sequence[str]) -> str:
    """Score the files of two sets, A and B, with a model and compare the sets, paired by file name where names match."""
    sets = {"A": list(first), "B": list(second)}
    judgements = [(name, path, scorers.judge(model, path)) for name, paths in sets.items() for path in paths]
    scale = judgements[0][2].scales[0]
    compared = compare_systems(
        [judgement.row[scale.name] if judgement.is_scored else math.nan for _, _, judgement in judgements],
        [name for name, _, _ in judgements],
        items=[Path(path).stem for _, path, _ in judgements],
        score_name=scale.name,
    )
    refused = [(name, judgement) for name, _, judgement in judgements if not judgement.is_scored]
    return str(_macros().sets(compared, scale, refused))


def stretches(timeline: Sequence[dict[str, float]], score: str) -> list[tuple[float, float, float]]:
    """Average a timeline into about `STRETCHES` or fewer `(start, end, mean)`, with gaps where nobody speaks."""
    size = max(1, math.ceil(len(timeline) / STRETCHES))
    parts: list[list[dict[str, float]]] = []
    for row in timeline:
        before = parts[-1][-1] if parts else row
        pause, longest = row["start"] - before["end"], size * (row["end"] - row["start"])
        if not parts or len(parts[-1]) == size or pause > longest:  # shorter pauses are too narrow to be drawn
            parts.append([])
        parts[-1].append(row)
    return [(part[0]["start"], part[-1]["end"], sum(row[score] for row in part) / len(part)) for part in parts]


def colour(scale: Scale, value: float) -> str:
    """Return the colour of the category that a score falls into."""
    return category_of(scale.goodness(value))[2]


def word(scale: Scale, value: float) -> str:
    """Return the listeners' word for a score (bad to excellent), or its range if it is not an opinion score."""
    return category_of(value)[1] if scale.is_opinion else f"in {scale.low:g} to {scale.high:g}"


def _outline(waveform: tuple[np.ndarray, np.ndarray, np.ndarray], span: float) -> str:
    seconds, low, high = waveform
    peak = max(1e-3, float(np.abs([low, high]).max()))
    x = seconds / span * 1000
    points = [*zip(x, 50 - 48 * high / peak, strict=True), *zip(x[::-1], 50 - 48 * low[::-1] / peak, strict=True)]
    return "M" + "L".join(f"{at:.1f} {amplitude:.1f}" for at, amplitude in points) + "Z"


def _ticks(span: float) -> list[tuple[float, str]]:
    """Return the positions and labels of ticks on the time axis."""
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, span) if span / step <= 6)
    places = np.arange(0, span * 0.97, step)
    return [(at, clock(at) if at >= 60 else f"0:{at:02.0f}" if span >= 60 else f"{at:g}") for at in places]
