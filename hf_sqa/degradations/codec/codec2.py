"""Codec 2 (Rowe), a sinusoidal coder for radio at 0.7 to 3.2 kb/s, by ffmpeg.

libcodec2 itself draws phases from a state of the whole process: a second call would give other samples.
"""

from typing import Any

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.ffmpeg import through_ffmpeg
from hf_sqa.degradations.codec.shared_library import find_ffmpeg
from hf_sqa.degradations.kind import degradation

RATE = 8000
MODES = {3.2: "3200", 2.4: "2400", 1.6: "1600", 1.4: "1400", 1.3: "1300", 1.2: "1200", 0.7: "700C"}
#: Samples by which the decoder is late, but for 700C; found by cross-correlation of envelopes.
DELAY, DELAY_700C = 160, 240


@degradation(requires=lambda parameters: find_ffmpeg("codec2"))
def codec2(
    waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float = 2.4, record: dict[str, Any] | None = None
) -> np.ndarray:
    """Code with Codec 2 at 8 kHz, in frames of 20 or 40 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `2.4`): Mode: 3.2, 2.4, 1.6, 1.4, 1.3, 1.2 or 0.7 (700C) kb/s.

    Raises:
        CodecUnavailableError: If ffmpeg is not installed.
        RuntimeError: If it was built without libcodec2.
    """
    check_choice("bitrate_kbps", bitrate_kbps, tuple(MODES))
    options = ["-c:a", "libcodec2", "-mode", MODES[bitrate_kbps], "-f", "codec2"]
    delay = DELAY_700C if bitrate_kbps == 0.7 else DELAY
    return through_ffmpeg(waveform, sampling_rate, RATE, record, "codec2", options, "codec2", delay)
