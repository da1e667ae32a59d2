"""Results of the page as HTML and SVG, readable at any width and in dark mode."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from hf_sqa.cells import clock
from hf_sqa.demo.scorers import Judgement, Scale
from hf_sqa.pipelines.quality_plot import CATEGORIES

#: Longer courses are averaged down to this many stretches.
STRETCHES = 400
#: Lines keep their width when the drawing is stretched to the page.
THIN = 'vector-effect="non-scaling-stroke"'
STATUS_WORDS = {"failed": "Could not be read", "abstained": "Nothing to judge"}

CSS = """
.sqa-result, .sqa-hint { --sqa-quiet: color-mix(in srgb, var(--body-text-color) 72%, transparent); }
.sqa-result { display: flex; flex-direction: column; gap: 14px; min-width: 0; }
.sqa-file { font-weight: 600; overflow-wrap: anywhere; margin: 0; }
.sqa-scores { display: flex; flex-wrap: wrap; gap: 10px; }
.sqa-score { border-left: 6px solid var(--sqa-colour); background: var(--background-fill-secondary); border-radius: 6px;
  padding: 8px 16px; min-width: 96px; }
.sqa-score .sqa-name { display: block; font-size: 13px; color: var(--sqa-quiet); }
.sqa-score .sqa-value { font-size: 34px; font-weight: 700; line-height: 1.15; font-variant-numeric: tabular-nums; }
.sqa-score:not(:first-child) .sqa-value { font-size: 24px; }
.sqa-score .sqa-interval { display: block; font-size: 13px; color: var(--sqa-quiet); font-variant-numeric: tabular-nums; }
.sqa-score .sqa-word { font-size: 14px; color: var(--sqa-quiet); margin-left: 6px; }
.sqa-warnings { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 6px; }
.sqa-warnings li { border-left: 6px solid #e6a700; background: var(--background-fill-secondary); border-radius: 6px;
  padding: 8px 12px; margin: 0; }
.sqa-refused { border-left: 6px solid #b2182b; background: var(--background-fill-secondary); border-radius: 6px; padding: 12px 16px;
  overflow-wrap: anywhere; }
.sqa-refused code, .sqa-warnings code { font-size: 12px; }
.sqa-facts, .sqa-hint { font-size: 13px; color: var(--sqa-quiet); margin: 0; overflow-wrap: anywhere; }
.sqa-picture { margin: 0; display: grid; grid-template-columns: 86px minmax(0, 1fr); row-gap: 16px; column-gap: 8px;
  font-size: 12px; color: var(--sqa-quiet); }
.sqa-picture svg { width: 100%; display: block; overflow: visible; }
.sqa-axis { position: relative; text-align: right; }
.sqa-axis span { position: absolute; right: 0; transform: translateY(-50%); white-space: nowrap; }
.sqa-axis b { position: absolute; left: 0; top: 50%; transform: translateY(-50%); font-weight: 600; }
.sqa-time { position: relative; height: 34px; grid-column: 2; margin-top: -10px; }
.sqa-time span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.sqa-time span:first-child { transform: none; }
.sqa-time em { position: absolute; right: 0; top: 17px; font-style: normal; }
.sqa-worst { margin: 0; font-weight: 600; }
.sqa-key { margin: 0; font-size: 12px; color: var(--sqa-quiet); }
.sqa-key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 4px 0 10px; }
.sqa-key i:first-child { margin-left: 0; }
.sqa-pair { display: grid; grid-template-columns: 1fr 1fr; gap: 24px; }
.sqa-difference { font-size: 20px; font-weight: 600; margin: 0; }
.sqa-table { overflow-x: auto; max-height: 640px; overflow-y: auto; }
.sqa-table table, .sqa-table tr { border: none !important; }
.sqa-table table { width: 100%; border-collapse: collapse; font-size: 14px; }
.sqa-table th { text-align: left; position: sticky; top: 0; background: var(--background-fill-primary); }
.sqa-table th, .sqa-table td { padding: 6px 10px; border: none;
  border-bottom: 1px solid var(--border-color-primary); vertical-align: top; }
