"""Scores a corpus into an output folder, shard by shard; the next call resumes where the last one stopped."""

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_sqa.extras import import_extra
from hf_sqa.scoring.folder import as_begun, finish, hold_output, prepare
from hf_sqa.scoring.items import Item
from hf_sqa.scoring.scorer import CorpusScorer, Decoded, Settings
from hf_sqa.scoring.shards import RowsDigest, ShardFolder
from hf_sqa.scoring.sources import Source, open_source


@dataclass
class Progress:
    """How far a run is."""

    rows: int = 0  # Rows scored in this run
    kept: int = 0  # Rows that an earlier run had finished
    total: int | None = None  # Rows of the source, or of this part of it, if known
    audio_seconds: float = 0.0  # Audio scored in this run
    seconds: float = 0.0  # Time it took
    statuses: Counter[str] = field(default_factory=Counter)  # Rows scored in this run, by status
    shards: int = 0  # Shards written in this run
    rows_in_source: int | None = None  # Known at the end
    complete: bool = False  # Whether every shard of the source exists now

    @property
    def hours_per_hour(self) -> float:
        """Hours of audio scored per hour."""
        return self.audio_seconds / max(self.seconds, 1e-6)


def score_corpus(
    source: str | os.PathLike | Source,
    output: str | os.PathLike,
    settings: Settings | None = None,
    *,
    scorer: Any = None,
    part: tuple[int, int] = (0, 1),
    num_actors: int | None = None,
    num_gpus: float = 0.0,
    rows_per_shard: int | None = None,
    keep: Sequence[str] | None = None,
    retry_failed: bool = False,
    rescore: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **more: Any,
) -> Progress:
    """Score every recording of a corpus into shards of an output folder.

    Called again with the same arguments, it resumes where it stopped, however it stopped, and the output is the same byte for byte
    as that of a run that was never stopped. Shards are scored again if their rows in the source have changed. A key that occurs
    twice gives two rows, distinguished by `row`, the row number in the source.

    Args:
        source: Anything that [`open_source`] opens, or an open source.
        output (`str` or `Path`): The output folder; created if it does not exist.
        settings ([`Settings`], *optional*): How to score; or its fields as keyword arguments.
        scorer (`AudioQualityPipeline`, *optional*): A pipeline that is already loaded.
        part (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): `(i, n)` scores the shards whose number leaves `i` when divided
            by `n`; as many processes as there are parts may write into one output folder.
        num_actors (`int`, *optional*): Actors of a Ray cluster that score the shards, each with a model, instead of this process.
            Every node must see source and output under the same names, and have the checkpoint. A running cluster is used if
            there is one; otherwise one is started on this machine.
        num_gpus (`float`, *optional*, defaults to 0): Accelerators per actor.
        rows_per_shard (`int`, *optional*): Rows in a shard; that of the output folder, or 500, if not given.
        keep (sequence of `str`, *optional*): Columns of the source to keep, as text; the usual ones for groups if not given.
        retry_failed (`bool`, *optional*, defaults to `False`): Whether to score rows with the status `failed` again.
        rescore (`bool`, *optional*, defaults to `False`): Whether to replace scores of another model, mode or source; if not, an
            output folder that holds such scores is refused.
        on_progress (*optional*): Called after every row.
        **more: Fields of [`Settings`].

    Returns:
        [`Progress`]: What was done.

    Raises:
        RunMismatch: If the output folder holds scores of another source, model, mode or layout.
        Locked: If another process writes the same part.
        OutputError: If the output cannot be written; finished shards stay.
        ImportError: If actors are asked for and Ray is not installed.
    """
    settings = replace(settings or Settings(), **more)
    index, number = part
    if number < 1 or not 0 <= index < number:
        raise ValueError(f"Expected a part i/n with i from 0 to n - 1, got {index}/{number}.")
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source)
    if num_actors is not None:
        import_extra("ray.data", "The Ray engine", "scale")
    output, mine = Path(output), range(index, sys.maxsize, number)
    worker = CorpusScorer(as_begun(settings, output, rescore), scorer)
    with hold_output(output, part):
        begun = as_begun(settings, output, rescore)
        if scorer is None and begun.dtype not in (settings.dtype, worker.identity["dtype"]):
            worker = CorpusScorer(begun)  # another kind of processor began another part while the model was loaded
        run = prepare(output, source, worker, rows_per_shard=rows_per_shard, keep=keep, rescore=rescore)
        if num_actors is None:
            progress = RunOfPart(output, run, source, worker, mine, retry_failed=retry_failed, on_progress=on_progress).go()
        else:
            from hf_sqa.scoring.ray_engine import score_with_ray

            progress = score_with_ray(output, run, source, worker, num_actors, num_gpus, retry_failed)
        progress.complete = finish(output, run, progress.rows_in_source or 0, mine)
        return progress


