"""The output folder of a corpus: which run it holds, and which process may write into it."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_sqa.runs import RunMismatch, describe_differences, differences, locked
from hf_sqa.scoring.scorer import CorpusScorer, Settings
from hf_sqa.scoring.shards import RUN_FILE, ShardFolder, cannot_write, read_run, write_json
from hf_sqa.scoring.sources import Source

ROWS_PER_SHARD = 500
#: Columns of the source that are kept by default, because reports group by them.
KEPT_COLUMNS = ("source", "corpus", "language", "lang", "system_id", "system", "speaker", "speaker_id", "split", "condition_id")
#: Number of rows of the source that are searched for its columns.
ROWS_LOOKED_AT = 100
LOCK_SECONDS = 10.0
FORMAT = 1


def as_begun(settings: Settings, output: Path, rescore: bool = False) -> Settings:
    """The settings, with `auto` replaced by the precision that an output folder was begun in: another machine may continue it."""
    if settings.dtype != "auto" or rescore or not (output / RUN_FILE).exists():
        return settings
    return replace(settings, dtype=read_run(output)["identity"]["dtype"])


def prepare(
    output: Path,
    source: Source,
    worker: CorpusScorer,
    *,
    rows_per_shard: int | None = None,
    keep: Sequence[str] | None = None,
    rescore: bool = False,
) -> dict[str, Any]:
    """Write, or check, the `run.json` of an output folder; see [`score_corpus`]."""
    path = output / RUN_FILE
    if rows_per_shard is not None and rows_per_shard < 1:
        raise ValueError(f"Expected at least one row per shard, got {rows_per_shard}.")
    with locked(output / ".lock-run", wait=True):
        if not path.exists():
            if output.is_dir() and any(not name.name.startswith(".") for name in output.iterdir()):
                raise RunMismatch(f"{str(output)!r} is not empty and not the output of an earlier run; choose another folder.")
            run = _described(source, worker, rows_per_shard or ROWS_PER_SHARD, _kept(source, keep))
            write_json(path, run)
            return run
        run = read_run(output)
        kept = run["kept_columns"] if keep is None else _kept(source, keep)
        wanted = _described(source, worker, rows_per_shard or run["rows_per_shard"], kept)
        keys = ("source", "identity", "columns", "rows_per_shard", "kept_columns")
        found = differences({key: run[key] for key in keys}, {key: wanted[key] for key in keys})
        if not found:
            return run
        if not rescore:
            raise RunMismatch(
                f"{str(output)!r} holds another run ({describe_differences(found)}): choose another output folder, or --rescore to "
                "score again what differs.",
                found,
            )
        write_json(path, wanted)
        return wanted


def _described(source: Source, worker: CorpusScorer, rows_per_shard: int, kept: Sequence[str]) -> dict[str, Any]:
    name = source.name
    return {
        "format": FORMAT,
        "source": name if "://" in name or name.startswith("hub:") else os.path.abspath(name),
        "reading": dict(source.reading),
        "identity": worker.identity,
        "columns": worker.columns,
        "rows_per_shard": rows_per_shard,
        "kept_columns": list(kept),
    }


def _kept(source: Source, keep: Sequence[str] | None) -> list[str]:
    """Return the columns to keep: those named, or the usual ones that the first rows have."""
    found: dict[str, None] = {}
    for item in source.items(lambda position: False):
        if item.position >= ROWS_LOOKED_AT:
            break
        found |= dict.fromkeys(item.columns)
    if keep is None:
        return [name for name in KEPT_COLUMNS if name in found]
    if list(keep) == ["all"]:
        return list(found)
    missing = [name for name in keep if name not in found]
    if missing:
        raise ValueError(
            f"Expected --keep to name columns of the source ({', '.join(found) or 'it has none'}), got {missing[0]!r}."
        )
    return list(dict.fromkeys(keep))


def finish(output: Path, run: dict[str, Any], num_rows: int, part: range) -> bool:
    """Record how many rows the source has, remove this part's shards beyond its end, and return whether every shard exists."""
    shards = ShardFolder(output, run)
    num_shards = math.ceil(num_rows / run["rows_per_shard"])
    for index in shards.indices():
        if index >= num_shards and index in part:
            shards.path(index).unlink(missing_ok=True)
    write_json(output / RUN_FILE, {**run, "rows": num_rows})
    return shards.indices() == list(range(num_shards))


@contextlib.contextmanager
def hold_output(output: Path, part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Hold the lock of an output folder, or of one part of it, which overlaps that of the folder, until the process ends."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from error
    with contextlib.ExitStack() as held:
        # Parts wait for each other here, only as long as it takes to lock a part.
        with locked(output / ".lock", wait=None if part == (0, 1) else LOCK_SECONDS):
            if part == (0, 1):
                for path in output.glob(".lock-*-of-*"):
                    with locked(path):
                        pass
                yield
                return
            held.enter_context(locked(output / f".lock-{part[0]}-of-{part[1]}"))
        yield
