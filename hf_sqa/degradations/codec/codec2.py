"""Codec 2 (Rowe), a sinusoidal coder for radio at 0.7 to 3.2 kb/s, by libcodec2."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from hf_sqa.degradations.codec.frames import coded_at, coded_in_frames, from_int16, to_int16
from hf_sqa.degradations.codec.shared_library import load_library
from hf_sqa.degradations.kind import check_choice, degradation

RATE = 8000
#: Bit rate to number of the mode, codec2.h.
MODES = {3.2: 0, 2.4: 1, 1.6: 2, 1.4: 3, 1.3: 4, 1.2: 5, 0.7: 8}
MAX_FRAME_BYTES = 64
#: Samples by which the decoder is late, but for 700C; found by cross-correlation of envelopes.
DELAY, DELAY_700C = 160, 240


def _library() -> ctypes.CDLL:
    library = load_library("codec2", 1, "codec2", "libcodec2-1.0", "codec2")
    library.codec2_create.restype = ctypes.c_void_p
    for name in ("codec2_destroy", "codec2_samples_per_frame"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.codec2_encode.argtypes = library.codec2_decode.argtypes = [ctypes.c_void_p] * 3
    return library


@degradation(requires=lambda parameters: _library())
def codec2(
    waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float = 2.4, record: dict[str, Any] | None = None
) -> np.ndarray:
    """Code with Codec 2 at 8 kHz, in frames of 20 or 40 ms; other rates are resampled.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, nominally in `[-1, 1]`.
        sampling_rate (`int`): Its rate in Hz.
        bitrate_kbps (`float`, *optional*, defaults to `2.4`): Mode: 3.2, 2.4, 1.6, 1.4, 1.3, 1.2 or 0.7 (700C) kb/s.
        record (`dict`, *optional*): Receives `clipped_samples`.

    Raises:
        CodecUnavailableError: If libcodec2 is not installed.
    """
    check_choice("bitrate_kbps", bitrate_kbps, tuple(MODES))
    library = _library()

    delay = DELAY_700C if bitrate_kbps == 0.7 else DELAY

    def code_all(samples: np.ndarray) -> np.ndarray:
        state = library.codec2_create(MODES[bitrate_kbps])
        data = ctypes.create_string_buffer(MAX_FRAME_BYTES)

        def code(frame: np.ndarray, is_lost: bool) -> np.ndarray:
            frame, decoded = frame.copy(), np.empty(len(frame), np.int16)
            library.codec2_encode(state, data, frame.ctypes.data)
            library.codec2_decode(state, decoded.ctypes.data, data)
            return decoded

        try:
            frame = library.codec2_samples_per_frame(state)
            no_loss = lambda num_frames: np.zeros(num_frames, bool)  # noqa: E731
            return from_int16(coded_in_frames(to_int16(samples, record), frame, delay, no_loss, code))
        finally:
            library.codec2_destroy(state)

    return coded_at(waveform, sampling_rate, RATE, code_all)
