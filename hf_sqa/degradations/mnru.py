"""The modulated noise reference unit of ITU-T P.810: noise multiplied by the speech."""

import numpy as np

from hf_sqa.degradations.kind import degradation
from hf_sqa.degradations.noise import bandwidth_offset_db


@degradation(q_db=(-60, 120))
def mnru(
    waveform: np.ndarray, sampling_rate: int, *, q_db: float, rng: np.random.Generator, noise_bandwidth_hz: float | None = None
) -> np.ndarray:
    """Add noise multiplied by the speech, `y = x (1 + 10^(-Q/20) n)` with white Gaussian `n` (ITU-T P.810, formula 1).

    The band-pass filters of a narrowband or wideband reference unit are not part of it; put [`band_pass`] after it where a test
    plan asks for them. Silence stays silent.

    Args:
        q_db (`float`): Power of the speech over that of the modulated noise, Q, in dB, -60 to 120.
        noise_bandwidth_hz (`float`, *optional*): Q is that of noise white up to this frequency, of which only what lies below half
            the sampling rate is added: at 16 kHz, noise white to 24 kHz is 4.77 dB softer. Default: half the rate.
    """
    factor = 10 ** (-(q_db + bandwidth_offset_db(sampling_rate, noise_bandwidth_hz)) / 20)
    return waveform * (1 + np.float32(factor) * rng.standard_normal(len(waveform), dtype=np.float32))
