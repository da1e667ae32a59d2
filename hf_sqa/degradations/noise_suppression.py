"""Artefacts of noise suppression: muffled speech, holes, and musical noise."""

import numpy as np

from hf_sqa.degradations.kind import check_range, degradation
from hf_sqa.degradations.spectrum import ShortTimeSpectrum, frame_size

FRAME_MS = 32.0


@degradation(oversubtraction=(0, 20), floor_db=(-80, 0))
def spectral_subtraction(
    waveform: np.ndarray, sampling_rate: int, *, oversubtraction: float = 2.0, floor_db: float = -20.0, pause_share: float = 0.2
) -> np.ndarray:
    """Subtract the power spectrum of the pauses from every frame (Berouti 1979): isolated peaks of noise remain as musical tones.

    Apply it to noisy speech. In clean speech it removes what is softer than the background. Silence stays silent.

    Args:
        oversubtraction (`float`, *optional*, defaults to `2.0`): How many times the noise is subtracted, 0 to 20. At 1 to 2 the
            musical tones are loudest; more takes speech with it.
        floor_db (`float`, *optional*, defaults to `-20.0`): Gain below which no part of the spectrum is reduced, in dB, -80 to 0.
    """
    transform, spectra, powers, noise = _with_noise_estimate(waveform, sampling_rate, pause_share)
    floor = np.float32(10 ** (floor_db / 10))
    gains = np.sqrt(np.maximum(1 - np.float32(oversubtraction) * noise / np.maximum(powers, 1e-20), floor))
    return transform.synthesise(spectra * gains)


@degradation(smoothing=(0, 0.999), floor_db=(-80, 0), aggressiveness=(0.1, 20))
def wiener_filter(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    smoothing: float = 0.9,
    floor_db: float = -25.0,
    aggressiveness: float = 2.0,
    pause_share: float = 0.2,
) -> np.ndarray:
    """Reduce noise by a Wiener filter whose signal-to-noise ratio is estimated decision-directed (Ephraim and Malah 1984).

    Apply it to noisy speech; silence stays silent. With much smoothing it blurs onsets and reverberates, with little it leaves
    musical tones.

    Args:
        smoothing (`float`, *optional*, defaults to `0.9`): Weight of the previous frame in the estimate, 0 to 0.999; 0.98 is usual.
        floor_db (`float`, *optional*, defaults to `-25.0`): Gain below which no part of the spectrum is reduced, in dB, -80 to 0.
        aggressiveness (`float`, *optional*, defaults to `2.0`): Factor on the noise estimate, 0.1 to 20; above 1, speech goes too.
    """
    transform, spectra, powers, noise = _with_noise_estimate(waveform, sampling_rate, pause_share)
    ratios = powers / np.maximum(np.float32(aggressiveness) * noise, 1e-20)
    floor = np.float32(10 ** (floor_db / 20))
    old, new = np.float32(smoothing), np.float32(1 - smoothing)
    gains = np.empty_like(powers)
    cleaned = np.maximum(ratios[0] - 1, 0)
    for frame, ratio in enumerate(ratios):
        prior = old * cleaned + new * np.maximum(ratio - 1, 0)
        gains[frame] = np.maximum(prior / (1 + prior), floor)
        cleaned = gains[frame] ** 2 * ratio
    return transform.synthesise(spectra * gains)


def _with_noise_estimate(
    waveform: np.ndarray, sampling_rate: int, pause_share: float
) -> tuple[ShortTimeSpectrum, np.ndarray, np.ndarray, np.ndarray]:
    """Return transform, spectra and powers `(num_frames, num_bins)`, and the mean power of the softest frames `(num_bins,)`."""
    check_range("pause_share", pause_share, 0.01, 1)
    window = frame_size(sampling_rate, FRAME_MS)
    transform = ShortTimeSpectrum(len(waveform), window, window // 2)
    spectra = transform.analyse(waveform)
    powers = spectra.real**2 + spectra.imag**2
    loudness = powers.sum(axis=1)
    heard = np.flatnonzero(loudness > 0)
    if not len(heard):
        return transform, spectra, powers, np.zeros(powers.shape[1], np.float32)
    softest = heard[np.argsort(loudness[heard], kind="stable")[: max(1, round(pause_share * len(heard)))]]
    return transform, spectra, powers, powers[softest].mean(axis=0)
