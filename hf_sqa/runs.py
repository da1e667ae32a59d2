"""Files that appear whole or not at all: readers see the old content or the new, and a killed writer leaves neither torn."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, sole_writer: bool = False) -> Iterator[Path]:
    """Gives a temporary name beside a file; what is written there takes its place when the block ends without an error.

    Args:
        path (`Path`): The file. Its folder exists.
        sole_writer (`bool`, *optional*, defaults to `False`): Nobody else writes this file now: what a killed writer left under the
            temporary name is overwritten. Otherwise every writer has a name of its own.

    Raises:
        OSError: If it cannot be put in its place.
    """
    unfinished = path.with_name(f".{path.name}-{'part' if sole_writer else uuid.uuid4().hex[:8]}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str, sole_writer: bool = False) -> None:
    """Write UTF-8 text; see [`whole_file`]."""
    with whole_file(path, sole_writer) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
