"""A part of a file that libsndfile can read, preceded by a header of our own where the file's own header is unusable."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: A program that counts wrongly is off by a frame or by the header's 44 bytes; a file that was cut off lacks more.
SLOPPY_BYTES = 44
#: Programs that write to a pipe cannot know the size, and state zero or a size near 2 or 4 GiB ...
NEAR_BYTES = 1 << 16
#: ... or a round number of at least this many bytes, such as 2,000,000,000.
ROUND_BYTES = 100_000_000
UNKNOWN_LONG_SIZE = 1 << 62


class DamagedError(Exception):
    """A file holds less than its header states, or something other than audio where audio should be."""

    @classmethod
    def at(cls, position: int, size: int, what: str) -> DamagedError:
        return cls(f"{what} at byte {position:,} of {size:,}: the file is cut short or damaged; copy or encode it again")


@dataclass(frozen=True)
class Part:
    """One recording in a file."""

    start: int  # its first byte
    stop: int  # the byte after its last
    header: bytes = b""  # bytes to read before it
    num_frames: int | None = None  # fewest samples per channel that a decoder must return, where known
    # by how much the decoded sound may be shorter than the decoder states; `None` where the decoder guesses the length, or derives
    # it from the length of the file
    frames_tolerance_seconds: float | None = None


class PartFile(io.RawIOBase):
    """A part, readable as a file of its own."""

    def __init__(self, file: BinaryIO, part: Part):
        self._file, self._part = file, part
        self._size = len(part.header) + part.stop - part.start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        content = self._part.header[self._position : self._position + len(buffer)]
        if not content:
            place = self._position - len(self._part.header) + self._part.start
            self._file.seek(place)
            content = self._file.read(max(0, min(len(buffer), self._part.stop - place)))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def occurrences(file: BinaryIO, position: int, pattern: bytes, length: int) -> Iterator[int]:
    """Yield the positions, from `position` on, where a regular expression matches; every match has `length` bytes."""
    kept = b""
    while True:
        file.seek(position)
        if not (block := file.read(1 << 20)):
            return
        content = kept + block
        for match in re.finditer(pattern, content):
            yield position - len(kept) + match.start()
        position += len(block)
        kept = content[len(content) - length + 1 :]


def is_open(num_bytes: int) -> bool:
    """Whether a size in a header is a placeholder from a program that did not know the size."""
    near = abs(num_bytes - (1 << 31)) <= NEAR_BYTES or (1 << 32) - NEAR_BYTES <= num_bytes <= 1 << 32
    return num_bytes <= 0 or near or num_bytes >= UNKNOWN_LONG_SIZE or (num_bytes >= ROUND_BYTES and num_bytes % ROUND_BYTES == 0)


def check_size(promised: int, present: int, tolerance: int = 0) -> None:
    """Refuse a file that lacks more bytes than a program's counting error explains, unless the header leaves the size open."""
    if promised > present + tolerance and not is_open(promised):
        raise DamagedError(
            f"the header promises {promised:,} bytes of samples and {max(0, present):,} are there; copy or record it again, or cut "
            "it to the part that exists"
        )
