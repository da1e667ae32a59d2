"""What kind of file it is by its first bytes, and what is in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from hf_sqa.audio.containers.flac import MAGIC as FLAC_MAGIC, find_parts as find_flac_parts
from hf_sqa.audio.containers.mpeg import find_parts as find_mpeg_parts, id3_bytes
from hf_sqa.audio.containers.ogg import MAGIC as OGG_MAGIC, find_parts as find_ogg_parts
from hf_sqa.audio.containers.part import Part
from hf_sqa.audio.containers.riff import FORMS as RIFF_FORMS, find_parts as find_riff_parts
from hf_sqa.audio.containers.stated_sizes import check_stated_size


@dataclass(frozen=True)
class Layout:
    """What a file holds."""

    parts: tuple[Part, ...]  # its recordings, in order. Programs that write one after another mean one
    # by how much a decoder may fall short of the number of frames that it states itself; `None` where it guesses that number, or
    # takes it from the length of the file
    frames_tolerance_seconds: float | None = None


#: A frame of Opus, the longest there is.
LOSSY_TOLERANCE_SECONDS = 0.12


def find_layout(file: BinaryIO, size: int) -> Layout:
    """What a file of `size` bytes holds.

    Raises:
        DamagedError: If samples are missing, or something that is no audio lies among them.
    """
    start = after_tags(file)
    file.seek(start)
    magic = file.read(4)
    try:
        if magic in RIFF_FORMS and start == 0:
            return Layout(tuple(find_riff_parts(file, size)))
        if magic == OGG_MAGIC and start == 0:
            return Layout(tuple(find_ogg_parts(file, size)), LOSSY_TOLERANCE_SECONDS)
        if magic == FLAC_MAGIC:
            return Layout(tuple(find_flac_parts(file, size, start)), 0.0)
        if magic[:1] == b"\xff" or start:
            return Layout(tuple(find_mpeg_parts(file, size, start)))
        check_stated_size(file, size)
    except (struct.error, ValueError, IndexError, ArithmeticError):
        pass  # the header itself is cut off or nonsense: libsndfile will say so
    return Layout((Part(0, size),))


def after_tags(file: BinaryIO) -> int:
    """Where the ID3 tags end that players put in front of any format."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            return position
        position += id3_bytes(head)
