"""Artefacts of vocoders: speech rebuilt from a mel spectrum without phase, by linear prediction from pulses and noise, or from
pitch, envelope and aperiodicity; and randomised phases."""

import functools
import itertools
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import scipy.signal
import scipy.sparse
from scipy.linalg import solve_toeplitz

from hf_sqa.audio import resample
from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.frames import fitted
from hf_sqa.degradations.kind import check_range, degradation
from hf_sqa.degradations.spectrum import ShortTimeSpectrum, frame_size
from hf_sqa.extras import import_extra

FRAME_MS = 64.0
#: Griffin-Lim with momentum (Perraudin, Balazs and Sondergaard 2013).
MOMENTUM = 0.99


@degradation(num_mel_bins=(8, 256), num_iterations=(1, 200))
def mel_vocoder(
    waveform: np.ndarray, sampling_rate: int, *, rng: np.random.Generator, num_mel_bins: int = 80, num_iterations: int = 12
) -> np.ndarray:
    """Reduce speech to the magnitudes of a mel spectrum and rebuild it by Griffin and Lim's algorithm, from random phases.

    The overall level is that of the input. Silence stays silent.

    Args:
        num_mel_bins (`int`, *optional*, defaults to `80`): Mel bands up to half the sampling rate, 8 to 256; fewer sound hoarser.
        num_iterations (`int`, *optional*, defaults to `12`): Rounds of the algorithm, 1 to 200; fewer sound more metallic.
    """
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


