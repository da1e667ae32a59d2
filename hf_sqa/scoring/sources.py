"""Where recordings come from: folders, globs, manifests, tables, tars, data sets, on a disk or behind a URL, as one iterator.

Every source yields [`Item`]s in an order that is the same each time. A row that cannot be understood is an item with its reason:
nothing is dropped, and what follows keeps its number.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import io
import json
import math
import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_sqa.audio import AUDIO_SUFFIXES
from hf_sqa.data.corpora.own_table import USUAL_NAMES
from hf_sqa.scoring.items import Excerpt, Item, Refusal, TarMember
from hf_sqa.scoring.remote import is_remote, join_remote, list_remote, naming_failures, open_remote
from hf_sqa.scoring.shards import need_pyarrow

MANIFEST_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
LIST_SUFFIXES = (".txt", ".lst")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)
#: Usual names of the column that holds a recording, and of the one that names it; the most telling first.
AUDIO_COLUMNS = ("audio_filepath", *USUAL_NAMES["audio"], "url", "flac", "mp3", "opus")
KEY_COLUMNS = ("key", "__key__", "utterance_id", "utt_id", "utteranceId", "sample_id", "uid", "id")
#: Rows of Parquet and Arrow held at a time: their cells may hold audio.
ROWS_AT_A_TIME = 32

Wanted = Callable[[int], bool]


def everything(position: int) -> bool:
    """Wants every row."""
    return True


class Source:
    """A list of recordings in a fixed order.

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


def open_source(
    name: str | os.PathLike,
    *,
    audio_column: str | None = None,
    key_column: str | None = None,
    root: str | None = None,
    split: str | None = None,
) -> Source:
    """Open a corpus.

    Args:
        name (`str`): A folder of recordings, tars, Parquet files or a saved `datasets` folder; a glob of files; a manifest
            (`.jsonl`, also gzipped), a table (`.csv`, `.tsv`), a list of paths (`.txt`), `.parquet`, `.tar`; `hub:<repository>` or
            `hub:<repository>/<configuration>` for a data set of the Hub, streamed. Files may lie behind any URL that fsspec
            knows; `{00..99}` in a name stands for the numbers between.
        audio_column (`str`, *optional*): Column of recordings; found by its usual name if not given.
        key_column (`str`, *optional*): Column of keys; found by its usual name, else the recording's name, if not given.
        root (`str`, *optional*): Folder that relative paths of a manifest begin in; the manifest's own if not given.
        split (`str`, *optional*): Split of a `datasets` source; `"train"` of the Hub if not given.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If it is of no kind that can be read.
    """
    columns = _Columns(audio_column, key_column, root)
    source = _open(os.fspath(name), columns, split)
    options = {"audio_column": audio_column, "key_column": key_column, "root": root, "split": split}
    source.reading = {option: value for option, value in options.items() if value is not None}
    return source


def _open(name: str, columns: _Columns, split: str | None) -> Source:
    if name.startswith("hub:"):
        return HubDataset(name, columns, split or "train")
    names = _expanded(name)
    if len(names) == 1 and not is_remote(name) and Path(name).is_dir():
        return _open_folder(Path(name), columns, split)
    if names and is_remote(name) and name.endswith("/"):
        return _open_kind(name, names, columns)
    if not names:
        raise FileNotFoundError(f"Expected recordings or a list of them, but no file matches {name!r}.")
    for one in names:
        if not is_remote(one) and not Path(one).exists():
            raise FileNotFoundError(f"Expected recordings or a list of them, but there is no file {one!r}.")
    return _open_files(name, names, columns)


def _open_folder(folder: Path, columns: _Columns, split: str | None) -> Source:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return SavedDataset(str(folder), columns, split)
    return _open_kind(str(folder), [str(path) for path in sorted(folder.rglob("*"))], columns)


def _open_kind(folder: str, paths: list[str], columns: _Columns) -> Source:
    """Whatever a folder holds of what is read: recordings, tars or Parquet files."""
    found: dict[str, list[str]] = {"audio": [], "tar": [], "parquet": []}
    for path in paths:
        lower = path.lower()
        kind = "tar" if lower.endswith(TAR_SUFFIXES) else "parquet" if lower.endswith(PARQUET_SUFFIXES) else "audio"
        if (kind != "audio" or Path(lower).suffix in AUDIO_SUFFIXES) and (is_remote(path) or Path(path).is_file()):
            found[kind].append(path)
    kinds = [kind for kind, paths in found.items() if paths]
    if not kinds:
        raise FileNotFoundError(
            f"Expected recordings, tars or Parquet files in the folder {folder!r} or below it, but there are none."
        )
    if len(kinds) > 1:
        counts = ", ".join(f"{len(found[kind])} {kind}" for kind in kinds)
        raise ValueError(f"Expected one kind of files in {folder!r}, got {counts}; name one kind with a glob.")
    return _open_files(folder, found[kinds[0]], columns)


