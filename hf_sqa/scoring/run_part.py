"""Work of one process on a run: it scores the shards that are not finished."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_sqa.scoring.items import Item
from hf_sqa.scoring.scorer import CorpusScorer, Decoded
from hf_sqa.scoring.shards import RowsDigest, ShardFolder
from hf_sqa.scoring.sources import Source


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


@dataclass(frozen=True)
class Part:
    """The shards that a process works on: from `first` up to, but not including, `stop`, in steps of `step`."""

    first: int = 0
    step: int = 1
    stop: int | None = None

    def __contains__(self, index: int) -> bool:
        return index >= self.first and (index - self.first) % self.step == 0 and not self.is_over(index)

    def is_over(self, index: int) -> bool:
        """Whether this shard and all that follow belong to other parts."""
        return self.stop is not None and index >= self.stop

    def num_rows(self, total: int | None, rows_per_shard: int) -> int | None:
        """Return how many of the source's `total` rows are in this part; `None` if `total` is unknown."""
        if total is None:
            return None
        stop = math.ceil(total / rows_per_shard)
        mine = range(self.first, stop if self.stop is None else min(self.stop, stop), self.step)
        return sum(min(rows_per_shard, total - index * rows_per_shard) for index in mine)


class RunOfPart:
    """Work of one process on one output folder, which has its `run.json` and is locked by this process."""

    def __init__(
        self,
        output: Path,
        run: dict[str, Any],
        source: Source,
        worker: CorpusScorer,
        part: Part,
        *,
        retry_failed: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ):
        self._run, self._source, self._worker = run, source, worker
        self._part, self._retry_failed, self._on_progress = part, retry_failed, on_progress
        self._size = run["rows_per_shard"]
        self._kept_columns = run["kept_columns"]
        self._shards = ShardFolder(output, run)
        self._progress = Progress(total=part.num_rows(source.total, self._size))

    def go(self) -> Progress:
        """Score the shards that are not finished."""
        self._started = time.monotonic()
        digests = {index: self._finished_digest(index) for index in self._shards.indices() if index in self._part}
        finished = {index: digest for index, digest in digests.items() if digest is not None}
        retried: set[int] = set()
        if self._retry_failed:
            retried = {index for index in finished if {"status": "failed"} in self._shards.rows(index, ["status"])}
        changed = self._pass(finished, retried, None)
        if changed:
            self._progress.kept -= sum(self._rows_in(index) for index in changed)
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
            if self._part.is_over(index):
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

    def _finished_digest(self, index: int) -> str | None:
        metadata = self._shards.metadata(index)
        if metadata is None or metadata != self._metadata(metadata.get("rows", "")):
            return None
        return metadata["rows"]

    def _rows_in(self, index: int) -> int:
        metadata = self._shards.metadata(index)
        return int(metadata["rows"].split("-")[0]) if metadata else 0

    def _tell(self) -> None:
        self._progress.seconds = time.monotonic() - self._started
        if self._on_progress is not None:
            self._on_progress(self._progress)
