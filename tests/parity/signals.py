"""The synthetic signals that the original implementations were recorded on; made anew, checked by SHA-256."""

from __future__ import annotations

import functools
import hashlib

import numpy as np


@functools.cache
def signal(name: str, sha256: str | None = None) -> tuple[np.ndarray, int]:
    """Make `<kind>_<seconds>s[_<kilohertz>k]`, at 16 kHz if no rate is named.

    Kinds: `noise`; `chirp`, a sweep; `voiced`, a tone with vibrato, syllables and pauses; `noisy`, the same in noise; `clipped`,
    the same overdriven; `silence`. Made in float64 and rounded to 16 bits, so that it is the same on every machine.

    Returns:
        `(waveform, sampling_rate)`: float32, 16-bit steps.
    """
    kind, seconds, *rate = name.split("_")
    sampling_rate = round(float(rate[0].removesuffix("k")) * 1000) if rate else 16_000
    num_samples = round(float(seconds.removesuffix("s")) * sampling_rate)
    pcm = np.clip(np.round(_KINDS[kind](num_samples, sampling_rate) * 32767.0), -32768, 32767).astype(np.int16)
    if sha256 is not None:
        assert hashlib.sha256(pcm.tobytes()).hexdigest() == sha256, f"{name} is not the recorded signal"
    return pcm.astype(np.float32) / np.float32(32768), sampling_rate


def _noise(num_samples: int, sampling_rate: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(1).standard_normal(num_samples)


def _chirp(num_samples: int, sampling_rate: int) -> np.ndarray:
    time, top = np.arange(num_samples) / sampling_rate, 0.4375 * sampling_rate
    return 0.5 * np.sin(2 * np.pi * (100.0 * time + (top - 100.0) * time * time / (2 * (num_samples / sampling_rate))))


def _voiced(num_samples: int, sampling_rate: int) -> np.ndarray:
    time = np.arange(num_samples) / sampling_rate
    phase = 2 * np.pi * (120.0 * time - 20.0 / (2 * np.pi * 0.5) * (np.cos(2 * np.pi * 0.5 * time) - 1.0))
    samples = np.zeros(num_samples)
    for harmonic in range(1, int(min(6000.0, 0.45 * sampling_rate) // 140.0) + 1):
        samples += np.sin(harmonic * phase) / harmonic
    return 0.2 * samples * (0.5 * (1 - np.cos(2 * np.pi * 4.0 * time)) * ((time % 2.0) < 1.7))


def _noisy(num_samples: int, sampling_rate: int) -> np.ndarray:
    return _voiced(num_samples, sampling_rate) + 0.02 * np.random.default_rng(2).standard_normal(num_samples)


def _clipped(num_samples: int, sampling_rate: int) -> np.ndarray:
    return np.clip(4.0 * _voiced(num_samples, sampling_rate), -0.3, 0.3)


def _silence(num_samples: int, sampling_rate: int) -> np.ndarray:
    return np.zeros(num_samples)


_KINDS = {"noise": _noise, "chirp": _chirp, "voiced": _voiced, "noisy": _noisy, "clipped": _clipped, "silence": _silence}
