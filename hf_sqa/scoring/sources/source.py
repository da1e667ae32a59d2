"""Base classes of sources: lists of recordings in a fixed order."""

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_sqa.scoring.items import Item
from hf_sqa.scoring.remote import is_remote, naming_failures, open_remote
from hf_sqa.scoring.sources.columns import Columns
from hf_sqa.scoring.sources.names import path_of, printable

#: Whether the audio of a row is needed, given the row's number.
Wanted = Callable[[int], bool]


def everything(position: int) -> bool:
    """Ask for the audio of every row."""
    return True


class Source:
    """A list of recordings in a fixed order. A row that cannot be read becomes an item with the reason; no row is left out.

    Attributes:
        name (`str`): The name that the user gave.
        total (`int`, *optional*): Number of rows, if known without reading them.
        reading (`dict`): The options that the source was opened with.
    """

    name: str
    total: int | None = None
    reading: Mapping[str, str] = {}

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        """Yield every row in order; rows whose number is not `wanted` may come without audio, to save reading it."""
        raise NotImplementedError


class AudioFiles(Source):
    """Recordings by path or URL."""

    def __init__(self, name: str, paths: list[str]):
        self.name, self._paths, self.total = name, paths, len(paths)

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        for position, path in enumerate(self._paths):
            yield Item(position, printable(path), printable(path), path)


class FileSource(Source):
    """Rows inside files, one file after the other."""

    def __init__(self, name: str, files: list[str], columns: Columns):
        self.name, self.files, self._columns = name, files, columns
        counts = [None if is_remote(file) or file.lower().endswith(".gz") else self._count(file) for file in files]
        self.total = sum(count for count in counts if count is not None) if None not in counts else None

    def _count(self, file: str) -> int | None:
        """Return the number of rows of a local file if counting is quick and exact; else `None`."""
        return None

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        position = 0
        for file in self.files:
            with naming_failures(file) if is_remote(file) else _naming_damage(file):
                for item in self._items_of(file, position, wanted):
                    yield item
                    position += 1

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        raise NotImplementedError


def open_binary(file: str, raw: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Open a file or URL, decompressed unless `raw`."""
    opened = open_remote(file) if is_remote(file) else Path(file).open("rb")  # noqa: SIM115  # the caller closes it
    if not raw and path_of(file).lower().endswith(".gz"):
        return gzip.open(opened, "rb")
    return opened


@contextlib.contextmanager
def _naming_damage(file: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{file!r} cannot be read to its end ({error}); copy or compress it again.") from error
