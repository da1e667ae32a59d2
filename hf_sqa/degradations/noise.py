"""Noise: added at a signal-to-noise ratio (white, pink, hum, babble, fluctuating, recorded), or multiplied by the speech (MNRU).

The ratio is that of ITU-T P.835 tests and of the DNS challenges: speech over noise power, the speech measured over the whole file,
or while it is active (ITU-T P.56). Silent speech or noise is refused (`ValueError`): no gain reaches a ratio to silence.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.fft

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.choices import check_choice
from hf_sqa.degradations.kind import Record, check_range, degradation, note
from hf_sqa.degradations.level import level_dbfs
from hf_sqa.folders import find_recordings

SpeechLevel = Literal["whole_file", "active"]
LOWEST_PINK_HZ = 20.0


class RecordingFolder:
    """Recordings of noise, or of talkers for babble, in a folder and below it; read when needed, at the rate needed.

    Args:
        folder (`str` or `Path`): Searched in depth for files that libsndfile reads.

    Attributes:
        names (`list[str]`): Paths relative to the folder, sorted.

    Raises:
        ValueError: If there is no such folder, or no recording in it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"Expected a folder of recordings, got {str(folder)!r}, which is not a folder.")
        self.names = sorted(Path(path).relative_to(self.folder).as_posix() for path in find_recordings(self.folder))
        if not self.names:
            raise ValueError(
                f"Expected recordings in {str(folder)!r} or below it, found none ending in .wav, .flac, .ogg or the like."
            )

    def load(self, name: str, sampling_rate: int) -> np.ndarray:
        """Return the samples of one recording, mono float32. The last 16 recordings stay in memory."""
        return _loaded(self.folder / name, sampling_rate)


#: What to draw noise or talkers from.
Recordings = RecordingFolder | Sequence[np.ndarray]


@functools.lru_cache(maxsize=16)
def _loaded(path: Path, sampling_rate: int) -> np.ndarray:
    try:
        return load_recording(path, sampling_rate=sampling_rate).waveform
    except AudioError as error:
        raise ValueError(f"The noise recording {str(path)!r} cannot be used: {error.message}.") from error


def add_noise(
    speech: np.ndarray, noise: np.ndarray, sampling_rate: int, *, snr_db: float, speech_level: SpeechLevel = "whole_file"
) -> np.ndarray:
    """Mix noise into speech at a given signal-to-noise ratio.

    Args:
        speech (`np.ndarray` of shape `(num_samples,)`): Clean speech, floating point, nominally in `[-1, 1]`.
        noise (`np.ndarray` of shape `(num_samples,)`): Noise, same length and sampling rate as `speech`.
        sampling_rate (`int`): Rate of both in Hz.
        snr_db (`float`): Speech power over noise power in the mix, in dB, -60 to 120; 0 means equally loud.
        speech_level (`str`, *optional*, defaults to `"whole_file"`): `"whole_file"` averages the power of the speech over the whole
            recording, pauses included; `"active"` over active speech only (ITU-T P.56), hence a higher speech level and louder
            noise. The power of the noise is always that of the whole recording.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: The mix. It is not clipped and may leave `[-1, 1]`.

    Raises:
        ValueError: If the lengths differ, or if either signal is silent: no gain can then reach `snr_db`.
    """
    check_range("snr_db", snr_db, -60, 120)
    check_choice("speech_level", speech_level, ("whole_file", "active"))
    if speech.shape != noise.shape:
        raise ValueError(f"Expected noise as long as the speech, {len(speech)} samples, got {len(noise)}; cut or repeat it first.")
    speech_dbfs = level_dbfs(speech, sampling_rate, speech_level)
    noise_dbfs = level_dbfs(noise, sampling_rate)
    for what, level in (("speech", speech_dbfs), ("noise", noise_dbfs)):
        if not np.isfinite(level):
            raise ValueError(f"Expected {what} that is not silent, to mix at {snr_db:g} dB; no gain reaches a ratio to silence.")
    return speech + noise * np.float32(10 ** ((speech_dbfs - noise_dbfs - snr_db) / 20))


@degradation()
def white_noise(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    snr_db: float,
    rng: np.random.Generator,
    speech_level: SpeechLevel = "whole_file",
    noise_bandwidth_hz: float | None = None,
) -> np.ndarray:
    """Add white Gaussian noise.

    Args:
        noise_bandwidth_hz (`float`, *optional*): `snr_db` counts noise that is white up to this frequency, but only its part below
            half the sampling rate is added: at 16 kHz, noise white to 24 kHz is 4.77 dB softer. Default: half the rate.
    """
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    beyond_db = bandwidth_offset_db(sampling_rate, noise_bandwidth_hz)
    return add_noise(waveform, noise, sampling_rate, snr_db=snr_db + beyond_db, speech_level=speech_level)


def bandwidth_offset_db(sampling_rate: int, noise_bandwidth_hz: float | None) -> float:
    """Return the power that white noise loses when everything above half the sampling rate is left out, in dB, 0 or more."""
    if noise_bandwidth_hz is None:
        return 0.0
    if noise_bandwidth_hz < sampling_rate / 2:
        raise ValueError(
            f"Expected `noise_bandwidth_hz` of half the rate or more, {sampling_rate / 2:g} Hz, got {noise_bandwidth_hz:g}."
        )
    return float(10 * np.log10(noise_bandwidth_hz / (sampling_rate / 2)))


