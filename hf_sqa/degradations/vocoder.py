"""What vocoders leave behind: speech rebuilt from a mel spectrum without phase, and phases that have lost their order."""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse

from hf_sqa.degradations.kind import check_range, degradation
from hf_sqa.degradations.spectrum import ShortTimeSpectrum, frame_size

FRAME_MS = 64.0
#: Griffin-Lim with momentum (Perraudin, Balazs and Sondergaard 2013).
MOMENTUM = 0.99


@degradation()
def mel_vocoder(
    waveform: np.ndarray, sampling_rate: int, *, rng: np.random.Generator, num_mel_bins: int = 80, num_iterations: int = 12
) -> np.ndarray:
    """Reduce speech to the magnitudes of a mel spectrum and rebuild it by Griffin and Lim's algorithm, from random phases.

    The overall level is that of the input. Silence stays silent.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, nominally in `[-1, 1]`.
        sampling_rate (`int`): Its rate in Hz.
        rng (`np.random.Generator`): Source of chance: the first phases.
        num_mel_bins (`int`, *optional*, defaults to `80`): Mel bands up to half the sampling rate, 8 to 256; fewer sound hoarser.
        num_iterations (`int`, *optional*, defaults to `12`): Rounds of the algorithm, 1 to 200; fewer sound more metallic.
    """
    check_range("num_mel_bins", num_mel_bins, 8, 256)
    check_range("num_iterations", num_iterations, 1, 200)
    window = frame_size(sampling_rate, FRAME_MS, 8)
    transform = ShortTimeSpectrum(len(waveform), window, window // 4)
    bank, back = _mel_bank(int(num_mel_bins), window // 2 + 1, sampling_rate)
    magnitudes = (back @ (bank @ np.abs(transform.analyse(waveform)).T)).T

    phases = np.exp(2j * np.pi * rng.random(magnitudes.shape, dtype=np.float32)).astype(np.complex64)
    rebuilt = np.zeros_like(phases)
    rebuilt_waveform = transform.synthesise(magnitudes * phases)
    for _ in range(num_iterations):
        previous, rebuilt = rebuilt, transform.analyse(rebuilt_waveform)
        phases = rebuilt - np.float32(MOMENTUM / (1 + MOMENTUM)) * previous
        phases /= np.maximum(np.abs(phases), 1e-12)
        rebuilt_waveform = transform.synthesise(magnitudes * phases)
    return _as_loud(rebuilt_waveform, waveform)


@degradation()
def phase_noise(waveform: np.ndarray, sampling_rate: int, *, spread_rad: float, rng: np.random.Generator) -> np.ndarray:
    """Shift the phase of every part of the short-time spectrum at random: speech becomes hoarse, then whispered.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, nominally in `[-1, 1]`. Silence stays silent.
        sampling_rate (`int`): Its rate in Hz.
        spread_rad (`float`): Largest shift in radians, 0 (nothing) to pi (nothing left of the phases).
        rng (`np.random.Generator`): Source of chance.
    """
    check_range("spread_rad", spread_rad, 0, 3.1416)
    window = frame_size(sampling_rate, FRAME_MS / 2)
    transform = ShortTimeSpectrum(len(waveform), window, window // 2)
    spectra = transform.analyse(waveform)
    shifts = rng.uniform(-spread_rad, spread_rad, spectra.shape).astype(np.float32)
    return _as_loud(transform.synthesise(spectra * np.exp(1j * shifts)), waveform)


def _as_loud(waveform: np.ndarray, reference: np.ndarray) -> np.ndarray:
    power = float(np.square(waveform, dtype=np.float64).mean())
    reference_power = float(np.square(reference, dtype=np.float64).mean())
    return waveform * np.float32(np.sqrt(reference_power / power)) if power > 0 else waveform


@functools.lru_cache(maxsize=8)
def _mel_bank(num_mel_bins: int, num_bins: int, sampling_rate: int) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Triangular mel filters (HTK scale) of shape `(num_mel_bins, num_bins)`, each of sum 1, and their way back."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + sampling_rate / 2 / 700), num_mel_bins + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    hertz = np.linspace(0, sampling_rate / 2, num_bins)[:, None]
    rising = (hertz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - hertz) / (edges_hz[2:] - edges_hz[1:-1])
    triangles = np.maximum(np.minimum(rising, falling), 0)
    # A band narrower than the distance of two bins may hold none: it takes the nearest.
    for band in np.flatnonzero(triangles.sum(axis=0) == 0):
        triangles[np.abs(hertz[:, 0] - edges_hz[band + 1]).argmin(), band] = 1
    forth = (triangles / triangles.sum(axis=0)).T
    back = triangles / np.maximum(triangles.sum(axis=1, keepdims=True), 1e-9)
    # Sparse, not only because they are: products of dense matrices round differently with the number of threads.
    return scipy.sparse.csr_array(forth.astype(np.float32)), scipy.sparse.csr_array(back.astype(np.float32))
