"""Open a file, or encoded bytes, as a stream: with libsndfile, or with PyAV what libsndfile does not read."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from hf_sqa.audio.containers import DamagedError, Part, PartFile, after_tags, check_frames, find_parts
from hf_sqa.audio.ffmpeg_containers import SoundTrack, container_kind
from hf_sqa.audio.findings import AudioError
from hf_sqa.audio.streams import BLOCK_SECONDS, AudioStream, checked_rate

#: For a FLAC that does not state its length, libsndfile reports the largest integer.
UNKNOWN_FRAMES = 1 << 62
#: Formats in which seeking is exact; in others a frame is reached by reading up to it.
SEEKS_EXACTLY = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "RF64", "W64"})
#: Reasons for files that are not audio, by their first bytes, where these say more than that the file cannot be read.
NO_AUDIO = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"\x00\x05\x16\x07": "it is what macOS writes beside a file, not the file itself; leave it out",
    b"<!DOCTYPE": "it is a web page; the download gave an error page or a consent page instead",
    b"<html": "it is a web page; the download gave an error page or a consent page instead",
    b"PK\x03\x04": "it is a zip archive; unpack it first",
    b"\x1f\x8b": "it is compressed by gzip; unpack it first",
}
#: Lines that libmpg123, inside libsndfile, writes to the terminal. Anything that other threads write meanwhile is passed on.
ITS_LINES = re.compile(rb"(\[src/libmpg123/|Note: |Warning: |.*libmpg123|\s*$)")
STANDARD_ERROR = 2

_turn = threading.Lock()


class ForwardSoundFile(soundfile.SoundFile):
    """Never seeks: soundfile seeks to the current position after every read, which a FLAC of unknown length refuses."""

    def seekable(self) -> bool:
        return False


class FileStream(AudioStream):
    """A file, or encoded bytes: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, CAF, AU and more; with PyAV, M4A and the like.

    Raises:
        AudioError: `empty`, `truncated`, `undecodable` or `unsupported`.
    """

    def __init__(self, file: str | bytes, source: str):
        self.source = source
        self._file = file
        size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
        if size == 0:
            raise AudioError(source, "empty", "the file has 0 bytes; nothing was recorded or the copy failed")
        with self._raw() as raw:
            start = after_tags(raw)
            raw.seek(start)
            head = raw.read(12)
            self._kind = container_kind(head)
            self._may_be_mp3 = start > 0 or head[:1] == b"\xff"
            try:
                if self._kind in ("aac", "amr"):
                    check_frames(raw, size, start)
                elif self._kind is None:
                    self._parts = find_parts(raw, size)
            except DamagedError as error:
                raise AudioError(source, "truncated", str(error)) from None
        if self._kind is not None:
            with SoundTrack(self._raw(), self._kind, source) as track:
                self.sampling_rate, self.num_channels = checked_rate(track.sampling_rate, source), track.num_channels
            return
        self._is_whole = [(part.start, part.stop, part.header) for part in self._parts] == [(0, size, b"")]
        for part in self._parts:
            with self._opened(part) as opened:
                rate, channels = checked_rate(opened.samplerate, source), opened.channels
            if part is not self._parts[0] and (rate, channels) != (self.sampling_rate, self.num_channels):
                raise AudioError(
                    source, "unsupported", "it holds several recordings of different rates or channels; cut it into one file each"
                )
            self.sampling_rate, self.num_channels = rate, channels

    def _raw(self) -> BinaryIO:
        return io.BytesIO(self._file) if isinstance(self._file, bytes) else Path(self._file).open("rb")

    @contextlib.contextmanager
    def _opened(self, part: Part) -> Iterator[soundfile.SoundFile]:
        with contextlib.ExitStack() as stack:
            # By name, soundfile takes `.raw` for a format, and libsndfile refuses an MP3 that lies beside its macOS `._` file.
            by_name = isinstance(self._file, str) and not (self._may_be_mp3 or self._file.lower().endswith(".raw"))
            if self._is_whole and by_name:
                # soundfile cannot encode a name that is not UTF-8.
                file: Any = self._file if sys.platform == "win32" else os.fsencode(self._file)
            else:
                file = PartFile(stack.enter_context(self._raw()), part)
            try:
                with self._quietly():
                    opened = stack.enter_context(ForwardSoundFile(file))
            except soundfile.LibsndfileError as error:
                raise self._undecodable(error.error_string.strip()) from None
            yield opened

    def _quietly(self) -> contextlib.AbstractContextManager[None]:
        return without_decoder_messages() if self._may_be_mp3 else contextlib.nullcontext()

    def _undecodable(self, cause: str) -> AudioError:
        with self._raw() as raw:
            head = raw.read(64)
        known = next((reason for start, reason in NO_AUDIO.items() if head.lower().startswith(start.lower())), None)
        return AudioError(
            self.source,
            "undecodable",
            known
            or f"libsndfile cannot read it ({cause}); expected WAV, FLAC, OGG, Opus, MP3, AIFF or another format libsndfile reads. "
            "Convert other formats first, for example with `ffmpeg -i in.mkv out.wav`; samples without a header are given as an "
            "array with `sampling_rate`",
        )

    def blocks(self, first: int = 0) -> Iterator[np.ndarray]:
        if self._kind is not None:
            with SoundTrack(self._raw(), self._kind, self.source) as track:
                yield from _from(first, track.blocks())
            return
        if len(self._parts) == 1 and first:
            with self._opened(self._parts[0]) as opened:
                seeks, frames = opened.format in SEEKS_EXACTLY, opened.frames
            if seeks:
                yield from self._blocks_of(self._parts[0], min(first, frames))
                return
        yield from _from(first, (block for part in self._parts for block in self._blocks_of(part, 0)))

    def _blocks_of(self, part: Part, first: int) -> Iterator[np.ndarray]:
        position = first
        with self._opened(part) as opened:
            states_frames = part.frames_tolerance_seconds is not None and opened.frames < UNKNOWN_FRAMES
            promised = opened.frames if states_frames else None
            size = max(1, min(int(BLOCK_SECONDS * self.sampling_rate), opened.frames))
            try:
                if first:
                    opened.seek(first)
                while True:
                    with self._quietly():
                        block = opened.read(size, dtype="float32", always_2d=True)
                    if not len(block):
                        break
                    position += len(block)
                    yield block
            except soundfile.LibsndfileError as error:
                raise self._cut_short(position, promised, error.error_string.strip()) from None
        tolerance = part.frames_tolerance_seconds or 0.0
        if promised is not None and position < promised - tolerance * self.sampling_rate:
            raise self._cut_short(position, promised, "end of file")
        if part.num_frames is not None and position < part.num_frames:
            raise self._cut_short(position, part.num_frames, "end of file")

    def _cut_short(self, position: int, promised: int | None, cause: str) -> AudioError:
        read = f"{position / self.sampling_rate:.2f}"
        if promised is not None:
            read += f" of {promised / self.sampling_rate:.2f}"
        return AudioError(
            self.source,
            "truncated",
            f"decoding stopped after {read} s ({cause}): the file is cut short or damaged; copy or encode it again",
        )


def _from(first: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks from the frame `first` on."""
    for block in blocks:
        if first < len(block):
            yield block[first:]
        first = max(0, first - len(block))


@contextlib.contextmanager
def without_decoder_messages() -> Iterator[None]:
    """Context that drops libmpg123's lines on standard error: a row or an error says what matters."""
    with _turn:
        try:
            kept = os.dup(STANDARD_ERROR)
        except OSError:  # standard error is closed: nothing can be written to it
            yield
            return
        with os.fdopen(os.memfd_create("messages"), "r+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as written:
            os.dup2(written.fileno(), STANDARD_ERROR)
            try:
                yield
            finally:
                os.dup2(kept, STANDARD_ERROR)
                os.close(kept)
                written.seek(0)
                for line in written:
                    if not ITS_LINES.match(line):
                        os.write(STANDARD_ERROR, line)
