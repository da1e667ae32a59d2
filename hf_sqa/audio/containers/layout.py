"""Recognise the kind of a file by its first bytes, and find the recordings in it."""

from __future__ import annotations

import struct
from typing import BinaryIO

from hf_sqa.audio.containers.mpeg import find_parts as find_mpeg_parts, id3_bytes
from hf_sqa.audio.containers.ogg import MAGIC as OGG_MAGIC, find_parts as find_ogg_parts
from hf_sqa.audio.containers.part import Part, occurrences
from hf_sqa.audio.containers.riff import FORMS as RIFF_FORMS, find_parts as find_riff_parts
from hf_sqa.audio.containers.stated_sizes import check_stated_size

FLAC_MAGIC = b"fLaC"
#: `FLAC_MAGIC` and the header of the block that comes first in every FLAC, and may be its last.
FLAC_BEGINNING = FLAC_MAGIC + rb"[\x00\x80]\x00\x00\x22"


def find_parts(file: BinaryIO, size: int) -> list[Part]:
    """Return the parts of a file of `size` bytes that hold sound, in order: several in a row are meant as one recording.

    Samples that are missing, and something other than audio among them, are a [`DamagedError`].
    """
    start = after_tags(file)
    file.seek(start)
    magic = file.read(4)
    try:
        if magic in RIFF_FORMS and start == 0:
            return find_riff_parts(file, size)
        if magic == OGG_MAGIC and start == 0:
            return find_ogg_parts(file, size)
        if magic == FLAC_MAGIC:
            # A decoder reads only the first of several recordings written one after another.
            starts = sorted({start, *occurrences(file, start, FLAC_BEGINNING, 8)})
            return [Part(*ends, frames_tolerance_seconds=0.0) for ends in zip(starts, [*starts[1:], size], strict=True)]
        if magic[:1] == b"\xff" or start:
            return find_mpeg_parts(file, size, start)
        check_stated_size(file, size)
    except (struct.error, ValueError, IndexError, ArithmeticError):
        pass  # the header itself is cut off or nonsense: libsndfile will report it
    return [Part(0, size)]


def after_tags(file: BinaryIO) -> int:
    """Return the end of the ID3 tags at the start of a file; players put them in front of any format."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            return position
        position += id3_bytes(head)
