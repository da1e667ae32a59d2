"""What codecs share: resampling, 16-bit samples, frames, losses, and removing the delay of the codec."""

from collections.abc import Callable

import numpy as np

from hf_sqa.audio import resample
from hf_sqa.degradations.kind import Record, check_range, note
from hf_sqa.degradations.packet_loss import draw_losses

#: Draws which of a number of frames are lost.
Losses = Callable[[int], np.ndarray]


def coded_at(waveform: np.ndarray, sampling_rate: int, codec_rate: int, code: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample to the rate of a codec, code, and resample back; the result is as long as the input, padded with zeros if needed."""
    degraded = resample(code(resample(waveform, sampling_rate, codec_rate)), codec_rate, sampling_rate)
    return fitted(degraded, len(waveform))


def fitted(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut or pad with zeros at the end."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))


def to_int16(waveform: np.ndarray, record: Record) -> np.ndarray:
    """Round to 16 bits. Samples beyond full scale are clipped, as every 16-bit codec does, and counted in `clipped_samples`."""
    scaled = np.rint(waveform * np.float32(32768))
    note(record, clipped_samples=int(np.count_nonzero((scaled > 32767) | (scaled < -32768))))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """The exact inverse of 16-bit rounding: float32 samples."""
    return samples.astype(np.float32) / np.float32(32768)


def coded_in_frames(
    samples: np.ndarray, frame: int, delay: int, lost: Losses, code: Callable[[np.ndarray, bool], np.ndarray]
) -> np.ndarray:
    """Code a whole recording in frames of `frame` samples, and remove the `delay` of coder and decoder, in samples.

    `code` takes a frame, in the coder's own type, and whether it is lost in transmission, and returns the decoded frame.
    """
    num_frames = -(-(len(samples) + delay) // frame)
    padded = np.zeros(num_frames * frame, samples.dtype)
    padded[: len(samples)] = samples
    losses = lost(num_frames)
    decoded = [code(coded, bool(is_lost)) for coded, is_lost in zip(padded.reshape(num_frames, frame), losses, strict=True)]
    return np.concatenate(decoded)[delay : delay + len(samples)]


def frame_losses(loss_share: float, mean_burst_packets: float | None, rng: np.random.Generator | None, record: Record) -> Losses:
    """Return a function that draws the losses of a frame coder for a number of frames, and notes them as `lost_packets`."""
    if loss_share == 0:
        return lambda num_frames: np.zeros(num_frames, bool)
    if rng is None:
        raise ValueError(
            f"Expected `rng`, a numpy.random.Generator to draw losses from, with `loss_share={loss_share:g}`, got none."
        )
    check_range("loss_share", loss_share, 0, 0.99)

    def draw(num_frames: int) -> np.ndarray:
        assert rng is not None
        lost = draw_losses(num_frames, loss_share=loss_share, mean_burst_packets=mean_burst_packets, rng=rng)
        note(record, lost_packets=np.flatnonzero(lost).tolist())
        return lost

    return draw
