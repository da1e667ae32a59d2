"""Local quality from a network that gives a score and a weight for every step of some tens of milliseconds; needs no torch.

How a recording is cut for the network, and at which level the curve lies, do not depend on what runs the network.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from hf_sqa.blocks.local_quality import HOP_SECONDS, LocalScore, LocalScorer

#: Steps in a chunk, which are computed together, and chunks over which the peak is taken: as long as a window of the model.
CHUNK_STEPS, PEAK_CHUNKS = 12, 8
#: Peaks are rounded up to this many values per octave, so that neighbours have the same peak and are computed together.
PEAKS_PER_OCTAVE = 1
#: The level of the curve is measured on the first window and then on one window in this many.
LEVEL_EVERY_WINDOWS = 4


@dataclass(frozen=True)
class StepCut:
    """How a recording is cut, in samples, and facts about the model's scores."""

    step: int
    margin: int  # Audio that the network needs on either side of a chunk
    window: int  # Audio that the model gives one score
    doubt: tuple[float, float]  # See `CurveLevel`
    ends: tuple[float, float] = (1.0, 5.0)  # Ends of the scale

    @property
    def chunk(self) -> int:
        """Samples in a chunk."""
        return CHUNK_STEPS * self.step

    @property
    def settings(self) -> dict[str, Any]:
        """All numbers that another program needs to cut recordings and to shift the curve in the same way, for JSON."""
        level = {"window": self.window, "every_windows": LEVEL_EVERY_WINDOWS, "doubt": list(self.doubt), "ends": list(self.ends)}
        cut = {"step": self.step, "chunk": self.chunk, "margin": self.margin}
        return {**cut, "peak_chunks": PEAK_CHUNKS, "peaks_per_octave": PEAKS_PER_OCTAVE, "level": level}

    @classmethod
    def of_settings(cls, settings: dict[str, Any]) -> StepCut:
        """Build this from [`settings`]."""
        level = settings["level"]
        return cls(settings["step"], settings["margin"], level["window"], tuple(level["doubt"]), tuple(level["ends"]))


class CurveLevel:
    """Shift of the curve to the model's own scores: how far scores of short steps lie off depends on the talker.

    The mean of a window's points should be the model's score of the window. The difference is uncertain; its variance, the doubt,
    grows with the variance of the points, because the score of a window with a fault in it is not the mean of its parts. The curve
    is shifted by the mean of all differences so far, each with the weight 1 / doubt, and of a 0 with the weight 1.

    `score` gives the model's score of `window` samples. `doubt` holds the doubt of a window whose points are all equal, and what a
    variance of 1 among its points adds, both in units of the variance of the differences between recordings.
    """

    def __init__(self, score: Callable[[np.ndarray], float], window: int, doubt: tuple[float, float]):
        self._score, self._window, self._doubt = score, window, doubt
        self.start = 0
        self._samples: list[np.ndarray] = []
        self._values: list[float] = []
        self._sum = self._weight = 0.0
        self.given: dict[int, float] = {}
        self.is_known = False

    @property
    def end(self) -> int:
        """End of the window that is measured next, in samples."""
        return self.start + self._window

    @property
    def shift(self) -> float:
        """What to add to the curve, in MOS points."""
        return self._sum / (1 + self._weight)

    def hear(self, samples: np.ndarray, first: int) -> None:
        """Take the next samples; `first` is the number of the first of them."""
        piece = samples[max(0, self.start - first) :]
        if len(piece):
            self._samples.append(piece)

    def add(self, value: float) -> None:
        """Take the score of a point in the window."""
        self._values.append(value)

    def measure(self) -> None:
        """Measure the window; call this when its points and samples are complete, or when there are no more."""
        heard, following = np.concatenate([*self._samples, np.zeros(0, np.float32)]), 1
        if self._values:
            score = self.given.get(self.start)
            score = self._score(heard[: self._window]) if score is None else score
            doubt = self._doubt[0] + self._doubt[1] * float(np.var(self._values))
            self._sum += (score - float(np.mean(self._values))) / doubt
            self._weight += 1 / doubt
            following = LEVEL_EVERY_WINDOWS
        self.start += following * self._window
        rest = heard[following * self._window :]
        self._samples, self._values = [rest] if len(rest) else [], []
        self.is_known = True