@degradation()
def pink_noise(
    waveform: np.ndarray, sampling_rate: int, *, snr_db: float, rng: np.random.Generator, speech_level: SpeechLevel = "whole_file"
) -> np.ndarray:
    """Add pink noise: equal power in every octave from 20 Hz up, 3 dB less per octave in density."""
    noise = _coloured(len(waveform), sampling_rate, -3.0, rng)
    return add_noise(waveform, noise, sampling_rate, snr_db=snr_db, speech_level=speech_level)


def _coloured(num_samples: int, sampling_rate: int, tilt_db_per_octave: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power density falls or rises by a number of dB per octave, with nothing below 20 Hz."""
    size = scipy.fft.next_fast_len(max(num_samples, sampling_rate // 10), real=True)
    hertz = np.fft.rfftfreq(size, 1 / sampling_rate).astype(np.float32)
    octaves = np.log2(np.maximum(hertz, LOWEST_PINK_HZ) / 1000)
    shape = np.where(hertz >= LOWEST_PINK_HZ, 10 ** (tilt_db_per_octave * octaves / 20), 0).astype(np.float32)
    spectrum = rng.standard_normal((2, len(hertz)), dtype=np.float32)
    return scipy.fft.irfft((spectrum[0] + 1j * spectrum[1]) * shape, size)[:num_samples]


@degradation(mains_hz=(10, 400), num_harmonics=(1, 100))
def hum(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    snr_db: float,
    rng: np.random.Generator,
    mains_hz: float = 50.0,
    num_harmonics: int = 8,
    speech_level: SpeechLevel = "whole_file",
) -> np.ndarray:
    """Add mains hum: a harmonic tone whose k-th harmonic has amplitude 1/k and a phase drawn from `rng`.

    Args:
        mains_hz (`float`, *optional*, defaults to `50.0`): Frequency of the mains: 50, or 60 in the Americas; 10 to 400.
        num_harmonics (`int`, *optional*, defaults to `8`): Harmonics, the first included; those above half the rate are left out.
    """
    phase = 2 * np.pi * mains_hz * np.arange(len(waveform)) / sampling_rate
    offsets = rng.uniform(0, 2 * np.pi, num_harmonics)
    audible = [k for k in range(1, num_harmonics + 1) if k * mains_hz < sampling_rate / 2]
    noise = sum(np.sin(k * phase + offsets[k - 1]) / k for k in audible)
    return add_noise(waveform, np.asarray(noise, np.float32), sampling_rate, snr_db=snr_db, speech_level=speech_level)


@degradation(num_talkers=(1, 64))
def babble(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    snr_db: float,
    rng: np.random.Generator,
    num_talkers: int = 8,
    talkers: Recordings | None = None,
    speech_level: SpeechLevel = "whole_file",
    record: Record = None,
) -> np.ndarray:
    """Add babble: several voices at once, equally loud, each starting at a random place.

    Args:
        num_talkers (`int`, *optional*, defaults to `8`): Voices, 1 to 64.
        talkers ([`RecordingFolder`] or list of waveforms at `sampling_rate`, *optional*): Other people's speech, drawn from with
            replacement. Without them, the voices are made from the recording itself: from random places, played 0.7 to 1.4 times
            as fast, every other one backwards, so that no word can be understood.
        record (`dict`, *optional*): Receives `noise`: the names or numbers of the talkers drawn, or `"the recording itself"`.
    """
    noise = np.zeros(len(waveform), np.float32)
    drawn: list[str] = []
    for number in range(num_talkers):
        if talkers is None:
            positions = np.arange(0, len(waveform) - 1e-9, rng.uniform(0.7, 1.4), dtype=np.float32)
            voice = np.interp(positions, np.arange(len(waveform)), waveform).astype(np.float32)[:: -1 if number % 2 == 0 else 1]
        else:
            name, voice = _drawn(talkers, sampling_rate, rng)
            drawn.append(name)
        power = float(np.square(voice, dtype=np.float64).mean())
        if power == 0:
            raise ValueError(
                f"Expected talkers that are not silent, got silence from {drawn[-1] if drawn else 'the recording itself'}."
            )
        noise += _excerpt(voice, len(waveform), rng)[0] / np.float32(np.sqrt(power))
    note(record, noise=drawn or "the recording itself")
    return add_noise(waveform, noise, sampling_rate, snr_db=snr_db, speech_level=speech_level)


def _drawn(recordings: Recordings, sampling_rate: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    if isinstance(recordings, RecordingFolder):
        name = recordings.names[int(rng.integers(len(recordings.names)))]
        return name, recordings.load(name, sampling_rate)
    number = int(rng.integers(len(recordings)))
    return str(number), np.asarray(recordings[number], np.float32)


def _excerpt(recording: np.ndarray, num_samples: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draw an excerpt from a random place, and return it with its first sample; a recording that is too short is repeated."""
    start = int(rng.integers(len(recording) - num_samples + 1 if len(recording) >= num_samples else len(recording)))
    repeated = np.concatenate([recording[start:], *[recording] * (num_samples // len(recording) + 1)])
    return repeated[:num_samples], start


@degradation(fluctuation_db=(0, 20))
def fluctuating_noise(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    snr_db: float,
    rng: np.random.Generator,
    fluctuation_db: float = 6.0,
    speech_level: SpeechLevel = "whole_file",
    record: Record = None,
) -> np.ndarray:
    """Add synthetic non-stationary noise: two coloured noises, tilted by 0 to -9 dB per octave, that rise and fall independently.

    A substitute for recorded noise. Levels follow smooth random curves with about one turn per second.

    Args:
        snr_db (`float`): Speech power over noise power, in dB, -60 to 120, both averaged over the recording.
        fluctuation_db (`float`, *optional*, defaults to `6.0`): Standard deviation of the level of each noise in dB, 0 to 20.
        record (`dict`, *optional*): Receives `tilts_db_per_octave`.
    """
    noise = np.zeros(len(waveform), np.float32)
    tilts = rng.uniform(-9, 0, 2)
    for tilt in tilts:
        coloured = _coloured(len(waveform), sampling_rate, tilt, rng)
        turns = rng.standard_normal(len(waveform) // sampling_rate * 2 + 4)
        seconds = np.arange(len(waveform)) / sampling_rate + rng.uniform()
        curve_db = fluctuation_db * np.interp(seconds, np.arange(len(turns)) / 2, turns)
        noise += coloured / (coloured.std() + 1e-12) * (10 ** (curve_db / 20)).astype(np.float32)
    note(record, tilts_db_per_octave=[round(float(tilt), 2) for tilt in tilts])
    return add_noise(waveform, noise, sampling_rate, snr_db=snr_db, speech_level=speech_level)


@degradation()
def recorded_noise(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    snr_db: float,
    rng: np.random.Generator,
    noises: Recordings | None,
    speech_level: SpeechLevel = "whole_file",
    record: Record = None,
) -> np.ndarray:
    """Add an excerpt of recorded noise, from a random place in a random recording; short recordings are repeated.

    Args:
        snr_db (`float`): Speech power over the power of the excerpt, in dB, -60 to 120.
        noises ([`RecordingFolder`] or list of waveforms at `sampling_rate`): The noise to draw from.
        record (`dict`, *optional*): Receives `noise`, the name or number of the recording, and `noise_start_seconds`.
    """
    if noises is None or (not isinstance(noises, RecordingFolder) and not len(noises)):
        raise ValueError("Expected `noises` to draw from, got none; give a `RecordingFolder`, or a list of waveforms.")
    name, noise = _drawn(noises, sampling_rate, rng)
    stretch, start = _excerpt(noise, len(waveform), rng)
    note(record, noise=name, noise_start_seconds=round(start / sampling_rate, 4))
    return add_noise(waveform, stretch, sampling_rate, snr_db=snr_db, speech_level=speech_level)


@degradation()
def background_noise(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    snr_db: float,
    rng: np.random.Generator,
    noises: Recordings | None = None,
    speech_level: SpeechLevel = "whole_file",
    record: Record = None,
) -> np.ndarray:
    """Add non-stationary noise: recorded where `noises` are given, else [`fluctuating_noise`] or [`babble`] at even odds.

    Args:
        noises ([`RecordingFolder`] or list of waveforms at `sampling_rate`, *optional*): The noise to draw from.
        record (`dict`, *optional*): Receives `noise`: which noise was added.
    """
    if noises is not None:
        return recorded_noise(
            waveform, sampling_rate, snr_db=snr_db, rng=rng, noises=noises, speech_level=speech_level, record=record
        )
    synthetic = babble if rng.random() < 0.5 else fluctuating_noise
    note(record, noise=f"synthetic: {synthetic.__name__}")
    return synthetic(waveform, sampling_rate, snr_db=snr_db, rng=rng, speech_level=speech_level)


@degradation(q_db=(-60, 120))
def mnru(
    waveform: np.ndarray, sampling_rate: int, *, q_db: float, rng: np.random.Generator, noise_bandwidth_hz: float | None = None
) -> np.ndarray:
    """Add noise multiplied by the speech, `y = x (1 + 10^(-Q/20) n)` with white Gaussian `n` (ITU-T P.810, formula 1).

    The band-pass filters of a narrowband or wideband reference unit are not part of it; put [`band_pass`] after it where a test
    plan asks for them. Silence stays silent.

    Args:
        q_db (`float`): Power of the speech over that of the modulated noise, Q, in dB, -60 to 120.
        noise_bandwidth_hz (`float`, *optional*): Q counts noise that is white up to this frequency, but only its part below half
            the sampling rate is added: at 16 kHz, noise white to 24 kHz is 4.77 dB softer. Default: half the rate.
    """
    factor = 10 ** (-(q_db + bandwidth_offset_db(sampling_rate, noise_bandwidth_hz)) / 20)
    return waveform * (1 + np.float32(factor) * rng.standard_normal(len(waveform), dtype=np.float32))
