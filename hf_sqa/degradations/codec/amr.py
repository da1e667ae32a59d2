"""AMR narrowband and wideband (3GPP TS 26.090, TS 26.190; ITU-T G.722.2), by the OpenCORE and VisualOn libraries."""

import ctypes
from typing import Any

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.frames import coded_at, coded_in_frames, frame_losses, from_int16, to_int16
from hf_sqa.degradations.codec.shared_library import load_library
from hf_sqa.degradations.kind import degradation

NARROWBAND_KBPS = (4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2, 12.2)
WIDEBAND_KBPS = (6.6, 8.85, 12.65, 14.25, 15.85, 18.25, 19.85, 23.05, 23.85)
NARROWBAND_RATE, WIDEBAND_RATE = 8000, 16000
#: Look-ahead and filters of coder and decoder together, in samples; found by cross-correlation with the input.
NARROWBAND_DELAY, WIDEBAND_DELAY = 40, 95
NO_DATA = bytes([15 << 3 | 4])  # frame type 15 of the storage format, RFC 4867: the decoder conceals
MAX_FRAME_BYTES = 64


def _narrowband_library() -> ctypes.CDLL:
    library = load_library("opencore-amrnb", 0, "amr_nb", "libopencore-amrnb0", "opencore-amr")
    library.Encoder_Interface_init.restype = library.Decoder_Interface_init.restype = ctypes.c_void_p
    library.Encoder_Interface_exit.argtypes = library.Decoder_Interface_exit.argtypes = [ctypes.c_void_p]
    library.Encoder_Interface_Encode.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.Decoder_Interface_Decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    return library


def _wideband_libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    encoding = load_library("vo-amrwbenc", 0, "amr_wb", "libvo-amrwbenc0", "vo-amrwbenc")
    decoding = load_library("opencore-amrwb", 0, "amr_wb", "libopencore-amrwb0", "opencore-amr")
    encoding.E_IF_init.restype = decoding.D_IF_init.restype = ctypes.c_void_p
    encoding.E_IF_exit.argtypes = decoding.D_IF_exit.argtypes = [ctypes.c_void_p]
    encoding.E_IF_encode.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    decoding.D_IF_decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    return encoding, decoding


@degradation(requires=lambda parameters: _narrowband_library())
def amr_nb(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float = 12.2,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    rng: np.random.Generator | None = None,
    record: dict[str, Any] | None = None,
) -> np.ndarray:
    """Code with AMR narrowband, the codec of GSM and UMTS telephony, at 8 kHz in frames of 20 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `12.2`): Mode: 4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2 or 12.2 kb/s.
        rng (`np.random.Generator`, *optional*): Source of randomness, needed for losses only.
        record (`dict`, *optional*): Receives `clipped_samples`, and `lost_packets` where there are losses.

    Raises:
        CodecUnavailableError: If libopencore-amrnb is not installed.
    """
    check_choice("bitrate_kbps", bitrate_kbps, NARROWBAND_KBPS)
    library = _narrowband_library()
    mode, lost = NARROWBAND_KBPS.index(bitrate_kbps), frame_losses(loss_share, mean_burst_packets, rng, record)

    def code_all(samples: np.ndarray) -> np.ndarray:
        encoder, decoder = library.Encoder_Interface_init(0), library.Decoder_Interface_init()
        data = ctypes.create_string_buffer(MAX_FRAME_BYTES)

        def code(frame: np.ndarray, is_lost: bool) -> np.ndarray:
            library.Encoder_Interface_Encode(encoder, mode, frame.ctypes.data, data, 0)
            decoded = np.empty(len(frame), np.int16)
            library.Decoder_Interface_Decode(decoder, NO_DATA if is_lost else data, decoded.ctypes.data, 0)
            return decoded

        try:
            return from_int16(coded_in_frames(to_int16(samples, record), 160, NARROWBAND_DELAY, lost, code))
        finally:
            library.Encoder_Interface_exit(encoder)
            library.Decoder_Interface_exit(decoder)

    return coded_at(waveform, sampling_rate, NARROWBAND_RATE, code_all)


@degradation(requires=lambda parameters: _wideband_libraries())
def amr_wb(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float = 12.65,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    rng: np.random.Generator | None = None,
    record: dict[str, Any] | None = None,
) -> np.ndarray:
    """Code with AMR wideband ("HD voice"), at 16 kHz in frames of 20 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `12.65`): Mode: 6.6, 8.85, 12.65, 14.25, 15.85, 18.25, 19.85, 23.05 or 23.85
            kb/s.
        rng (`np.random.Generator`, *optional*): Source of randomness, needed for losses only.
        record (`dict`, *optional*): Receives `clipped_samples`, and `lost_packets` where there are losses.

    Raises:
        CodecUnavailableError: If libvo-amrwbenc or libopencore-amrwb is not installed.
    """
    check_choice("bitrate_kbps", bitrate_kbps, WIDEBAND_KBPS)
    encoding, decoding = _wideband_libraries()
    mode, lost = WIDEBAND_KBPS.index(bitrate_kbps), frame_losses(loss_share, mean_burst_packets, rng, record)

    def code_all(samples: np.ndarray) -> np.ndarray:
        encoder, decoder = encoding.E_IF_init(), decoding.D_IF_init()
        data = ctypes.create_string_buffer(MAX_FRAME_BYTES)

        def code(frame: np.ndarray, is_lost: bool) -> np.ndarray:
            encoding.E_IF_encode(encoder, mode, frame.ctypes.data, data, 0)
            decoded = np.empty(len(frame), np.int16)
            decoding.D_IF_decode(decoder, NO_DATA if is_lost else data, decoded.ctypes.data, 0)
            return decoded

        try:
            return from_int16(coded_in_frames(to_int16(samples, record), 320, WIDEBAND_DELAY, lost, code))
        finally:
            encoding.E_IF_exit(encoder)
            decoding.D_IF_exit(decoder)

    return coded_at(waveform, sampling_rate, WIDEBAND_RATE, code_all)