def _open_files(name: str, names: list[str], columns: _Columns) -> Source:
    kinds: dict[str, type[_FileSource]] = {}
    for suffixes, kind in (
        (MANIFEST_SUFFIXES, Manifests),
        (TABLE_SUFFIXES, Tables),
        (LIST_SUFFIXES, Lists),
        (TAR_SUFFIXES, Tars),
        (PARQUET_SUFFIXES, ParquetFiles),
    ):
        kinds |= dict.fromkeys(suffixes, kind)
    found = {
        next((kinds[suffix] for suffix in sorted(kinds, key=len, reverse=True) if _path_of(one).lower().endswith(suffix)), None)
        for one in names
    }
    if len(found) > 1:
        raise ValueError(f"Expected files of one kind behind {name!r}, got several; name one kind with a glob.")
    (kind_found,) = found
    if kind_found is not None:
        return kind_found(name, names, columns)
    unknown = [one for one in names if Path(_path_of(one)).suffix.lower() not in AUDIO_SUFFIXES]
    if unknown and len(names) == 1:
        known = ", ".join((*MANIFEST_SUFFIXES[:1], *TABLE_SUFFIXES[:2], *LIST_SUFFIXES[:1], ".parquet", ".tar"))
        hint = "; a folder behind a URL is written with / at its end" if is_remote(name) else ""
        raise ValueError(f"Expected a folder, a recording, or a list ending in {known}, got {name!r}{hint}.")
    return AudioFiles(name, names)


class AudioFiles(Source):
    """Recordings by path or URL."""

    def __init__(self, name: str, paths: list[str]):
        self.name, self._paths, self.total = name, paths, len(paths)

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        for position, path in enumerate(self._paths):
            yield Item(position, printable(path), printable(path), path)


class _FileSource(Source):
    """Rows inside files, file after file."""

    def __init__(self, name: str, files: list[str], columns: _Columns):
        self.name, self.files, self._columns = name, files, columns
        counts = [None if is_remote(file) or file.lower().endswith(".gz") else self._count(file) for file in files]
        self.total = sum(count for count in counts if count is not None) if None not in counts else None

    def _count(self, file: str) -> int | None:
        """Rows of a local file, where counting is quick and exact."""
        return None

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        position = 0
        for file in self.files:
            with naming_failures(file) if is_remote(file) else contextlib.nullcontext():
                for item in self._items_of(file, position, wanted):
                    yield item
                    position += 1

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        raise NotImplementedError


class Manifests(_FileSource):
    """JSON lines: NeMo (`audio_filepath`, `offset`, `duration`), Lhotse cuts and recordings, URGENT, or any with a usual name."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        position = first
        with _open_binary(file) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{_shown(file)}:{number}"
                try:
                    record = json.loads(line.decode("utf-8-sig"))
                except ValueError as error:
                    record = error
                item = self._columns.item(position, record, where, file)
                item.record = record if isinstance(record, dict) else None
                yield item
                position += 1

    def _count(self, file: str) -> int:
        with _open_binary(file) as lines:
            return sum(1 for line in lines if line.strip())


class Tables(_FileSource):
    """CSV and TSV with a header."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        base = _shown(file)
        for offset, (record, line) in enumerate(self._records(file)):
            item = self._columns.item(first + offset, record, f"{base}:{line}", file)
            item.record = record if isinstance(record, dict) else None
            yield item

    def _count(self, file: str) -> int:
        return sum(1 for _ in self._records(file))

    def _records(self, file: str) -> Iterator[tuple[dict[str, str] | ValueError, int]]:
        """Every row as a dict, or what is wrong with it, and its line."""
        with _open_binary(file) as raw:
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


