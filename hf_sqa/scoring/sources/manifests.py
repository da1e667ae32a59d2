"""Manifests of JSON lines, and lists of paths."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hf_sqa.scoring.items import Item
from hf_sqa.scoring.sources.names import printable, printable_text, shown
from hf_sqa.scoring.sources.source import FileSource, Wanted, open_binary


class Manifests(FileSource):
    """JSON lines: NeMo (`audio_filepath`, `offset`, `duration`), Lhotse cuts and recordings, URGENT, or any with a usual name."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        position = first
        with open_binary(file) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{shown(file)}:{number}"
                try:
                    record = json.loads(line.decode("utf-8-sig"))
                except ValueError as error:
                    record = error
                item = self._columns.item(position, record, where, file)
                item.record = record if isinstance(record, dict) else None
                yield item
                position += 1

    def _count(self, file: str) -> int:
        with open_binary(file) as lines:
            return sum(1 for line in lines if line.strip())


class Lists(FileSource):
    """A path or URL a line; `#` begins a comment."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        position = first
        with open_binary(file) as lines:
            for line in lines:
                path = line.strip().decode("utf-8", "surrogateescape")
                if not path or path.startswith("#"):
                    continue
                audio = self._columns.located(path, file)
                yield Item(position, printable_text(path), printable(audio), audio)
                position += 1

    def _count(self, file: str) -> int:
        with open_binary(file) as lines:
            return sum(1 for line in lines if line.strip() and not line.strip().startswith(b"#"))
