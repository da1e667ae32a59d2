"""What every source is: a list of recordings in a fixed order."""

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

#: Says of the number of a row whether its audio is needed.
Wanted = Callable[[int], bool]


def everything(position: int) -> bool:
    """Wants every row."""
    return True


def nothing(position: int) -> bool:
    """Wants no audio: what the rows are called is enough."""
    return False


class Source:
    """A list of recordings in a fixed order. A row that cannot be understood is an item with the reason; none is left out.

    Attributes:
        name (`str`): What the user called it.
        total (`int`, *optional*): How many rows it has, where that is known without reading them.
        reading (`dict`): The options it was opened with.
    """

    name: str
    total: int | None = None
    reading: Mapping[str, str] = {}

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        """Yield every row in order; rows whose number is not `wanted` may come without audio, which saves reading it."""
        raise NotImplementedError


class AudioFiles(Source):
    """Recordings by path or URL."""

    def __init__(self, name: str, paths: list[str]):
        self.name, self._paths, self.total = name, paths, len(paths)

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        for position, path in enumerate(self._paths):
            yield Item(position, printable(path), printable(path), path)


class FileSource(Source):
    """Rows inside files, file after file."""

    def __init__(self, name: str, files: list[str], columns: Columns):
        self.name, self.files, self._columns = name, files, columns
        counts = [None if is_remote(file) or file.lower().endswith(".gz") else self._count(file) for file in files]
        self.total = sum(count for count in counts if count is not None) if None not in counts else None

    def _count(self, file: str) -> int | None:
        """Rows of a local file, where counting is quick and exact."""
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
    """A file or URL, decompressed unless `raw`."""
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
