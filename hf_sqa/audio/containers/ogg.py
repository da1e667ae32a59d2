"""Check the checksums and numbers of Ogg pages, because a decoder silently leaves out a damaged or missing page."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from hf_sqa.audio.containers.part import DamagedError, Part, occurrences

MAGIC = b"OggS"
BEGINS, ENDS = 2, 4
#: Longest frame of Opus.
LONGEST_FRAME_SECONDS = 0.12
#: Every byte with its bits in reverse order: Ogg's checksum is zlib's with the bits counted from the other end.
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def find_parts(file: BinaryIO, size: int) -> list[Part]:
    """Return the recordings in an Ogg file, one or several in a row; a page that is damaged or missing is a [`DamagedError`]."""
    starts: list[int] = []
    position, in_header, flags = 0, False, 0
    last: dict[int, tuple[int, int]] = {}  # number and granule position of the last page of each stream
    while position < size:
        page = _page(file, position, size)
        if page is None:
            if not flags & ENDS or any(True for _ in occurrences(file, position, MAGIC + b"\0", 5)):
                raise DamagedError.at(position, size, "there is no page where one should begin")
            break  # something was appended, such as MP3 tags
        flags, granule, stream, number, length, is_sound = page
        if not is_sound:
            raise DamagedError.at(position, size, "the checksum of a page does not match")
        if flags & BEGINS and not in_header:
            starts.append(position)
            last = {}
        in_header = bool(flags & BEGINS)
        before, granule_before = last.get(stream, (number - 1, 0))
        # In a recorded broadcast, the first page of sound has a later number than the headers.
        if number != (before + 1) % (1 << 32) and granule_before > 0:
            raise DamagedError.at(position, size, f"{number - before - 1} pages are missing")
        last[stream] = number, max(granule, granule_before)
        position += length
    tolerance = LONGEST_FRAME_SECONDS
    return [Part(*ends, frames_tolerance_seconds=tolerance) for ends in zip(starts, [*starts[1:], size], strict=True)]


def _page(file: BinaryIO, position: int, size: int) -> tuple[int, int, int, int, int, bool] | None:
    """Return flags, granule position, stream, number, length and soundness of the page at `position`; `None` if there is none."""
    file.seek(position)
    header = file.read(27)
    if not header.startswith(MAGIC):
        return None
    if len(header) == 27:
        segments = file.read(header[26])
        body = file.read(sum(segments))
        if len(segments) == header[26] and len(body) == sum(segments):
            flags, granule, stream, number, checksum = struct.unpack("<5xBqIII", header[:26])
            content = header[:22] + bytes(4) + header[26:] + segments + body
            return flags, granule, stream, number, len(content), _checksum(content) == checksum
    raise DamagedError.at(position, size, "the last page breaks off")


def _checksum(content: bytes) -> int:
    remainder = zlib.crc32(content.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(remainder.to_bytes(4, "little").translate(REVERSED), "big")
