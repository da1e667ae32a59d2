"""What the header of an audio file promises, against what the file holds; libsndfile does not tell.

A promise is a number of bytes of samples and where they start. Formats and writers that state none are fine.
"""

from __future__ import annotations

import io
import struct

#: Programs that write to a pipe put a size near 2 or 4 GiB, or zero, where they cannot know it.
UNKNOWN_SIZE = 0x7FFF0000
UNKNOWN_LONG_SIZE = 1 << 62
#: Encoders disagree on whether the length in an MP3 counts the frame that states it; no frame is longer.
LONGEST_MP3_FRAME = 1441
LONGEST_OGG_PAGE = 65_307

Promise = tuple[int, int]


def missing_bytes(file: io.BufferedIOBase | io.RawIOBase, size: int) -> tuple[int, int] | None:
    """Compare what a header promises with what is there.

    Args:
        file: Binary file, positioned anywhere.
        size (`int`): Its length in bytes.

    Returns:
        `(bytes promised, bytes present)` of the samples that are cut short; `None` if nothing is missing, if the header leaves the
        length open, or if the format states none.
    """
    file.seek(0)
    magic = file.read(4)
    reader = _READERS.get(magic) or (_promised_by_mp3 if magic[:3] == b"ID3" or magic[:1] == b"\xff" else None)
    if reader is None:
        return None
    try:
        promise = reader(file, size)
    except (struct.error, ValueError, IndexError):  # the header itself is cut or nonsense: libsndfile will say so
        return None
    if promise is None:
        return None
    start, promised = promise
    present = max(0, size - start)
    return (promised, present) if promised > present else None


def is_unclosed_wav(file: io.BufferedIOBase | io.RawIOBase, size: int) -> bool:
    """Whether a WAV states zero bytes of samples and goes on for longer than it states: its writer never returned to the header."""
    file.seek(0)
    header = file.read(8)
    if len(header) < 8 or header[:4] != b"RIFF":
        return False
    stated = struct.unpack("<I", header[4:])[0]
    if 0 < stated < UNKNOWN_SIZE and stated + 8 >= size:
        return False
    data = _find_chunk(file, "<", {b"data"})
    return data is not None and data[1] == 0 and data[0] < size


class UnclosedWav(io.RawIOBase):
    """The same file, with the size in its header for which libsndfile takes the number of samples from the length of the file."""

    _RIFF_SIZE = {4: 8, 5: 0, 6: 0, 7: 0}

    def __init__(self, file: io.BufferedIOBase):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        position = self._file.tell()
        content = bytearray(self._file.read(len(buffer)))
        for place, byte in self._RIFF_SIZE.items():
            if position <= place < position + len(content):
                content[place - position] = byte
        buffer[: len(content)] = bytes(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _find_chunk(file: io.BufferedIOBase | io.RawIOBase, order: str, names: set[bytes]) -> tuple[int, int] | None:
    """Where the content of the first chunk of that name starts, and its stated length."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        length = struct.unpack(order + "I", header[4:])[0]
        if header[:4] in names:
            return file.tell(), length
        file.seek(length + length % 2, io.SEEK_CUR)
    return None


def _promised_by_riff(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    return _known(_find_chunk(file, "<", {b"data"}))


def _promised_by_iff(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    return _known(_find_chunk(file, ">", {b"data", b"SSND", b"BODY"}))


def _promised_by_rf64(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    data, sizes = _find_chunk(file, "<", {b"data"}), _find_chunk(file, "<", {b"ds64"})
    if data is None or sizes is None:
        return _known(data)
    file.seek(sizes[0])
    length = struct.unpack("<8xQ", file.read(16))[0]
    return (data[0], length) if 0 < length < UNKNOWN_LONG_SIZE else _known(data)


def _promised_by_w64(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    file.seek(40)  # the GUID and length of the file, and the GUID of its content
    while len(header := file.read(24)) == 24:
        length = struct.unpack("<16xQ", header)[0]  # with this header
        if header[:4] == b"data":
            return (file.tell(), length - 24) if 24 < length < UNKNOWN_LONG_SIZE else None
        if not 24 <= length <= size:
            return None
        file.seek(-(-length // 8) * 8 - 24, io.SEEK_CUR)
    return None


def _promised_by_caf(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    file.seek(8)
    while len(header := file.read(12)) == 12:
        length = struct.unpack(">4xq", header)[0]  # -1 where it is not known
        if header[:4] == b"data":
            return (file.tell(), length) if length > 0 else None
        if not 0 <= length <= size:
            return None
        file.seek(length, io.SEEK_CUR)
    return None


def _promised_by_au(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    file.seek(0)
    order = ">" if file.read(4) == b".snd" else "<"
    return _known(struct.unpack(order + "II", file.read(8)))


def _promised_by_sphere(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    file.seek(0)
    header = file.read(1024).split(b"end_head")[0].decode("ascii", "replace").splitlines()
    start = int(header[1])
    fields = {parts[0]: parts[2] for line in header[2:] if len(parts := line.split(None, 2)) == 3}
    if not {"sample_count", "sample_n_bytes"} <= set(fields) or "," in fields.get("sample_coding", ""):  # "pcm,embedded-shorten"
        return None
    return start, int(fields["sample_count"]) * int(fields["sample_n_bytes"]) * int(fields.get("channel_count", "1"))


def _promised_by_ogg(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    """The promise of the last page alone: Ogg states no length."""
    tail_start = max(0, size - 2 * LONGEST_OGG_PAGE)
    file.seek(tail_start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return None
    if page + 27 > len(tail):
        return tail_start + page, 27
    num_segments = tail[page + 26]
    return tail_start + page, 27 + num_segments + sum(tail[page + 27 : page + 27 + num_segments])


def _promised_by_mp3(file: io.BufferedIOBase | io.RawIOBase, size: int) -> Promise | None:
    """The promise of a Xing, Info or VBRI header, in the first frame; MP3s without one state no length."""
    file.seek(0)
    tag, start = file.read(10), 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    file.seek(start)
    frame = file.read(LONGEST_MP3_FRAME)
    for name in (b"Xing", b"Info"):
        if (place := frame.find(name, 0, 200)) > 0:
            flags, *fields = struct.unpack(">3I", frame[place + 4 : place + 16])
            if not flags & 2:
                return None
            return start, fields[flags & 1] - LONGEST_MP3_FRAME
    if (place := frame.find(b"VBRI", 0, 200)) > 0:
        return start, struct.unpack(">10xI", frame[place : place + 14])[0] - LONGEST_MP3_FRAME
    return None


def _known(data: Promise | None) -> Promise | None:
    return data if data is not None and 0 < data[1] < UNKNOWN_SIZE else None


_READERS = {
    b"RIFF": _promised_by_riff,
    b"RIFX": _promised_by_iff,
    b"FORM": _promised_by_iff,
    b"RF64": _promised_by_rf64,
    b"riff": _promised_by_w64,
    b"caff": _promised_by_caf,
    b".snd": _promised_by_au,
    b"dns.": _promised_by_au,
    b"NIST": _promised_by_sphere,
    b"OggS": _promised_by_ogg,
}