.sqa-table .sqa-label { overflow-wrap: anywhere; min-width: 110px; max-width: 320px; }
.sqa-table .sqa-number { font-weight: 600; font-variant-numeric: tabular-nums; border-left: 6px solid var(--sqa-colour); }
.sqa-table .sqa-remarks { font-size: 13px; min-width: 150px; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .sqa-pair { grid-template-columns: minmax(0, 1fr); }
  .sqa-picture { grid-template-columns: 78px minmax(0, 1fr); font-size: 11px; }
  .sqa-table .sqa-seconds { display: none; }
  .sqa-table .sqa-remarks { min-width: 0; }
}
"""


def judged(judgement: Judgement, span_seconds: float | None = None) -> str:
    """Scores, warnings, picture and facts of one recording, or why there is no score."""
    title = f'<p class="sqa-file">{escape(judgement.name)}</p>'
    if not judgement.is_scored:
        row = judgement.row
        return (
            f'<div class="sqa-result">{title}<div class="sqa-refused" role="alert"><b>No score. {STATUS_WORDS[row["status"]]}:</b> '
            f"{_prose(row['reason'])} <code>{escape(row['code'])}</code></div></div>"
        )
    scores = "".join(_score_box(scale, judgement) for scale in judgement.scales)
    return (
        f'<div class="sqa-result">{title}<div class="sqa-scores">{scores}</div>{_warnings(judgement.row["warnings"])}'
        f"{picture(judgement, span_seconds)}{_how_sure(judgement)}{_facts(judgement.row)}</div>"
    )


def compared(first: Judgement, second: Judgement) -> str:
    """Two recordings on one time axis, with the difference of their scores."""
    both = [judgement for judgement in (first, second) if judgement.is_scored]
    span = max((judgement.row["duration_seconds"] for judgement in both), default=None)
    headline = ""
    if len(both) == 2:
        scale = first.scales[0]
        difference = round(second.row[scale.name], 2) - round(first.row[scale.name], 2)
        words = "as much as" if abs(difference) < 0.005 else f"{abs(difference):.2f} {'more' if difference > 0 else 'less'} than"
        headline = f'<p class="sqa-difference">{escape(scale.name.upper())}: B gets {words} A</p>'
    return (
        f'<div class="sqa-result">{headline}<div class="sqa-pair">{judged(first, span)}{judged(second, span)}</div>'
        '<p class="sqa-hint">Compare recordings of the same speaker, sentence and language.</p></div>'
    )


def message(text: str, alert: bool = False) -> str:
    """A sentence in place of a result."""
    if alert:
        return f'<div class="sqa-refused" role="alert">{_prose(text)}</div>'
    return f'<p class="sqa-hint">{escape(text)}</p>'


def tabled(judgements: Sequence[tuple[str, Judgement]]) -> str:
    """A table with a row for every `(label, judgement)`, the worst first score first, those without a score last."""
    if not judgements:
        return ""
    scales = judgements[0][1].scales
    ordered = sorted(judgements, key=lambda one: scales[0].goodness(one[1].row[scales[0].name]) if one[1].is_scored else math.inf)
    heads = ["file", *(scale.name for scale in scales), "seconds", "remarks"]
    head = "".join(f'<th class="sqa-{name}">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="sqa-table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_table_row(label, judgement) for label, judgement in ordered)}</tbody></table></div>"
    )


def picture(judgement: Judgement, span_seconds: float | None = None) -> str:
    """The waveform with the course of every score over time below.

    Args:
        judgement (`Judgement`): A scored one.
        span_seconds (`float`, *optional*): Length of the time axis; the recording's own if not given.
    """
    assert judgement.waveform is not None
    duration = judgement.row["duration_seconds"]
    span = span_seconds or duration
    rows = [_waveform(judgement.waveform, span)]
    for index, scale in enumerate(judgement.scales):
        height = 130 if index == 0 else 64
        rows.append(_axis(scale, height, with_words=index == 0))
        rows.append(_course(scale, judgement.row, duration, span, height))
    names = ", ".join(scale.name for scale in judgement.scales)
    label = f"Waveform and course of {names} over {duration:.1f} seconds"
    figure = f'<figure class="sqa-picture" role="img" aria-label="{escape(label)}">{"".join(rows)}{_time_axis(span)}</figure>'
    return f"{_worst(judgement)}{figure}{_key(judgement)}"


def stretches(timeline: Sequence[dict[str, float]], score: str) -> list[tuple[float, float, float]]:
    """A timeline as `(start, end, mean)` in at most about `STRETCHES` stretches, with nothing where nobody speaks."""
    size = max(1, math.ceil(len(timeline) / STRETCHES))
    parts: list[list[dict[str, float]]] = []
    for row in timeline:
        before = parts[-1][-1] if parts else row
        pause, longest = row["start"] - before["end"], size * (row["end"] - row["start"])
        if not parts or len(parts[-1]) == size or pause > longest:  # shorter ones are narrower than what is drawn
            parts.append([])
        parts[-1].append(row)
    return [(part[0]["start"], part[-1]["end"], sum(row[score] for row in part) / len(part)) for part in parts]


def colour(scale: Scale, value: float) -> str:
    """Colour of the category a score falls into."""
    goodness = scale.goodness(value)
    return next(colour for at, _, colour in reversed(CATEGORIES) if goodness >= at - 0.5 or at == 1)


def word(scale: Scale, value: float) -> str:
    """The listeners' word for a score (bad to excellent), or its range if it is not an opinion score."""
    if scale.is_opinion:
        return next(word for at, word, _ in reversed(CATEGORIES) if value >= at - 0.5 or at == 1)
    return f"in {scale.low:g} to {scale.high:g}"


