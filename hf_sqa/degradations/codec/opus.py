"""Opus (RFC 6716): by libopus with its own loss concealment, or by the libsndfile that comes with soundfile, without losses."""

import ctypes
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.frames import coded_at, frame_losses
from hf_sqa.degradations.codec.shared_library import CodecUnavailableError, load_library
from hf_sqa.degradations.codec.sound_file import through_sound_file
from hf_sqa.degradations.kind import Record, degradation, note

RATES = (8000, 12000, 16000, 24000, 48000)
APPLICATIONS = {"voip": 2048, "audio": 2049}
BANDWIDTHS = {"narrowband": 1101, "wideband": 1103, "fullband": 1105}
# opus_defines.h
SET_BITRATE, SET_BANDWIDTH, SET_COMPLEXITY, SET_INBAND_FEC, SET_PACKET_LOSS_PERC = 4002, 4008, 4010, 4012, 4014
GET_LOOKAHEAD = 4027
#: Complexities of the decoder that turn these on, from libopus 1.5.
NEURAL_CONCEALMENT, ENHANCEMENTS = 5, {"lace": 6, "nolace": 7}
LEAST_NEURAL_BYTES = 100_000
FRAME_SECONDS = 0.02
MAX_PACKET_BYTES = 4000


def _check_library(parameters: Mapping[str, Any]) -> None:
    neural = bool(parameters.get("enhancement") or parameters.get("neural_concealment"))
    if parameters.get("loss_share", 0) != 0 or parameters.get("library") == "libopus" or neural:
        _check_neural(_libopus(), neural)


@degradation(requires=_check_library, bitrate_kbps=(6, 256), complexity=(0, 10))
def opus(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    bitrate_kbps: float,
    application: Literal["voip", "audio"] = "voip",
    complexity: int = 5,
    loss_share: float = 0.0,
    mean_burst_packets: float | None = None,
    bandwidth: Literal["narrowband", "wideband", "fullband"] | None = None,
    enhancement: Literal["lace", "nolace"] | None = None,
    neural_concealment: bool = False,
    redundancy: bool = False,
    rng: np.random.Generator | None = None,
    library: Literal["libopus", "libsndfile"] | None = None,
    record: Record = None,
) -> np.ndarray:
    """Code with Opus, in frames of 20 ms; by default, the encoder chooses the bandwidth from the bit rate.

    Other rates than 8, 12, 16, 24 and 48 kHz are resampled to the next higher one of these, and back.

    Args:
        bitrate_kbps (`float`): Target bit rate in kb/s, 6 to 256.
        application (`str`, *optional*, defaults to `"voip"`): `"voip"` or `"audio"`; libsndfile always uses `"audio"`.
        complexity (`int`, *optional*, defaults to `5`): Effort of libopus, 0 to 10; libsndfile always uses 10.
        loss_share (`float`, *optional*, defaults to `0.0`): Expected share of lost frames, concealed by libopus, 0 to 0.99.
        bandwidth (`str`, *optional*): `"narrowband"` (4 kHz), `"wideband"` (8 kHz) or `"fullband"` (20 kHz).
        enhancement (`str`, *optional*): `"lace"` or `"nolace"`: the decoder's neural post-filter, which works on wideband speech
            coded at low rates (Buethe et al., 2023), in libopus 1.5 and later.
        neural_concealment (`bool`, *optional*, defaults to `False`): Conceal losses by a neural network, in libopus 1.5 and later.
        redundancy (`bool`, *optional*, defaults to `False`): Every packet also carries its predecessor at a lower rate, to replace
            it if it is lost.
        library (`str`, *optional*): `"libopus"` or `"libsndfile"`; their results differ. By default libopus where it is installed,
            else libsndfile unless losses are asked for.
        record (`dict`, *optional*): Receives `library`, and `lost_packets` where there are losses.

    Raises:
        CodecUnavailableError: If libopus is asked for, or needed for losses, and not installed; or if neural networks are asked for
            and it has none. The environment variable `HF_SQA_LIBOPUS` can name the file of another libopus.
    """
    check_choice("application", application, tuple(APPLICATIONS))
    check_choice("library", library, (None, "libopus", "libsndfile"))
    check_choice("bandwidth", bandwidth, (None, *BANDWIDTHS))
    check_choice("enhancement", enhancement, (None, *ENHANCEMENTS))
    neural = enhancement is not None or neural_concealment
    beyond = loss_share > 0 or bandwidth is not None or neural or redundancy
    if library == "libsndfile" and beyond:
        raise ValueError(
            "Expected `library='libopus'` with `loss_share`, `bandwidth`, `enhancement`, `neural_concealment` or `redundancy`, "
            "got 'libsndfile', which has none of them."
        )
    lost = frame_losses(loss_share, mean_burst_packets, rng, record)
    codec_rate = next((rate for rate in RATES if rate >= sampling_rate), RATES[-1])
    if library is None:
        library = "libopus" if beyond or _has_libopus() else "libsndfile"
    note(record, library=library)
    if library == "libsndfile":
        # libsndfile maps its compression level to 6 ... 256 kb/s per channel: 6 + 250 (1 - level).
        options = {"format": "OGG", "subtype": "OPUS", "compression_level": 1 - (bitrate_kbps - 6) / 250}
        return coded_at(waveform, sampling_rate, codec_rate, lambda samples: through_sound_file(samples, codec_rate, options))
    coder = _libopus()
    _check_neural(coder, neural)
    settings = {SET_BITRATE: round(bitrate_kbps * 1000), SET_COMPLEXITY: int(complexity)}
    if bandwidth is not None:
        settings[SET_BANDWIDTH] = BANDWIDTHS[bandwidth]
    if redundancy:  # the encoder spends bits on it according to the losses it expects
        settings |= {SET_INBAND_FEC: 1, SET_PACKET_LOSS_PERC: max(5, min(100, round(100 * loss_share)))}
    effort = ENHANCEMENTS[enhancement] if enhancement else NEURAL_CONCEALMENT if neural_concealment else 0
    parameters = (coder, codec_rate, APPLICATIONS[application], settings, effort, redundancy, lost)
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
    library.opus_get_version_string.restype = ctypes.c_char_p
    return library


