"""Echo: delayed and softer copies of the recording."""

import numpy as np

from hf_sqa.degradations.kind import degradation


@degradation(delay_ms=(1, 5000), attenuation_db=(0, 120), num_repeats=(1, 50))
def echo(waveform: np.ndarray, sampling_rate: int, *, delay_ms: float, attenuation_db: float, num_repeats: int = 1) -> np.ndarray:
    """Add delayed copies: the k-th comes `k` delays later and is `k` attenuations softer.

    Args:
        delay_ms (`float`): Delay of each copy after the one before, in ms, 1 to 5000, rounded to a sample.
        attenuation_db (`float`): How much softer each copy is than the one before, in dB, 0 to 120.
        num_repeats (`int`, *optional*, defaults to `1`): Number of copies, 1 to 50. What falls beyond the end is left out.
    """
    degraded = waveform.copy()
    delay = max(1, round(delay_ms * sampling_rate / 1000))
    for repeat in range(1, num_repeats + 1):
        if repeat * delay < len(waveform):
            factor = np.float32(10 ** (-repeat * attenuation_db / 20))
            degraded[repeat * delay :] += factor * waveform[: -repeat * delay]
    return degraded
