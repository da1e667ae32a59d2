"""Codecs that need the program ffmpeg: Codec 2 and AAC.

libcodec2 is not called directly: it draws phases from a process-wide state, so a second call would give other samples.
"""

import subprocess
from collections.abc import Sequence

import numpy as np

from hf_sqa.choices import check_choice
from hf_sqa.degradations.codec.frames import coded_at, fitted, to_int16
from hf_sqa.degradations.codec.shared_library import find_ffmpeg
from hf_sqa.degradations.kind import Record, degradation

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
#: Delay of ffmpeg's encoder and decoder in samples: one frame of priming, which raw ADTS does not tell the decoder to drop.
AAC_DELAY = 1024
CODEC2_RATE = 8000
CODEC2_MODES = {3.2: "3200", 2.4: "2400", 1.6: "1600", 1.4: "1400", 1.3: "1300", 1.2: "1200", 0.7: "700C"}
#: Delay of the decoder of Codec 2 in samples, in all modes but 700C and in 700C; measured by cross-correlation of envelopes.
CODEC2_DELAY, CODEC2_DELAY_700C = 160, 240


def through_ffmpeg(
    waveform: np.ndarray,
    sampling_rate: int,
    codec_rate: int,
    record: Record,
    codec: str,
    options: Sequence[str],
    container: str,
    delay: int = 0,
) -> np.ndarray:
    """Code and decode a waveform with ffmpeg, through pipes, at the rate of a codec; the length stays the same."""

    def code(samples: np.ndarray) -> np.ndarray:
        padded = np.concatenate([to_int16(samples, record), np.zeros(delay + 4096, np.int16)]).astype("<i2")
        raw = ["-f", "s16le", "-ar", str(codec_rate), "-ac", "1"]
        coded = run_ffmpeg(codec, [*raw, "-i", "pipe:0", *options, "-flags", "+bitexact", "pipe:1"], padded.tobytes())
        decoded = run_ffmpeg(codec, ["-f", container, "-i", "pipe:0", "-f", "f32le", "-ar", str(codec_rate), "pipe:1"], coded)
        return fitted(np.frombuffer(decoded, "<f4")[delay:], len(samples))

    return coded_at(waveform, sampling_rate, codec_rate, code)


def run_ffmpeg(codec: str, options: Sequence[str], data: bytes = b"") -> bytes:
    """Run ffmpeg and return what it writes to its output; errors name `codec`."""
    command = [find_ffmpeg(codec), "-hide_banner", "-loglevel", "error", "-nostdin", "-threads", "1", *options]
    result = subprocess.run(command, input=data, capture_output=True)
    if result.returncode or not result.stdout:
        message = result.stderr.decode(errors="replace").strip() or "it wrote nothing"
        raise RuntimeError(f"ffmpeg could not do the codec {codec!r}: {message}")
    return result.stdout


@degradation(requires=lambda parameters: find_ffmpeg("codec2"))
def codec2(waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float = 2.4, record: Record = None) -> np.ndarray:
    """Code with Codec 2 (Rowe), a sinusoidal coder for radio, at 8 kHz in frames of 20 or 40 ms; other rates are resampled.

    Args:
        bitrate_kbps (`float`, *optional*, defaults to `2.4`): Mode: 3.2, 2.4, 1.6, 1.4, 1.3, 1.2 or 0.7 (700C) kb/s.

    Raises:
        CodecUnavailableError: If ffmpeg is not installed.
        RuntimeError: If ffmpeg was built without libcodec2.
    """
    check_choice("bitrate_kbps", bitrate_kbps, tuple(CODEC2_MODES))
    options = ["-c:a", "libcodec2", "-mode", CODEC2_MODES[bitrate_kbps], "-f", "codec2"]
    delay = CODEC2_DELAY_700C if bitrate_kbps == 0.7 else CODEC2_DELAY
    return through_ffmpeg(waveform, sampling_rate, CODEC2_RATE, record, "codec2", options, "codec2", delay)


@degradation(requires=lambda parameters: find_ffmpeg("aac"), bitrate_kbps=(8, 160))
def aac(waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float, record: Record = None) -> np.ndarray:
    """Code with AAC-LC (ISO/IEC 14496-3), by ffmpeg.

    Rates that AAC does not support are resampled to the next higher one that it supports, and back.

    Args:
        bitrate_kbps (`float`): Target bit rate in kb/s, 8 to 160.

    Raises:
        CodecUnavailableError: If ffmpeg is not installed.
    """
    codec_rate = next((rate for rate in AAC_RATES if rate >= sampling_rate), AAC_RATES[-1])
    options = ["-c:a", "aac", "-b:a", str(round(bitrate_kbps * 1000)), "-f", "adts"]
    return through_ffmpeg(waveform, sampling_rate, codec_rate, record, "aac", options, "aac", AAC_DELAY)