def _check_neural(library: ctypes.CDLL, neural: bool) -> None:
    """Refuse a libopus without neural networks if they are asked for; with them, a decoder's state is 141 kB instead of 18."""
    if neural and library.opus_decoder_get_size(1) < LEAST_NEURAL_BYTES:
        version = library.opus_get_version_string().decode()
        raise CodecUnavailableError(
            f"Expected a libopus of 1.5 or later with neural networks for `enhancement` and `neural_concealment`, got {version}; "
            "install libopus0 of Debian 13 or later, or name its file by the environment variable HF_SQA_LIBOPUS "
            "(`sh train_scripts/neural_coders.sh` in a clone of the repository fetches it)."
        )


def _has_libopus() -> bool:
    try:
        load_library("opus", 0, "opus", "libopus0", "opus")
    except CodecUnavailableError:
        return False
    return True


def _by_libopus(
    samples: np.ndarray,
    library: ctypes.CDLL,
    rate: int,
    application: int,
    settings: Mapping[int, int],
    effort: int,
    redundancy: bool,
    lost: Any,
) -> np.ndarray:
    status = ctypes.c_int()
    frame = round(FRAME_SECONDS * rate)
    encoder = library.opus_encoder_create(rate, 1, application, ctypes.byref(status))
    assert status.value == 0, status.value
    decoder = library.opus_decoder_create(rate, 1, ctypes.byref(status))
    assert status.value == 0, status.value
    try:
        for request, value in settings.items():
            _control(library.opus_encoder_ctl, encoder, request, ctypes.c_int32(value))
        if effort:
            _control(library.opus_decoder_ctl, decoder, SET_COMPLEXITY, ctypes.c_int32(effort))
        lookahead = ctypes.c_int32()
        _control(library.opus_encoder_ctl, encoder, GET_LOOKAHEAD, ctypes.byref(lookahead))
        num_frames = -(-(len(samples) + lookahead.value) // frame)
        padded = np.zeros((num_frames, frame), np.float32)
        padded.reshape(-1)[: len(samples)] = samples
        packets, decoded = [], np.empty((num_frames, frame), np.float32)
        packet = ctypes.create_string_buffer(MAX_PACKET_BYTES)
        for coded in padded:
            size = library.opus_encode_float(encoder, coded.ctypes.data, frame, packet, MAX_PACKET_BYTES)
            assert size > 0, size
            packets.append(packet.raw[:size])
        losses = lost(num_frames)
        for number, played in enumerate(decoded):
            is_next = bool(losses[number])  # a lost frame may be in the packet after it
            source = number + 1 if is_next else number
            received = source < num_frames and not losses[source] and (redundancy or not is_next)
            data = (packets[source], len(packets[source])) if received else (None, 0)
            count = library.opus_decode_float(decoder, *data, played.ctypes.data, frame, int(received and is_next))
            assert count == frame, count
        return decoded.reshape(-1)[lookahead.value : lookahead.value + len(samples)]
    finally:
        library.opus_encoder_destroy(encoder)
        library.opus_decoder_destroy(decoder)


def _control(function: Any, state: int, request: int, argument: Any) -> None:
    status = function(ctypes.c_void_p(state), ctypes.c_int(request), argument)
    assert status == 0, (request, status)
