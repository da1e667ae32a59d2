"""Exports an output folder as JSON lines, CSV, Parquet, a `datasets` folder, or the source's manifest with columns added.

Files are written row by row, and appear whole or not at all. Audio is never copied.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_sqa.row_tables import write_table
from hf_sqa.runs import whole_folder
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.shards import OWN_COLUMNS, WORST, ShardFolder, cannot_write, iterate_rows, read_run, writing_whole
from hf_sqa.scoring.sources import TABLE_SUFFIXES, Source

FORMATS = ("jsonl", "csv", "parquet", "datasets", "manifest")
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")

Row = dict[str, Any]


def export(output: Path, kind: str, source: Source | None = None) -> Path:
    """Write all rows of a finished output folder into that folder in one of `FORMATS`; return the path written."""
    if kind not in FORMATS:
        raise ValueError(f"Expected a format among {', '.join(FORMATS)}, got {kind!r}.")
    run = read_run(output)
    if kind == "datasets":
        return _write_dataset(output, run)
    if kind == "manifest":
        if source is None:
            raise ValueError("The format 'manifest' needs the source that was scored.")
        suffix = ".csv" if Path(run["source"]).name.lower().endswith(TABLE_SUFFIXES) else ".jsonl"
        path = output / f"manifest{suffix}"
        write_rows(path, with_manifest(iterate_rows(output, run), source, run), as_text=False)
        return path
    path = output / f"scores.{kind}"
    write_rows(path, iterate_rows(output, run))
    return path


def write_rows(path: Path, rows: Iterable[Row], as_text: bool = True) -> None:
    """Write rows to `.jsonl`, `.csv`, `.tsv` or `.parquet`, whole or not at all; for `as_text` see [`~hf_sqa.cells.csv_cell`]."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"Expected a file ending in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    with writing_whole(path) as unfinished:
        write_table(unfinished, rows, suffix, as_text=as_text)


def with_manifest(rows: Iterable[Row], source: Source, run: dict[str, Any]) -> Iterator[Row]:
    """Yield the original rows of the source, with the columns of the scores added; refuse a source whose rows have changed."""
    items = source.items(lambda position: False)
    item: Item | None = next(items, None)
    for row in rows:
        while item is not None and item.position < row["row"]:
            item = next(items, None)
        if item is None or item.key != row["key"]:
            raise ValueError(
                f"Expected {run['source']!r} as it was scored, but row {row['row']} was {row['key']!r} and is "
                f"{None if item is None else item.key!r}; score the corpus again first: only what changed is scored."
            )
        added = {name: value for name, value in row.items() if name not in ("row", "key", "audio")}
        if item.record is None:
            yield {"key": row["key"], "audio": row["audio"], **item.columns, **added}
            continue
        kept = set(run["kept_columns"])
        added = {name: value for name, value in added.items() if name not in kept and name.removeprefix("source_") not in kept}
        clash = {name: f"{name}__hf_sqa" for name in added if name in item.record and name in OWN_COLUMNS}
        yield {**item.record, **{clash.get(name, name): value for name, value in added.items()}}


def _write_dataset(output: Path, run: dict[str, Any]) -> Path:
    """Write a folder that `datasets.load_dataset` reads and `hf upload` publishes."""
    shards = ShardFolder(output, run)
    indices, folder = shards.indices(), output / "dataset"
    try:
        with whole_folder(folder) as unfinished:
            (unfinished / "data").mkdir()
            for number, index in enumerate(indices):
                shutil.copyfile(shards.path(index), unfinished / "data" / f"train-{number:05d}-of-{len(indices):05d}.parquet")
            (unfinished / "README.md").write_text(_card(run), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def _card(run: dict[str, Any]) -> str:
    identity = run["identity"]
    columns = "\n".join(f"| `{column}` | `{name}` of `{identity['id']}` |" for name, column in run["columns"].items())
    if identity.get("timeline"):
        columns += f"\n| {', '.join(f'`{name}`' for name in WORST)} | lowest local score, and from where to where in seconds |"
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
tags: [audio-quality, speech-quality-assessment]
---

# Speech quality scores

Scores of {run.get("rows", "all")} recordings. No audio is inside; `key` and `audio` say which recording a row belongs to.
Rows whose `status` is not `ok` have no score; `code` and `reason` say why. Scores compare recordings; they are not absolute.

| column | score |
|---|---|
{columns}

Model `{identity["id"]}`, revision {identity["revision"]}, weights {identity["weights"]}, preprocessing
{identity["preprocessing"]}, mode `{identity["mode"]}`.
"""


def columns_of(run: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Map the scores that a user named, such as `mos` or the full name of a column, to their columns."""
    found = {name: run["columns"].get(name, name) for name in names}
    if unknown := [name for name, column in found.items() if column not in run["columns"].values()]:
        raise ValueError(f"Expected a score among {', '.join(run['columns'])}, got {unknown[0]!r}.")
    return found
