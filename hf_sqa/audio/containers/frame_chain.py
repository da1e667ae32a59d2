"""Check raw AAC and AMR streams frame by frame, because FFmpeg silently skips a damaged frame."""

from __future__ import annotations

from typing import BinaryIO

from hf_sqa.audio.containers.part import DamagedError

#: Length of an AMR frame in bytes by its type, including the byte that states the type; types without an entry do not occur.
NARROWBAND = {**dict(enumerate((13, 14, 16, 18, 20, 21, 27, 32, 6))), 15: 1}
WIDEBAND = {**dict(enumerate((18, 24, 33, 37, 41, 47, 51, 59, 61, 6))), 14: 1, 15: 1}
#: First bytes of the tags that players append.
TAGS = (b"TAG", b"ID3", b"APETAGE")
AMR_BEGINNINGS = {b"#!AMR-WB\n": WIDEBAND, b"#!AMR\n": NARROWBAND}


def check_frames(file: BinaryIO, size: int, start: int) -> None:
    """Raise a [`DamagedError`] unless an AAC or AMR stream consists of frames up to its end; the last frame may be cut off."""
    file.seek(start)
    head = file.read(9)
    beginning = next((beginning for beginning in AMR_BEGINNINGS if head.startswith(beginning)), b"")
    lengths = AMR_BEGINNINGS.get(beginning)
    position = start + len(beginning)
    while position < size:
        file.seek(position)
        head = file.read(7)
        step = _adts_length(head) if lengths is None else lengths.get(head[0] >> 3) if head[0] & 0x83 == 0 else None
        if head.startswith(TAGS):
            return
        if step is None:
            raise DamagedError.at(position, size, "no frame begins where one should")
        position += step


def _adts_length(head: bytes) -> int | None:
    if len(head) < 7:
        return 7  # cut off
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 7 else None
