"""Whatever a user calls audio, opened: path, URL, bytes, file object, array, tensor, dict, AudioDecoder.

Every source becomes an `AudioStream`: blocks of samples at the native rate, read as often as needed, so that a recording of
hours is never held as a whole. Files are decoded by libsndfile only; another decoder would give other samples, and another score.
"""

from __future__ import annotations

import io
import os
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_sqa.audio.findings import AudioError

BLOCK_SECONDS = 4.0
URL_TIMEOUT_SECONDS = 60
#: Programs that write to a pipe put a size near 2 or 4 GiB, or zero, where they cannot know it.
UNKNOWN_RIFF_SIZE = 0x7FFF0000
#: libsndfile may return this much less than an MP3 header promises: encoder delay and padding.
MP3_SLACK_SAMPLES = 4 * 1152

ACCEPTED = (
    "a path, a URL, bytes, a binary file object, an array or tensor together with `sampling_rate`, "
    '{"array": ..., "sampling_rate": ...}, {"path": ...}, {"bytes": ...} or an AudioDecoder of datasets'
)


class AudioStream:
    """Samples of one recording at their native rate, in blocks; can be read more than once.

    Attributes:
        source (`str`): What to call it in messages.
        sampling_rate (`int`): Native rate in Hz.
        num_channels (`int`): Channels in every block.
    """

    source: str
    sampling_rate: int
    num_channels: int

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 arrays of shape `(num_frames, num_channels)`, nominally within `[-1, 1]`.

        Raises:
            AudioError: `truncated` if fewer frames come than the header promises.
        """
        raise NotImplementedError


class ArrayStream(AudioStream):
    """An array in memory. Integers are divided by their full scale (int16 by 32768); the shorter axis holds the channels."""

    def __init__(self, array: Any, sampling_rate: Any, source: str = "<array>"):
        self.source = source
        self.sampling_rate = _checked_rate(sampling_rate, source)
        samples = _to_numpy(array, source)
        if samples.ndim == 1:
            samples = samples[:, None]
        elif samples.ndim == 2:
            samples = samples if samples.shape[0] >= samples.shape[1] else samples.T
        else:
            raise AudioError(
                source,
                "unsupported",
                f"expected samples of shape (num_samples,) or with one axis of channels, got shape {samples.shape}",
            )
        self._samples = samples
        self.num_channels = samples.shape[1]

    def blocks(self) -> Iterator[np.ndarray]:
        block = max(1, int(BLOCK_SECONDS * self.sampling_rate))
        for start in range(0, len(self._samples), block):
            yield _to_float32(self._samples[start : start + block])


class FileStream(AudioStream):
    """A file, or encoded bytes, read by libsndfile: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, CAF, AU and more."""

    def __init__(self, file: str | bytes, source: str):
        self.source = source
        self._file = file
        size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
        if size == 0:
            raise AudioError(source, "empty", "the file has 0 bytes; nothing was recorded or the copy failed")
        with self._open() as opened:
            self.sampling_rate = opened.samplerate
            self.num_channels = opened.channels
            self._frames_promised = opened.frames if opened.format in {"FLAC", "MP3"} else 0
            self._slack = MP3_SLACK_SAMPLES if opened.format == "MP3" else 0
        with open(file, "rb") if isinstance(file, str) else io.BytesIO(file) as raw:
            if (shortfall := missing_bytes(raw, size)) is not None:
                promised, present = shortfall
                raise AudioError(
                    source,
                    "truncated",
                    f"the header promises {promised:,} bytes of samples and {present:,} are there; copy or record it again, "
                    "or cut it to the part that exists",
                )

    def _open(self) -> soundfile.SoundFile:
        try:
            return soundfile.SoundFile(io.BytesIO(self._file) if isinstance(self._file, bytes) else self._file)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                self.source,
                "undecodable",
                f"libsndfile cannot read it ({error.error_string.strip()}); expected WAV, FLAC, OGG, Opus, MP3, AIFF or another "
                "format libsndfile reads. Convert other formats first, for example with `ffmpeg -i in.m4a out.wav`",
            ) from None

    def blocks(self) -> Iterator[np.ndarray]:
        frames_read = 0
        with self._open() as opened:
            size = max(1, int(BLOCK_SECONDS * self.sampling_rate))
            try:
                while len(block := opened.read(size, dtype="float32", always_2d=True)):
                    frames_read += len(block)
                    yield block
            except soundfile.LibsndfileError as error:
                raise self._cut_short(frames_read, opened.frames, error.error_string.strip()) from None
        if frames_read + self._slack < self._frames_promised:
            raise self._cut_short(frames_read, self._frames_promised, "end of file")

    def _cut_short(self, frames_read: int, frames_promised: int, cause: str) -> AudioError:
        read, promised = frames_read / self.sampling_rate, frames_promised / self.sampling_rate
        return AudioError(
            self.source,
            "truncated",
            f"decoding stopped after {read:.2f} of {promised:.2f} s ({cause}): the file is cut short or damaged; copy or encode "
            "it again",
        )


def open_stream(audio: Any, sampling_rate: int | None = None) -> AudioStream:
    """Open anything a user calls audio.

    Args:
        audio: A path (`str` or `Path`), an http(s) URL, encoded `bytes`, a binary file object, a NumPy array or torch tensor,
            a dict with `array` or `raw` and `sampling_rate`, a dict with `bytes` or `path`, or an AudioDecoder of `datasets`.
        sampling_rate (`int`, *optional*): Rate of a bare array or tensor in Hz. Files and dicts carry their own.

    Raises:
        AudioError: With code `missing`, `is_directory`, `unreachable`, `unsupported`, `no_sampling_rate`, `empty`,
            `undecodable` or `truncated`.
    """
    if isinstance(audio, (str, Path)):
        return _open_path(audio)
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return FileStream(bytes(audio), f"<{len(audio)} bytes>")
    if isinstance(audio, Mapping):
        return _open_mapping(audio, sampling_rate)
    if hasattr(audio, "get_all_samples"):
        samples = audio.get_all_samples()
        return ArrayStream(samples.data, samples.sample_rate, "<AudioDecoder>")
    if hasattr(audio, "read"):
        content = audio.read()
        if not isinstance(content, bytes):
            raise AudioError("<file object>", "unsupported", "expected a file opened in binary mode ('rb'), got one in text mode")
        return FileStream(content, str(getattr(audio, "name", "<file object>")))
    if isinstance(audio, np.ndarray) or hasattr(audio, "detach"):
        if sampling_rate is None:
            raise AudioError(
                "<array>",
                "no_sampling_rate",
                "an array does not say how fast it was sampled, and a wrong rate gives a plausible but wrong score; pass "
                '`sampling_rate=...` or {"array": array, "sampling_rate": ...}',
            )
        return ArrayStream(audio, sampling_rate)
    raise AudioError(f"<{type(audio).__name__}>", "unsupported", f"expected {ACCEPTED}, got {type(audio).__name__}")


def _open_path(path: str | Path) -> AudioStream:
    name = str(path)
    if isinstance(path, str) and path.startswith(("http://", "https://")):
        return FileStream(_fetch(path), path)
    if os.path.isdir(name):
        raise AudioError(
            name, "is_directory", "expected an audio file, got a folder; pass its files, or use `hf-sqa score` on the folder"
        )
    if not os.path.exists(name):
        raise AudioError(name, "missing", f"there is no such file (looked in {os.getcwd()!r}); check the path")
    if not os.access(name, os.R_OK):
        raise AudioError(name, "unreachable", "the file exists but may not be read; check its permissions")
    return FileStream(name, name)


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as response:
            return response.read()
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        raise AudioError(
            url, "unreachable", f"the download failed ({error}); check the address and the connection, or download it first"
        ) from None


def _open_mapping(audio: Mapping, sampling_rate: int | None) -> AudioStream:
    path = audio.get("path")
    for key in ("array", "raw"):
        if audio.get(key) is not None:
            source = str(path) if path else "<array>"
            rate = audio.get("sampling_rate", sampling_rate)
            if rate is None:
                raise AudioError(
                    source,
                    "no_sampling_rate",
                    f'expected {{"{key}": ..., "sampling_rate": ...}}, got the keys {sorted(map(str, audio))}; add the rate in Hz',
                )
            return ArrayStream(audio[key], rate, source)
    if audio.get("bytes") is not None:
        content = bytes(audio["bytes"])
        return FileStream(content, str(path) if path else f"<{len(content)} bytes>")
    if path is not None:
        return _open_path(path)
    if audio.get("audio") is not None:  # a row of a dataset
        return open_stream(audio["audio"], sampling_rate)
    raise AudioError("<dict>", "unsupported", f"expected {ACCEPTED}, got a dict with the keys {sorted(map(str, audio))}")


def _checked_rate(sampling_rate: Any, source: str) -> int:
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, Real) or not float(sampling_rate).is_integer():
        raise AudioError(source, "no_sampling_rate", f"expected `sampling_rate` as whole Hz, got {sampling_rate!r}")
    if not 1000 <= float(sampling_rate) <= 768_000:
        raise AudioError(
            source, "no_sampling_rate", f"expected `sampling_rate` in Hz between 1000 and 768000, got {sampling_rate!r}"
        )
    return int(float(sampling_rate))


def _to_numpy(array: Any, source: str) -> np.ndarray:
    if hasattr(array, "detach"):  # a torch tensor, without importing torch
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    samples = np.asarray(array)
    if samples.dtype.kind not in "fiu":
        raise AudioError(source, "unsupported", f"expected samples as float or integer numbers, got dtype {samples.dtype}")
    return samples


def _to_float32(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    info = np.iinfo(samples.dtype)
    middle = 0.0 if info.min else (info.max + 1) / 2
    full_scale = (float(info.max) - info.min + 1) / 2
    return ((samples.astype(np.float64) - middle) / full_scale).astype(np.float32)


def missing_bytes(file: io.BufferedIOBase | io.BufferedReader, size: int) -> tuple[int, int] | None:
    """Compare what the container's header promises with what is in the file; libsndfile does not tell.

    Args:
        file: Binary file, positioned anywhere.
        size (`int`): Its length in bytes.

    Returns:
        `(bytes promised, bytes present)` of the chunk that is cut short; `None` if nothing is missing, if the header leaves the
        length open, or if the format states none.
    """
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        return _missing_from_last_ogg_page(file, size)
    if magic == b".snd":
        offset, length = struct.unpack(">II", file.read(8))
        return (length, size - offset) if length < UNKNOWN_RIFF_SIZE and offset + length > size else None
    if magic not in {b"RIFF", b"RIFX", b"RF64", b"FORM"}:
        return None
    order = ">" if magic in {b"RIFX", b"FORM"} else "<"
    file.seek(12)
    long_length = 0
    while len(header := file.read(8)) == 8:
        name, length = header[:4], struct.unpack(order + "I", header[4:])[0]
        if name == b"ds64" and magic == b"RF64":
            long_length = struct.unpack("<8xQ", file.read(16))[0]
            length -= 16
        elif name in {b"data", b"SSND"}:
            present = size - file.tell()
            promised = long_length or length
            unknown = not long_length and (length == 0 or length >= UNKNOWN_RIFF_SIZE)
            return None if unknown or promised <= present else (promised, present)
        file.seek(length + length % 2, io.SEEK_CUR)
    return None


def _missing_from_last_ogg_page(file: io.BufferedIOBase | io.BufferedReader, size: int) -> tuple[int, int] | None:
    start = max(0, size - 2 * 65_307)  # a page has at most 65,307 bytes
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    segments = tail[page + 26] if page >= 0 and page + 26 < len(tail) else None
    if segments is None:
        return None
    promised = 27 + segments + sum(tail[page + 27 : page + 27 + segments])
    present = len(tail) - page
    return (promised, present) if promised > present else None
