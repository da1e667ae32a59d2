"""AMR narrowband and wideband (3GPP TS 26.090, TS 26.190; ITU-T G.722.2), by the OpenCORE and VisualOn libraries."""

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.frames import Losses, coded_at, coded_in_frames, frame_losses, from_int16, to_int16
from hf_sqa.degradations.codec.shared_library import load_library
from hf_sqa.degradations.kind import Record, degradation

NARROWBAND_KBPS = (4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2, 12.2)
WIDEBAND_KBPS = (6.6, 8.85, 12.65, 14.25, 15.85, 18.25, 19.85, 23.05, 23.85)
NARROWBAND_RATE, WIDEBAND_RATE = 8000, 16000
#: Delay of coder and decoder together (look-ahead and filters), in samples; measured by cross-correlation with the input.
NARROWBAND_DELAY, WIDEBAND_DELAY = 40, 95
NO_DATA = bytes([15 << 3 | 4])  # frame type 15 of the storage format, RFC 4867: the decoder conceals
MAX_FRAME_BYTES = 64


#: Functions that create, destroy and run a coder or decoder.
Functions = tuple[Callable[[], int], Callable[[int], None], Callable[..., int]]


def _functions(library: ctypes.CDLL, prefix: str, name: str, arguments: str, *options: int) -> Functions:
    begin, end, run = (getattr(library, f"{prefix}_{function}") for function in ("init", "exit", name))
    begin.restype, end.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    run.argtypes = [ctypes.c_int if argument == "i" else ctypes.c_void_p for argument in arguments]
    return functools.partial(begin, *options), end, run


def _narrowband() -> tuple[Functions, Functions]:
    library = load_library("opencore-amrnb", 0, "amr_nb", "libopencore-amrnb0", "opencore-amr")
    coder = _functions(library, "Encoder_Interface", "Encode", "pippi", 0)
    return coder, _functions(library, "Decoder_Interface", "Decode", "pppi")


def _wideband() -> tuple[Functions, Functions]:
    encoding = load_library("vo-amrwbenc", 0, "amr_wb", "libvo-amrwbenc0", "vo-amrwbenc")
    decoding = load_library("opencore-amrwb", 0, "amr_wb", "libopencore-amrwb0", "opencore-amr")
    return _functions(encoding, "E_IF", "encode", "pippi"), _functions(decoding, "D_IF", "decode", "pppi")


def _coder(
    functions: tuple[Functions, Functions], mode: int, frame: int, delay: int, lost: Losses, record: Record
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that codes samples at the rate of the codec, in frames of `frame` samples."""
    (begin_coder, end_coder, encode), (begin_decoder, end_decoder, decode) = functions

    def code_all(samples: np.ndarray) -> np.ndarray:
        coder, decoder = begin_coder(), begin_decoder()
        data = ctypes.create_string_buffer(MAX_FRAME_BYTES)

        def code(samples_of_frame: np.ndarray, is_lost: bool) -> np.ndarray:
            encode(coder, mode, samples_of_frame.ctypes.data, data, 0)
            decoded = np.empty(frame, np.int16)
            decode(decoder, NO_DATA if is_lost else data, decoded.ctypes.data, 0)
            return decoded

        try:
            return from_int16(coded_in_frames(to_int16(samples, record), frame, delay, lost, code))
        finally:
            end_coder(coder)
            end_decoder(decoder)

    return code_all


@degradation(requires=lambda parameters: _narrowband())
def amr_nb(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float = 12.2,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    rng: np.random.Generator | None = None,
    record: Record = None,
) -> np.ndarray:
    """Code with AMR narrowband, the codec of GSM and UMTS telephony, at 8 kHz in frames of 20 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `12.2`): Mode: 4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2 or 12.2 kb/s.
        record (`dict`, *optional*): Receives `clipped_samples`, and `lost_packets` where there are losses.

    Raises:
        CodecUnavailableError: If libopencore-amrnb is not installed.
    """
    check_choice("bitrate_kbps", bitrate_kbps, NARROWBAND_KBPS)
    functions, mode = _narrowband(), NARROWBAND_KBPS.index(bitrate_kbps)
    lost = frame_losses(loss_share, mean_burst_packets, rng, record)
    code = _coder(functions, mode, NARROWBAND_RATE // 50, NARROWBAND_DELAY, lost, record)
    return coded_at(waveform, sampling_rate, NARROWBAND_RATE, code)


@degradation(requires=lambda parameters: _wideband())
def amr_wb(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float = 12.65,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    rng: np.random.Generator | None = None,
    record: Record = None,
) -> np.ndarray:
    """Code with AMR wideband ("HD voice"), at 16 kHz in frames of 20 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `12.65`): Mode: 6.6, 8.85, 12.65, 14.25, 15.85, 18.25, 19.85, 23.05 or 23.85
            kb/s.
        record (`dict`, *optional*): Receives `clipped_samples`, and `lost_packets` where there are losses.

    Raises:
        CodecUnavailableError: If libvo-amrwbenc or libopencore-amrwb is not installed.
    """
    check_choice("bitrate_kbps", bitrate_kbps, WIDEBAND_KBPS)
    functions, mode = _wideband(), WIDEBAND_KBPS.index(bitrate_kbps)
    lost = frame_losses(loss_share, mean_burst_packets, rng, record)
    code = _coder(functions, mode, WIDEBAND_RATE // 50, WIDEBAND_DELAY, lost, record)
    return coded_at(waveform, sampling_rate, WIDEBAND_RATE, code)
