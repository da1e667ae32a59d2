"""Read with PyAV what phones, browsers and meetings write and libsndfile does not read: M4A, MP4, AAC, AMR, WebM, WMA.

FFmpeg is given the format and a single file to read from: a playlist or a reference to other files leads nowhere.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from hf_sqa.audio.findings import AudioError
from hf_sqa.audio.streams import BLOCK_SECONDS, to_float32
from hf_sqa.extras import needs_extra

#: What people call each container, by FFmpeg's name for it.
KINDS = {
    "mov": "an M4A or MP4",
    "matroska": "a WebM or Matroska",
    "asf": "a WMA",
    "amr": "an AMR",
    "aac": "an AAC",
}
#: Kinds whose header states the length of the sound; the sound may end earlier by this, as players count the last frame's padding.
STATES_LENGTH, TOLERANCE_SECONDS = frozenset({"mov", "matroska", "asf"}), 0.15
#: Longest time between frames. Opus, in Matroska, may send nothing for 0.4 s of silence.
LONGEST_GAP_SECONDS = {"mov": 0.15, "asf": 0.15, "matroska": 0.5}


def container_kind(head: bytes) -> str | None:
    """Return the key of `KINDS` for a file, from its first bytes after any tags; `None` for any other file."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "asf"
    if head.startswith(b"#!AMR"):
        return "amr"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # an MP3 has a layer where AAC has none
        return "aac"
    return None


class SoundTrack:
    """The sound track of a file, which it closes; `kind` is a key of `KINDS`, and `source` names the file in messages."""

    def __init__(self, file: BinaryIO, kind: str, source: str):
        self._kind, self._source = kind, source
        with contextlib.ExitStack() as stack:
            stack.callback(file.close)
            try:
                import av
            except ImportError:
                how = needs_extra(f"{KINDS[kind]} file", "containers", "convert it first, such as with `ffmpeg -i in.m4a out.wav`")
                raise AudioError(source, "unsupported", how[:-1]) from None
            self._av = av
            try:
                self._container: Any = stack.enter_context(av.open(file, format=kind, metadata_errors="ignore"))
                self._track: Any = next(iter(self._container.streams.audio), None)
                frames = self._decoded() if self._track is not None else iter(())
                first = next(frames, None)
            except Exception as error:  # FFmpeg's own, and those from parsing a nonsensical header
                why = f"FFmpeg cannot read it as {KINDS[kind]} file ({_cause(error)})"
                raise AudioError(source, "undecodable", f"{why}: it is damaged or cut short; copy or record it again") from None
            if self._track is None:
                message = f"{KINDS[kind]} file without a sound track; name the file that holds the sound"
                raise AudioError(source, "no_audio", message)
            if first is None:
                raise AudioError(source, "empty", "the header is there, but no samples follow; record or copy it again")
            # The header of an AAC may state half the rate that it is decoded at.
            self.sampling_rate, self.num_channels = first.sample_rate, first.layout.nb_channels
            self._frames: Iterator[Any] = itertools.chain([first], frames)
            self._opened = stack.pop_all()

    def __enter__(self) -> SoundTrack:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 arrays of shape `(num_frames, num_channels)`, once. Damage, or an early end, is `truncated`."""
        waiting, num_waiting, seconds = [], 0, 0.0
        for frame in self._frames:
            if (frame.sample_rate, frame.layout.nb_channels) != (self.sampling_rate, self.num_channels):
                raise AudioError(self._source, "unsupported", f"rate or channels change after {seconds:.2f} s; cut it there first")
            samples = frame.to_ndarray()
            samples = samples.T if frame.format.is_planar else samples.reshape(-1, self.num_channels)
            waiting.append(to_float32(samples))
            num_waiting += len(samples)
            begin = seconds if frame.pts is None else float(frame.pts * frame.time_base)
            if waiting and begin > seconds + LONGEST_GAP_SECONDS.get(self._kind, math.inf):
                message = (
                    f"nothing is there from {seconds:.2f} to {begin:.2f} s: a part is damaged or missing; copy or record it again"
                )
                raise AudioError(self._source, "truncated", message)
            seconds = begin + len(samples) / self.sampling_rate
            if num_waiting >= BLOCK_SECONDS * self.sampling_rate:
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting)
        promised = self._promised_seconds()
        if promised is not None and seconds < promised - TOLERANCE_SECONDS:
            raise AudioError(
                self._source,
                "truncated",
                f"decoding stopped after {seconds:.2f} of {promised:.2f} s: the file is cut short or damaged; copy or encode it "
                "again",
            )

    def _decoded(self) -> Iterator[Any]:
        """Yield frames in order. A damaged packet is refused unless it is the last: half a frame less at the end is inaudible."""
        damage: Exception | None = None
        for packet in self._container.demux(self._track):
            try:
                frames = packet.decode()
            except self._av.FFmpegError as error:
                damage = damage or error
                continue
            if frames and damage is not None:
                raise AudioError(
                    self._source, "truncated", f"a part of it cannot be decoded ({_cause(damage)}); copy or encode it again"
                )
            yield from frames

    def _promised_seconds(self) -> float | None:
        if self._kind not in STATES_LENGTH:
            return None
        if self._track.duration is not None and (self._kind == "mov" or len(self._container.streams) == 1):
            return float(self._track.duration * self._track.time_base)
        # With a video track, the container's duration is that of the video.
        is_alone = len(self._container.streams) == 1 and self._container.duration is not None
        return self._container.duration / self._av.time_base if is_alone else None


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
