"""Open whatever a user calls audio: path, URL, bytes, file object, array, tensor, dict, AudioDecoder.

Every source becomes an `AudioStream`: blocks of samples at the native rate, read as often as needed, so that a recording of
hours is never held in memory as a whole. libsndfile decodes all files that it can read, as another decoder would give other
samples, and another score; PyAV decodes the others.
"""

from __future__ import annotations

import http.client
import io
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.audio.files import FileStream
from hf_sqa.audio.findings import AudioError
from hf_sqa.audio.streams import ArrayStream, AudioStream
from hf_sqa.folders import find_named

URL_TIMEOUT_SECONDS = 60

ACCEPTED = (
    "a path, a URL, bytes, a binary file object, an array or tensor together with `sampling_rate`, "
    '{"array": ..., "sampling_rate": ...}, {"path": ...}, {"bytes": ...} or an AudioDecoder of datasets'
)


def open_stream(audio: Any, sampling_rate: int | None = None) -> AudioStream:
    """Open anything a user calls audio.

    Args:
        audio: A path (`str` or `Path`), an http(s) or file URL, encoded `bytes`, a binary file object, a NumPy array or tensor,
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
        content = b"" if isinstance(file, io.TextIOBase) else _read_again(file)
    except (OSError, ValueError) as error:
        raise AudioError(source, "unreachable", f"the file object cannot be read ({error}); open it again") from None
    if isinstance(file, io.TextIOBase) or not isinstance(content, bytes):
        raise AudioError(source, "unsupported", "expected a file opened in binary mode ('rb'), got one in text mode")
    return FileStream(content, source)


def _read_again(file: Any) -> Any:
    """Read the rest of a file object, or all of it if nothing is left, and go back to where it was, so it can be read again."""
    try:
        position = file.tell()
        file.seek(position)
    except (AttributeError, OSError):
        return file.read()
    content = file.read()
    if not content and position:
        file.seek(0)
        content = file.read()
    file.seek(position)
    return content


def _open_path(path: str | Path) -> AudioStream:
    shown = name = str(path)
    if isinstance(path, str) and path.startswith(("http://", "https://")):
        return FileStream(_fetch(path), path)
    if isinstance(path, str) and path.startswith("file:"):
        url = urllib.parse.urlsplit(path)
        if url.netloc not in ("", "localhost"):
            raise AudioError(shown, "unreachable", f"the URL names a file of the machine {url.netloc!r}; copy it here first")
        name = urllib.request.url2pathname(url.path)
    if os.path.isdir(name):
        raise AudioError(
            shown, "is_directory", "expected an audio file, got a folder; pass its files, or use `hf-sqa score` on the folder"
        )
    if not os.path.exists(name):
        found = find_named(name)
        if found is None:
            where = f"it is a link to {os.readlink(name)!r}" if os.path.islink(name) else f"looked in {os.getcwd()!r}"
            raise AudioError(shown, "missing", f"there is no such file or folder ({where}); check the path")
        name = found
    if not os.access(name, os.R_OK):
        raise AudioError(shown, "unreachable", "the file exists but may not be read; check its permissions")
    try:
        # A pipe, such as the shell's `<(sox ...)`, can be read only once and has no size.
        return FileStream(Path(name).read_bytes() if Path(name).is_fifo() else name, shown)
    except OSError as error:
        raise AudioError(shown, "unreachable", f"the file exists but cannot be read ({error.strerror}); check the disk") from None


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
