"""Local quality by a network that gives a score and a weight for every step of some tens of milliseconds; needs no torch.

How a recording is cut into what the network hears, and where the curve lies, are the same whatever runs the network.
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

#: Steps that are computed together, and how many such chunks the peak is taken of: as long as a window of the model.
CHUNK_STEPS, PEAK_CHUNKS = 12, 8
#: Peaks are rounded up to the next of so many in an octave, so that neighbours have the same one and are computed together.
PEAKS_PER_OCTAVE = 1
#: The level of the curve is measured on the first window and then on one of so many.
LEVEL_EVERY_WINDOWS = 4


@dataclass(frozen=True)
class StepCut:
    """How a recording is cut, in samples, and what the model gives."""

    step: int
    margin: int  # What the network hears to either side of a chunk
    window: int  # What the model gives one score to
    doubt: tuple[float, float]  # See `CurveLevel`
    ends: tuple[float, float] = (1.0, 5.0)  # Of the scale

    @property
    def chunk(self) -> int:
        """Samples of a chunk."""
        return CHUNK_STEPS * self.step

    @property
    def settings(self) -> dict[str, Any]:
        """All numbers that another program needs to cut and to lay the curve in the same way, for JSON."""
        level = {"window": self.window, "every_windows": LEVEL_EVERY_WINDOWS, "doubt": list(self.doubt), "ends": list(self.ends)}
        cut = {"step": self.step, "chunk": self.chunk, "margin": self.margin}
        return {**cut, "peak_chunks": PEAK_CHUNKS, "peaks_per_octave": PEAKS_PER_OCTAVE, "level": level}

    @classmethod
    def of_settings(cls, settings: dict[str, Any]) -> StepCut:
        """The same from [`settings`]."""
        level = settings["level"]
        return cls(settings["step"], settings["margin"], level["window"], tuple(level["doubt"]), tuple(level["ends"]))


class CurveLevel:
    """Lays the curve where the model itself scores: what a network hears in short steps is a whole talker too high or too low.

    A window has a score by the model; the mean of its points should be that score. The difference is known with a doubt, which
    grows with the variance of these points, because the score of a window with a fault in it is not the mean of its parts. The
    curve is shifted by the mean of all differences so far, each weighted by one over its doubt, and 0 weighted by 1.

    `score` gives that of the samples of a window, `window` of them. `doubt` is that of a window whose points are all alike, and
    what a variance of one point adds; in the variance of the differences between recordings.
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
        """Where the window ends that is measured next, in samples."""
        return self.start + self._window

    @property
    def shift(self) -> float:
        """What is added to the curve, in MOS points."""
        return self._sum / (1 + self._weight)

    def hear(self, samples: np.ndarray, first: int) -> None:
        """Take the next samples, the first of which has this number."""
        piece = samples[max(0, self.start - first) :]
        if len(piece):
            self._samples.append(piece)

    def add(self, value: float) -> None:
        """Take the value of a point of the window."""
        self._values.append(value)

    def measure(self) -> None:
        """The points of the window are all there, and its samples, or there are no more."""
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
    """Local quality by steps: every sample goes through the network once, that of the first window when the model scores it.

    The first points come when a window of the model has been heard, or the recording has ended, for that is when the level of the
    curve is known ([`CurveLevel`]); without `has_level` it is not laid at the model's scores. A window is a number of whole chunks.
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
        """Scores and weights `(num_steps, 2)` of samples `(num_samples,)` of whole steps, divided by a peak."""
        raise NotImplementedError

    def window_steps(self, samples: np.ndarray) -> np.ndarray:
        """The same of the first window as the model hears it: divided by its own peak, what it lacks filled up with silence."""
        peak = np.float32(np.abs(samples).max(initial=0) + 1e-8)
        return self.score_steps(np.pad(samples / peak, (0, self.cut.window - len(samples))))

    def score_window(self, samples: np.ndarray) -> float:
        """The model's own score of a window, or of less at the end of a recording."""
        raise NotImplementedError

    def give(self, starts: Sequence[int], scores: np.ndarray, frames: Any = None) -> None:
        """See [`LocalScorer.give`]."""
        if self._level is not None:
            self._level.given = {int(start): float(score[0]) for start, score in zip(starts, scores, strict=True)}

    def _take(self, samples: np.ndarray, last: bool) -> None:
        """Score the first window, then the chunks that are there with all they depend on, those with one peak together."""
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
        """Points on their level. What moves a point is what was heard when it was known, so that portions change nothing."""
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
        """The points that waited, on their level."""
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
    """The next of the peaks that are told apart."""
    return 2 ** (math.ceil(math.log2(peak) * PEAKS_PER_OCTAVE) / PEAKS_PER_OCTAVE) if peak > 0 else 0.0
