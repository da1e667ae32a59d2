"""Speex, by libspeex, with its own loss concealment."""

import ctypes
from typing import Any

import numpy as np

from hf_sqa.degradations.codec.frames import coded_at, coded_in_frames, frame_losses, from_int16, to_int16
from hf_sqa.degradations.codec.shared_library import load_library
from hf_sqa.degradations.kind import Record, check_range, degradation, note

SET_ENHANCEMENT, GET_FRAME_SIZE, SET_COMPLEXITY, SET_BITRATE, GET_BITRATE, GET_LOOKAHEAD = 0, 3, 16, 18, 19, 39  # speex.h
MAX_FRAME_BYTES = 256


class _Bits(ctypes.Structure):
    """`SpeexBits` of speex_bits.h."""

    _fields_ = [
        ("chars", ctypes.c_void_p),
        *[(name, ctypes.c_int) for name in ("num_bits", "char_at", "bit_at", "owner", "overflow", "size", "reserved")],
        ("more", ctypes.c_void_p),
    ]


def _library() -> ctypes.CDLL:
    library = load_library("speex", 1, "speex", "libspeex1", "speex")
    pointer = ctypes.c_void_p
    library.speex_lib_get_mode.restype = library.speex_encoder_init.restype = library.speex_decoder_init.restype = pointer
    library.speex_encoder_init.argtypes = library.speex_decoder_init.argtypes = [pointer]
    library.speex_encoder_destroy.argtypes = library.speex_decoder_destroy.argtypes = [pointer]
    library.speex_encoder_ctl.argtypes = library.speex_decoder_ctl.argtypes = [pointer, ctypes.c_int, pointer]
    library.speex_encode_int.argtypes = [pointer, pointer, pointer]
    library.speex_decode_int.argtypes = [pointer, pointer, pointer]
    return library


@degradation(requires=lambda parameters: _library())
def speex(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float,
    wideband: bool = True,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    rng: np.random.Generator | None = None,
    record: Record = None,
) -> np.ndarray:
    """Code with Speex at 16 or 8 kHz, in frames of 20 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`): Highest bit rate allowed, in kb/s: 4 to 42.2 wideband, 2.15 to 24.6 narrowband. Speex uses the best
            of its modes within it.
        wideband (`bool`, *optional*, defaults to `True`): 16 kHz rather than 8 kHz.
        record (`dict`, *optional*): Receives `mode_kbps`, the bit rate of the mode used, `clipped_samples`, and `lost_packets`
            where there are losses.

    Raises:
        CodecUnavailableError: If libspeex is not installed.
    """
    check_range("bitrate_kbps", bitrate_kbps, *((4, 42.2) if wideband else (2.15, 24.6)))
    library, lost = _library(), frame_losses(loss_share, mean_burst_packets, rng, record)

    def code_all(samples: np.ndarray) -> np.ndarray:
        mode = library.speex_lib_get_mode(int(wideband))
        encoder, decoder, bits = library.speex_encoder_init(mode), library.speex_decoder_init(mode), _Bits()
        library.speex_bits_init(ctypes.byref(bits))
        try:
            frame = _control(library.speex_encoder_ctl, encoder, GET_FRAME_SIZE)
            _control(library.speex_encoder_ctl, encoder, SET_BITRATE, round(bitrate_kbps * 1000))
            _control(library.speex_encoder_ctl, encoder, SET_COMPLEXITY, 3)
            _control(library.speex_decoder_ctl, decoder, SET_ENHANCEMENT, 1)
            note(record, mode_kbps=_control(library.speex_encoder_ctl, encoder, GET_BITRATE) / 1000)
            delay = _control(library.speex_encoder_ctl, encoder, GET_LOOKAHEAD)
            delay += _control(library.speex_decoder_ctl, decoder, GET_LOOKAHEAD)
            data = ctypes.create_string_buffer(MAX_FRAME_BYTES)

            def code(samples_of_frame: np.ndarray, is_lost: bool) -> np.ndarray:
                coded, decoded = samples_of_frame.copy(), np.empty(frame, np.int16)  # the encoder writes into its input
                library.speex_bits_reset(ctypes.byref(bits))
                library.speex_encode_int(encoder, coded.ctypes.data, ctypes.byref(bits))
                size = library.speex_bits_write(ctypes.byref(bits), data, MAX_FRAME_BYTES)
                library.speex_bits_read_from(ctypes.byref(bits), data, size)
                library.speex_decode_int(decoder, None if is_lost else ctypes.byref(bits), decoded.ctypes.data)
                return decoded

            return from_int16(coded_in_frames(to_int16(samples, record), frame, delay, lost, code))
        finally:
            library.speex_encoder_destroy(encoder)
            library.speex_decoder_destroy(decoder)
            library.speex_bits_destroy(ctypes.byref(bits))

    return coded_at(waveform, sampling_rate, 16000 if wideband else 8000, code_all)


def _control(function: Any, state: int, request: int, value: int = 0) -> int:
    argument = ctypes.c_int32(value)
    status = function(state, request, ctypes.byref(argument))
    assert status == 0, (request, status)
    return argument.value
