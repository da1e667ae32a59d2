"""[`QualityMeter`]: quality of a call or a stream while it is running."""

from typing import Any

import numpy as np
import soxr

from hf_sqa.audio.recording import RESAMPLING_QUALITY
from hf_sqa.audio.streams import checked_rate, to_float32, to_numpy
from hf_sqa.blocks.local_quality import HOP_SECONDS, LocalScore
from hf_sqa.blocks.result_rows import named
from hf_sqa.pipelines.audio_quality import AudioQualityPipeline
from hf_sqa.pipelines.loading import pipeline

#: Arrays with more channels than this have their axes swapped.
MOST_CHANNELS = 64


class QualityMeter:
    """Takes samples in blocks of any size and returns the quality of every half second one or two seconds later.

    The scores are those of `pipeline(...)(recording, return_timeline=True)` for the same sound, whatever the size of the blocks.
    Memory does not grow with time.

    ```python
    >>> meter = hf_sqa.QualityMeter("distilled-sqa-s", sampling_rate=48_000)
    >>> for samples in microphone:
    ...     for point in meter.feed(samples):
    ...         print(point["end"], point["mos"], point["running"])
    ```

    Args:
        model (*optional*): As for [`pipeline`], or a pipeline; the default model if not given. The students `distilled-sqa-xs` to
            `-m` take a few per cent of one core.
        hop_seconds (`float`, *optional*, defaults to 0.5): Distance between two scores.
        sampling_rate (`int`, *optional*): Sampling rate of the samples, in Hz; the model's own, 16000, if not given.
        **options: Options of [`pipeline`], such as `device`.

    Raises:
        ValueError: If `hop_seconds` is not between 0.1 and 10, or the model cannot be loaded.
    """

    def __init__(self, model: Any = None, *, hop_seconds: float = HOP_SECONDS, sampling_rate: int | None = None, **options: Any):
        scorer = model if isinstance(model, AudioQualityPipeline) else pipeline(model, **options)
        self._pipeline, self._names = scorer, scorer.model.config.score_names
        self._local = scorer.model.local_scorer(scorer.feature_extractor, hop_seconds, sampling_rate)
        self.method = self._local.method
        self.sampling_rate = self._local.sampling_rate if sampling_rate is None else checked_rate(sampling_rate, "<samples>")
        self._resampler = None
        if self.sampling_rate != self._local.sampling_rate:
            self._resampler = soxr.ResampleStream(
                self.sampling_rate, self._local.sampling_rate, 1, dtype="float32", quality=RESAMPLING_QUALITY
            )
        self._sum, self._count, self._is_closed = np.zeros(len(self._names)), 0, False

    @property
    def running(self) -> dict[str, float | None]:
        """Means of all local scores so far; `None` until somebody has spoken."""
        scores: dict[str, float | None] = dict.fromkeys(self._names)
        return scores | named(self._names, self._sum / self._count) if self._count else scores

    def feed(self, samples: Any) -> list[dict[str, Any]]:
        """Take the next samples.

        Args:
            samples (`np.ndarray` of shape `(num_samples,)` or `(num_samples, num_channels)`): Floating point, nominally in
                `[-1, 1]`, or integers of 8, 16 or 32 bits, divided by their full scale. Channels are averaged.

        Returns:
            `list[dict]`: For every stretch that is new since the last call: `start` and `end` in seconds, the scores (`None` where
                nobody speaks), and `running`, the mean of the first score so far.

        Raises:
            ValueError: If samples are NaN or infinite, have another shape or type, or come after `close()`.
        """
        if self._is_closed:
            raise ValueError("Expected no samples after `close()`: make another meter for another sound.")
        samples = to_numpy(samples, "<samples>")
        if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MOST_CHANNELS):
            raise ValueError(
                f"Expected samples of shape (num_samples,) or (num_samples, num_channels), up to {MOST_CHANNELS} channels, got "
                f"shape {samples.shape}."
            )
        mono = to_float32(samples)
        if mono.ndim == 2:
            mono = mono.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise ValueError(
                "Expected finite samples, got some that are NaN or infinite: what records or decodes them failed there."
            )
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono)
        return [self._row(point) for point in self._local.feed(mono)]

    def close(self) -> list[dict[str, Any]]:
        """End the sound and return the remaining stretches; see [`feed`], which takes no more samples afterwards."""
        if self._is_closed:
            return []
        self._is_closed = True
        points = []
        if self._resampler is not None:
            points = self._local.feed(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        return [self._row(point) for point in [*points, *self._local.close()]]

    def _row(self, point: LocalScore) -> dict[str, Any]:
        (mapped,) = self._pipeline.mapped_points([point])
        if mapped.scores is not None:
            self._sum += mapped.scores
            self._count += 1
        scores = dict.fromkeys(self._names) if mapped.scores is None else named(self._names, mapped.scores)
        return {"start": round(point.start, 4), "end": round(point.end, 4), **scores, "running": self.running[self._names[0]]}
