"""A recording as a model wants it: one channel, one rate, checked, in memory only as far as needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soxr

from hf_sqa.audio.findings import AudioError, Finding, errors_of
from hf_sqa.audio.gate import InputGate
from hf_sqa.audio.sources import open_stream
from hf_sqa.audio.streams import AudioStream

#: soxr's own default. The same filter everywhere: a score must not depend on the machine.
RESAMPLING_QUALITY = "HQ"
#: Longer recordings are decoded a second time while they are scored instead of being held in memory.
MAX_SECONDS_IN_MEMORY = 600.0


class Recording:
    """One checked recording, mono float32 at the model's rate.

    Attributes:
        source (`str`): File name, URL or kind of object.
        sampling_rate (`int`): Rate of `blocks`, `windows` and `waveform` in Hz.
        source_sampling_rate (`int`): Rate of the recording itself in Hz.
        num_samples (`int`): Length at `sampling_rate`.
        duration_seconds (`float`): Length of the recording.
        num_channels (`int`): Channels it came with.
        warnings (`list[Finding]`): What makes a score of it doubtful.
        speech_seconds (`float`): Seconds of active signal after ITU-T P.56.
        level_dbfs (`float`): Active level, dB below full scale.
        clipped_share (`float`): Share of samples on flat tops, 0 to 1.
    """

    def __init__(self, stream: AudioStream, sampling_rate: int | None = None, channel: str | int = "mean"):
        if channel != "mean" and not 0 <= int(channel) < stream.num_channels:
            raise AudioError(
                stream.source,
                "no_such_channel",
                f"expected `channel` between 0 and {stream.num_channels - 1}, got {channel}: the recording has "
                f"{stream.num_channels} channel(s)",
            )
        self._stream = stream
        self._channel: Any = channel
        self.source = stream.source
        self.source_sampling_rate = stream.sampling_rate
        self.num_channels = stream.num_channels
        self.sampling_rate = sampling_rate or stream.sampling_rate

        num_channels = self.num_channels if channel == "mean" else 1
        gate = InputGate(self.source, self.source_sampling_rate, self.sampling_rate, num_channels)
        kept: list[np.ndarray] | None = []
        self.num_samples = 0
        for block in self._decode(gate):
            gate.see_mono(block)
            self.num_samples += len(block)
            if kept is not None:
                kept.append(block)
                if self.num_samples > MAX_SECONDS_IN_MEMORY * self.sampling_rate:
                    kept = None
        self.warnings: list[Finding] = gate.close()
        self.duration_seconds = gate.duration_seconds
        self.speech_seconds = gate.speech_seconds
        self.level_dbfs = gate.level_dbfs
        self.clipped_share = gate.clipped_share
        self._waveform = np.concatenate(kept) if kept is not None else None
        if self._waveform is not None:
            self._stream = None  # type: ignore[assignment]  # encoded bytes and source arrays can go

    def _decode(self, gate: InputGate | None = None) -> Iterator[np.ndarray]:
        """Yield mono blocks at the model's rate, showing every block to the gate on the way."""
        resampler = None
        if self.sampling_rate != self.source_sampling_rate:
            resampler = soxr.ResampleStream(
                self.source_sampling_rate, self.sampling_rate, 1, dtype="float32", quality=RESAMPLING_QUALITY
            )
        for block in self._stream.blocks():
            if self._channel != "mean":
                block = block[:, self._channel : self._channel + 1]
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
            if gate is not None:
                gate.see_channels(block, mono)
            yield resampler.resample_chunk(mono) if resampler else mono
        if resampler:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the samples in order, as float32 arrays of varying length."""
        if self._waveform is not None:
            yield self._waveform
        else:
            yield from self._decode()

    @property
    def waveform(self) -> np.ndarray:
        """All samples, of shape `(num_samples,)`; 64 kB for every second at 16 kHz."""
        return self._waveform if self._waveform is not None else np.concatenate(list(self.blocks()))

    def windows(self, starts: Iterable[int], length: int) -> Iterator[np.ndarray]:
        """Yield windows of `length` samples in order, holding no more than one window and one block in memory.

        `starts` are the first samples of the windows, ascending. A window that reaches beyond the end is cut off there.
        """
        blocks = self.blocks()
        buffer, buffer_start = np.zeros(0, np.float32), 0
        for start in starts:
            if start < buffer_start:
                raise ValueError(f"Expected ascending window starts, got {start} after samples up to {buffer_start} were dropped.")
            pending = [buffer[start - buffer_start :]]
            available = len(pending[0])
            skip = max(0, start - buffer_start - len(buffer))
            while available < length and (block := next(blocks, None)) is not None:
                dropped = min(skip, len(block))
                skip -= dropped
                pending.append(block[dropped:])
                available += len(block) - dropped
            buffer, buffer_start = np.concatenate(pending) if len(pending) > 1 else pending[0], start
            yield buffer[:length]


def window_starts(num_samples: int, window_samples: int, hop_samples: float) -> np.ndarray:
    """Return the first sample of every window: ascending and evenly spaced, from 0 to the window that ends with the recording.

    `hop_samples` is the largest distance between two starts; a recording shorter than a window has one start.
    """
    over = max(0, num_samples - window_samples)
    return (np.linspace(0, 1, int(np.ceil(over / hop_samples)) + 1) * over).astype(np.int64)


def load_recording(
    audio: Any, *, sampling_rate: int | None = None, channel: str | int = "mean", input_sampling_rate: int | None = None
) -> Recording:
    """Open, check, mix down and resample anything a user calls audio.

    Args:
        audio: What [`~hf_sqa.audio.open_stream`] accepts.
        sampling_rate (`int`, *optional*): Rate wanted, in Hz; the native rate if not given.
        channel (`str` or `int`, *optional*, defaults to `"mean"`): `"mean"` averages the channels; a number picks one, from 0.
        input_sampling_rate (`int`, *optional*): Rate of a bare array in Hz.

    Raises:
        AudioError: If it cannot be read, or holds nothing that can be judged; the code says which.
    """
    if channel != "mean" and (isinstance(channel, bool) or not isinstance(channel, int)):
        raise TypeError(f"Expected `channel` to be 'mean' or a channel number from 0, got {channel!r}.")
    name = str(audio) if isinstance(audio, (str, os.PathLike)) else f"<{type(audio).__name__}>"
    with errors_of(name):
        return Recording(open_stream(audio, input_sampling_rate), sampling_rate, channel)


def load_or_refuse(audio: tuple[Any], **options: Any) -> Recording | AudioError:
    """Call [`load_recording`] with the audio in a tuple, for worker processes: an [`AudioError`] is returned, not raised."""
    try:
        return load_recording(audio[0], **options)
    except AudioError as error:
        return error


def resample(waveform: np.ndarray, source_sampling_rate: int, sampling_rate: int) -> np.ndarray:
    """Resample a mono waveform of shape `(num_samples,)` with the filter used for every score (soxr, high quality)."""
    if source_sampling_rate == sampling_rate:
        return np.asarray(waveform, np.float32)
    return soxr.resample(np.asarray(waveform, np.float32), source_sampling_rate, sampling_rate, quality=RESAMPLING_QUALITY)
