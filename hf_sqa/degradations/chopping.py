"""Chopping: short stretches go missing, as in the condition "chop" of the TCD-VoIP corpus."""

from typing import Any, Literal

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.kind import degradation, note


@degradation(chops_per_second=(0.1, 50), chop_ms=(1, 1000))
def chop(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    chops_per_second: float,
    chop_ms: float,
    rng: np.random.Generator,
    mode: Literal["zeros", "previous"] = "zeros",
    record: dict[str, Any] | None = None,
) -> np.ndarray:
    """Replace stretches of equal length, one at a random place in every `1 / chops_per_second` seconds.

    Args:
        chops_per_second (`float`): How many stretches a second, 0.1 to 50; TCD-VoIP has 1 to 6.
        chop_ms (`float`): Length of a stretch in ms, 1 to 1000, at most the interval between two; TCD-VoIP has 20 to 40.
        mode (`str`, *optional*, defaults to `"zeros"`): What is heard instead: `"zeros"`, silence, or `"previous"`, the stretch
            before once more.
        record (`dict`, *optional*): Receives `starts_seconds`, where the stretches begin.
    """
    check_choice("mode", mode, ("zeros", "previous"))
    length = max(1, round(chop_ms * sampling_rate / 1000))
    interval = round(sampling_rate / chops_per_second)
    if length > interval:
        raise ValueError(f"Expected stretches no longer than the {1000 / chops_per_second:g} ms between them, got {chop_ms:g} ms.")
    starts = [start + int(rng.integers(interval - length + 1)) for start in range(0, len(waveform), interval)]
    starts = [start for start in starts if start + length <= len(waveform)]
    degraded = waveform.copy()
    for start in starts:
        before = waveform[max(start - length, 0) : start] if mode == "previous" else waveform[:0]
        degraded[start : start + length] = np.pad(before, (length - len(before), 0))
    note(record, starts_seconds=[round(start / sampling_rate, 4) for start in starts])
    return degraded
