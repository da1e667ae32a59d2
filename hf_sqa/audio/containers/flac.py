"""FLAC: several recordings written one after another, of which a decoder reads the first."""

from __future__ import annotations

from typing import BinaryIO

from hf_sqa.audio.containers.part import Part

#: Name of the format, and the header of the block that comes first in every file.
MAGIC = b"fLaC"
BEGINNING = (MAGIC + b"\x00\x00\x00\x22", MAGIC + b"\x80\x00\x00\x22")


def find_parts(file: BinaryIO, size: int, start: int) -> list[Part]:
    """The recordings in a FLAC file, the first of which begins at a byte, after its tags."""
    starts: set[int] = {start}
    file.seek(start)
    position, kept = start, b""
    while block := file.read(1 << 20):
        content = kept + block
        for beginning in BEGINNING:
            place = content.find(beginning)
            while place >= 0:
                starts.add(position - len(kept) + place)
                place = content.find(beginning, place + 1)
        position += len(block)
        kept = content[-len(BEGINNING[0]) + 1 :]
    ordered = sorted(starts)
    return [Part(start, stop) for start, stop in zip(ordered, [*ordered[1:], size], strict=True)]
