"""Codecs for which the program ffmpeg is needed: AAC."""

import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_sqa.degradations.codec.frames import coded_at, fitted, to_int16
from hf_sqa.degradations.codec.shared_library import find_ffmpeg
from hf_sqa.degradations.kind import degradation

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
#: Delay of ffmpeg's encoder and decoder in samples: one frame of priming, which raw ADTS does not tell the decoder to drop.
AAC_DELAY = 1024


def through_ffmpeg(
    waveform: np.ndarray,
    sampling_rate: int,
    codec_rate: int,
    record: dict[str, Any] | None,
    codec: str,
    options: Sequence[str],
    container: str,
    delay: int = 0,
) -> np.ndarray:
    """Code a waveform with ffmpeg at the rate of a codec, through pipes, and decode it; as long as before."""
    program = find_ffmpeg(codec)

    def code(samples: np.ndarray) -> np.ndarray:
        padded = np.concatenate([to_int16(samples, record), np.zeros(delay + 4096, np.int16)]).astype("<i2")
        raw = ["-f", "s16le", "-ar", str(codec_rate), "-ac", "1"]
        coded = _run([program, *raw, "-i", "pipe:0", *options, "-flags", "+bitexact", "pipe:1"], padded.tobytes(), codec)
        decoded = _run([program, "-f", container, "-i", "pipe:0", "-f", "f32le", "-ar", str(codec_rate), "pipe:1"], coded, codec)
        return fitted(np.frombuffer(decoded, "<f4")[delay:], len(samples))

    return coded_at(waveform, sampling_rate, codec_rate, code)


def _run(command: list[str], data: bytes, codec: str) -> bytes:
    quiet = [command[0], "-hide_banner", "-loglevel", "error", "-nostdin", "-threads", "1", *command[1:]]
    result = subprocess.run(quiet, input=data, capture_output=True)
    if result.returncode or not result.stdout:
        message = result.stderr.decode(errors="replace").strip() or "it wrote nothing"
        raise RuntimeError(f"ffmpeg could not do the codec {codec!r}: {message}")
    return result.stdout


@degradation(requires=lambda parameters: find_ffmpeg("aac"), bitrate_kbps=(8, 160))
def aac(waveform: np.ndarray, sampling_rate: int, *, bitrate_kbps: float, record: dict[str, Any] | None = None) -> np.ndarray:
    """Code with AAC-LC (ISO/IEC 14496-3), by ffmpeg.

    Rates that AAC does not have are resampled to the next higher one that it has, and back.

    Args:
        bitrate_kbps (`float`): Bit rate aimed at, in kb/s, 8 to 160.

    Raises:
        CodecUnavailableError: If ffmpeg is not installed.
    """
    codec_rate = next((rate for rate in AAC_RATES if rate >= sampling_rate), AAC_RATES[-1])
    options = ["-c:a", "aac", "-b:a", str(round(bitrate_kbps * 1000)), "-f", "adts"]
    return through_ffmpeg(waveform, sampling_rate, codec_rate, record, "aac", options, "aac", AAC_DELAY)
