"""Full-reference labels: PESQ, STOI, speech distortion index and SNR of a degraded recording.

PESQ is ITU-T P.862.1 (narrowband) and P.862.2 (wideband) by the package `pesq`; STOI is Taal, Hendriks, Heusdens, Jensen, "An
Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech", IEEE TASLP 2011, by the package `pystoi`. The
speech distortion index is that of Chen, Benesty, Huang, Doclo, "New Insights Into the Noise Reduction Wiener Filter", IEEE TASLP
2006, which MOSA-Net and MTQ-Net cite. They do not say how they computed it; [`speech_distortion_index`] says what we compute.

What cannot be measured is NaN with a reason, never a substitute value: `pystoi` would return 1e-5 for too little speech, and `pesq`
would overwrite memory if a recording holds more than 50 utterances.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from scipy.signal import correlate

from hf_sqa.audio import resample
from hf_sqa.choices import check_choice
from hf_sqa.extras import import_extra

LABELS = ("pesq", "stoi", "sdi", "snr_db")
PESQ_BANDS = ("wb", "nb")
#: The reference code of P.862 has room for 50 utterances. An utterance lasts 0.2 s or more, and so does the pause after it.
MAX_PESQ_SECONDS = 20.0
#: Longest piece that a longer recording is cut into; 8 to 12 s are usual in listening tests.
PESQ_PIECE_SECONDS = 12.0
#: P.862 refuses shorter recordings.
MIN_PESQ_SECONDS = 0.25
#: What `pystoi` returns, with a warning, for fewer than 30 frames (0.4 s) of speech.
STOI_OF_TOO_LITTLE = 1e-5
ONE_STEP = 1 / 32768  # of 16-bit samples


@dataclass(frozen=True)
class FullReferenceScores:
    """Full-reference labels of one pair of recordings."""

    scores: dict[str, float]  # Label to value; NaN where it could not be measured
    reasons: dict[str, str]  # Label to reason, for the labels that are NaN
    # Delay of the degraded recording relative to its reference; negative if it starts earlier, NaN if it could not be estimated
    delay_seconds: float
    compared_seconds: float  # Length of the common part after alignment, on which labels were measured


def full_reference_scores(
    degraded: np.ndarray,
    reference: np.ndarray,
    sampling_rate: int,
    *,
    labels: Sequence[str] = ("pesq", "stoi", "sdi"),
    pesq_band: str = "wb",
    max_delay_seconds: float = 1.0,
) -> FullReferenceScores:
    """Align a degraded recording with its clean original and measure it.

    One constant delay is estimated and removed. Then both are cut to their common part, so either may be longer. The reference code
    of PESQ cannot hold more than 20 s; for longer recordings, PESQ is the mean over equal pieces of at most 12 s, without pieces
    that contain no speech. The function has no state and can be pickled, for a pool of processes.

    Args:
        degraded (`np.ndarray` of shape `(num_samples,)`): The degraded recording, floating point.
        reference (`np.ndarray` of shape `(num_reference_samples,)`): Its clean original at the same rate, floating point.
        sampling_rate (`int`): Rate of both in Hz. PESQ is measured at 16 kHz (8 kHz for rates below 16 kHz), STOI at 10 kHz; other
            rates are resampled.
        labels (sequence of `str`, *optional*, defaults to `("pesq", "stoi", "sdi")`): Any of `"pesq"` (MOS-LQO, 1.04 to 4.64
            wideband, 1.02 to 4.55 narrowband), `"stoi"` (at most 1, about 0 for unrelated signals), `"sdi"` (0 to 4, see
            [`speech_distortion_index`]) and `"snr_db"` (reference over difference, dB, levels unchanged).
        pesq_band (`str`, *optional*, defaults to `"wb"`): `"wb"` or `"nb"`.
        max_delay_seconds (`float`, *optional*, defaults to 1.0): Longest delay considered, in either direction; 0 switches
            alignment off.

    Returns:
        `FullReferenceScores`: Values, reasons, delay.

    Raises:
        ValueError: If an array is not one-dimensional and floating point, or an option is unknown.
        ImportError: If `pesq` or `pystoi` is needed and not installed.
    """
    for name, waveform in (("degraded", degraded), ("reference", reference)):
        waveform = np.asarray(waveform)
        if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(
                f"Expected `{name}` of shape (num_samples,) in floating point, got {waveform.shape} of {waveform.dtype}. Load "
                "it with `hf_sqa.load_recording(path).waveform`, which is mono float32, nominally within [-1, 1]."
            )
    for label in labels:
        if label not in LABELS:
            raise ValueError(f"Expected `labels` out of {', '.join(LABELS)}, got {label!r}.")
    check_choice("pesq_band", pesq_band, PESQ_BANDS)
    if sampling_rate <= 0:
        raise ValueError(f"Expected `sampling_rate` in Hz, got {sampling_rate}.")
    if max_delay_seconds < 0:
        raise ValueError(f"Expected `max_delay_seconds` of 0 or more, got {max_delay_seconds}.")
    packages = {
        label: import_extra(package, label.upper(), "labels", f"leave {label!r} out of `labels`")
        for label, package in (("pesq", "pesq"), ("stoi", "pystoi"))
        if label in labels
    }
    degraded, reference = np.asarray(degraded, np.float64), np.asarray(reference, np.float64)

    if reason := _unusable(degraded, reference):
        return _failed(labels, reason, math.nan, 0.0)
    delay = estimate_delay(degraded, reference, round(max_delay_seconds * sampling_rate))
    degraded, reference = degraded[max(delay, 0) :], reference[max(-delay, 0) :]
    length = min(len(degraded), len(reference))
    degraded, reference = degraded[:length], reference[:length]
    delay_seconds, compared_seconds = delay / sampling_rate, len(reference) / sampling_rate
    if reason := _unusable(degraded, reference):
        return _failed(labels, f"{reason}, in what both have after alignment", delay_seconds, compared_seconds)

    measures: dict[str, Callable[[], float]] = {
        "pesq": lambda: _pesq(packages["pesq"], degraded, reference, sampling_rate, pesq_band),
        "stoi": lambda: _stoi(packages["stoi"], degraded, reference, sampling_rate),
        "sdi": lambda: speech_distortion_index(degraded, reference),
        "snr_db": lambda: _snr_db(degraded, reference),
    }
    scores, reasons = {}, {}
    for label in labels:
        try:
            scores[label] = measures[label]()
        except _NotMeasurableError as error:
            scores[label], reasons[label] = math.nan, str(error)
    return FullReferenceScores(scores, reasons, delay_seconds, compared_seconds)


def speech_distortion_index(degraded: np.ndarray, reference: np.ndarray) -> float:
    """Compute `sum((degraded - reference)²) / sum(reference²)`, after scaling `degraded` to the power of `reference`.

    The index of Chen et al. (2006) compares the clean signal before and after a noise reduction filter. In a finished recording,
    filtered speech and residual noise cannot be separated, so here the whole recording replaces the filtered speech, and noise
    counts as distortion. With equal power the index is `2 (1 - r)`, where `r` is the uncentred correlation of the two: 0 for the
    original at any volume, 0.59 for noise at an SNR of 0 dB, 2 for unrelated signals, 4 for an inverted one.

    Args:
        degraded (`np.ndarray` of shape `(num_samples,)`): The degraded recording, aligned with `reference` to the sample.
        reference (`np.ndarray` of shape `(num_samples,)`): Clean original.

    Returns:
        `float`: The index, 0 to 4.

    Raises:
        ValueError: If lengths differ, or either recording is silent.
    """
    degraded, reference = np.asarray(degraded, np.float64), np.asarray(reference, np.float64)
    if degraded.shape != reference.shape:
        raise ValueError(
            f"Expected signals of one length, got {degraded.shape} and {reference.shape}; `full_reference_scores` aligns them."
        )
    energy, degraded_energy = float(reference @ reference), float(degraded @ degraded)
    if energy == 0 or degraded_energy == 0:
        raise ValueError("Expected signals that are not silent: their ratio is undefined. Check the recording.")
    difference = math.sqrt(energy / degraded_energy) * degraded - reference
    return float(difference @ difference) / energy


def estimate_delay(degraded: np.ndarray, reference: np.ndarray, max_delay_samples: int) -> int:
    """Estimate by how many samples `degraded` lags `reference`, from the largest magnitude of their cross-correlation.

    Args:
        degraded (`np.ndarray` of shape `(num_samples,)`): May be inverted, and of another length.
        reference (`np.ndarray` of shape `(num_reference_samples,)`): Clean original.
        max_delay_samples (`int`): Longest delay considered, in either direction.

    Returns:
        `int`: One constant delay, negative if `degraded` is earlier. Drift and jumps, such as those of packet loss concealment,
        remain.
    """
    products = np.abs(correlate(degraded, reference, method="fft"))
    zero = len(reference) - 1
    first = max(zero - max_delay_samples, 0)
    return int(np.argmax(products[first : zero + max_delay_samples + 1])) + first - zero


def _pesq(package: ModuleType, degraded: np.ndarray, reference: np.ndarray, sampling_rate: int, band: str) -> float:
    """Return the PESQ of a recording, or the mean over its pieces if it is longer than PESQ can judge."""
    if len(reference) / sampling_rate <= MAX_PESQ_SECONDS:
        return _pesq_of_piece(package, degraded, reference, sampling_rate, band)
    num_pieces = math.ceil(len(reference) / sampling_rate / PESQ_PIECE_SECONDS)
    edges = np.linspace(0, len(reference), num_pieces + 1).astype(int)
    values, reason = [], ""
    for start, end in itertools.pairwise(edges):
        try:
            values.append(_pesq_of_piece(package, degraded[start:end], reference[start:end], sampling_rate, band))
        except _NotMeasurableError as error:  # a piece without speech, for example
            reason = str(error)
    if not values:
        raise _NotMeasurableError(f"none of {num_pieces} pieces could be judged; the last: {reason}")
    return float(np.mean(values))


def _pesq_of_piece(package: ModuleType, degraded: np.ndarray, reference: np.ndarray, sampling_rate: int, band: str) -> float:
    if unusable := _unusable(degraded, reference):
        raise _NotMeasurableError(unusable)
    if band == "wb" and sampling_rate < 16_000:
        raise _NotMeasurableError(f"wideband PESQ needs 16000 Hz or more, got {sampling_rate} Hz; ask for pesq_band='nb'")
    seconds = len(reference) / sampling_rate
    if seconds <= MIN_PESQ_SECONDS:
        raise _NotMeasurableError(f"PESQ judges {MIN_PESQ_SECONDS} s or more, got {seconds:.2f} s; join it with what follows")
    rate = 16_000 if sampling_rate >= 16_000 else 8000
    if sampling_rate != rate:
        degraded, reference = (resample(wave.astype(np.float32), sampling_rate, rate) for wave in (degraded, reference))
    try:
        return float(package.pesq(rate, reference, degraded, band))
    except package.PesqError as error:
        message = error.args[0] if error.args else type(error).__name__
        text = message.decode() if isinstance(message, bytes) else str(message)
        raise _NotMeasurableError(f"PESQ failed: {text.lower()}; the reference may hold no speech") from error


def _stoi(package: ModuleType, degraded: np.ndarray, reference: np.ndarray, sampling_rate: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(package.stoi(reference, degraded, sampling_rate))
    if value == STOI_OF_TOO_LITTLE or math.isnan(value):
        raise _NotMeasurableError("STOI needs 0.4 s of speech in the reference, pauses not counted; use a longer recording")
    return value


def _snr_db(degraded: np.ndarray, reference: np.ndarray) -> float:
    noise = degraded - reference
    if np.abs(noise).max() < 1e-9 * np.abs(reference).max():
        raise _NotMeasurableError("the noise is silent: the degraded recording equals its reference, and no SNR is defined")
    return 10 * math.log10(float(reference @ reference) / float(noise @ noise))


class _NotMeasurableError(Exception):
    """A label cannot be measured for this pair; the message is the reason."""


def _failed(labels: Sequence[str], reason: str, delay_seconds: float, compared_seconds: float) -> FullReferenceScores:
    return FullReferenceScores(dict.fromkeys(labels, math.nan), dict.fromkeys(labels, reason), delay_seconds, compared_seconds)


def _unusable(degraded: np.ndarray, reference: np.ndarray) -> str | None:
    for name, waveform in (("degraded", degraded), ("reference", reference)):
        if len(waveform) == 0:
            return f"the {name} recording is empty"
        if not np.isfinite(waveform).all():
            return f"the {name} recording has a NaN or infinite sample at {int(np.flatnonzero(~np.isfinite(waveform))[0])}"
        if np.ptp(waveform) < ONE_STEP:
            return f"the {name} recording is silent"
    return None
