"""Tables of Arrow: Parquet files, and data sets of the `datasets` library, saved on disk or streamed from the Hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_sqa.data.schema import undecoded
from hf_sqa.row_tables import import_parquet
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.remote import is_remote, open_remote
from hf_sqa.scoring.sources.columns import Columns
from hf_sqa.scoring.sources.names import shown
from hf_sqa.scoring.sources.source import FileSource, Source, Wanted, everything

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


class SavedDataset(Source):
    """A folder that `Dataset.save_to_disk` wrote."""

    def __init__(self, name: str, columns: Columns, split: str | None):
        import datasets

        loaded = datasets.load_from_disk(name)
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise ValueError(f"Expected --split to be one of {', '.join(loaded)} for {name!r}, got {split!r}.")
            loaded = loaded[split]
        self.name, self._dataset, self._columns, self.total = name, loaded, columns, len(loaded)

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        import pyarrow

        dataset = undecoded(self._dataset)
        audio = self._columns.check_header(dataset.column_names, self.name)
        for start in range(0, len(dataset), ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, len(dataset))
            needed = any(map(wanted, range(start, stop)))
            table = dataset.with_format("arrow")[start:stop]
            if not needed and pyarrow.types.is_struct(table.schema.field(audio).type):
                paths = pyarrow.StructArray.from_arrays([table.column(audio).combine_chunks().field("path")], names=["path"])
                table = table.set_column(table.schema.get_field_index(audio), audio, paths)
            for offset, record in enumerate(table.to_pylist()):
                yield self._columns.item(start + offset, record, f"row {start + offset}", None, audio, unread=not needed)


class HubDataset(Source):
    """A data set on the Hub, or a local folder that `load_dataset` reads; streamed."""

    def __init__(self, name: str, columns: Columns, split: str):
        import datasets

        repository = name.removeprefix("hub:")
        parts = repository.split("/")
        configuration = None
        if not Path(repository).exists() and len(parts) == 3:
            repository, configuration = "/".join(parts[:2]), parts[2]
        self._dataset = datasets.load_dataset(repository, configuration, split=split, streaming=True)
        info = getattr(self._dataset, "info", None)
        if info is not None and info.splits and split in info.splits:
            self.total = info.splits[split].num_examples or None
        self.name, self._columns = name, columns

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        dataset = undecoded(self._dataset)
        audio = self._columns.check_header(dataset.column_names, self.name) if dataset.column_names else None
        for position, record in enumerate(dataset):
            yield self._columns.item(position, record, f"row {position}", None, audio)


def _columns_of(schema: Any, audio: str, with_bytes: bool) -> list[str]:
    """Return the columns to read: the recordings, or only their paths, and all others that hold no bytes."""
    from pyarrow import types

    chosen = []
    for field in schema:
        parts = {part.name for part in field.type} if types.is_struct(field.type) else None
        is_bytes = types.is_binary(field.type) or types.is_large_binary(field.type)
        if field.name != audio:
            chosen += [] if is_bytes or "bytes" in (parts or ()) else [field.name]
        elif with_bytes or not (is_bytes or parts is not None):
            chosen.append(field.name)
        elif "path" in (parts or ()):
            chosen.append(f"{field.name}.path")
    return chosen
