"""Clips that differ from each other."""

import numpy as np

RATE = 16_000


def make_clip(seed: int, seconds: float = 0.6, sampling_rate: int = RATE) -> np.ndarray:
    """Tone and noise whose mix depends on the seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    tone = 0.2 * np.sin(2 * np.pi * (150 + 37 * (seed % 20)) * time) * (1 + np.sin(2 * np.pi * 4 * time))
    return (tone + 0.01 * (1 + seed % 7) * rng.standard_normal(len(time))).astype(np.float32)
