"""Streams: samples of one recording at their native rate, in blocks. An array in memory can be read as one too."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np

from hf_sqa.audio.findings import AudioError

BLOCK_SECONDS = 4.0


class AudioStream:
    """Samples of one recording at their native rate, in blocks; can be read more than once.

    Attributes:
        source (`str`): Name of the recording in messages.
        sampling_rate (`int`): Native rate in Hz.
        num_channels (`int`): Channels in every block.
    """

    source: str
    sampling_rate: int
    num_channels: int

    def blocks(self, first: int = 0) -> Iterator[np.ndarray]:
        """Yield float32 arrays of shape `(num_frames, num_channels)`, nominally within `[-1, 1]`, from the frame `first` on.

        Fewer frames than the header states are an [`AudioError`], `truncated`.
        """
        raise NotImplementedError


class ArrayStream(AudioStream):
    """An array in memory. Integers are divided by their full scale (int16 by 32768); the shorter axis holds the channels."""

    def __init__(self, array: Any, sampling_rate: Any, source: str = "<array>"):
        self.source = source
        self.sampling_rate = checked_rate(sampling_rate, source)
        samples = to_numpy(array, source)
        if samples.ndim == 1:
            samples = samples[:, None]
        elif samples.ndim == 2:
            samples = samples if samples.shape[0] >= samples.shape[1] else samples.T
        else:
            raise AudioError(
                source,
                "unsupported",
                f"expected samples of shape (num_samples,) or with one axis of channels, got shape {samples.shape}",
            )
        if samples.size == 0:
            raise AudioError(source, "empty", f"expected samples, got an array of shape {np.shape(array)}")
        self._samples = samples
        self.num_channels = samples.shape[1]

    def blocks(self, first: int = 0) -> Iterator[np.ndarray]:
        block = max(1, int(BLOCK_SECONDS * self.sampling_rate))
        for start in range(first, len(self._samples), block):
            yield to_float32(self._samples[start : start + block])


def checked_rate(sampling_rate: Any, source: str) -> int:
    """Return a sampling rate as an integer in Hz; anything but a whole number from 1000 to 768000 is an [`AudioError`]."""
    rate = sampling_rate
    if getattr(rate, "ndim", None) == 0 and hasattr(rate, "item"):  # as in the formats "torch" and "numpy" of datasets
        rate = rate.item()
    if isinstance(rate, bool) or not isinstance(rate, Real) or not float(rate).is_integer():
        raise AudioError(source, "no_sampling_rate", f"expected `sampling_rate` as whole Hz, got {sampling_rate!r}")
    if not 1000 <= float(rate) <= 768_000:
        raise AudioError(
            source, "no_sampling_rate", f"expected `sampling_rate` in Hz between 1000 and 768000, got {sampling_rate!r}"
        )
    return int(float(rate))


def to_numpy(array: Any, source: str) -> np.ndarray:
    """Return samples as an array of numbers whose full scale is known; other types are an [`AudioError`], `unsupported`."""
    if hasattr(array, "detach"):  # a torch tensor, without importing torch
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    samples = np.asarray(array)
    if samples.dtype.kind not in "fiu":
        raise AudioError(source, "unsupported", f"expected samples as float or integer numbers, got dtype {samples.dtype}")
    if samples.dtype.kind in "iu" and samples.dtype.itemsize > 4:
        raise AudioError(
            source,
            "unsupported",
            f"expected integers of 8, 16 or 32 bits, whose full scale is known, got {samples.dtype}; convert them, for example "
            "with `.astype(np.int16)`",
        )
    return samples


def to_float32(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    info = np.iinfo(samples.dtype)
    middle = 0.0 if info.min else (info.max + 1) / 2
    full_scale = (float(info.max) - info.min + 1) / 2
    return ((samples.astype(np.float64) - middle) / full_scale).astype(np.float32)
