"""Manifests of JSON lines, tables, and lists of paths."""

import io
from collections.abc import Iterator

from hf_sqa.data.tables import MAX_LINE, Record, bounded_lines, parse_json, read_delimited, read_sheet, text_lines
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.sources.names import path_of, printable, printable_text, shown
from hf_sqa.scoring.sources.source import FileSource, Wanted, open_binary


class Manifests(FileSource):
    """JSON lines: NeMo (`audio_filepath`, `offset`, `duration`), Lhotse cuts and recordings, URGENT, or any usual column."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        position = first
        with open_binary(file) as lines:
            for number, line in enumerate(bounded_lines(lines), 1):
                if line.strip():
                    is_long = len(line) >= MAX_LINE
                    record = ValueError(f"it is longer than {MAX_LINE:,} bytes") if is_long else parse_json(line)
                    yield self._columns.item_of_text(position, record, f"{shown(file)}:{number}", file)
                    position += 1

    def _count(self, file: str) -> int:
        with open_binary(file) as lines:
            return sum(1 for line in bounded_lines(lines) if line.strip())


class Tables(FileSource):
    """CSV, TSV and Excel tables with a header."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        for offset, (record, line) in enumerate(self._records(file)):
            yield self._columns.item_of_text(first + offset, record, f"{shown(file)}:{line}", file)

    def _count(self, file: str) -> int:
        return sum(1 for _ in self._records(file))

    def _records(self, file: str) -> Iterator[Record]:
        with open_binary(file) as binary:
            if path_of(file).lower().endswith(".xlsx"):
                # Two readers go through the file, and a remote one may not be seekable.
                header, records = read_sheet(io.BytesIO(binary.read()), shown(file))
            else:
                header, records = read_delimited(binary, shown(file))
            self._columns.check_header(header, file)
            yield from records


class Lists(FileSource):
    """Lists with one path or URL per line; `#` begins a comment."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        for offset, path in enumerate(self._paths(file)):
            audio = self._columns.located(path, file)
            yield Item(first + offset, printable_text(path), printable(audio), audio)

    def _count(self, file: str) -> int:
        return sum(1 for _ in self._paths(file))

    def _paths(self, file: str) -> Iterator[str]:
        with open_binary(file) as binary:
            for line in text_lines(binary):
                if (path := line.strip()) and not path.startswith("#"):
                    yield path
