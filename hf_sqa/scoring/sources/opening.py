"""Opens the corpus that a user names: a folder, a glob, a list of any kind or a data set, on disk or behind a URL."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hf_sqa.folders import AUDIO_SUFFIXES, expand_pattern, find_recordings
from hf_sqa.scoring.remote import is_remote, list_remote
from hf_sqa.scoring.sources.arrow import HubDataset, ParquetFiles, SavedDataset
from hf_sqa.scoring.sources.columns import Columns
from hf_sqa.scoring.sources.manifests import Lists, Manifests, Tables
from hf_sqa.scoring.sources.names import path_of
from hf_sqa.scoring.sources.source import AudioFiles, FileSource, Source
from hf_sqa.scoring.sources.tars import Tars

MANIFEST_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".xlsx")
LIST_SUFFIXES = (".txt", ".lst")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)
#: Source class for each group of file suffixes.
KINDS: dict[tuple[str, ...], type[FileSource]] = {
    MANIFEST_SUFFIXES: Manifests,
    TABLE_SUFFIXES: Tables,
    LIST_SUFFIXES: Lists,
    TAR_SUFFIXES: Tars,
    PARQUET_SUFFIXES: ParquetFiles,
}


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
            (`.jsonl`, also gzipped), a table (`.csv`, `.tsv`, `.xlsx`), a list of paths (`.txt`), `.parquet`, `.tar`;
            `hub:<repository>` or `hub:<repository>/<configuration>` for a data set of the Hub, streamed. Files may lie behind any
            URL that fsspec knows; `{00..99}` in a name stands for the numbers from 00 to 99.
        audio_column (`str`, *optional*): Column of recordings; found by its usual name if not given.
        key_column (`str`, *optional*): Column of keys; found by its usual name, else the recording's name, if not given.
        root (`str`, *optional*): Folder in which relative paths of a manifest start; the manifest's own if not given.
        split (`str`, *optional*): Split of a `datasets` source; on the Hub `"train"` if not given.

    Raises:
        FileNotFoundError: If nothing of that name exists.
        ValueError: If this kind of source cannot be read.
    """
    columns = Columns(audio_column, key_column, root)
    source = _open(os.fspath(name), columns, split)
    options = {"audio_column": audio_column, "key_column": key_column, "root": root, "split": split}
    source.reading = {option: value for option, value in options.items() if value is not None}
    return source


def _open(name: str, columns: Columns, split: str | None) -> Source:
    if name.startswith("hub:"):
        return HubDataset(name, columns, split or "train")
    names = _expanded(name)
    if len(names) == 1 and not is_remote(name) and os.path.isdir(names[0]):
        if any(os.path.isfile(os.path.join(names[0], file)) for file in ("dataset_dict.json", "state.json")):
            return SavedDataset(names[0], columns, split)
        suffixes = (*AUDIO_SUFFIXES, *TAR_SUFFIXES, *PARQUET_SUFFIXES)
        return _open_folder(names[0], find_recordings(names[0], suffixes), columns)
    if names and is_remote(name) and name.endswith("/"):
        return _open_folder(name, names, columns)
    if not names:
        raise FileNotFoundError(f"Expected recordings or a list of them, but no file matches {name!r}.")
    for file in names:
        if not is_remote(file) and not os.path.exists(file):
            raise FileNotFoundError(f"Expected recordings or a list of them, but there is no file {file!r}.")
    return _open_files(name, names, columns)


def _open_folder(folder: str, paths: list[str], columns: Columns) -> Source:
    """Open the recordings, tars or Parquet files in a folder."""
    suffixes = {"audio": tuple(AUDIO_SUFFIXES), "tar": TAR_SUFFIXES, "parquet": PARQUET_SUFFIXES}
    found = {kind: [path for path in paths if path.lower().endswith(ends)] for kind, ends in suffixes.items()}
    kinds = [kind for kind, paths in found.items() if paths]
    if not kinds:
        raise FileNotFoundError(
            f"Expected recordings, tars or Parquet files in the folder {folder!r} or below it, but there are none."
        )
    if len(kinds) > 1:
        counts = ", ".join(f"{len(found[kind])} {kind}" for kind in kinds)
        raise ValueError(f"Expected one kind of files in {folder!r}, got {counts}; name one kind with a glob.")
    return _open_files(folder, found[kinds[0]], columns)


def _open_files(name: str, files: list[str], columns: Columns) -> Source:
    kinds = {next((kind for suffixes, kind in KINDS.items() if path_of(file).lower().endswith(suffixes)), None) for file in files}
    if len(kinds) > 1:
        raise ValueError(f"Expected files of one kind behind {name!r}, got several; name one kind with a glob.")
    (kind,) = kinds
    if kind is not None:
        return kind(name, files, columns)
    if len(files) == 1 and Path(path_of(files[0])).suffix.lower() not in AUDIO_SUFFIXES:
        known = ", ".join((*MANIFEST_SUFFIXES[:1], *TABLE_SUFFIXES[:2], TABLE_SUFFIXES[-1], *LIST_SUFFIXES[:1], ".parquet", ".tar"))
        hint = "; a folder behind a URL is written with / at its end" if is_remote(name) else ""
        raise ValueError(f"Expected a folder, a recording, or a list ending in {known}, got {name!r}{hint}.")
    return AudioFiles(name, files)


def _expanded(name: str) -> list[str]:
    found: list[str] = []
    for pattern in _unbraced(name):
        if is_remote(pattern):
            found += list_remote(pattern) if glob.has_magic(pattern) or pattern.endswith("/") else [pattern]
        elif not os.path.exists(pattern) and glob.has_magic(pattern):
            found += expand_pattern(pattern)
        else:
            found.append(pattern)
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