@degradation(spread_rad=(0, 3.1416))
def phase_noise(waveform: np.ndarray, sampling_rate: int, *, spread_rad: float, rng: np.random.Generator) -> np.ndarray:
    """Shift the phase of every part of the short-time spectrum at random: speech becomes hoarse, then whispered.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, nominally in `[-1, 1]`. Silence stays silent.
        spread_rad (`float`): Largest shift in radians, 0 (no change) to pi (the phases are random).
    """
    window = frame_size(sampling_rate, FRAME_MS / 2)
    transform = ShortTimeSpectrum(len(waveform), window, window // 2)
    spectra = transform.analyse(waveform)
    shifts = rng.uniform(-spread_rad, spread_rad, spectra.shape).astype(np.float32)
    return _as_loud(transform.synthesise(spectra * np.exp(1j * shifts)), waveform)


EXCITATIONS = ("mixed", "binary", "noise")
#: Range in which pitch is searched.
MIN_PITCH_HZ, MAX_PITCH_HZ = 60, 400
#: A band, or a frame, whose normalised autocorrelation at the pitch lag is above this is voiced.
VOICED = 0.5
#: Edges of the bands whose voicing is decided separately: those of MELP (MIL-STD-3005), and one above.
BAND_EDGES_HZ = (0, 500, 1000, 2000, 3000, 4000, 8000)


@degradation(order=(4, 40), frame_ms=(5, 60))
def lpc_vocoder(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    rng: np.random.Generator,
    order: int = 10,
    frame_ms: float = 22.5,
    excitation: Literal["mixed", "binary", "noise"] = "mixed",
    codec_rate: int = 8000,
) -> np.ndarray:
    """Replace speech by a linear prediction filter in every frame, driven by pulses at its pitch, noise, or both.

    `"binary"` sounds like LPC-10 (FS-1015), `"mixed"` like MELP (MIL-STD-3005), `"noise"` whispers. Nothing is quantised; silence
    stays silent.

    Args:
        order (`int`, *optional*, defaults to `10`): Coefficients of the filter, 4 to 40.
        frame_ms (`float`, *optional*, defaults to `22.5`): Time between two filters in ms, 5 to 60.
        excitation (`str`, *optional*, defaults to `"mixed"`): `"mixed"`: pulses or noise in each band; `"binary"`: pulses or noise
            in the whole frame; `"noise"`: noise only.
        codec_rate (`int`, *optional*, defaults to `8000`): Rate of the vocoder in Hz, 8000 or 16000.
    """
    check_choice("excitation", excitation, EXCITATIONS)
    check_choice("codec_rate", codec_rate, (8000, 16000))
    speech = resample(waveform, sampling_rate, codec_rate).astype(np.float64)
    hop = round(frame_ms * codec_rate / 1000)
    span, longest = 2 * hop, codec_rate // MIN_PITCH_HZ
    num_frames = -(-len(speech) // hop)
    lead = longest + hop
    padded = np.pad(speech, (lead, num_frames * hop + span + lead - len(speech)))
    window = np.hanning(span)
    edges = [min(max(edge, 20), codec_rate / 2 - 20) for edge in BAND_EDGES_HZ if edge <= codec_rate / 2]
    bands = [scipy.signal.butter(3, band, "bandpass", fs=codec_rate, output="sos") for band in itertools.pairwise(edges)]
    noise = rng.standard_normal(num_frames * hop)
    if excitation == "mixed":
        filtered = [scipy.signal.sosfiltfilt(band, padded) for band in bands]
    built, state, next_pulse = np.zeros(num_frames * hop), np.zeros(int(order)), 0
    for frame in range(num_frames):
        first = frame * hop
        around = padded[first : first + 2 * lead + hop]
        lag, strength = _pitch_lag(around, codec_rate)
        pulses, voiced = np.zeros(hop), strength > VOICED and excitation != "noise"
        while voiced and next_pulse < first + hop:
            if next_pulse >= first:
                pulses[next_pulse - first] = lag**0.5  # of the same power as the noise
            next_pulse += lag
        next_pulse = max(next_pulse, first + hop)
        driving = pulses if voiced else noise[first : first + hop]
        if voiced and excitation == "mixed":
            driving = np.zeros(hop)
            for band, signal in zip(bands, filtered, strict=True):
                part = signal[first : first + 2 * lead + hop]
                source = pulses if _correlation(part, lag) > VOICED else noise[first : first + hop]
                driving += scipy.signal.sosfilt(band, source)
        middle = lead + first + 3 * hop // 4  # not the middle: the filter keeps ringing
        piece = padded[middle - hop : middle - hop + span] * window
        products = np.correlate(piece, piece, "full")[span - 1 : span + int(order)]
        if products[0] <= 1e-12:
            state = np.zeros(int(order))
            continue
        products[0] *= 1.0001
        predictor = solve_toeplitz(products[:-1], products[1:])
        residual = max(products[0] - predictor @ products[1:], 0) / np.square(window).sum()
        driving = driving * np.sqrt(residual / max(np.square(driving).mean(), 1e-12))
        built[first : first + hop], state = scipy.signal.lfilter([1], [1, *-predictor], driving, zi=state)
    rebuilt = resample(built[: len(speech)].astype(np.float32), codec_rate, sampling_rate)
    return _as_loud(fitted(rebuilt, len(waveform)), waveform)


def _pitch_lag(samples: np.ndarray, rate: int) -> tuple[int, float]:
    """Return the lag in samples at which speech correlates best with itself, and this correlation."""
    size = 2 ** int(np.ceil(np.log2(2 * len(samples))))
    products = np.fft.irfft(np.abs(np.fft.rfft(samples - samples.mean(), size)) ** 2)[: rate // MIN_PITCH_HZ + 1]
    shortest = rate // MAX_PITCH_HZ
    lag = shortest + int(np.argmax(products[shortest:]))
    return lag, _correlation(samples, lag)


def _correlation(samples: np.ndarray, lag: int) -> float:
    first, second = samples[:-lag], samples[lag:]
    return float(first @ second / np.sqrt(max((first @ first) * (second @ second), 1e-18)))


def _check_pyworld(parameters: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # from pkg_resources, which pyworld imports
        return import_extra("pyworld", "The kind 'world_vocoder'", "vocoders", error=ModuleNotFoundError)


@degradation(requires=_check_pyworld, frame_ms=(1, 40), pitch_factor=(0.5, 2), aperiodicity_share=(0, 1))
def world_vocoder(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    frame_ms: float = 5.0,
    num_coefficients: int | None = None,
    pitch_factor: float = 1.0,
    aperiodicity_share: float = 1.0,
) -> np.ndarray:
    """Analyse speech into pitch, spectral envelope and aperiodicity, and resynthesise it, by WORLD (Morise et al., 2016).

    Args:
        sampling_rate (`int`): Its rate in Hz, at which WORLD works; rates below 16000 are resampled to 16000 and back.
        frame_ms (`float`, *optional*, defaults to `5.0`): Time between two frames in ms, 1 to 40; longer ones sound blurred.
        num_coefficients (`int`, *optional*): Mel-cepstral coefficients that the envelope is coded in, 8 to 80; not coded if not
            given. Fewer sound muffled.
        pitch_factor (`float`, *optional*, defaults to `1.0`): Factor on the pitch, 0.5 to 2.
        aperiodicity_share (`float`, *optional*, defaults to `1.0`): Factor on the aperiodicity, 0 to 1; lower values buzz.

    Raises:
        ModuleNotFoundError: If the package `pyworld` is not installed.
    """
    if num_coefficients is not None:
        check_range("num_coefficients", num_coefficients, 8, 80)
    world = _check_pyworld({})
    rate = max(int(sampling_rate), 16_000)
    speech = resample(waveform, sampling_rate, rate).astype(np.float64)
    # Speech shorter than a few pitch periods cannot be analysed, so silence is added after it.
    padded = np.pad(speech, (0, max(0, rate // 10 - len(speech))))
    pitch, times = world.dio(padded, rate, frame_period=float(frame_ms))
    pitch = world.stonemask(padded, pitch, times, rate)
    envelope, aperiodicity = world.cheaptrick(padded, pitch, times, rate), world.d4c(padded, pitch, times, rate)
    if num_coefficients is not None:
        size = world.get_cheaptrick_fft_size(rate)
        coded = world.code_spectral_envelope(envelope, rate, int(num_coefficients))
        envelope = world.decode_spectral_envelope(coded, rate, size)
    built = world.synthesize(pitch * pitch_factor, envelope, aperiodicity * aperiodicity_share, rate, float(frame_ms))
    rebuilt = resample(built[: len(speech)].astype(np.float32), rate, sampling_rate)
    return _as_loud(fitted(rebuilt, len(waveform)), waveform)


def _as_loud(waveform: np.ndarray, reference: np.ndarray) -> np.ndarray:
    power = float(np.square(waveform, dtype=np.float64).mean())
    reference_power = float(np.square(reference, dtype=np.float64).mean())
    return waveform * np.float32(np.sqrt(reference_power / power)) if power > 0 else waveform


@functools.lru_cache(maxsize=8)
def _mel_bank(num_mel_bins: int, num_bins: int, sampling_rate: int) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Triangular mel filters (HTK scale) of shape `(num_mel_bins, num_bins)`, each of sum 1, and the map back."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + sampling_rate / 2 / 700), num_mel_bins + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    hertz = np.linspace(0, sampling_rate / 2, num_bins)[:, None]
    rising = (hertz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - hertz) / (edges_hz[2:] - edges_hz[1:-1])
    triangles = np.maximum(np.minimum(rising, falling), 0)
    # A band narrower than the distance between two bins may contain none: it takes the nearest.
    for band in np.flatnonzero(triangles.sum(axis=0) == 0):
        triangles[np.abs(hertz[:, 0] - edges_hz[band + 1]).argmin(), band] = 1
    forth = (triangles / triangles.sum(axis=0)).T
    back = triangles / np.maximum(triangles.sum(axis=1, keepdims=True), 1e-9)
    # Sparse not only to be fast: products of dense matrices round differently with the number of threads.
    return scipy.sparse.csr_array(forth.astype(np.float32)), scipy.sparse.csr_array(back.astype(np.float32))