class StepScorer(LocalScorer):
    """Local quality by steps: every sample goes through the network once, those of the first window when the model scores it.

    The level of the curve ([`CurveLevel`]) is known after one window of the model, or at the end of the recording, and so the first
    points come then. Without `has_level`, the curve is not shifted to the model's scores. A window is a whole number of chunks.
    """

    half_seconds = 0.75
    is_cheap = True
    method = "a head on the model's first layers, means over 1.5 s"

    def __init__(self, cut: StepCut, sampling_rate: int, hop_seconds: float = HOP_SECONDS, has_level: bool = True):
        super().__init__(sampling_rate, hop_seconds)
        self.cut = cut
        self._buffer, self._origin = np.zeros(0, np.float32), 0
        self._next_chunk, self._has_window = 0, False
        self._peaks: deque[float] = deque(maxlen=PEAK_CHUNKS)
        self._steps = np.zeros((0, 2))
        self._first_step = 0
        self._level = CurveLevel(self.score_window, cut.window, cut.doubt) if has_level else None
        self._waiting: list[LocalScore] = []

    def score_steps(self, samples: np.ndarray) -> np.ndarray:
        """Return scores and weights `(num_steps, 2)` of samples `(num_samples,)` of whole steps that are divided by a peak."""
        raise NotImplementedError

    def window_steps(self, samples: np.ndarray) -> np.ndarray:
        """Return the same for the first window as the model hears it: divided by its own peak, filled up with silence."""
        peak = np.float32(np.abs(samples).max(initial=0) + 1e-8)
        return self.score_steps(np.pad(samples / peak, (0, self.cut.window - len(samples))))

    def score_window(self, samples: np.ndarray) -> float:
        """Return the model's own score of a window, or of a shorter piece at the end of a recording."""
        raise NotImplementedError

    def give(self, starts: Sequence[int], scores: np.ndarray, frames: Any = None) -> None:
        """See [`LocalScorer.give`]."""
        if self._level is not None:
            self._level.given = {int(start): float(score[0]) for start, score in zip(starts, scores, strict=True)}

    def _take(self, samples: np.ndarray, last: bool) -> None:
        """Score the first window, then the chunks whose surroundings are complete; chunks with the same peak go together."""
        if self._level is not None:
            self._level.hear(samples, self._origin + len(self._buffer))
        chunk, margin, window = self.cut.chunk, self.cut.margin, self.cut.window
        self._buffer = np.concatenate([self._buffer, samples]) if len(self._buffer) else samples
        available = self._origin + len(self._buffer)
        if not self._has_window:
            if not available or (available < window and not last):
                return
            heard = self._buffer[:window]
            self._steps = self.window_steps(heard)[: -(-len(heard) // self.cut.step)]
            self._has_window = True
        ready: list[tuple[int, float]] = []
        while (end := (self._next_chunk + 1) * chunk) + margin <= available or (last and self._next_chunk * chunk < available):
            heard = self._buffer[self._next_chunk * chunk - self._origin : end - self._origin + margin]
            self._peaks.append(float(max(heard.max(), -heard.min())))
            if self._next_chunk * chunk >= window:
                ready.append((self._next_chunk, rounded_peak(max(self._peaks))))
            self._next_chunk += 1
        for peak, chunks in groupby(ready, key=lambda chunk: chunk[1]):
            numbers = [number for number, _ in chunks]
            self._score_chunks(numbers[0] * chunk, min((numbers[-1] + 1) * chunk, available), peak, available)
        if (unused := self._next_chunk * chunk - margin - self._origin) > 0:
            self._buffer, self._origin = self._buffer[unused:], self._origin + unused

    def _score_chunks(self, start: int, stop: int, peak: float, available: int) -> None:
        step = self.cut.step
        low, high = max(0, start - self.cut.margin), min(stop + self.cut.margin, available)
        samples = self._buffer[low - self._origin : high - self._origin] / np.float32(peak + 1e-8)
        if missing := -len(samples) % step:
            samples = np.pad(samples, (0, missing))
        scored = self.score_steps(samples)[(start - low) // step :][: -(-(stop - start) // step)]
        self._steps = np.concatenate([self._steps, scored])

    def _known_samples(self) -> int:
        return (self._first_step + len(self._steps)) * self.cut.step

    def _scores(self, first: int, end: int) -> np.ndarray | None:
        step = self.cut.step
        begin = -(-(first - step // 2) // step) - self._first_step
        stop = -(-(end - step // 2) // step) - self._first_step
        scores, weights = self._steps[max(0, begin) : max(0, stop, begin + 1)].T
        return np.array([scores @ weights / weights.sum()]) if len(scores) else None

    def _forget(self, sample: int) -> None:
        unused = min(max(0, sample // self.cut.step - 1 - self._first_step), len(self._steps))
        self._steps = self._steps[unused:]
        self._first_step += unused

    def _points(self, known: int, last: bool) -> list[LocalScore]:
        """Return points, shifted. Only what was heard when a point was known affects its shift, so portions change nothing."""
        points, level = super()._points(known, last), self._level
        if level is None:
            return points
        half, found = round(self.half_seconds * self.sampling_rate), []
        for point in points:
            start, end = round(point.start * self.sampling_rate), round(point.end * self.sampling_rate)
            needed = (start + end) // 2 + half
            while min(needed, self.num_samples) > level.end:
                level.measure()
                found += self._laid()
            if point.scores is not None and start >= level.start and needed <= level.end:
                level.add(float(point.scores[0]))
            self._waiting.append(point)
            if level.is_known:
                found += self._laid()
        if not level.is_known and (last or known >= level.end):
            level.measure()
            found += self._laid()
        return found

    def _laid(self) -> list[LocalScore]:
        """Return the points that waited, shifted."""
        assert self._level is not None
        shift, waiting, self._waiting = self._level.shift, self._waiting, []
        least, most = self.cut.ends
        return [
            point
            if point.scores is None
            else replace(point, scores=np.array([min(max(float(point.scores[0]) + shift, least), most)]))
            for point in waiting
        ]


def rounded_peak(peak: float) -> float:
    """Return the peak, rounded up to the next of the values that are distinguished."""
    return 2 ** (math.ceil(math.log2(peak) * PEAKS_PER_OCTAVE) / PEAKS_PER_OCTAVE) if peak > 0 else 0.0
