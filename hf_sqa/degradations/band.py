"""Band-limiting without delay: Butterworth magnitudes applied to the spectrum, so that the result stays aligned."""

import numpy as np
import scipy.fft

from hf_sqa.degradations.kind import check_range, degradation

#: Length of the reflected ends while filtering, so that the end of a recording does not leak into its beginning.
PADDING_SECONDS = 0.1


@degradation()
def low_pass(waveform: np.ndarray, sampling_rate: int, *, cutoff_hz: float, order: int = 8) -> np.ndarray:
    """Remove frequencies above a cut-off.

    The magnitude is that of a Butterworth filter, `1 / sqrt(1 + (f / cutoff)^(2 order))`: 3.01 dB down at the cut-off, then 6.02 dB
    per octave and order. The phase is zero: nothing is delayed.
    """
    _check_cutoff("cutoff_hz", cutoff_hz, sampling_rate, order)
    return _filtered(waveform, sampling_rate, None, cutoff_hz, order)


@degradation()
def high_pass(waveform: np.ndarray, sampling_rate: int, *, cutoff_hz: float, order: int = 8) -> np.ndarray:
    """Remove frequencies below a cut-off; the mirror image of [`low_pass`]."""
    _check_cutoff("cutoff_hz", cutoff_hz, sampling_rate, order)
    return _filtered(waveform, sampling_rate, cutoff_hz, None, order)


@degradation()
def band_pass(
    waveform: np.ndarray, sampling_rate: int, *, low_hz: float = 300.0, high_hz: float = 3400.0, order: int = 8
) -> np.ndarray:
    """Keep a band; the default one is that of the telephone (ITU-T G.712).

    Args:
        low_hz (`float`, *optional*, defaults to `300.0`): Lower cut-off, 20 Hz or more.
        high_hz (`float`, *optional*, defaults to `3400.0`): Upper cut-off, above `low_hz` and below half the sampling rate.
        order (`int`, *optional*, defaults to `8`): Order of either side, 1 to 64.
    """
    _check_cutoff("low_hz", low_hz, sampling_rate, order)
    _check_cutoff("high_hz", high_hz, sampling_rate, order)
    if low_hz >= high_hz:
        raise ValueError(f"Expected `low_hz` below `high_hz`, got {low_hz:g} and {high_hz:g}.")
    return _filtered(waveform, sampling_rate, low_hz, high_hz, order)


def _check_cutoff(name: str, cutoff_hz: float, sampling_rate: int, order: int) -> None:
    check_range("order", order, 1, 64)
    if not 20 <= cutoff_hz < sampling_rate / 2:
        raise ValueError(
            f"Expected `{name}` from 20 Hz to below half the sampling rate, {sampling_rate / 2:g} Hz, got {cutoff_hz!r}."
        )


def _filtered(waveform: np.ndarray, sampling_rate: int, low_hz: float | None, high_hz: float | None, order: int) -> np.ndarray:
    padding = min(round(PADDING_SECONDS * sampling_rate), len(waveform) - 1)
    padded = np.pad(waveform, padding, mode="reflect", reflect_type="odd") if padding else waveform
    size = scipy.fft.next_fast_len(len(padded) + padding, real=True)
    hertz = np.fft.rfftfreq(size, 1 / sampling_rate)
    magnitude = np.ones(len(hertz))
    with np.errstate(divide="ignore", over="ignore"):
        if high_hz is not None:
            magnitude /= np.sqrt(1 + (hertz / high_hz) ** (2 * order))
        if low_hz is not None:
            magnitude /= np.sqrt(1 + (low_hz / hertz) ** (2 * order))
    filtered = scipy.fft.irfft(scipy.fft.rfft(padded, size) * magnitude.astype(np.float32), size)
    return filtered[padding : padding + len(waveform)]
