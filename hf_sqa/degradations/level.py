"""Level of a recording (whole file, peak, or active speech by ITU-T P.56), and kinds that set it."""

from typing import Literal

import numpy as np

from hf_sqa.audio import active_level
from hf_sqa.audio.gate import FRAME_SECONDS
from hf_sqa.choices import check_choice
from hf_sqa.degradations.kind import Record, degradation, note

Measure = Literal["whole_file", "active", "peak"]


def level_dbfs(waveform: np.ndarray, sampling_rate: int, measure: Measure = "whole_file") -> float:
    """Return the level of a waveform in dB relative to full scale; a full-scale sine has -3.01 dBFS, and a peak of 0 dBFS.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Samples.
        sampling_rate (`int`): Their rate in Hz.
        measure (`str`, *optional*, defaults to `"whole_file"`): `"whole_file"` averages the power over all samples, pauses
            included; `"active"` over active speech only (ITU-T P.56, frames of 10 ms); `"peak"` takes the largest magnitude.

    Returns:
        `float`: The level, `-inf` for silence.
    """
    check_choice("measure", measure, ("whole_file", "active", "peak"))
    if measure == "active":
        frame = max(1, round(FRAME_SECONDS * sampling_rate))
        whole = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
        if len(whole):
            # P.56 thresholds end at -100 dBFS: the recording is measured at a usual level, and the result shifted back.
            offset_db = level_dbfs(waveform, sampling_rate)
            if not np.isfinite(offset_db):
                return -np.inf
            powers = np.einsum("ij,ij->i", whole, whole, dtype=np.float64) / frame * 10 ** ((-26 - offset_db) / 10)
            return active_level(powers)[0] + offset_db + 26
    with np.errstate(divide="ignore"):
        if measure == "peak":
            return float(20 * np.log10(np.abs(waveform).max(initial=0.0)))
        return float(10 * np.log10(np.square(waveform, dtype=np.float64).mean()))


@degradation(gain_db=(-120, 120))
def gain(waveform: np.ndarray, sampling_rate: int, *, gain_db: float) -> np.ndarray:
    """Multiply by a gain.

    Args:
        gain_db (`float`): Gain in dB, -120 to 120; 6.02 doubles the amplitude. Nothing is clipped.
    """
    return waveform * np.float32(10 ** (gain_db / 20))


@degradation(target_dbfs=(-120, 20))
def set_level(
    waveform: np.ndarray, sampling_rate: int, *, target_dbfs: float, measure: Measure = "active", record: Record = None
) -> np.ndarray:
    """Bring a recording to a level. Listening tests use an active speech level 26 dB below overload (ITU-T P.800, P.56).

    Args:
        target_dbfs (`float`): Target level in dB relative to full scale, -120 to 20. Nothing is clipped.
        measure (`str`, *optional*, defaults to `"active"`): `"active"`, `"whole_file"` or `"peak"`, see [`level_dbfs`].
        record (`dict`, *optional*): Receives `gain_db`.

    Raises:
        ValueError: If the waveform is silent: no gain reaches a level.
    """
    level = level_dbfs(waveform, sampling_rate, measure)
    if not np.isfinite(level):
        raise ValueError(f"Expected a waveform that is not silent, to bring it to {target_dbfs:g} dBFS; no gain can.")
    note(record, gain_db=round(target_dbfs - level, 4))
    return waveform * np.float32(10 ** ((target_dbfs - level) / 20))
