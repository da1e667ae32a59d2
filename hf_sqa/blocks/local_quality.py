"""Quality of every half second of a recording, computed as samples arrive: the same numbers from a file and live.

A point needs the audio of the next second or two. Memory does not grow with the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_sqa.audio import AudioError, load_recording

#: Distance between two points.
HOP_SECONDS = 0.5
#: Samples are processed in slices, so that a whole recording given at once takes no more memory than its parts.
SLICE_SECONDS = 15.36
LEVEL_SECONDS = 0.02
#: Speech is within this range of the loudest 20 ms, a maximum that falls slowly, and above a floor that is silence anywhere.
ACTIVE_RANGE_DB, MAXIMUM_FALLS_DB_PER_SECOND, FLOOR_DBFS = 35.0, 0.5, -75.0
#: A stretch is silent and gets no score if the active share of the audio around it is smaller than this.
LEAST_ACTIVE_SHARE = 0.2


@dataclass(frozen=True)
class LocalScore:
    """Quality of one stretch."""

    start: float  # In seconds
    end: float
    scores: np.ndarray | None  # (num_labels,), in label units; `None` where nobody speaks


class LocalScorer:
    """Scorer that takes samples in any portions, and scores stretches of `hop_seconds` as soon as enough that follows is known."""

    method = ""  # Short description of the method, for small print
    half_seconds = 0.0  # A score covers this much audio on either side of the middle of its stretch
    is_cheap = False  # Whether it takes less time than scoring the recording

    def __init__(self, sampling_rate: int, hop_seconds: float = HOP_SECONDS):
        if not 0.1 <= hop_seconds <= 10:
            raise ValueError(f"Expected `hop_seconds` between 0.1 and 10, got {hop_seconds!r}.")
        self.sampling_rate, self.hop_seconds = sampling_rate, float(hop_seconds)
        self.num_samples = 0
        self._next_point = 0
        self._activity = _Activity(sampling_rate)

    def feed(self, samples: np.ndarray, last: bool = False) -> list[LocalScore]:
        """Take the next samples `(num_samples,)`, mono float32 at the sampling rate; return the stretches that are now known.

        With `last=True` no samples follow: this does the same as a call of [`close`] afterwards, in less time.
        """
        found: list[LocalScore] = []
        step = round(SLICE_SECONDS * self.sampling_rate)
        for start in range(0, len(samples), step):
            piece = np.asarray(samples[start : start + step], np.float32)
            self.num_samples += len(piece)
            self._activity.feed(piece)
            ends = last and start + step >= len(samples)
            self._take(piece, ends)
            found += self._points(self.num_samples if ends else self._known_samples(), last=ends)
        return found

    def give(self, starts: Sequence[int], scores: np.ndarray, frames: Any = None) -> None:
        """Hook: take over what the model computed for the score of the recording, so that it is not computed again.

        `starts` are first samples of windows, `scores` `(num_windows, num_labels)` are theirs, and `frames` is what
        [`~hf_sqa.modeling.AudioQualityPreTrainedModel.keep_frames`] kept of the first window.
        """

    def close(self) -> list[LocalScore]:
        """Return the stretches at the end; call this after the last samples."""
        self._take(np.zeros(0, np.float32), last=True)
        return self._points(self.num_samples, last=True)

    def _take(self, samples: np.ndarray, last: bool) -> None:
        raise NotImplementedError

    def _known_samples(self) -> int:
        """Return the number of samples, from the beginning, that are completely processed."""
        return self.num_samples

    def _scores(self, first: int, end: int) -> np.ndarray | None:
        """Return the scores of the audio between two samples."""
        raise NotImplementedError

    def _forget(self, sample: int) -> None:
        """Hook: forget what lies before this sample, which is not needed any more."""

    def _points(self, known: int, last: bool) -> list[LocalScore]:
        found: list[LocalScore] = []
        half = round(self.half_seconds * self.sampling_rate)
        while True:
            start = round(self._next_point * self.hop_seconds * self.sampling_rate)
            end = round((self._next_point + 1) * self.hop_seconds * self.sampling_rate)
            end = min(end, self.num_samples) if last else end
            middle = (start + end) // 2
            if start >= end or (middle + half > known and not last):
                return found
            first, stop = max(0, middle - half), min(middle + half, self.num_samples)
            is_silent = self._activity.share(first, stop) < LEAST_ACTIVE_SHARE
            scores = None if is_silent else self._scores(first, stop)
            found.append(LocalScore(start / self.sampling_rate, end / self.sampling_rate, scores))
            self._next_point += 1
            self._forget(middle - half)
            self._activity.forget(middle - half)


class PieceScorer(LocalScorer):
    """Local scorer for any model: pieces of two seconds, each scored as a recording of its own.

    A model with fixed windows gets the piece repeated until its window is full: scores of short pieces are 0.8 MOS lower than those
    of full windows if silence fills the window, and 0.3 if repetitions do.
    """

    half_seconds = 1.0
    method = "pieces of 2 s, each scored alone"

    def __init__(self, model: Any, feature_extractor: Any, hop_seconds: float, sampling_rate: int):
        super().__init__(sampling_rate, hop_seconds)
        self._model, self._extractor = model, feature_extractor
        self._buffer, self._origin = np.zeros(0, np.float32), 0

    def _take(self, samples: np.ndarray, last: bool) -> None:
        self._buffer = np.concatenate([self._buffer, samples])

    def _scores(self, first: int, end: int) -> np.ndarray | None:
        piece = self._buffer[first - self._origin : end - self._origin]
        if self._model.window_samples is not None:
            piece = np.resize(piece, self._model.window_samples)
        try:
            recording = load_recording({"array": piece, "sampling_rate": self.sampling_rate}, sampling_rate=self.sampling_rate)
        except AudioError:
            return None  # nothing in it to judge
        return self._model.score_recordings([recording], self._extractor)[0].scores

    def _forget(self, sample: int) -> None:
        unused = max(0, sample - self._origin)
        self._buffer, self._origin = self._buffer[unused:], self._origin + unused


class _Activity:
    """Activity of stretches of 20 ms, by their level."""

    def __init__(self, sampling_rate: int):
        self._step = max(1, round(LEVEL_SECONDS * sampling_rate))
        self._rest = np.zeros(0, np.float32)
        self._active = np.zeros(0, bool)
        self._first, self._maximum = 0, -np.inf

    def feed(self, samples: np.ndarray) -> None:
        samples = np.concatenate([self._rest, samples])
        usable = len(samples) - len(samples) % self._step
        self._rest = samples[usable:]
        if not usable:
            return
        frames = samples[:usable].reshape(-1, self._step)
        power = np.einsum("ij,ij->i", frames, frames) / self._step - np.square(frames.mean(axis=1))
        levels = 10 * np.log10(np.maximum(power.astype(np.float64), 0) + 1e-12)
        # A maximum that falls with time is a constant one over levels that rise with time.
        number = self._first + len(self._active)
        rise = MAXIMUM_FALLS_DB_PER_SECOND * LEVEL_SECONDS * np.arange(number, number + len(levels))
        maxima = np.maximum.accumulate(np.concatenate([[self._maximum], levels + rise]))
        self._maximum = maxima[-1]
        active = levels > np.maximum(FLOOR_DBFS, maxima[1:] - rise - ACTIVE_RANGE_DB)
        self._active = np.concatenate([self._active, active])

    def share(self, first: int, end: int) -> float:
        """Return the active share between two samples; 0 for less than 20 ms."""
        begin, stop = first // self._step - self._first, end // self._step - self._first
        chosen = self._active[max(0, begin) : max(0, stop)]
        return float(np.count_nonzero(chosen)) / len(chosen) if len(chosen) else 0.0

    def forget(self, sample: int) -> None:
        unused = min(max(0, sample // self._step - self._first), len(self._active))
        self._active = self._active[unused:]
        self._first += unused
