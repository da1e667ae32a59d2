"""Codecs of libsndfile, which comes with soundfile: GSM full rate, G.711, G.726, ADPCM, MP3 and Vorbis."""

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import soundfile

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.ffmpeg import through_ffmpeg
from hf_sqa.degradations.codec.frames import coded_at, fitted, to_int16
from hf_sqa.degradations.codec.shared_library import find_ffmpeg
from hf_sqa.degradations.kind import Record, check_range, degradation

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
VORBIS_RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000)
ADPCM = {"ima": ("WAV", "IMA_ADPCM"), "ms": ("WAV", "MS_ADPCM"), "nms_16": ("WAV", "NMS_ADPCM_16")}
G726_SUBTYPES = {24: "G723_24", 32: "G721_32", 40: "G723_40"}  # G.726 took over G.721 and G.723 unchanged
#: Delay of encoder and decoder of MP3 together. A tag tells the decoder to drop it; at low bit rates there is no room for the tag.
MP3_DELAY = 528 + 1 + 576
#: Factor by which LAME attenuates its input, to avoid clipping in the decoder.
MP3_SCALE = 0.95
PADDING_SECONDS = 0.1  # so that a codec which drops its last block drops silence


def through_sound_file(samples: np.ndarray, sampling_rate: int, options: dict[str, Any]) -> np.ndarray:
    """Write samples, float32 or int16, to a file in memory and read it back as float32; the length stays the same."""
    file = io.BytesIO()
    padded = np.concatenate([samples, np.zeros(round(PADDING_SECONDS * sampling_rate), samples.dtype)])
    soundfile.write(file, padded, sampling_rate, **options)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    if options["format"] == "MP3":
        has_tag = any(tag in file.getvalue()[:512] for tag in (b"Xing", b"Info"))
        decoded = decoded[0 if has_tag else MP3_DELAY :] / np.float32(MP3_SCALE)
    return fitted(decoded, len(samples))


def _int16_through(waveform: np.ndarray, rate: int, codec_rate: int, options: dict[str, Any], record: Record) -> np.ndarray:
    return coded_at(waveform, rate, codec_rate, lambda samples: through_sound_file(to_int16(samples, record), codec_rate, options))


@degradation()
def gsm(waveform: np.ndarray, sampling_rate: int, *, record: Record = None) -> np.ndarray:
    """Code with GSM full rate (3GPP TS 46.010), 13 kb/s at 8 kHz; other rates are resampled."""
    return _int16_through(waveform, sampling_rate, 8000, {"format": "WAV", "subtype": "GSM610"}, record)


@degradation()
def g711(waveform: np.ndarray, sampling_rate: int, *, law: Literal["mu", "a"] = "mu", record: Record = None) -> np.ndarray:
    """Code with ITU-T G.711, 64 kb/s at 8 kHz; other rates are resampled.

    Args:
        law (`str`, *optional*, defaults to `"mu"`): `"mu"` (North America, Japan) or `"a"` (elsewhere).
    """
    check_choice("law", law, ("mu", "a"))
    subtype = "ULAW" if law == "mu" else "ALAW"
    return _int16_through(waveform, sampling_rate, 8000, {"format": "WAV", "subtype": subtype}, record)


def _check_ffmpeg(parameters: Mapping[str, Any]) -> None:
    bitrate = parameters.get("bitrate_kbps", 32)
    if bitrate == 16 or (isinstance(bitrate, Mapping) and 16 in bitrate.get("one_of", ())):
        find_ffmpeg("g726")


@degradation(requires=_check_ffmpeg)
def g726(waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: int = 32, record: Record = None) -> np.ndarray:
    """Code with ITU-T G.726 (ADPCM) at 8 kHz; other rates are resampled.

    Args:
        bitrate_kbps (`int`, *optional*, defaults to `32`): 16, 24, 32 or 40 kb/s; 16 needs the program ffmpeg.

    Raises:
        CodecUnavailableError: At 16 kb/s, if ffmpeg is not installed.
    """
    check_choice("bitrate_kbps", bitrate_kbps, (16, 24, 32, 40))
    if bitrate_kbps == 16:
        ffmpeg_options = ["-c:a", "g726", "-b:a", "16k", "-f", "wav"]
        return through_ffmpeg(waveform, sampling_rate, 8000, record, "g726", ffmpeg_options, "wav")
    options = {"format": "AU", "subtype": G726_SUBTYPES[bitrate_kbps]}
    return _int16_through(waveform, sampling_rate, 8000, options, record)


@degradation(codec_rate_hz=(8000, 48000))
def adpcm(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    variant: Literal["ima", "ms", "nms_16"] = "ima",
    codec_rate_hz: int = 8000,
    record: Record = None,
) -> np.ndarray:
    """Code with adaptive differential PCM, with few bits per sample.

    Args:
        variant (`str`, *optional*, defaults to `"ima"`): `"ima"` or `"ms"`, 4 bits per sample, or `"nms_16"`, 2 bits at 8 kHz.
        codec_rate_hz (`int`, *optional*, defaults to `8000`): Rate of the codec, 8000 to 48000 Hz; other rates are resampled.
    """
    check_choice("variant", variant, tuple(ADPCM))
    if variant == "nms_16" and codec_rate_hz != 8000:
        raise ValueError(f"Expected `codec_rate_hz=8000` with `variant='nms_16'`, got {codec_rate_hz}.")
    container, subtype = ADPCM[variant]
    return _int16_through(waveform, sampling_rate, int(codec_rate_hz), {"format": container, "subtype": subtype}, record)


@degradation()
def mp3(waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float, record: Record = None) -> np.ndarray:
    """Code with MP3 (ISO/IEC 11172-3 layer III) at a constant bit rate.

    Other rates than 8, 11.025, 12, 16, 22.05, 24, 32, 44.1 and 48 kHz are resampled to the next higher one of these, and back.

    Args:
        bitrate_kbps (`float`): Bit rate in kb/s, rounded to the nearest that the format has: 8 to 64 below 16 kHz, 8 to 160 below
            32 kHz, 32 to 320 from there on.
    """
    codec_rate = next((rate for rate in MP3_RATES if rate >= sampling_rate), MP3_RATES[-1])
    low, high = (32, 320) if codec_rate >= 32000 else (8, 160) if codec_rate >= 16000 else (8, 64)
    check_range("bitrate_kbps", bitrate_kbps, low, high)
    # libsndfile maps its compression level to the range of the format; at exactly 1 it fails.
    level = min(1 - (bitrate_kbps - low) / (high - low), 0.999)
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": level}
    return _int16_through(waveform, sampling_rate, codec_rate, options, record)


@degradation(quality=(0, 1))
def vorbis(waveform: np.ndarray, sampling_rate: int, *, quality: float) -> np.ndarray:
    """Code with Vorbis I at a variable bit rate.

    Other rates than 8, 11.025, 16, 22.05, 32, 44.1 and 48 kHz are resampled to the next higher one of these, and back.

    Args:
        quality (`float`): 0 (about 36 kb/s at 16 kHz) to 1 (about 90).
    """
    codec_rate = next((rate for rate in VORBIS_RATES if rate >= sampling_rate), VORBIS_RATES[-1])
    options = {"format": "OGG", "subtype": "VORBIS", "compression_level": 1 - quality}
    return coded_at(waveform, sampling_rate, codec_rate, lambda samples: through_sound_file(samples, codec_rate, options))
