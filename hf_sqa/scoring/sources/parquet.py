"""Parquet files."""

import contextlib
from collections.abc import Iterator
from typing import Any

from hf_sqa.row_tables import import_parquet
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.remote import is_remote, open_remote
from hf_sqa.scoring.sources.columns import Columns
from hf_sqa.scoring.sources.names import shown
from hf_sqa.scoring.sources.source import FileSource, Wanted

#: Rows of Parquet and Arrow that are held at a time; few, because cells may hold audio.
ROWS_AT_A_TIME = 32


class ParquetFiles(FileSource):
    """Parquet files whose audio column holds paths, bytes, or structs of both as `datasets` writes them."""

    def __init__(self, name: str, files: list[str], columns: Columns):
        import_parquet("Reading Parquet")
        super().__init__(name, files, columns)

    def _count(self, file: str) -> int:
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(file).num_rows

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        import pyarrow.parquet

        with contextlib.ExitStack() as stack:
            opened: Any = stack.enter_context(open_remote(file)) if is_remote(file) else file
            parquet = stack.enter_context(pyarrow.parquet.ParquetFile(opened))
            schema = parquet.schema_arrow
            audio = self._columns.check_header(schema.names, file)
            position = first
            for group in range(parquet.num_row_groups):
                num_rows = parquet.metadata.row_group(group).num_rows
                needed = any(wanted(position + row) for row in range(num_rows))
                chosen = _columns_of(schema, audio, with_bytes=needed)
                for batch in parquet.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=chosen):
                    for record in batch.to_pylist():
                        where = f"{shown(file)}:{position - first}"
                        yield self._columns.item(position, record, where, file, audio, unread=not needed)
                        position += 1


def is_struct(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _columns_of(schema: Any, audio: str, with_bytes: bool) -> list[str]:
    chosen = []
    for field in schema:
        if field.name == audio:
            if with_bytes or not (is_struct(field.type) or _is_bytes(field.type)):
                chosen.append(field.name)
            elif is_struct(field.type) and field.type.get_field_index("path") >= 0:
                chosen.append(f"{field.name}.path")
        elif not _is_bytes(field.type) and not (is_struct(field.type) and field.type.get_field_index("bytes") >= 0):
            chosen.append(field.name)
    return chosen


def paths_only(column: Any) -> Any:
    import pyarrow

    return pyarrow.StructArray.from_arrays([column.field("path")], names=["path"])
