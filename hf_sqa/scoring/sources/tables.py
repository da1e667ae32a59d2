"""CSV and TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from hf_sqa.scoring.items import Item
from hf_sqa.scoring.sources.names import shown
from hf_sqa.scoring.sources.source import FileSource, Wanted, open_binary


class Tables(FileSource):
    """CSV and TSV with a header."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        base = shown(file)
        for offset, (record, line) in enumerate(self._records(file)):
            item = self._columns.item(first + offset, record, f"{base}:{line}", file)
            item.record = record if isinstance(record, dict) else None
            yield item

    def _count(self, file: str) -> int:
        return sum(1 for _ in self._records(file))

    def _records(self, file: str) -> Iterator[tuple[dict[str, str] | ValueError, int]]:
        """Every row as a dict, or what is wrong with it, and its line."""
        with open_binary(file) as raw:
            # A byte that is not UTF-8 spoils its own cell, and the row says so.
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            start = text.readline()
            delimiter = max(",;\t|", key=start.count)
            header = next(csv.reader([start], delimiter=delimiter), [])
            self._columns.check_header(header, file)
            reader = csv.reader(_without_nul(text), delimiter=delimiter)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield ValueError(str(error)), reader.line_num + 1
                    continue
                if not cells:
                    continue
                if len(cells) == len(header):
                    yield dict(zip(header, cells, strict=True)), reader.line_num + 1
                    continue
                message = f"expected {len(header)} cells, got {len(cells)}; quote cells that hold a {delimiter!r}"
                yield ValueError(message), reader.line_num + 1


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    """`csv` before Python 3.12 stops at a NUL."""
    for line in lines:
        yield line.replace("\0", "\N{REPLACEMENT CHARACTER}")
