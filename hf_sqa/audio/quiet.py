"""Keeps remarks of libmpg123, inside libsndfile, off the terminal: a row or an error says what matters."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

#: What it writes. Anything else that comes meanwhile, of another thread, is passed on.
ITS_LINES = re.compile(rb"(\[src/libmpg123/|Note: |Warning: |.*libmpg123|\s*$)")
STANDARD_ERROR = 2

_turn = threading.Lock()


def _scratch_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("messages"), "r+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


@contextlib.contextmanager
def without_decoder_messages() -> Iterator[None]:
    """Context in which lines of libmpg123 on standard error are left out."""
    with _turn:
        try:
            kept = os.dup(STANDARD_ERROR)
        except OSError:  # it is closed: nothing can be written there
            yield
            return
        with _scratch_file() as written:
            os.dup2(written.fileno(), STANDARD_ERROR)
            try:
                yield
            finally:
                os.dup2(kept, STANDARD_ERROR)
                os.close(kept)
                written.seek(0)
                for line in written:
                    if not ITS_LINES.match(line):
                        os.write(STANDARD_ERROR, line)
