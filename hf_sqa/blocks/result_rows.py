"""The parts of a result: scores by name, windows, facts of the recording, what makes a score doubtful. NumPy only.

The pipelines on torch and on onnxruntime put their rows together from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hf_sqa.audio import WARNINGS, AudioError, Finding, Recording

SCORE_DECIMALS = 6
#: An unbounded head predicts a little beyond the ends of its scale where listeners would give the ends.
SCALE_SLACK = 0.02
SHOWN_OF_A_RECORDING = ("duration_seconds", "sampling_rate", "num_channels", "speech_seconds", "level_dbfs", "clipped_share")


def named(names: Sequence[str], scores: Any) -> dict[str, float]:
    """Scores by their names, rounded."""
    return {name: round(float(score), SCORE_DECIMALS) for name, score in zip(names, scores, strict=True)}


def status_columns(error: AudioError | None) -> dict[str, str | None]:
    """`status`, `code` and `reason` of a row."""
    return {
        "status": "ok" if error is None else error.status,
        "code": None if error is None else error.code,
        "reason": None if error is None else error.message,
    }


def segment_rows(
    names: Sequence[str], starts: Iterable[Any], ends: Iterable[Any], scores: Any, sampling_rate: int
) -> list[dict[str, float]]:
    """Windows, given by their first samples, one past the last ones and scores, as `start` and `end` in seconds with the scores."""
    return [
        {"start": round(int(start) / sampling_rate, 4), "end": round(int(end) / sampling_rate, 4), **named(names, of_window)}
        for start, end, of_window in zip(starts, ends, scores, strict=True)
    ]


def findings(recording: Recording | None, scores: np.ndarray | None, low: float, high: float) -> list[Finding]:
    """What makes a score doubtful: warnings of the recording, and a score beyond the ends of the scale."""
    found = list(recording.warnings) if recording is not None else []
    if scores is not None:
        slack = SCALE_SLACK * (high - low)
        if np.any(scores < low - slack) or np.any(scores > high + slack):
            found.append(Finding("out_of_scale", WARNINGS["out_of_scale"]))
    return found


def details(recording: Recording) -> dict[str, Any]:
    """Facts of a recording, rounded: the columns of `SHOWN_OF_A_RECORDING`."""
    return {
        "duration_seconds": round(recording.duration_seconds, 4),
        "sampling_rate": recording.source_sampling_rate,
        "num_channels": recording.num_channels,
        "speech_seconds": round(recording.speech_seconds, 2),
        "level_dbfs": round(recording.level_dbfs, 2),
        "clipped_share": round(recording.clipped_share, 6),
    }