class RunOfPart:
    """Work of one process on one output folder, which has its `run.json` and is locked by this process; `part` are its shards."""

    def __init__(
        self,
        output: Path,
        run: dict[str, Any],
        source: Source,
        worker: CorpusScorer,
        part: range,
        *,
        retry_failed: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ):
        self._run, self._source, self._worker = run, source, worker
        self._part, self._retry_failed, self._on_progress = part, retry_failed, on_progress
        self._size = run["rows_per_shard"]
        self._kept_columns = run["kept_columns"]
        self._shards = ShardFolder(output, run)
        self._progress = Progress()
        if source.total is not None:
            mine = range(part.start, min(part.stop, math.ceil(source.total / self._size)), part.step)
            self._progress.total = sum(min(self._size, source.total - index * self._size) for index in mine)

    def go(self) -> Progress:
        """Score the shards that are not finished."""
        self._started = time.monotonic()
        found = {index: self._shards.metadata(index) for index in self._shards.indices() if index in self._part}
        finished = {index: old["rows"] for index, old in found.items() if old == self._metadata(old.get("rows", ""))}
        retried: set[int] = set()
        if self._retry_failed:
            retried = {index for index in finished if {"status": "failed"} in self._shards.rows(index, ["status"])}
        changed = self._pass(finished, retried, None)
        if changed:
            # The digest of a shard begins with its number of rows.
            self._progress.kept -= sum(int(finished[index].partition("-")[0]) for index in changed)
            self._pass({}, set(), changed)
        self._tell()
        return self._progress

    def _pass(self, finished: dict[int, str], retried: set[int], only: set[int] | None) -> set[int]:
        """Score the unfinished shards of the source, or those in `only`; return the shards whose rows have changed."""
        changed: set[int] = set()
        self._previous: dict[int, dict[str, Any]] = {}
        with self._worker.decoder(self._progress.total) as decoder:
            # One stream through all shards: while the model is at the end of one, the next is being decoded.
            decoded = decoder.decode(self._to_score(finished, retried, only, changed))
            for index, shard in groupby(decoded, key=lambda pair: pair[0].position // self._size):
                self._score_shard(index, shard)
        return changed

    def _score_shard(self, index: int, decoded: Iterable[Decoded]) -> None:
        digest = RowsDigest(self._kept_columns)
        rows: list[dict[str, Any]] = []

        def watched() -> Iterator[Decoded]:
            for item, result in decoded:
                digest.add(item)
                yield item, result

        for result in self._worker.rows(watched(), self._kept_columns):
            if isinstance(result, Item):
                rows.append(self._previous.pop(result.position) | self._worker.kept(result, self._kept_columns))
                self._progress.kept += 1
            else:
                rows.append(result)
                self._progress.rows += 1
                self._progress.audio_seconds += result.get("duration_seconds") or 0.0
                self._progress.statuses[result["status"]] += 1
            self._tell()
        rows.sort(key=lambda row: row["row"])
        self._shards.write(index, rows, self._metadata(digest.value()))
        self._progress.shards += 1
        self._tell()

    def _to_score(self, finished: dict[int, str], retried: set[int], only: set[int] | None, changed: set[int]) -> Iterator[Item]:
        digest = RowsDigest(self._kept_columns)
        current = position = -1

        def needed(index: int) -> bool:
            if only is not None:
                return index in only
            return index in self._part and (index not in finished or index in retried)

        def close(index: int) -> None:
            if index in finished and not needed(index) and digest.value() != finished[index]:
                changed.add(index)

        for item in self._source.items(lambda position: needed(position // self._size)):
            position, index = item.position, item.position // self._size
            if index >= self._part.stop:
                break
            if index != current:
                close(current)
                current, digest = index, RowsDigest(self._kept_columns)
                if index in retried:
                    self._previous |= {row["row"]: row for row in self._shards.rows(index)}
            if not needed(index):
                if index in finished:
                    digest.add(item)
                    self._progress.kept += 1
                continue
            previous = self._previous.get(item.position)
            if previous is not None:
                is_same = previous["key"] == item.key and previous["audio"] == item.name
                if is_same and previous["status"] != "failed":
                    item.audio, item.refusal = None, None
                else:
                    del self._previous[item.position]
            yield item
        close(current)
        if only is None:
            self._progress.rows_in_source = position + 1

    def _metadata(self, digest: str) -> dict[str, Any]:
        described = {name: self._run[name] for name in ("format", "identity", "columns", "rows_per_shard", "kept_columns")}
        return {**described, "rows": digest}

    def _tell(self) -> None:
        self._progress.seconds = time.monotonic() - self._started
        if self._on_progress is not None:
            self._on_progress(self._progress)
