"""Band-pass filters of SincNet, as MOSA-Net's Keras code builds them.

Paper:    Ravanelli & Bengio, "Speaker Recognition from Raw Waveform with SincNet", SLT 2018, arXiv:1808.00158
Code:     https://github.com/dhimasryan/MOSA-Net-Cross-Domain, SincNet.py
Differs:  the filters are constants here. In the original they are variables that no optimiser sees and no file keeps, so they
          never move from where they start; "learnable" is true of the paper only.
"""

import numpy as np

#: In the mel formula, Python 2 divides integers to 11, Python 3 to 11.43: with Python 2 the highest band starts 296 Hz lower.
SINC_EDGES = ("python2", "python3")


def sinc_band_edges(num_filters: int, sampling_rate: int, edges: str) -> tuple[np.ndarray, np.ndarray]:
    """Return lower edges and widths of the bands before a minimum is added: `(num_filters,)`, shares of the sampling rate."""
    nyquist = sampling_rate / 2
    highest_mel = 2595 * np.log10(1 + (nyquist // 700 if edges == "python2" else nyquist / 700))
    centers_hz = 700 * (10 ** (np.linspace(80, highest_mel, num_filters) / 2595) - 1)
    lower_hz, upper_hz = np.roll(centers_hz, 1), np.roll(centers_hz, -1)
    lower_hz[0], upper_hz[-1] = 30, nyquist - 100
    lower_hz, upper_hz, rate = lower_hz.astype(np.float32), upper_hz.astype(np.float32), np.float32(sampling_rate)
    return lower_hz / rate, (upper_hz - lower_hz) / rate


def sinc_filters(num_filters: int, kernel_size: int, sampling_rate: int, edges: str) -> np.ndarray:
    """Return impulse responses `(num_filters, kernel_size)` of the bands, in float32, to be correlated with the waveform (no flip).

    Each is the difference of two low-pass filters, scaled to a largest value of 1, under a Hamming window.
    """
    lower, width = sinc_band_edges(num_filters, sampling_rate, edges)
    least = np.float32(50 / sampling_rate)
    lower = np.abs(lower) + least
    upper = lower + np.abs(width) + least
    response = _low_pass(upper, kernel_size, sampling_rate) - _low_pass(lower, kernel_size, sampling_rate)
    response /= response.max(axis=1, keepdims=True)
    angle = (2 * np.pi * np.linspace(0, 1, kernel_size)).astype(np.float32)
    return response * (np.float32(0.54) - np.float32(0.46) * np.cos(angle))


def _low_pass(cutoff: np.ndarray, kernel_size: int, sampling_rate: int) -> np.ndarray:
    """Return `2 f sinc(2 f n)` for cutoffs f given as shares of the sampling rate.

    A narrow band is a small difference of large numbers, so rounding affects scores (a frame's by 3e-4): everything is in float32,
    in the order that TensorFlow leaves after folding constants, `f * ((2 pi * rate) * time)`, with its sine.
    """
    times = np.arange(1, kernel_size // 2 + 1, dtype=np.float32) / np.float32(sampling_rate)
    angle = cutoff[:, None] * (np.float32(2 * np.pi) * np.float32(sampling_rate) * times)
    half = _float32_sine(angle) / angle
    return 2 * cutoff[:, None] * np.concatenate([half[:, ::-1], np.ones_like(cutoff)[:, None], half], axis=1)


def _float32_sine(angle: np.ndarray) -> np.ndarray:
    """Return the sine of positive angles as TensorFlow 1's kernels round it: by Cephes' single-precision polynomials."""
    one = np.float32
    octant = (angle * one(4 / np.pi)).astype(np.int32)
    octant += octant & 1
    turns = octant.astype(np.float32)
    # pi / 4 in three parts; products with the first two are exact
    rest = angle - turns * one(0.78515625) - turns * one(2.4187564849853515625e-4) - turns * one(3.77489497744594108e-8)
    square = rest * rest
    cosine = (one(2.443315711809948e-5) * square - one(1.388731625493765e-3)) * square + one(4.166664568298827e-2)
    cosine = cosine * square * square - one(0.5) * square + one(1)
    sine = (one(-1.9515295891e-4) * square + one(8.3321608736e-3)) * square - one(1.6666654611e-1)
    sine = sine * square * rest + rest
    return np.where(octant & 2, cosine, sine) * np.where(octant & 4, one(-1), one(1))