def _table_row(label: str, judgement: Judgement) -> str:
    row, scales = judgement.row, judgement.scales
    if not judgement.is_scored:
        why = f"{escape(row['status'])}: {_prose(row['reason'])} <code>{escape(row['code'])}</code>"
        return f'<tr><td class="sqa-label">{escape(label)}</td><td class="sqa-remarks" colspan="{len(scales) + 2}">{why}</td></tr>'
    cells = "".join(
        f'<td class="sqa-number" style="--sqa-colour:{colour(scale, row[scale.name])}">{row[scale.name]:.2f}</td>'
        for scale in scales
    )
    remarks = escape(", ".join(finding["code"] for finding in row["warnings"]))
    seconds = f'<td class="sqa-seconds">{row["duration_seconds"]:.1f}</td>'
    return f'<tr><td class="sqa-label">{escape(label)}</td>{cells}{seconds}<td class="sqa-remarks">{remarks}</td></tr>'


def _prose(text: str) -> str:
    """Escaped text, with text between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _score_box(scale: Scale, judgement: Judgement) -> str:
    value, ends = judgement.row[scale.name], [judgement.row.get(f"{scale.name}_{end}") for end in ("low", "high")]
    interval = "" if None in ends else f'<span class="sqa-interval">{ends[0]:.2f} to {ends[1]:.2f}</span>'
    return (
        f'<div class="sqa-score" style="--sqa-colour:{colour(scale, value)}">'
        f'<span class="sqa-name">{escape(scale.name.upper())}</span>'
        f'<span class="sqa-value">{value:.2f}</span><span class="sqa-word">{word(scale, value)}</span>{interval}</div>'
    )


def _how_sure(judgement: Judgement) -> str:
    """What the interval means, or how to get one."""
    if judgement.coverage is None:
        words = "No interval: this model is not calibrated. `hf-sqa calibrate` does it with 20 rated clips or more."
    else:
        words = (
            f"Listeners' mean rating lies between the small numbers for {100 * judgement.coverage:g} % of recordings like those "
        )
        words += "that the model was calibrated on."
    return f'<p class="sqa-hint">{_prose(words)}</p>'


def _warnings(warnings: Sequence[dict[str, str]]) -> str:
    if not warnings:
        return ""
    items = "".join(
        f"<li><b>Doubtful:</b> {escape(finding['message'])} <code>{escape(finding['code'])}</code></li>" for finding in warnings
    )
    return f'<ul class="sqa-warnings">{items}</ul>'


def _facts(row: dict[str, Any]) -> str:
    channels = row["num_channels"]
    facts = [
        f"{row['duration_seconds']:.1f} s",
        f"{row['sampling_rate']} Hz",
        f"{channels} channel{'s' if channels > 1 else ''}",
        f"{row['speech_seconds']:.1f} s active",
        f"level {row['level_dbfs']:.0f} dBFS",
        f"{row['model']['id']}, weights {row['model']['weights']}",
    ]
    return f'<p class="sqa-facts">{escape(" · ".join(facts))}</p>'


def _waveform(waveform: tuple[np.ndarray, np.ndarray, np.ndarray], span: float) -> str:
    seconds, low, high = waveform
    peak = max(1e-3, float(np.abs([low, high]).max()))
    x = seconds / span * 1000
    points = [*zip(x, 50 - 48 * high / peak, strict=True), *zip(x[::-1], 50 - 48 * low[::-1] / peak, strict=True)]
    path = "M" + "L".join(f"{at:.1f} {amplitude:.1f}" for at, amplitude in points) + "Z"
    return (
        '<div class="sqa-axis" style="height:64px"><b>wave</b></div>'
        '<svg class="sqa-wave" viewBox="0 0 1000 100" preserveAspectRatio="none" style="height:64px" aria-hidden="true">'
        f'<path d="{path}" fill="currentColor" stroke="currentColor" stroke-width="0.6" vector-effect="non-scaling-stroke"/></svg>'
    )


def _axis(scale: Scale, height: int, with_words: bool) -> str:
    if scale.is_opinion and with_words:
        ticks: list[tuple[float, str]] = [(at, f"{at} {name}") for at, name, _ in CATEGORIES]
    else:
        ticks = [(scale.low, f"{scale.low:g}"), (scale.high, f"{scale.high:g}")]
    spans = "".join(f'<span style="top:{100 - _percent(scale, at):.1f}%">{text}</span>' for at, text in ticks)
    title = "" if with_words and scale.is_opinion else f"<b>{escape(scale.name)}</b>"
    return f'<div class="sqa-axis" style="height:{height}px">{title}{spans}</div>'


def _course(scale: Scale, row: dict[str, Any], duration: float, span: float, height: int) -> str:
    bars, steps, last = [], [], None
    for start, end, mean in stretches(row["timeline"], scale.name):
        left, right = start / span * 1000, end / span * 1000
        y = 100 - _percent(scale, mean)
        bars.append(
            f'<rect x="{left:.2f}" y="{y:.2f}" width="{right - left:.2f}" height="{100 - y:.2f}" fill="{colour(scale, mean)}" '
            f'fill-opacity="0.85"><title>{start:.1f} to {end:.1f} s: {scale.name} {mean:.2f}</title></rect>'
        )
        steps.append(f"{'L' if last == start else 'M'}{left:.2f} {y:.2f}L{right:.2f} {y:.2f}")
        last = end
    grid = "".join(
        f'<line x1="0" x2="1000" y1="{at}" y2="{at}" stroke="currentColor" stroke-opacity="0.2" {THIN}/>'
        for at in (0, 25, 50, 75, 100)
    )
    faults = "".join(
        f'<rect class="sqa-fault" x="{fault["start"] / span * 1000:.2f}" y="0" height="100" fill="#b2182b" fill-opacity="0.18" '
        f'width="{(fault["end"] - fault["start"]) / span * 1000:.2f}"/>'
        for fault in row["faults"]
    )
    y = 100 - _percent(scale, row[scale.name])
    return (
        f'<svg class="sqa-course" data-score="{escape(scale.name)}" viewBox="0 0 1000 100" preserveAspectRatio="none" '
        f'style="height:{height}px">{grid}{"".join(bars)}{faults}'
        f'<path d="{"".join(steps)}" fill="none" stroke="var(--body-text-color)" stroke-width="1.5" {THIN}/>'
        f'<line x1="0" x2="{duration / span * 1000:.2f}" y1="{y:.2f}" y2="{y:.2f}" stroke="var(--body-text-color)" '
        f'stroke-dasharray="5 4" vector-effect="non-scaling-stroke"><title>whole recording: {row[scale.name]:.2f}</title>'
        "</line></svg>"
    )


def _worst(judgement: Judgement) -> str:
    """Where the recording is worst, and what stands out, in a sentence."""
    worst, faults = judgement.row["worst"], judgement.row["faults"]
    if worst is None:
        return ""
    scale = judgement.scales[0]
    words = f"Worst from {clock(worst['start'])} to {clock(worst['end'])}: {worst[scale.name]:.1f}."
    others = f" {len(faults)} stretch{'es stand' if len(faults) > 1 else ' stands'} out." if faults else " Nothing stands out."
    return f'<p class="sqa-worst">{escape(words + others)}</p>'


def _key(judgement: Judgement) -> str:
    """Colours of the course, and how it was made."""
    boxes = "".join(f'<i style="background:{shade}"></i>{value} {name}' for value, name, shade in CATEGORIES)
    fault = '<i style="background:rgba(178,24,43,.25)"></i>stands out; blank: nobody speaks'
    return f'<p class="sqa-key">{boxes}{fault}<br>Local quality: {escape(judgement.method)}</p>'


def _percent(scale: Scale, value: float) -> float:
    return 100 * min(1.0, max(0.0, (value - scale.low) / (scale.high - scale.low)))


def _time_axis(span: float) -> str:
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, span) if span / step <= 6)
    ticks = np.arange(0, span * 0.97, step)
    is_long = span >= 60
    words = [clock(at) if at >= 60 else f"0:{at:02.0f}" if is_long else f"{at:g}" for at in ticks]
    spans = "".join(f'<span style="left:{100 * at / span:.1f}%">{text}</span>' for at, text in zip(ticks, words, strict=True))
    unit = "hours:minutes:seconds" if span >= 3600 else "minutes:seconds" if is_long else "seconds"
    return f'<div class="sqa-time">{spans}<em>{unit}; dashed: whole recording</em></div>'
