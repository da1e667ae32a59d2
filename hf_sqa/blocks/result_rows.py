"""The result row of a recording: scores by name, windows, facts about the recording, reasons to doubt a score. NumPy only.

The pipelines on torch and on onnxruntime both make their rows here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hf_sqa.audio import WARNINGS, AudioError, Finding, Recording
from hf_sqa.blocks.score_intervals import SCORE_DECIMALS, with_intervals
from hf_sqa.blocks.score_mapping import apply_score_mapping
from hf_sqa.blocks.timeline import described

#: An unbounded head may predict slightly beyond the ends of its scale where listeners would give the ends.
SCALE_SLACK = 0.02
SHOWN_OF_A_RECORDING = ("duration_seconds", "sampling_rate", "num_channels", "speech_seconds", "level_dbfs", "clipped_share")


@dataclass
class RecordingScores:
    """Scores of one recording, and of the segments they were averaged from."""

    scores: np.ndarray  # (num_labels,), in label units
    #: First sample of every segment, one past its last, within the recording, `(num_segments,)`; the scores of every segment alone.
    segment_starts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    segment_ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    segment_scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (num_segments, num_labels)

    def mapped(self, config: Any) -> RecordingScores:
        """Return the scores after the configuration's `score_mapping`, if it has one: of the recording and of every segment alone.

        The mapping was fitted on scores of recordings, so the mapped score is not the mean of the mapped segments.
        """
        if not config.score_mapping:
            return self
        scores, segment_scores = np.array(self.scores, np.float64), np.array(self.segment_scores, np.float64)
        for name, mapping in config.score_mapping.items():
            column = config.score_names.index(name)
            scores[column] = apply_score_mapping(scores[column], mapping)
            if len(segment_scores):
                segment_scores[:, column] = apply_score_mapping(segment_scores[:, column], mapping)
        return replace(self, scores=scores, segment_scores=segment_scores)


def result_row(
    item: Mapping[str, Any],
    config: Any,
    *,
    return_segments: bool = False,
    return_timeline: bool = False,
    return_details: bool = False,
    on_error: str = "raise",
    interval: float | None = None,
) -> dict[str, Any]:
    """Return the row that a pipeline gives for a recording; the pipeline documents the options.

    `item` has `recording` and `error`, either of which may be `None`; after scoring also `scores`, `mode`, `hop_seconds`, and for a
    timeline `points` and `faults`. `config` has the `score_names`, `score_min`, `score_max` and `score_intervals` of the model.
    """
    recording, error, names = item["recording"], item["error"], config.score_names
    if error is None and not np.isfinite(item["scores"].scores).all():
        advice = "load it with dtype=float32, export the graph again, or check the checkpoint"
        error = AudioError(recording.source, "score_not_finite", f"the model returned {item['scores'].scores.tolist()}; {advice}")
    if error is not None and on_error == "raise":
        raise error
    scored = item["scores"] if error is None else None
    row: dict[str, Any] = dict.fromkeys(names) if scored is None else named(names, scored.scores)
    if interval is not None:
        row = with_intervals(row, config.score_intervals, interval, config.score_min, config.score_max)
    if on_error == "row":
        row |= {"status": "ok", "code": None, "reason": None}
        if error is not None:
            row |= {"status": error.status, "code": error.code, "reason": error.message}
    if return_segments:
        row["segments"] = []
        if scored is not None:
            windows = (scored.segment_starts, scored.segment_ends, scored.segment_scores)
            row["segments"] = segment_rows(names, *windows, recording.sampling_rate)
    if return_timeline:
        row |= described([], [], names) if scored is None else described(item["points"], item["faults"], names)
    if return_details:
        row |= dict.fromkeys(SHOWN_OF_A_RECORDING) if recording is None else details(recording)
        found = findings(recording, None if scored is None else scored.scores, config)
        row["warnings"] = [{"code": finding.code, "message": finding.message} for finding in found]
        row["num_segments"] = 0 if scored is None else len(scored.segment_starts)
        row["mode"], row["hop_seconds"] = item.get("mode"), item.get("hop_seconds")
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}


def named(names: Sequence[str], scores: Any) -> dict[str, float]:
    """Return scores by name, rounded."""
    return {name: round(float(score), SCORE_DECIMALS) for name, score in zip(names, scores, strict=True)}


def segment_rows(
    names: Sequence[str], starts: Iterable[Any], ends: Iterable[Any], scores: Any, sampling_rate: int
) -> list[dict[str, float]]:
    """Return windows (first samples, one past the last, and scores) as rows with `start` and `end` in seconds and scores."""
    return [
        {"start": round(int(start) / sampling_rate, 4), "end": round(int(end) / sampling_rate, 4), **named(names, of_window)}
        for start, end, of_window in zip(starts, ends, scores, strict=True)
    ]


def findings(recording: Recording | None, scores: np.ndarray | None, config: Any) -> list[Finding]:
    """Return what makes a score doubtful: warnings of the recording, and a score that no listener could have given."""
    found = list(recording.warnings) if recording is not None else []
    if scores is not None:
        slack = SCALE_SLACK * (config.score_max - config.score_min)
        if np.any(scores < config.score_min - slack) or np.any(scores > config.score_max + slack):
            found.append(Finding("out_of_scale", WARNINGS["out_of_scale"]))
    return found


def details(recording: Recording) -> dict[str, Any]:
    """Return facts about a recording, rounded: the columns of `SHOWN_OF_A_RECORDING`."""
    return {
        "duration_seconds": round(recording.duration_seconds, 4),
        "sampling_rate": recording.source_sampling_rate,
        "num_channels": recording.num_channels,
        "speech_seconds": round(recording.speech_seconds, 2),
        "level_dbfs": round(recording.level_dbfs, 2),
        "clipped_share": round(recording.clipped_share, 6),
    }
