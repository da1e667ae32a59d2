"""Check an MP3 frame by frame: where a frame is missing, a decoder skips to the next and only prints a line."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import BinaryIO

from hf_sqa.audio.containers.part import DamagedError, Part, occurrences

#: Bit rates in kb/s for the bit-rate indices from 1, by version (1, or 2 for both 2 and 2.5) and layer.
KILOBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
#: A recorded broadcast begins within a frame: the first whole frame is looked for within this many bytes.
LONGEST_LEAD = 1 << 16
#: Bytes that may follow the last frame without being a known tag.
LONGEST_TRAIL = 1 << 12
#: Encoders disagree on whether the tag counts the frame it is in.
FRAMES_IN_DOUBT = 1
#: Where a frame's tag may begin: after the header and side information (stereo or mono, both versions), with or without checksum.
TAG_PLACES = (13, 15, 21, 23, 36, 38)
HEAD_BYTES = 54
#: Frames that encoders add before and after the sound.
FRAMES_OF_DELAY = 4

Kind = tuple[int, int, int]


@dataclass(frozen=True)
class Frame:
    """A frame, as its first bytes describe it."""

    head: bytes  # its first four bytes
    length: int  # its length in bytes
    kind: Kind  # version, layer and sampling rate in Hz, the same for all frames of a recording
    is_tag: bool = False  # whether it holds a Xing, Info or VBRI tag in place of sound
    num_stated: int | None = None  # how many frames follow, if the tag states it


@dataclass
class _Recording:
    """What has been read of one recording so far."""

    start: int
    first: Frame
    sound_start: int
    num_frames: int = 0

    def part(self, stop: int) -> Part:
        version, layer, _ = self.first.kind
        in_frame = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
        least_samples = max(0, self.num_frames - FRAMES_OF_DELAY) * in_frame
        stated = self.first.num_stated
        if layer != 3 or (stated is not None and abs(self.num_frames - stated) <= FRAMES_IN_DOUBT):
            return Part(self.start, stop, num_frames=least_samples)
        if stated is not None and self.num_frames < stated:
            raise DamagedError(
                f"its first frame says that {stated:,} follow and {self.num_frames:,} do: the file is cut short or damaged; copy "
                "or encode it again"
            )
        # Without a tag, or where something was appended, libsndfile stops where it guesses the end.
        return Part(self.sound_start, stop, _tag_frame(self.first.head, self.num_frames), least_samples)


def find_parts(file: BinaryIO, size: int, start: int) -> list[Part]:
    """Return the recordings in an MP3 file, one or several written one after another; `start` is the end of the tags in front.

    Other bytes between frames, and frames that are missing, are a [`DamagedError`].
    """
    position = _next_frame(file, start, min(size, start + LONGEST_LEAD), size)
    if position is None:  # no MP3, or one whose frames do not say how long they are
        return [Part(0, size)]
    parts: list[Part] = []
    recording: _Recording | None = None
    begin = 0
    while position < size:
        frame = _frame(file, position)
        if frame is None:
            end = _tag_end(file, position, size)
            if end is not None:
                position = end
                continue
            # Bytes that are neither frame nor tag must end the file, and must be few unless all stated frames were read.
            stated = recording.first.num_stated if recording is not None else None
            is_complete = recording is not None and stated is not None and recording.num_frames >= stated
            is_short = size - position <= LONGEST_TRAIL
            if not (is_complete or is_short) or _next_frame(file, position + 1, size, size) is not None:
                raise DamagedError.at(position, size, "no frame begins where one should")
            break
        if recording is None or frame.is_tag or frame.kind != recording.first.kind:
            if recording is not None and not _is_chain(file, position, size):
                raise DamagedError.at(position, size, "no frame begins where one should")
            if recording is not None:
                parts.append(recording.part(position))
                begin = position
            recording = _Recording(begin, frame, position + (frame.length if frame.is_tag else 0))
        if position + frame.length > size:
            break  # less than a frame is missing
        recording.num_frames += not frame.is_tag
        position += frame.length
    assert recording is not None
    return [*parts, recording.part(size)]


def _frame(file: BinaryIO, position: int) -> Frame | None:
    file.seek(position)
    return _frame_of(file.read(HEAD_BYTES))


def _frame_of(head: bytes) -> Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    kilobits = KILOBITS[1 if version == 3 else 2, layer][bitrate - 1]
    hertz, padding = RATES[version][rate], head[2] >> 1 & 1
    if layer == 1:
        length = (12_000 * kilobits // hertz + padding) * 4
    else:
        length = (72_000 if layer == 3 and version != 3 else 144_000) * kilobits // hertz + padding
    kind = version, layer, hertz
    for place in TAG_PLACES:
        name = head[place : place + 4]
        if any(head[6:place]):
            break  # sound: mpg123 accepts a tag only if all bytes before it are zero
        if name in (b"Xing", b"Info") and len(head) >= place + 12:
            flags, count = struct.unpack_from(">II", head, place + 4)
            return Frame(head[:4], length, kind, True, count if flags & 1 else None)
        if name == b"VBRI" and len(head) >= place + 18:
            return Frame(head[:4], length, kind, True, struct.unpack_from(">I", head, place + 14)[0])
    return Frame(head[:4], length, kind)


def _tag_frame(head: bytes, num_frames: int) -> bytes:
    """Return a frame without sound, like the one with the first bytes `head`, that states how many frames follow."""
    head = bytes((head[0], head[1] | 1, 0x80 | (head[2] & 0x0C), head[3]))  # no checksum, a bit rate with room for the tag
    is_mono = head[3] >> 6 == 3
    place = 4 + ((17 if is_mono else 32) if head[1] >> 3 & 3 == 3 else (9 if is_mono else 17))
    tag = head + bytes(place - 4) + b"Xing" + struct.pack(">II", 1, num_frames)
    length = _frame_of(tag).length  # type: ignore[union-attr]
    return tag[:length] + bytes(max(0, length - len(tag)))


def _is_chain(file: BinaryIO, position: int, size: int) -> bool:
    """Whether the frame at `position` is followed by another of its kind, a tag or the end: any bytes may look like a header."""
    frame = _frame(file, position)
    if frame is None:
        return False
    after = position + frame.length
    following = _frame(file, after)
    return after >= size or (following is not None and following.kind == frame.kind) or _tag_end(file, after, size) is not None


def _next_frame(file: BinaryIO, position: int, stop: int, size: int) -> int | None:
    """Return the start of the first frame that `_is_chain` accepts, or `None` if there is none before `stop`."""
    places = itertools.takewhile(lambda place: place < stop, occurrences(file, position, rb"\xff", 1))
    return next((place for place in places if _is_chain(file, place, size)), None)


def _tag_end(file: BinaryIO, position: int, size: int) -> int | None:
    """Return the end of the tag that begins at `position`, or `None` if there is none."""
    file.seek(position)
    head = file.read(32)
    if head.startswith(b"ID3") and len(head) >= 10:
        return position + id3_bytes(head)
    if head.startswith(b"TAG"):
        return min(size, position + (227 if head.startswith(b"TAG+") else 128))
    if head.startswith(b"APETAGEX") and len(head) == 32:
        length, flags = struct.unpack("<12xI4xI8x", head)
        is_header = flags >> 29 & 1
        return position + 32 + (length if is_header else 0)
    if head.startswith(b"LYRICSBEGIN"):
        file.seek(position)
        content = file.read(LONGEST_LEAD)
        ends = [content.find(name) + len(name) for name in (b"LYRICS200", b"LYRICSEND") if name in content]
        return position + min(ends) if ends else None
    return None


def id3_bytes(head: bytes) -> int:
    """Return the length in bytes of the ID3v2 tag with the header `head`, including its footer."""
    length = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + length + (10 if head[5] & 16 else 0)
