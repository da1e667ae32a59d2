"""Data sets of the `datasets` library: saved on disk, or streamed from the Hub."""

from collections.abc import Iterator
from pathlib import Path

from hf_sqa.data.schema import undecoded
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.sources.columns import Columns
from hf_sqa.scoring.sources.parquet import ROWS_AT_A_TIME, is_struct, paths_only
from hf_sqa.scoring.sources.source import Source, Wanted, everything


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
        dataset = undecoded(self._dataset)
        audio = self._columns.check_header(dataset.column_names, self.name)
        for start in range(0, len(dataset), ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, len(dataset))
            needed = any(map(wanted, range(start, stop)))
            table = dataset.with_format("arrow")[start:stop]
            if not needed and is_struct(table.schema.field(audio).type):
                table = table.set_column(
                    table.schema.get_field_index(audio), audio, paths_only(table.column(audio).combine_chunks())
                )
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
