"""What kind of file it is by its first bytes, and what is in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from hf_sqa.audio.containers import flac, mpeg, ogg, riff, stated_sizes
from hf_sqa.audio.containers.part import Part


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Args:
        parts (`tuple` of [`Part`]): Its recordings, in order. Programs that write one behind another mean one.
        frames_tolerance_seconds (`float`, *optional*): By how much a decoder may fall short of the number of frames that it states
            itself; `None` where it guesses that number, or takes it from the length of the file.
    """

    parts: tuple[Part, ...]
    frames_tolerance_seconds: float | None = None


#: A frame of Opus, the longest there is.
LOSSY_TOLERANCE_SECONDS = 0.12


def find_layout(file: BinaryIO, size: int) -> Layout:
    """Find what a file holds.

    Args:
        file: Binary file, positioned anywhere.
        size (`int`): Its bytes.

    Raises:
        DamagedError: If samples are missing, or something that is no audio lies among them.
    """
    start = after_tags(file)
    file.seek(start)
    magic = file.read(4)
    try:
        if magic in riff.FORMS and start == 0:
            return Layout(tuple(riff.find_parts(file, size)))
        if magic == ogg.MAGIC and start == 0:
            return Layout(tuple(ogg.find_parts(file, size)), LOSSY_TOLERANCE_SECONDS)
        if magic == flac.MAGIC:
            return Layout(tuple(flac.find_parts(file, size, start)), 0.0)
        if magic[:1] == b"\xff" or start:
            return Layout(tuple(mpeg.find_parts(file, size, start)))
        stated_sizes.check_stated_size(file, size)
    except (struct.error, ValueError, IndexError):
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
        position += mpeg.id3_bytes(head)