class Lists(_FileSource):
    """A path or URL a line; `#` begins a comment."""

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        position = first
        with _open_binary(file) as lines:
            for line in lines:
                path = line.strip().decode("utf-8", "surrogateescape")
                if not path or path.startswith("#"):
                    continue
                audio = self._columns.located(path, file)
                yield Item(position, printable_text(path), printable(audio), audio)
                position += 1

    def _count(self, file: str) -> int:
        with _open_binary(file) as lines:
            return sum(1 for line in lines if line.strip() and not line.strip().startswith(b"#"))


class Tars(_FileSource):
    """WebDataset tars: files that share a name up to the first dot belong together; a `.json` beside the audio gives columns.

    Members of a local uncompressed tar are read where they are decoded. Others are read in one pass and held in memory one by one.
    """

    def _items_of(self, file: str, first: int, wanted: Wanted) -> Iterator[Item]:
        local = not is_remote(file) and not file.lower().endswith((".gz", ".tgz"))
        position = first
        group: list[tuple[str, Any]] = []
        key = ""

        def needed() -> bool:
            """Whether the member at hand may be wanted; its number depends on how the group before it ends."""
            return any(wanted(position + ahead) for ahead in range(len(group) + 1))

        for name, content in self._members(file, local, needed):
            own_key = _tar_key(name)
            if group and own_key != key:
                for item in self._grouped(file, key, group, position):
                    yield item
                    position += 1
                group = []
            key = own_key
            group.append((name, content))
        for item in self._grouped(file, key, group, position):
            yield item
            position += 1

    def _members(self, file: str, local: bool, needed: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
        """Name and content of every member; the content is bytes, a place to read them from, or a refusal."""
        broken: str | None = None
        end = 0
        with contextlib.ExitStack() as stack:
            try:
                if local:
                    size = Path(file).stat().st_size
                    archive = stack.enter_context(tarfile.open(file, "r:"))
                else:
                    archive = stack.enter_context(
                        tarfile.open(fileobj=stack.enter_context(_open_binary(file, raw=True)), mode="r|*")
                    )
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                    if not member.isfile():
                        continue
                    end = member.offset_data + member.size
                    suffix = Path(member.name).suffix.lower()
                    if suffix not in AUDIO_SUFFIXES and suffix != ".json":
                        continue
                    if local and end > size:
                        broken = (
                            f"the archive ends after {size - member.offset_data:,} of the {member.size:,} bytes of this member; "
                            "copy the archive again"
                        )
                        yield member.name, Refusal("failed", "truncated", broken)
                        return
                    if local and suffix != ".json":
                        yield member.name, TarMember(file, member.offset_data, member.size, member.name)
                    else:
                        stream = archive.extractfile(member)
                        assert stream is not None
                        try:
                            content = stream.read() if suffix == ".json" or needed() else None
                        except (tarfile.TarError, OSError, EOFError) as error:
                            yield (
                                member.name,
                                Refusal("failed", "truncated", f"the archive breaks off here ({error}); copy it again"),
                            )
                            return
                        if content is not None and len(content) < member.size:
                            yield member.name, Refusal("failed", "truncated", "the archive ends inside this member; copy it again")
                            return
                        yield member.name, content
                if local and end < size and not _is_blank_from(file, end):
                    broken = "the archive goes on after its last readable member, with something that is not a member"
            except (tarfile.TarError, EOFError, OSError, gzip.BadGzipFile) as error:
                broken = f"the archive cannot be read further ({error})"
        if broken is not None:
            name = f"{_shown(file)}#rest"
            yield name, Refusal("failed", "truncated", f"{broken}; what follows is lost. Copy the archive again")

    def _grouped(self, file: str, key: str, group: list[tuple[str, Any]], first: int) -> Iterator[Item]:
        columns: dict[str, Any] = {}
        for name, content in group:
            if name.lower().endswith(".json") and isinstance(content, bytes):
                with contextlib.suppress(ValueError):
                    record = json.loads(content)
                    columns |= record if isinstance(record, dict) else {}
        audio = [(name, content) for name, content in group if not name.lower().endswith(".json")]
        for offset, (name, content) in enumerate(audio):
            shown = f"{printable(file)}#{printable(name)}"
            own_key = printable(key if len(audio) == 1 else name)
            if isinstance(content, Refusal):
                yield Item(first + offset, own_key, shown, None, dict(columns), content)
            else:
                yield Item(first + offset, own_key, shown, content, dict(columns))


class ParquetFiles(_FileSource):
    """Parquet whose audio column holds paths, bytes, or structs of both as `datasets` writes them."""

    def __init__(self, name: str, files: list[str], columns: _Columns):
        need_pyarrow()
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
                        where = f"{_shown(file)}:{position - first}"
                        yield self._columns.item(position, record, where, file, audio, unread=not needed)
                        position += 1


class SavedDataset(Source):
    """A folder that `Dataset.save_to_disk` wrote."""

    def __init__(self, name: str, columns: _Columns, split: str | None):
        import datasets

        loaded = datasets.load_from_disk(name)
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise ValueError(f"Expected --split to be one of {', '.join(loaded)} for {name!r}, got {split!r}.")
            loaded = loaded[split]
        self.name, self._dataset, self._columns, self.total = name, loaded, columns, len(loaded)

    def items(self, wanted: Wanted = everything) -> Iterator[Item]:
        dataset = _undecoded(self._dataset)
        audio = self._columns.check_header(dataset.column_names, self.name)
        for start in range(0, len(dataset), ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, len(dataset))
            needed = any(map(wanted, range(start, stop)))
            table = dataset.with_format("arrow")[start:stop]
            if not needed and _is_struct(table.schema.field(audio).type):
                table = table.set_column(
                    table.schema.get_field_index(audio), audio, _paths_only(table.column(audio).combine_chunks())
                )
            for offset, record in enumerate(table.to_pylist()):
                yield self._columns.item(start + offset, record, f"row {start + offset}", None, audio, unread=not needed)


class HubDataset(Source):
    """A data set of the Hub, or a local folder that `load_dataset` understands, streamed."""

    def __init__(self, name: str, columns: _Columns, split: str):
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
        dataset = _undecoded(self._dataset)
        audio = self._columns.check_header(dataset.column_names, self.name) if dataset.column_names else None
        for position, record in enumerate(dataset):
            yield self._columns.item(position, record, f"row {position}", None, audio)


class _Columns:
    """Finds the recording, its name and its excerpt in a record."""

    def __init__(self, audio: str | None, key: str | None, root: str | None):
        self._audio, self._key, self._root = audio, key, root

    def check_header(self, header: Iterable[str], source: str) -> str:
        """Column of the recordings among those of a table."""
        header = list(header)
        if self._key is not None and self._key not in header:
            raise ValueError(f"Expected a column {self._key!r} of keys in {source}, got the columns {', '.join(header)}.")
        if self._audio is not None:
            if self._audio not in header:
                raise ValueError(
                    f"Expected a column {self._audio!r} of recordings in {source}, got the columns {', '.join(header)}."
                )
            return self._audio
        found = next((name for name in AUDIO_COLUMNS if name in header), None)
        if found is None:
            raise ValueError(
                f"Expected a column of recordings in {source} under a usual name ({', '.join(AUDIO_COLUMNS[:8])}, ...), got the "
                f"columns {', '.join(header) or '(none)'}; name it with --audio-column."
            )
        return found

    def item(
        self,
        position: int,
        record: Any,
        where: str,
        file: str | None,
        audio_column: str | None = None,
        unread: bool = False,
    ) -> Item:
        """Make one item of a record: a dict, or the error that stands in its place. `unread`: its bytes were left out."""
        if isinstance(record, Exception):
            return _bad_row(position, where, f"this row cannot be read ({record}); repair it")
        if not isinstance(record, dict):
            return _bad_row(position, where, f"expected a JSON object, got {type(record).__name__}; repair the row")
        if audio_column is None and self._audio is None and ("recording" in record or record.get("type") == "MixedCut"):
            return self._lhotse_cut(position, record, where, file)
        if audio_column is None and self._audio is None and isinstance(record.get("sources"), list):
            return self._lhotse_cut(position, {"id": record.get("id"), "recording": record}, where, file)
        column = audio_column or self._audio or next((name for name in AUDIO_COLUMNS if record.get(name) not in (None, "")), None)
        if unread and column not in record:
            record = {**record, column: b""}
        if column is None or record.get(column) is None or record[column] == "":
            expected = repr(column) if column else f"one of {', '.join(AUDIO_COLUMNS[:4])}, ..."
            return _bad_row(
                position, where, f"expected a recording under {expected}, got the fields {', '.join(record) or '(none)'}"
            )
        columns = {name: value for name, value in record.items() if name != column}
        key_column = self._key or next((name for name in KEY_COLUMNS if record.get(name) not in (None, "")), None)
        key = record.get(key_column) if key_column else None
        try:
            item = self._located_item(position, key, record[column], columns, where, file)
        except (TypeError, ValueError) as error:
            return _bad_row(position, where, str(error))
        if unread:
            item.audio = None
        return item

    def _located_item(self, position: int, key: Any, cell: Any, columns: dict[str, Any], where: str, file: str | None) -> Item:
        if isinstance(cell, (bytes, bytearray, memoryview)):
            return Item(position, printable_text(str(key)) if key is not None else where, where, bytes(cell), columns)
        path = cell
        if isinstance(cell, Mapping):
            path = cell.get("path")
            if cell.get("bytes") is not None:
                name = printable_text(path) if path else where
                return Item(position, printable_text(str(key)) if key is not None else name, name, bytes(cell["bytes"]), columns)
            if path is None:
                return Item(position, printable_text(str(key)) if key is not None else where, where, None, columns)
        if not isinstance(path, str):
            raise TypeError(f"expected the recording as a path, a URL or bytes, got {type(path).__name__}")
        audio: Any = self.located(path, file)
        # Of a struct the path as it stands there, whether or not its bytes were read.
        name = printable_text(path) if isinstance(cell, Mapping) else printable(audio)
        shown = printable_text(path)
        if columns.get("offset") not in (None, ""):  # of NeMo
            start = _seconds(columns["offset"], "offset")
            duration = _seconds(columns["duration"], "duration") if columns.get("duration") not in (None, "") else None
            audio = Excerpt(audio, start, duration)
            name, shown = f"{name}{_stretch(start, duration)}", f"{shown}{_stretch(start, duration)}"
        return Item(position, printable_text(str(key)) if key is not None else shown, name, audio, columns)

    def _lhotse_cut(self, position: int, record: dict[str, Any], where: str, file: str | None) -> Item:
        key = printable_text(str(record.get("id") or where))
        recording = record.get("recording")
        if record.get("type") == "MixedCut" or not isinstance(recording, dict):
            return _bad_row(
                position, key, "expected a cut of one recording, got a mixture; save its audio first (`cut.save_audio`)"
            )
        if recording.get("transforms"):
            return _bad_row(position, key, "the recording is to be transformed before use; save its audio first (`cut.save_audio`)")
        sources = recording.get("sources") or []
        if len(sources) != 1 or sources[0].get("type") not in ("file", "url") or not isinstance(sources[0].get("source"), str):
            kinds = ", ".join(str(source.get("type")) for source in sources if isinstance(source, dict)) or "none"
            return _bad_row(position, key, f"expected one source of type file or url, got {kinds}")
        audio: Any = self.located(sources[0]["source"], file)
        name = printable(audio)
        channel = record.get("channel")
        if isinstance(channel, list):
            available = recording.get("channel_ids") or sources[0].get("channels")
            if channel != available and len(channel) != 1:
                return _bad_row(position, key, f"expected one channel or all of them, got {channel} of {available}")
            channel = channel[0] if len(channel) == 1 else None
        columns = {name: value for name, value in record.items() if name not in ("recording", "id")}
        columns |= _of_supervision(record.get("supervisions"))
        try:
            start = _seconds(record.get("start") or 0.0, "start")
            duration = None if record.get("duration") is None else _seconds(record["duration"], "duration")
        except (TypeError, ValueError) as error:
            return _bad_row(position, key, str(error))
        whole = start == 0 and (duration is None or duration == recording.get("duration")) and channel in (None, 0)
        if not whole or (channel == 0 and len(sources[0].get("channels") or [0]) > 1):
            audio = Excerpt(audio, start, duration, channel)
            name += _stretch(start, duration) + ("" if channel is None else f"@{channel}")
        return Item(position, key, name, audio, columns)

    def located(self, path: str, file: str | None) -> str:
        """A path of a manifest, from where the manifest lies, as the system writes it."""
        if is_remote(path):
            return path
        if not is_remote(self._root or file or ""):
            path = native(path)
        if os.path.isabs(path):
            return path
        if self._root is not None:
            return join_remote(self._root, path) if is_remote(self._root) else os.path.join(self._root, path)
        if file is None:
            return path
        if is_remote(file):
            return join_remote(posixpath.dirname(_path_of(file)), path)
        return os.path.join(os.path.dirname(file), path)


def _stretch(start: float, duration: float | None) -> str:
    return f"#{start:g}" + (f"+{duration:g}" if duration is not None else "")


def printable(name: str) -> str:
    """A name of a file, or a URL, that any file format can hold: bytes that are not UTF-8 are written as escapes."""
    try:
        return printable_text(name) if is_remote(name) else os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return printable_text(name)


def printable_text(text: str) -> str:
    """The same of a text of a manifest, which is UTF-8 whatever names of files are here."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON can spell it
        return text.encode("utf-8", "backslashreplace").decode()


def native(path: str) -> str:
    """A path of a manifest as files are named here: its bytes are UTF-8, whatever the locale says."""
    try:
        return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return path


def _shown(file: str) -> str:
    """A file of rows, for messages."""
    return printable(_path_of(file).rsplit("/", 1)[-1])


def _bad_row(position: int, where: str, reason: str) -> Item:
    return Item(position, where, "", None, {}, Refusal("failed", "bad_row", printable_text(reason)))


def _of_supervision(supervisions: Any) -> dict[str, Any]:
    first = supervisions[0] if isinstance(supervisions, list) and supervisions and isinstance(supervisions[0], dict) else {}
    return {name: first[name] for name in ("language", "speaker", "text") if first.get(name) is not None}


def _seconds(value: Any, name: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected {name!r} in seconds, got {value!r}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"expected {name!r} in seconds, zero or more, got {value!r}")
    return seconds


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    """`csv` before Python 3.12 stops at a NUL."""
    for line in lines:
        yield line.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _tar_key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    key = base.split(".", 1)[0] or base
    return f"{folder}/{key}" if folder else key


def _is_blank_from(file: str, offset: int) -> bool:
    """Whether nothing but zeros follows: the end of a tar, however it was padded."""
    with open(file, "rb") as raw:
        raw.seek(-(-offset // 512) * 512)
        while block := raw.read(1 << 20):
            if block.strip(b"\0"):
                return False
    return True


def _open_binary(file: str, raw: bool = False) -> contextlib.AbstractContextManager[Any]:
    opened = open_remote(file) if is_remote(file) else Path(file).open("rb")  # noqa: SIM115  # the caller closes it
    if not raw and _path_of(file).lower().endswith(".gz"):
        return gzip.open(opened, "rb")
    return opened


def _path_of(name: str) -> str:
    return name.split("?", 1)[0] if is_remote(name) else name


def _expanded(name: str) -> list[str]:
    """The files a name stands for: braces and globs."""
    names = list(_unbraced(name))
    found: list[str] = []
    for one in names:
        if is_remote(one):
            found += list_remote(one) if glob.has_magic(one) or one.endswith("/") else [one]
        elif not os.path.exists(one) and glob.has_magic(one):
            found += sorted(path for path in glob.glob(one, recursive=True) if not os.path.isdir(path))  # noqa: PTH207
        else:
            found.append(one)
    return found


def _unbraced(name: str) -> Iterator[str]:
    match = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if match is None or (not is_remote(name) and os.path.exists(name)):
        yield name
        return
    first, last = match[1], match[2]
    width = len(first) if first.startswith("0") else 0
    for number in range(int(first), int(last) + 1):
        yield from _unbraced(name[: match.start()] + f"{number:0{width}d}" + name[match.end() :])


def _is_struct(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _columns_of(schema: Any, audio: str, with_bytes: bool) -> list[str]:
    """Columns to read: the audio, and what is neither audio nor bytes."""
    chosen = []
    for field in schema:
        if field.name == audio:
            if with_bytes or not (_is_struct(field.type) or _is_bytes(field.type)):
                chosen.append(field.name)
            elif _is_struct(field.type) and field.type.get_field_index("path") >= 0:
                chosen.append(f"{field.name}.path")
        elif not _is_bytes(field.type) and not (_is_struct(field.type) and field.type.get_field_index("bytes") >= 0):
            chosen.append(field.name)
    return chosen


def _paths_only(column: Any) -> Any:
    import pyarrow

    return pyarrow.StructArray.from_arrays([column.field("path")], names=["path"])


def _undecoded(dataset: Any) -> Any:
    """The data set with its audio as bytes and paths: decoding is ours, and needs no torchcodec."""
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Audio):
            dataset = dataset.cast_column(name, datasets.Audio(decode=False))
    return dataset
