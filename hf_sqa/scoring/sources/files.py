"""Recordings by path or URL."""

from __future__ import annotations

from collections.abc import Iterator

from hf_sqa.scoring.items import Item
from hf_sqa.scoring.sources.names import printable
from hf_sqa.scoring.sources.source import Source, Wanted, everything


class AudioFiles(Source):
    """Recordings by path or URL."""

    def __init__(self, name: str, paths: list[str]):
        self.name, self._paths, self.total = name, paths, len(paths)

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        for position, path in enumerate(self._paths):
            yield Item(position, printable(path), printable(path), path)
