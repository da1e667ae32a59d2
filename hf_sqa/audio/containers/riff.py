"""WAV and its forms for long files, RF64 and BW64: follow the chunks, even where a program never filled in the final length."""

from __future__ import annotations

import struct
from typing import BinaryIO

from hf_sqa.audio.containers.part import NEAR_BYTES, SLOPPY_BYTES, Part, check_size, is_open

FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
LONG_FORMS = (b"RF64", b"BW64")
#: Most bytes of samples that the 32-bit size of a WAV can state.
MOST_BYTES = 0xFFFF0000
#: Programs that use signed sizes stop here.
MOST_SIGNED_BYTES = 0x7FFF0000 - 1
#: Chunks that are followed at most: a nonsensical header must not be read byte by byte.
MAX_CHUNKS = 10_000

#: Name, first byte of the content, and stated length.
Chunk = tuple[bytes, int, int]


def find_parts(file: BinaryIO, size: int) -> list[Part]:
    """Return the recordings in a file of one of `FORMS`, one or several in a row; missing samples are a [`DamagedError`]."""
    parts: list[Part] = []
    start = 0
    while start < size:
        file.seek(start)
        if file.read(4) not in FORMS:
            break
        part, start = _find_part(file, start, size)
        parts.append(part)
    return parts if len(parts) > 1 or parts[0].header else [Part(0, size)]


def _find_part(file: BinaryIO, start: int, size: int) -> tuple[Part, int]:
    """Return the recording whose form begins at `start`, and the position after it."""
    file.seek(start)
    form, riff_size = file.read(4), file.read(4)
    order = ">" if form == b"RIFX" else "<"
    chunks, is_regular = _chunks(file, start + 12, size, order)
    contents = {name: (first, length) for name, first, length in reversed(chunks)}
    if b"data" not in contents or b"fmt " not in contents:
        return Part(start, size), size
    first, stated = contents[b"data"]
    riff_end = start + 8 + struct.unpack(order + "I", riff_size)[0]
    if form in LONG_FORMS and b"ds64" in contents and is_open(stated):
        file.seek(contents[b"ds64"][0])
        long_riff, stated = struct.unpack("<QQ", file.read(16))
        riff_end = start + 8 + long_riff
    present = size - first
    if stated == 0 and (present == 0 or _fills_with_chunks(file, first, size, order)):
        return Part(start, size), size  # empty, and no sound follows

    file.seek(contents[b"fmt "][0])
    format_chunk = file.read(contents[b"fmt "][1])
    tolerance = max(SLOPPY_BYTES, struct.unpack_from(order + "H", format_chunk, 12)[0])
    # Cutting a file does not correct its header, so a form that ends with the file is whole whatever its chunk states. Some
    # programs put a placeholder there, and for the chunk subtract the header from it.
    ends_with_file = abs(riff_end - size) <= 1
    is_placeholder = is_open(riff_end - start - 8) and 0 <= riff_end - first - stated <= first - start
    if not ends_with_file and not is_placeholder:
        check_size(stated, present, tolerance)
    is_beyond_32_bits = stated > MOST_SIGNED_BYTES and is_open(stated) and present > stated + NEAR_BYTES
    if 0 < stated <= present + tolerance and not is_beyond_32_bits:
        end = max(riff_end, first + stated)
        if is_regular and form != b"BW64":
            return Part(start, min(end, size)), end
        length = min(stated, present)
    else:
        length, end = present, size
    return Part(first, first + length, _header(form, format_chunk, length)), end


def _chunks(file: BinaryIO, position: int, size: int, order: str) -> tuple[list[Chunk], bool]:
    """Return the chunks up to the samples, and whether every chunk of odd length is followed by its padding byte."""
    found: list[Chunk] = []
    is_regular = True
    while position + 8 <= size and len(found) < MAX_CHUNKS:
        file.seek(position)
        name, length = struct.unpack(order + "4sI", file.read(8))
        found.append((name, position + 8, length))
        if name == b"data":
            break
        position += 8 + length
        if length % 2:
            file.seek(position)
            following = file.read(5)
            if following[:1] != b"\0" and _is_name(following[:4]) and (following[:4] == b"data" or not _is_name(following[1:])):
                is_regular = False
            else:
                position += 1
    return found, is_regular


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _fills_with_chunks(file: BinaryIO, position: int, size: int, order: str) -> bool:
    """Whether chunks follow each other from `position` to the end of the file."""
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or not _is_name(header[:4]):
            return False
        length = struct.unpack(order + "I", header[4:])[0]
        position += 8 + length + length % 2
        if size <= position <= size + 1:
            return True
    return False


def _header(form: bytes, format_chunk: bytes, length: int) -> bytes:
    """Return a header that libsndfile reads, for `length` bytes of samples."""
    order = ">" if form == b"RIFX" else "<"
    described = b"fmt " + struct.pack(order + "I", len(format_chunk)) + format_chunk + b"\0" * (len(format_chunk) % 2)
    if length <= MOST_BYTES:
        riff = b"RIFX" if form == b"RIFX" else b"RIFF"
        body = b"WAVE" + described + b"data" + struct.pack(order + "I", length)
        return riff + struct.pack(order + "I", len(body) + length) + body
    block = max(1, struct.unpack_from("<H", format_chunk, 12)[0])
    sizes = struct.pack("<IQQQI", 28, 4 + 36 + len(described) + 8 + length, length, length // block, 0)
    return b"RF64" + b"\xff" * 4 + b"WAVE" + b"ds64" + sizes + described + b"data" + b"\xff" * 4
