"""Where a recording sounds bad: its local quality as rows, its faults, and its worst stretch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_sqa.blocks.local_quality import LocalScore

#: A stretch is a fault if it falls this far below the median of the recording, in MOS points.
FAULT_DEPTH = 0.7
#: The same for a fault that only the curve shows.
UNNAMED_DEPTH = 1.2
#: A fault, or the worst stretch, ends where the curve has risen by this share of its depth.
EDGE_SHARE = 0.45
DECIMALS, SECONDS_DECIMALS = 6, 2


@dataclass(frozen=True)
class Fault:
    """A stretch that is unlike the rest of its recording."""

    start: float  # In seconds
    end: float
    kind: str  # The likeliest of `hf_sqa.blocks.faults.KINDS`


def timeline_rows(points: Sequence[LocalScore], names: Sequence[str]) -> list[dict[str, float]]:
    """Return rows `{"start", "end", "mos"}` for the stretches where somebody speaks, in order; silent ones are left out."""
    return [
        {"start": round(point.start, 4), "end": round(point.end, 4)}
        | {name: round(float(score), DECIMALS) for name, score in zip(names, point.scores, strict=True)}
        for point in points
        if point.scores is not None
    ]


def faults_of(timeline: Sequence[dict[str, float]], score: str, depth: float = FAULT_DEPTH) -> list[dict[str, float]]:
    """Return stretches of [`timeline_rows`] where a score falls `depth` or more below the median of the recording, in order.

    Each has `start`, `end` and its lowest local score. A silent stretch between two low ones, as a gap leaves it, belongs to the
    fault.
    """
    values = np.array([row[score] for row in timeline])
    if len(values) < 3:
        return []
    drop = np.median(values) - values
    return [
        _stretch(timeline, score, drop, first + int(np.argmax(drop[first:end])))
        for first, end in runs_of(drop > depth / 2)
        if drop[first:end].max() >= depth
    ]


def worst_of(timeline: Sequence[dict[str, float]], score: str) -> dict[str, float] | None:
    """Return the stretch around the lowest point: its `start`, `end` and lowest local score; `None` if nobody speaks.

    In a recording of even quality, chance decides where that is; [`faults_of`] says what stands out.
    """
    if not timeline:
        return None
    values = np.array([row[score] for row in timeline])
    return _stretch(timeline, score, np.median(values) - values, int(np.argmin(values)))


def _stretch(timeline: Sequence[dict[str, float]], score: str, drop: np.ndarray, lowest: int) -> dict[str, float]:
    """Return the stretch around the lowest point in which the curve stays below the share of its depth there."""
    level = EDGE_SHARE * drop[lowest]
    is_low = (drop >= level) & (drop > 0)
    is_low[lowest] = True
    first, stop = next((first, stop) for first, stop in runs_of(is_low) if first <= lowest < stop)
    start, end = _edge(timeline, drop, level, first, -1), _edge(timeline, drop, level, stop - 1, 1)
    return {"start": round(start, SECONDS_DECIMALS), "end": round(end, SECONDS_DECIMALS), score: timeline[lowest][score]}


def _edge(timeline: Sequence[dict[str, float]], drop: np.ndarray, level: float, inside: int, step: int) -> float:
    """Return where the curve crosses the level between a point and the next; beside silence and at the ends, the point's border."""
    row, outside = timeline[inside], inside + step
    near, far = ("start", "end") if step < 0 else ("end", "start")
    if not 0 <= outside < len(timeline) or abs(timeline[outside][far] - row[near]) > 1e-3:
        return row[near]
    middle = (row["start"] + row["end"]) / 2
    away = (timeline[outside]["start"] + timeline[outside]["end"]) / 2 - middle
    share = (drop[inside] - level) / max(drop[inside] - drop[outside], 1e-9)
    return middle + away * float(np.clip(share, 0, 1))


def runs_of(is_so: np.ndarray) -> list[list[int]]:
    """Return the first index and one past the last of every run of true values."""
    return np.flatnonzero(np.diff(np.concatenate([[0], is_so, [0]]))).reshape(-1, 2).tolist()


def described(points: Sequence[LocalScore], faults: Sequence[Fault], names: Sequence[str]) -> dict[str, Any]:
    """Return what a result says about the course of a recording: `timeline`, `worst` and `faults`, all by the first score."""
    timeline = timeline_rows(points, names)
    return {"timeline": timeline, "worst": worst_of(timeline, names[0]), "faults": named_faults(timeline, faults, names[0])}


def named_faults(timeline: Sequence[dict[str, float]], faults: Sequence[Fault], score: str) -> list[dict[str, Any]]:
    """Return faults that the finder named, and stretches of [`timeline_rows`] far below the rest of the recording, in order.

    Each has `start`, `end`, the lowest local score (of the nearest stretch where nobody speaks in the fault) and `kind`, one of
    `hf_sqa.blocks.faults.KINDS` or `"other"`.
    """
    if not timeline:
        return []
    rows: list[dict[str, Any]] = [
        {"start": round(fault.start, SECONDS_DECIMALS), "end": round(fault.end, SECONDS_DECIMALS)}
        | {score: _lowest(timeline, fault, score), "kind": fault.kind}
        for fault in faults
    ]
    for heard in faults_of(timeline, score, UNNAMED_DEPTH):
        if all(heard["end"] <= fault.start or fault.end <= heard["start"] for fault in faults):
            rows.append({**heard, "kind": "other"})
    return sorted(rows, key=lambda row: row["start"])


def _lowest(timeline: Sequence[dict[str, float]], fault: Fault, score: str) -> float:
    """Return the lowest score of the stretches whose middle lies in the fault, or else of the stretch nearest to it."""
    middles = np.array([(row["start"] + row["end"]) / 2 for row in timeline])
    away = np.maximum(np.maximum(fault.start - middles, middles - fault.end), 0)
    return min(timeline[index][score] for index in np.flatnonzero(away <= away.min()))
