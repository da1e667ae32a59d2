"""Clipping at a level, clipping of a share of the samples, and soft clipping."""

import numpy as np

from hf_sqa.degradations.kind import Record, degradation, note


@degradation(level=(1e-6, 1))
def clip_level(waveform: np.ndarray, sampling_rate: int, *, level: float, record: Record = None) -> np.ndarray:
    """Clip samples beyond a level.

    Args:
        level (`float`): Largest magnitude that passes, as a fraction of full scale: above 0, up to 1.
        record (`dict`, *optional*): Receives `clipped_share`, the share of samples cut off, 0 to 1.
    """
    note(record, clipped_share=round(float((np.abs(waveform) > level).mean()), 6))
    return np.clip(waveform, -level, level)


@degradation(share=(0, 0.999))
def clip_share(waveform: np.ndarray, sampling_rate: int, *, share: float, record: Record = None) -> np.ndarray:
    """Clip a given share of the samples, the loudest ones.

    Args:
        share (`float`): Share of the samples to be cut off, 0 to below 1; 0.05 is clearly heard.
        record (`dict`, *optional*): Receives `level`, the largest magnitude that passed.
    """
    level = float(np.quantile(np.abs(waveform), 1 - share))
    note(record, level=level)
    return np.clip(waveform, -level, level)


@degradation(drive_db=(-40, 60))
def soft_clip(waveform: np.ndarray, sampling_rate: int, *, drive_db: float) -> np.ndarray:
    """Saturate like an overdriven amplifier: `tanh(g x) / g` of a waveform scaled to a peak of 1, then scaled back.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, nominally in `[-1, 1]`. Silence stays silent.
        drive_db (`float`): Gain `g` into the saturation in dB, -40 to 60; 0 is mild, 20 is strong.
    """
    drive = 10 ** (drive_db / 20) / max(float(np.abs(waveform).max()), 1e-12)
    return np.tanh(waveform * np.float32(drive)) / np.float32(drive)
