"""Mel bands of a spectrum, as float32 matrices `(fft_size // 2 + 1, num_bands)` that weigh the power of its bins."""

import warnings

import numpy as np
from transformers.audio_utils import mel_filter_bank


def mean_power_bands(fft_size: int, num_bands: int, sampling_rate: int, lowest_hz: float) -> np.ndarray:
    """Return bands up to half the rate that give the mean power in each."""
    bands = mel_filter_bank(fft_size // 2 + 1, num_bands, lowest_hz, sampling_rate / 2, sampling_rate)
    return (bands / bands.sum(axis=0)).astype(np.float32)


def slaney_bands(fft_size: int, num_bands: int, sampling_rate: int, highest_hz: float) -> np.ndarray:
    """Return bands of unit area from 0 Hz on Slaney's scale, as librosa makes them by default; some may be empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty bands are what the published NISQA sees below 40 kHz
        bands = mel_filter_bank(fft_size // 2 + 1, num_bands, 0.0, highest_hz, sampling_rate, norm="slaney", mel_scale="slaney")
    return bands.astype(np.float32)
