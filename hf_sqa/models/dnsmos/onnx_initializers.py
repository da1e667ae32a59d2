"""Read the tensors of an ONNX file without a package for it: only the part of the format that weights need.

An ONNX file is a message of protocol buffers: fields, each with a number and a value that is a whole number, 4 or 8 bytes, or a
stretch of bytes, often a message again. Nothing in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

#: Field numbers in onnx.proto: of the graph in a model, of tensors in a graph, of what a tensor is made of.
GRAPH, INITIALIZER = 7, 5
DIMS, DATA_TYPE, FLOAT_DATA, NAME, RAW_DATA = 1, 2, 4, 8, 9
FLOAT32 = 1
NUMBER = re.compile(rb"[\x80-\xff]{0,9}[\x00-\x7f]")


def read_initializers(path: str | Path) -> dict[str, np.ndarray]:
    """Return the float32 tensors in the graph of an ONNX file, by name; others are left out.

    Raises:
        ValueError: If it is not an ONNX file, or is damaged.
    """
    try:
        tensors: dict[str, np.ndarray] = {}
        for field, model_part in _fields(Path(path).read_bytes()):
            for kind, graph_part in _fields(_bytes(model_part)) if field == GRAPH else ():
                if kind == INITIALIZER:
                    name, tensor = _tensor(_bytes(graph_part))
                    if tensor is not None:
                        tensors[name] = tensor
    except (IndexError, ValueError) as error:
        raise ValueError(f"Expected an ONNX file at {str(path)!r}, got another or a damaged one ({error}).") from None
    if not tensors:
        raise ValueError(f"Expected an ONNX file with weights at {str(path)!r}, found none in it.")
    return tensors


def _tensor(content: bytes) -> tuple[str, np.ndarray | None]:
    """Return name and values of a tensor; no values if they are not in float32."""
    dims: list[int] = []
    name, data_type, values = "", 0, b""
    for field, value in _fields(content):
        if field == DIMS:  # single values, or packed
            dims += [value] if isinstance(value, int) else [_value(digits) for digits in NUMBER.finditer(value)]
        elif field == DATA_TYPE and isinstance(value, int):
            data_type = value
        elif field == NAME:
            name = _bytes(value).decode()
        elif field in (FLOAT_DATA, RAW_DATA):
            values += _bytes(value)
    if data_type != FLOAT32:
        return name, None
    return name, np.frombuffer(values, "<f4").reshape(dims)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of every field of a message."""
    position = 0
    while position < len(content):
        key, position = _number(content, position)
        kind = key & 7
        if kind == 0:
            value, position = _number(content, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _number(content, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if position + length > len(content):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, content[position : position + length]
        position += length


def _number(content: bytes, position: int) -> tuple[int, int]:
    """Return a whole number and the position after it; it has seven bits in a byte, and its last byte is below 128."""
    digits = NUMBER.match(content, position)
    if digits is None:
        raise ValueError("a number that is cut short, or has more than 64 bits")
    return _value(digits), digits.end()


def _value(digits: re.Match[bytes]) -> int:
    return sum((byte & 127) << 7 * place for place, byte in enumerate(digits[0]))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value
