"""Formats whose header states how many bytes of samples follow, in one number or two."""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Callable
from typing import BinaryIO

from hf_sqa.audio.containers.part import SLOPPY_BYTES, DamagedError, check_size

#: Where the samples begin, and how many bytes of them there should be.
Promise = tuple[int, int]


def check_stated_size(file: BinaryIO, size: int) -> None:
    """Raise a [`DamagedError`] if a file is shorter than its header states; formats that state no size pass."""
    file.seek(0)
    magic = file.read(16)
    reader = next((reader for start, reader in READERS.items() if magic.startswith(start)), None)
    promise = reader(file, size) if reader is not None else None
    if promise is not None:
        # A CAF may hold packets of a lossless codec, each of which stands for thousands of samples.
        check_size(promise[1], size - promise[0], 0 if magic.startswith(b"caff") else SLOPPY_BYTES)


def _unpack(file: BinaryIO, position: int, layout: str) -> tuple:
    file.seek(position)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _chunk(
    file: BinaryIO, size: int, position: int, layout: str, wanted: tuple[bytes, ...], alignment: int = 1, counted: int = 0
) -> Promise | None:
    """Find the first chunk named in `wanted`, from `position` on; stated lengths include `counted` bytes of the chunk's header."""
    header = struct.calcsize(layout)
    while position + header <= size:
        name, length = _unpack(file, position, layout)
        if name in wanted:
            return position + header, length - counted
        if length < counted:
            return None
        position += header - counted + -(-length // alignment) * alignment
    return None


def _sphere(file: BinaryIO, size: int) -> Promise | None:
    file.seek(0)
    header = file.read(1024).split(b"end_head")[0].decode("ascii", "replace").splitlines()
    fields = {words[0]: words[2] for line in header[2:] if len(words := line.split(None, 2)) == 3}
    if not {"sample_count", "sample_n_bytes"} <= set(fields) or "," in fields.get("sample_coding", ""):  # "pcm,embedded-shorten"
        return None
    return int(header[1]), int(fields["sample_count"]) * int(fields["sample_n_bytes"]) * int(fields.get("channel_count", "1"))


def _voc(file: BinaryIO, size: int) -> Promise | None:
    """Blocks up to one of type 0; the last block that begins must be whole."""
    (position,) = _unpack(file, 20, "<H")
    while position + 4 <= size:
        kind, low, high = _unpack(file, position, "<BHB")
        length = low + (high << 16)
        if kind == 0:
            return None
        if position + 4 + length > size:
            return position + 4, length
        position += 4 + length
    return None


def _mat4(file: BinaryIO, size: int) -> Promise:
    """Two matrices: the rate, then the samples with one row per channel."""
    (first,) = _unpack(file, 0, "<I")
    order = "<" if first == 0 else ">"
    name_length = _unpack(file, 16, order + "I")[0]
    position = 20 + name_length + 8
    kind, rows, columns, _, name_length = _unpack(file, position, order + "5I")
    return position + 20 + name_length, rows * columns * (8, 4, 4, 2, 2, 1)[kind // 10 % 10]


def _mat5(file: BinaryIO, size: int) -> Promise:
    """Two matrices, each with its length."""
    order = "<" if _unpack(file, 126, "2s")[0] == b"IM" else ">"
    _, length = _unpack(file, 128, order + "II")
    position = 136 + length
    return position + 8, _unpack(file, position, order + "II")[1]


def _sds(file: BinaryIO, size: int) -> Promise:
    """A dump in packets of 127 bytes; numbers use seven bits of every byte. libsndfile only prints a line for a damaged packet."""
    bits, low, middle, high = _unpack(file, 6, "B3xBBB")
    num_packets = -(-(low + (middle << 7) + (high << 14)) // (120 // -(-bits // 7)))
    file.seek(21)
    for number in range(num_packets):
        packet = file.read(127)
        if len(packet) < 127:
            break
        if packet[:2] != b"\xf0\x7e" or functools.reduce(operator.xor, packet[1:125]) & 0x7F != packet[125]:
            raise DamagedError(f"packet {number + 1} of {num_packets} is damaged; copy or record it again")
    return 21, num_packets * 127


def _frames(file: BinaryIO, start: int, position: int, layout: str, frame_bytes: Callable[..., int]) -> Promise:
    """Samples begin at `start`; the header fields in `layout` say whether there are two channels, ..., and last the frames."""
    *facts, frames = _unpack(file, position, layout)
    return start, frames * frame_bytes(*facts)


READERS: dict[bytes, Callable[[BinaryIO, int], Promise | None]] = {
    # AIFF and the IFF of the Amiga
    b"FORM": lambda file, size: _chunk(file, size, 12, ">4sI", (b"SSND", b"BODY"), 2),
    # After the GUID and length of the file, and the GUID of its content
    b"riff": lambda file, size: _chunk(file, size, 40, "<4s12xQ", (b"data",), 8, 24),
    b"caff": lambda file, size: _chunk(file, size, 8, ">4sq", (b"data",)),  # -1 where the length is unknown
    b".snd": lambda file, size: _unpack(file, 4, ">II"),
    b"dns.": lambda file, size: _unpack(file, 4, "<II"),
    b"NIST": _sphere,
    b"Creative Voice": _voc,
    b"MATLAB 5": _mat5,
    b"\x00\x00\x00\x00\x01\x00\x00\x00\x01": _mat4,
    b"\x00\x00\x03\xe8\x00\x00\x00\x01": _mat4,
    b"2BIT": lambda file, size: _frames(file, 128, 12, ">HH10xI", lambda is_stereo, bits: (1 + bool(is_stereo)) * (bits // 8)),
    b"\x01\x04": lambda file, size: _frames(file, 42, 21, "<B8xI", lambda is_stereo: 2 * (1 + bool(is_stereo))),
    b"ALawSoundFile": lambda file, size: _frames(file, 32, 18, ">I", lambda: 1),
    b"\xf0\x7e": _sds,
}
