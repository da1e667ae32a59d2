"""Whatever a user calls audio, opened: path, URL, bytes, file object, array, tensor, dict, AudioDecoder.

Every source becomes an `AudioStream`: blocks of samples at the native rate, read as often as needed, so that a recording of
hours is never held as a whole. Files are decoded by libsndfile only; another decoder would give other samples, and another score.
"""

from __future__ import annotations

import http.client
import io
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_sqa.audio.containers import UnclosedWav, is_unclosed_wav, missing_bytes
from hf_sqa.audio.findings import AudioError

BLOCK_SECONDS = 4.0
URL_TIMEOUT_SECONDS = 60
#: libsndfile gives a FLAC that does not state its length the largest number there is.
UNKNOWN_FRAMES = 1 << 62

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
        if samples.size == 0:
            raise AudioError(source, "empty", f"expected samples, got an array of shape {np.shape(array)}")
        self._samples = samples
        self.num_channels = samples.shape[1]

    def blocks(self) -> Iterator[np.ndarray]:
        block = max(1, int(BLOCK_SECONDS * self.sampling_rate))
        for start in range(0, len(self._samples), block):
            yield _to_float32(self._samples[start : start + block])


class ForwardSoundFile(soundfile.SoundFile):
    """Never seeks: soundfile seeks after every read to where it already is, which a FLAC of unknown length refuses."""

    def seekable(self) -> bool:
        return False


class FileStream(AudioStream):
    """A file, or encoded bytes, read by libsndfile: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, CAF, AU and more."""

    def __init__(self, file: str | bytes, source: str):
        self.source = source
        self._file = file
        size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
        if size == 0:
            raise AudioError(source, "empty", "the file has 0 bytes; nothing was recorded or the copy failed")
        with self._raw() as raw:
            shortfall = missing_bytes(raw, size)
            self._is_unclosed_wav = is_unclosed_wav(raw, size)
        if shortfall is not None:
            promised, present = shortfall
            raise AudioError(
                source,
                "truncated",
                f"the header promises {promised:,} bytes of samples and {present:,} are there; copy or record it again, "
                "or cut it to the part that exists",
            )
        with self._open() as opened:
            self.sampling_rate = _checked_rate(opened.samplerate, source)
            self.num_channels = opened.channels
            # libsndfile fills in the others from the length of the file, and guesses at MP3.
            states_frames = opened.format == "FLAC" and opened.frames < UNKNOWN_FRAMES
            self._frames_promised = opened.frames if states_frames else None

    def _raw(self) -> io.BufferedIOBase:
        return io.BytesIO(self._file) if isinstance(self._file, bytes) else open(self._file, "rb")

    def _open(self) -> soundfile.SoundFile:
        file: Any = self._raw() if isinstance(self._file, bytes) else self._file
        if isinstance(file, str) and sys.platform != "win32":
            file = os.fsencode(file)  # soundfile cannot encode a name that is not UTF-8
        if self._is_unclosed_wav:
            file = UnclosedWav(self._raw())
        try:
            return ForwardSoundFile(file)
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
            size = max(1, min(int(BLOCK_SECONDS * self.sampling_rate), opened.frames))
            try:
                while len(block := opened.read(size, dtype="float32", always_2d=True)):
                    frames_read += len(block)
                    yield block
            except soundfile.LibsndfileError as error:
                raise self._cut_short(frames_read, error.error_string.strip()) from None
        if self._frames_promised is not None and frames_read < self._frames_promised:
            raise self._cut_short(frames_read, "end of file")

    def _cut_short(self, frames_read: int, cause: str) -> AudioError:
        read = f"{frames_read / self.sampling_rate:.2f}"
        if self._frames_promised is not None:
            read += f" of {self._frames_promised / self.sampling_rate:.2f}"
        return AudioError(
            self.source,
            "truncated",
            f"decoding stopped after {read} s ({cause}): the file is cut short or damaged; copy or encode it again",
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
        return _open_file_object(audio)
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


def _open_file_object(file: Any) -> AudioStream:
    source = str(getattr(file, "name", "<file object>"))
    try:
        content = b"" if isinstance(file, io.TextIOBase) else file.read()
    except (OSError, ValueError) as error:
        raise AudioError(source, "unreachable", f"the file object cannot be read ({error}); open it again") from None
    if isinstance(file, io.TextIOBase) or not isinstance(content, bytes):
        raise AudioError(source, "unsupported", "expected a file opened in binary mode ('rb'), got one in text mode")
    return FileStream(content, source)


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
    try:
        # A pipe, such as the shell's `<(sox ...)`, can be read only once and has no size.
        return FileStream(Path(name).read_bytes() if Path(name).is_fifo() else name, name)
    except OSError as error:
        raise AudioError(name, "unreachable", f"the file exists but cannot be read ({error.strerror}); check the disk") from None


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_SECONDS) as response:
            return response.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
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
    if samples.dtype.kind in "iu" and samples.dtype.itemsize > 4:
        raise AudioError(
            source,
            "unsupported",
            f"expected integers of 8, 16 or 32 bits, whose full scale is known, got {samples.dtype}; convert them, for example "
            "with `.astype(np.int16)`",
        )
    return samples


def _to_float32(samples: np.ndarray) -> np.ndarray:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    info = np.iinfo(samples.dtype)
    middle = 0.0 if info.min else (info.max + 1) / 2
    full_scale = (float(info.max) - info.min + 1) / 2
    return ((samples.astype(np.float64) - middle) / full_scale).astype(np.float32)
