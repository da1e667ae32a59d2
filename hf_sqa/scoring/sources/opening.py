"""Where recordings come from: folders, globs, manifests, tables, tars, data sets, on a disk or behind a URL, as one iterator.

Every source yields [`Item`]s in an order that is the same each time. A row that cannot be understood is an item with its reason:
nothing is dropped, and what follows keeps its number.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hf_sqa.audio import AUDIO_SUFFIXES
from hf_sqa.scoring.remote import is_remote, list_remote
from hf_sqa.scoring.sources.columns import Columns
from hf_sqa.scoring.sources.datasets import HubDataset, SavedDataset
from hf_sqa.scoring.sources.files import AudioFiles
from hf_sqa.scoring.sources.manifests import Lists, Manifests
from hf_sqa.scoring.sources.names import path_of
from hf_sqa.scoring.sources.parquet import ParquetFiles
from hf_sqa.scoring.sources.source import FileSource, Source
from hf_sqa.scoring.sources.tables import Tables
from hf_sqa.scoring.sources.tars import Tars

MANIFEST_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
LIST_SUFFIXES = (".txt", ".lst")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)


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
    columns = Columns(audio_column, key_column, root)
    source = _open(os.fspath(name), columns, split)
    options = {"audio_column": audio_column, "key_column": key_column, "root": root, "split": split}
    source.reading = {option: value for option, value in options.items() if value is not None}
    return source


def _open(name: str, columns: Columns, split: str | None) -> Source:
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


def _open_folder(folder: Path, columns: Columns, split: str | None) -> Source:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return SavedDataset(str(folder), columns, split)
    return _open_kind(str(folder), [str(path) for path in sorted(folder.rglob("*"))], columns)


def _open_kind(folder: str, paths: list[str], columns: Columns) -> Source:
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


def _open_files(name: str, names: list[str], columns: Columns) -> Source:
    kinds: dict[str, type[FileSource]] = {}
    for suffixes, kind in (
        (MANIFEST_SUFFIXES, Manifests),
        (TABLE_SUFFIXES, Tables),
        (LIST_SUFFIXES, Lists),
        (TAR_SUFFIXES, Tars),
        (PARQUET_SUFFIXES, ParquetFiles),
    ):
        kinds |= dict.fromkeys(suffixes, kind)
    found = {
        next((kinds[suffix] for suffix in sorted(kinds, key=len, reverse=True) if path_of(one).lower().endswith(suffix)), None)
        for one in names
    }
    if len(found) > 1:
        raise ValueError(f"Expected files of one kind behind {name!r}, got several; name one kind with a glob.")
    (kind_found,) = found
    if kind_found is not None:
        return kind_found(name, names, columns)
    unknown = [one for one in names if Path(path_of(one)).suffix.lower() not in AUDIO_SUFFIXES]
    if unknown and len(names) == 1:
        known = ", ".join((*MANIFEST_SUFFIXES[:1], *TABLE_SUFFIXES[:2], *LIST_SUFFIXES[:1], ".parquet", ".tar"))
        hint = "; a folder behind a URL is written with / at its end" if is_remote(name) else ""
        raise ValueError(f"Expected a folder, a recording, or a list ending in {known}, got {name!r}{hint}.")
    return AudioFiles(name, names)


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
