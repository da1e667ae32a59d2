"""Opus (RFC 6716): by libopus with its own loss concealment, or by the libsndfile that soundfile brings, without losses."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hf_sqa.degradations.codec.frames import coded_at, coded_in_frames, frame_losses
from hf_sqa.degradations.codec.shared_library import CodecUnavailableError, load_library
from hf_sqa.degradations.codec.sound_file import through_sound_file
from hf_sqa.degradations.kind import check_choice, check_range, degradation, note

RATES = (8000, 12000, 16000, 24000, 48000)
APPLICATIONS = {"voip": 2048, "audio": 2049}
SET_BITRATE, SET_COMPLEXITY, GET_LOOKAHEAD = 4002, 4010, 4027  # opus_defines.h
FRAME_SECONDS = 0.02
MAX_PACKET_BYTES = 4000


def _check_library(parameters: Mapping[str, Any]) -> None:
    if parameters.get("loss_share", 0) != 0 or parameters.get("library") == "libopus":
        _libopus()


@degradation(requires=_check_library)
def opus(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float,
    application: Literal["voip", "audio"] = "voip",
    complexity: int = 5,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    rng: np.random.Generator | None = None,
    library: Literal["libopus", "libsndfile"] | None = None,
    record: dict[str, Any] | None = None,
) -> np.ndarray:
    """Code with Opus, in frames of 20 ms; the encoder chooses the bandwidth by the bit rate.

    Other rates than 8, 12, 16, 24 and 48 kHz are resampled to the next higher one of these, and back.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, nominally in `[-1, 1]`.
        sampling_rate (`int`): Its rate in Hz.
        bitrate_kbps (`float`): Bit rate aimed at, in kb/s, 6 to 256.
        application (`str`, *optional*, defaults to `"voip"`): `"voip"` or `"audio"`; libsndfile knows `"audio"` only and takes it.
        complexity (`int`, *optional*, defaults to `5`): Effort of libopus, 0 to 10; libsndfile always takes 10.
        loss_share (`float`, *optional*, defaults to `0.0`): Expected share of lost frames, concealed by libopus, 0 to 0.99.
        mean_burst_packets (`float`, *optional*): Expected number of frames lost in a row; independent losses if not given.
        rng (`np.random.Generator`, *optional*): Source of chance, needed for losses only.
        library (`str`, *optional*): `"libopus"` or `"libsndfile"`; their results differ. By default libopus where it is installed,
            else libsndfile unless losses are asked for.
        record (`dict`, *optional*): Receives `library`, and `lost_packets` where there are losses.

    Raises:
        CodecUnavailableError: If libopus is asked for, or needed for losses, and not installed.
    """
    check_range("bitrate_kbps", bitrate_kbps, 6, 256)
    check_choice("application", application, tuple(APPLICATIONS))
    check_range("complexity", complexity, 0, 10)
    check_choice("library", library, (None, "libopus", "libsndfile"))
    if library == "libsndfile" and loss_share > 0:
        raise ValueError("Expected `library='libopus'` with `loss_share`, got 'libsndfile', which cannot lose frames.")
    lost = frame_losses(loss_share, mean_burst_packets, rng, record)
    codec_rate = next((rate for rate in RATES if rate >= sampling_rate), RATES[-1])
    if library is None:
        library = "libopus" if loss_share > 0 or _has_libopus() else "libsndfile"
    note(record, library=library)
    if library == "libsndfile":
        # libsndfile maps its compression level to 6 ... 256 kb/s a channel: 6 + 250 (1 - level).
        options = {"format": "OGG", "subtype": "OPUS", "compression_level": 1 - (bitrate_kbps - 6) / 250}
        return coded_at(waveform, sampling_rate, codec_rate, lambda samples: through_sound_file(samples, codec_rate, options))
    coder = _libopus()
    parameters = (coder, codec_rate, APPLICATIONS[application], round(bitrate_kbps * 1000), int(complexity), lost)
    return coded_at(waveform, sampling_rate, codec_rate, lambda samples: _by_libopus(samples, *parameters))


def _libopus() -> ctypes.CDLL:
    library = load_library("opus", 0, "opus", "libopus0", "opus")
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.opus_encoder_create.restype = library.opus_decoder_create.restype = pointer
    library.opus_encoder_create.argtypes = [ctypes.c_int32, integer, integer, ctypes.POINTER(integer)]
    library.opus_decoder_create.argtypes = [ctypes.c_int32, integer, ctypes.POINTER(integer)]
    library.opus_encoder_destroy.argtypes = library.opus_decoder_destroy.argtypes = [pointer]
    library.opus_encode_float.argtypes = [pointer, pointer, integer, pointer, ctypes.c_int32]
    library.opus_decode_float.argtypes = [pointer, pointer, ctypes.c_int32, pointer, integer, integer]
    return library


def _has_libopus() -> bool:
    try:
        load_library("opus", 0, "opus", "libopus0", "opus")
    except CodecUnavailableError:
        return False
    return True


def _by_libopus(
    samples: np.ndarray, library: ctypes.CDLL, rate: int, application: int, bits_per_second: int, complexity: int, lost: Any
) -> np.ndarray:
    status = ctypes.c_int()
    frame = round(FRAME_SECONDS * rate)
    encoder = library.opus_encoder_create(rate, 1, application, ctypes.byref(status))
    assert status.value == 0, status.value
    decoder = library.opus_decoder_create(rate, 1, ctypes.byref(status))
    assert status.value == 0, status.value
    try:
        lookahead = ctypes.c_int32()
        _control(library, encoder, SET_BITRATE, ctypes.c_int32(bits_per_second))
        _control(library, encoder, SET_COMPLEXITY, ctypes.c_int32(complexity))
        _control(library, encoder, GET_LOOKAHEAD, ctypes.byref(lookahead))
        packet = ctypes.create_string_buffer(MAX_PACKET_BYTES)

        def code(one: np.ndarray, is_lost: bool) -> np.ndarray:
            size = library.opus_encode_float(encoder, one.ctypes.data, frame, packet, MAX_PACKET_BYTES)
            assert size > 0, size
            decoded = np.empty(frame, np.float32)
            received = (None, 0) if is_lost else (packet, size)
            count = library.opus_decode_float(decoder, *received, decoded.ctypes.data, frame, 0)
            assert count == frame, count
            return decoded

        return coded_in_frames(samples, frame, lookahead.value, lost, code)
    finally:
        library.opus_encoder_destroy(encoder)
        library.opus_decoder_destroy(decoder)


def _control(library: ctypes.CDLL, encoder: int, request: int, argument: Any) -> None:
    status = library.opus_encoder_ctl(ctypes.c_void_p(encoder), ctypes.c_int(request), argument)
    assert status == 0, (request, status)
