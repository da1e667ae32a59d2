"""Score a corpus into an output folder: shard after shard, taken up again where it stopped."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_sqa.audio import Recording
from hf_sqa.runs import RunMismatch, describe_differences, differences, locked
from hf_sqa.scoring.decoding import DEFAULT_TIMEOUT_SECONDS, Decoder, Decoding
from hf_sqa.scoring.items import Item, Refusal
from hf_sqa.scoring.packing import PACK_SECONDS, PACK_SECONDS_ELSEWHERE, PackedScorer, Packing
from hf_sqa.scoring.shards import (
    OWN_COLUMNS,
    RUN_FILE,
    TRAILING,
    RowsDigest,
    ShardFolder,
    cannot_write,
    kept_name,
    kept_text,
    read_run,
    write_json,
)
from hf_sqa.scoring.sources import Source, open_source

ROWS_PER_SHARD = 500
#: Columns of the source that go along because a report divides by them.
KEPT_COLUMNS = ("source", "corpus", "language", "lang", "system_id", "system", "speaker", "speaker_id", "split", "condition_id")
#: Columns are looked for in this many rows of the source.
ROWS_LOOKED_AT = 100
LOCK_SECONDS = 10.0
FORMAT = 1


Decoded = tuple[Item, Recording | Refusal | None]


@dataclass(frozen=True)
class Settings:
    """How recordings are scored: everything a process needs to become a worker.

    Args:
        model (`str`, *optional*): As in `hf_sqa.pipeline`; the default if not given.
        mode (`str`, *optional*): One of the model's modes.
        hop_seconds (`float`, *optional*): Distance of windows.
        dtype (`str`, *optional*, defaults to `"float32"`): `float32`, `bfloat16` or `float16`.
        device (`str`, *optional*): The first accelerator, else the processor, if not given.
        channel (`str` or `int`, *optional*, defaults to `"mean"`): How several channels become one.
        max_seconds (`float`, *optional*): Longer recordings are rows with the status `skipped`.
        timeout_seconds (`float`, *optional*, defaults to 300): Time limit for decoding one recording.
        num_workers (`int`, *optional*): Processes that decode; one for a processor, up to eight for an accelerator if not given.
        pack_seconds (`float`, *optional*): Seconds of audio given to the model together; never changes a score.
        suffix (`str`, *optional*): What the columns of scores end in after two underscores, the model's name if not given; empty
            for bare names.
    """

    model: str | None = None
    mode: str | None = None
    hop_seconds: float | None = None
    dtype: str = "float32"
    device: str | None = None
    channel: str | int = "mean"
    max_seconds: float | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    num_workers: int | None = None
    pack_seconds: float | None = None
    suffix: str | None = None


class CorpusScorer:
    """A model ready to score items: what every engine runs, in every process.

    Args:
        settings ([`Settings`]): How.
        scorer (`AudioQualityPipeline`, *optional*): The pipeline, if it is loaded already.
    """

    def __init__(self, settings: Settings, scorer: Any = None):
        chosen = {"mode": settings.mode, "hop_seconds": settings.hop_seconds}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if scorer is None:
            scorer = _loaded(settings, chosen)
        else:
            chosen = {**scorer._forward_params, **chosen}  # what the pipeline was made with holds here too
            scorer._sanitize_parameters(**chosen)
        self.settings, self.scorer, self._chosen = settings, scorer, chosen
        self.model = scorer.model
        device = self.model.device.type
        pack_seconds = settings.pack_seconds
        if pack_seconds is None:
            pack_seconds = PACK_SECONDS.get(device, PACK_SECONDS_ELSEWHERE)
        self.packing = Packing(pack_seconds, by_length=not hasattr(self.model, "window_starts"))
        self.num_workers = settings.num_workers
        if self.num_workers is None:
            self.num_workers = 0 if os.name == "nt" else 1 if device == "cpu" else max(1, min(8, (os.cpu_count() or 2) - 1))
        self.decoding = Decoding(self.model.config.sampling_rate, settings.channel, settings.max_seconds, settings.timeout_seconds)
        mode, hop_seconds = chosen.get("mode") or self.model.modes[0], chosen.get("hop_seconds")
        self.identity = {
            **scorer.identity(mode, hop_seconds),
            "mode": mode,
            "hop_seconds": hop_seconds,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "channel": settings.channel,
            "max_seconds": settings.max_seconds,
        }
        suffix = settings.suffix if settings.suffix is not None else _slug(str(self.identity["id"]))
        #: Name of the column of every score of the model.
        self.columns = {name: f"{name}__{suffix}" if suffix else name for name in self.model.config.score_names}
        clash = OWN_COLUMNS & set(self.columns.values())
        if clash:
            raise ValueError(f"Expected columns of scores that differ from {', '.join(sorted(clash))}; give a suffix.")

    def decoder(self) -> Decoder:
        return Decoder(self.decoding, self.num_workers or 0)

    def rows(self, decoded: Iterable[Decoded], kept_columns: Sequence[str] = ()) -> Iterator[dict[str, Any] | Item]:
        """Yield a row for everything decoded, in packs, hence not in order; items that brought no audio come back as they are.

        What is packed together depends on the items alone, so that it is the same whenever they are scored.
        """
        packed = PackedScorer(self._score, self.packing)
        waiting: dict[int, Item] = {}
        for item, result in decoded:
            if result is None:
                yield item
            elif isinstance(result, Refusal):
                yield self._row(item, result, kept_columns)
            else:
                item.audio = None  # the bytes can go
                waiting[item.position] = item
                for position, scored in packed.add(item.position, result):
                    yield self._row(waiting.pop(position), scored, kept_columns)
        for position, scored in packed.flush():
            yield self._row(waiting.pop(position), scored, kept_columns)

    def _score(self, recordings: list[Recording]) -> list[dict[str, Any]]:
        items = [{"recording": recording, "error": None} for recording in recordings]
        scored = self.scorer.forward(items, **self._chosen)
        return [self.scorer.postprocess(item, return_details=True, on_error="row") for item in scored]

    def _row(self, item: Item, result: dict[str, Any] | Refusal, kept_columns: Sequence[str]) -> dict[str, Any]:
        row: dict[str, Any] = {"row": item.position, "key": item.key, "audio": item.name}
        if isinstance(result, Refusal):
            row |= dict.fromkeys(self.columns.values())
            row |= {"status": result.status, "code": result.code, "reason": result.reason, "warnings": []}
        else:
            row |= {column: result[name] for name, column in self.columns.items()}
            row |= {name: result[name] for name in ("status", "code", "reason", "duration_seconds", "sampling_rate")}
            row["num_windows"] = result["num_segments"]
            row["warnings"] = [warning["code"] for warning in result["warnings"]]
            row["speech_ratio"] = round(min(1.0, result["speech_seconds"] / max(result["duration_seconds"], 1e-9)), 4)
            row |= {name: result[name] for name in ("level_dbfs", "clipped_share")}
        return row | self.kept(item, kept_columns)

    def kept(self, item: Item, kept_columns: Sequence[str]) -> dict[str, str | None]:
        """Columns of the source that go along."""
        scores = list(self.columns.values())
        return {kept_name(name, scores): kept_text(item.columns.get(name)) for name in kept_columns}


@dataclass
class Progress:
    """How far a run is.

    Args:
        rows (`int`): Rows scored in this run.
        kept (`int`): Rows that an earlier run had finished.
        total (`int`, *optional*): Rows of the source, where known, or of this part of it.
        audio_seconds (`float`): Audio scored in this run.
        seconds (`float`): Time it took.
        statuses (`Counter`): Rows scored in this run, by status.
        shards (`int`): Shards written in this run.
        rows_in_source (`int`, *optional*): Known at the end.
        complete (`bool`): Whether every shard of the source is there now.
    """

    rows: int = 0
    kept: int = 0
    total: int | None = None
    audio_seconds: float = 0.0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    rows_in_source: int | None = None
    complete: bool = False

    @property
    def hours_per_hour(self) -> float:
        """Hours of audio in an hour."""
        return self.audio_seconds / max(self.seconds, 1e-6)


def score_corpus(
    source: str | os.PathLike | Source,
    output: str | os.PathLike,
    settings: Settings | None = None,
    *,
    scorer: Any = None,
    part: tuple[int, int] = (0, 1),
    rows_per_shard: int | None = None,
    keep: Sequence[str] | None = None,
    retry_failed: bool = False,
    rescore: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    **more: Any,
) -> Progress:
    """Score every recording of a corpus into shards of an output folder.

    Called again with the same arguments it goes on where it stopped, however it stopped, and the output is the same byte for byte
    as that of a run that was never stopped. Shards whose rows of the source have changed are scored again. A key that occurs twice
    is two rows, told apart by `row`, the number in the source.

    Args:
        source: What [`open_source`] opens, or a source that is open.
        output (`str` or `Path`): The output folder; made if it does not exist.
        settings ([`Settings`], *optional*): How to score; or its fields as keyword arguments.
        scorer (`AudioQualityPipeline`, *optional*): The pipeline, if it is loaded already.
        part (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): `(i, n)` scores the shards whose number leaves `i` when divided
            by `n`; as many processes as there are parts may write into one output folder.
        rows_per_shard (`int`, *optional*): Rows in a shard; those of the output folder, or 500, if not given.
        keep (sequence of `str`, *optional*): Columns of the source that go along as text; usual ones for groups if not given.
        retry_failed (`bool`, *optional*, defaults to `False`): Scores rows again whose status is `failed`.
        rescore (`bool`, *optional*, defaults to `False`): Replaces scores of another model, mode or source; otherwise an output
            folder that holds such is refused.
        on_progress (*optional*): Called after every row.
        **more: Fields of [`Settings`].

    Returns:
        [`Progress`]: What was done.

    Raises:
        RunMismatch: If the output folder holds scores of another source, model, mode or layout.
        OutputLocked: If another process writes the same part.
        OutputError: If the output cannot be written; finished shards stay.
    """
    settings = replace(settings or Settings(), **more)
    _check_part(part)
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source)
    output = Path(output)
    worker = CorpusScorer(settings, scorer)
    with hold_output(output, part):
        run = prepare(output, source, worker, rows_per_shard=rows_per_shard, keep=keep, rescore=rescore)
        run_of_part = RunOfPart(output, run, source, worker, Part(*part), retry_failed=retry_failed, on_progress=on_progress)
        progress = run_of_part.go()
        progress.complete = finish(output, run, progress.rows_in_source or 0, Part(*part))
        return progress


def prepare(
    output: Path,
    source: Source,
    worker: CorpusScorer,
    *,
    rows_per_shard: int | None = None,
    keep: Sequence[str] | None = None,
    rescore: bool = False,
) -> dict[str, Any]:
    """Make, or check, `run.json` of an output folder; see [`score_corpus`]."""
    with locked(output / ".lock-run", wait=True):
        return _prepared(output, source, worker, rows_per_shard, keep, rescore)


def _prepared(
    output: Path,
    source: Source,
    worker: CorpusScorer,
    rows_per_shard: int | None,
    keep: Sequence[str] | None,
    rescore: bool,
) -> dict[str, Any]:
    path = output / RUN_FILE
    if rows_per_shard is not None and rows_per_shard < 1:
        raise ValueError(f"Expected at least one row per shard, got {rows_per_shard}.")
    if not path.exists():
        if output.is_dir() and any(not name.name.startswith(".") for name in output.iterdir()):
            raise RunMismatch(f"{str(output)!r} is not empty and not the output of an earlier run; choose another folder.")
        run = _described(source, worker, rows_per_shard or ROWS_PER_SHARD, _kept(source, keep))
        write_json(path, run)
        return run
    run = read_run(output)
    wanted = _described(
        source,
        worker,
        rows_per_shard or run["rows_per_shard"],
        run["kept_columns"] if keep is None else _kept(source, keep),
    )
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
    """Columns that go along: those named, or the usual ones that the first rows have."""
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


@dataclass(frozen=True)
class Part:
    """Which shards a process works on: those from `first` to before `stop`, in steps of `step`."""

    first: int = 0
    step: int = 1
    stop: int | None = None

    def __contains__(self, index: int) -> bool:
        return index >= self.first and (index - self.first) % self.step == 0 and not self.is_over(index)

    def is_over(self, index: int) -> bool:
        """Whether no shard from this one on is wanted."""
        return self.stop is not None and index >= self.stop

    def num_rows(self, total: int | None, rows_per_shard: int) -> int | None:
        """Rows of a source of `total` rows that lie in this part."""
        if total is None:
            return None
        stop = math.ceil(total / rows_per_shard)
        mine = range(self.first, stop if self.stop is None else min(self.stop, stop), self.step)
        return sum(min(rows_per_shard, total - index * rows_per_shard) for index in mine)


class RunOfPart:
    """One process's work on one output folder, whose `run.json` is there and whose lock is held."""

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
        self._shards = ShardFolder(output, list(run["columns"].values()), self._kept_columns)
        self._progress = Progress(total=part.num_rows(source.total, self._size))

    def go(self) -> Progress:
        """Score what is not finished."""
        self._started = time.monotonic()
        digests = {index: self._finished_digest(index) for index in self._shards.indices() if index in self._part}
        finished = {index: digest for index, digest in digests.items() if digest is not None}
        retried = {index for index in finished if self._retry_failed and self._has_failed(index)}
        changed = self._pass(finished, retried, None)
        if changed:
            self._progress.kept -= sum(self._rows_in(index) for index in changed)
            self._pass({}, set(), changed)
        self._tell()
        return self._progress

    def _pass(self, finished: dict[int, str], retried: set[int], only: set[int] | None) -> set[int]:
        """Go through the source once, scoring what is not finished, or `only` some shards; return the shards that have changed."""
        changed: set[int] = set()
        self._previous: dict[int, dict[str, Any]] = {}
        with self._worker.decoder() as decoder:
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
                if self._is_same(previous, item) and previous["status"] != "failed":
                    item.audio, item.refusal = None, None
                else:
                    del self._previous[item.position]
            yield item
        close(current)
        if only is None:
            self._progress.rows_in_source = position + 1

    @staticmethod
    def _is_same(previous: dict[str, Any], item: Item) -> bool:
        return previous["key"] == item.key and previous["audio"] == item.name

    def _metadata(self, digest: str) -> dict[str, Any]:
        described = {name: self._run[name] for name in ("format", "identity", "columns", "rows_per_shard", "kept_columns")}
        return {**described, "rows": digest}

    def _finished_digest(self, index: int) -> str | None:
        metadata = self._shards.metadata(index)
        if metadata is None or metadata != self._metadata(metadata.get("rows", "")):
            return None
        return metadata["rows"]

    def _has_failed(self, index: int) -> bool:
        return any(row["status"] == "failed" for row in self._shards.rows(index, ["status"]))

    def _rows_in(self, index: int) -> int:
        metadata = self._shards.metadata(index)
        return int(metadata["rows"].split("-")[0]) if metadata else 0

    def _tell(self) -> None:
        self._progress.seconds = time.monotonic() - self._started
        if self._on_progress is not None:
            self._on_progress(self._progress)


def finish(output: Path, run: dict[str, Any], num_rows: int, part: Part) -> bool:
    """Note how many rows the source has, remove shards beyond its end, and say whether every shard is there."""
    shards = ShardFolder(output, [], [])
    num_shards = math.ceil(num_rows / run["rows_per_shard"])
    for index in shards.indices():
        if index >= num_shards and index in part:
            shards.remove(index)
    write_json(output / RUN_FILE, {**run, "rows": num_rows})
    return shards.indices() == list(range(num_shards))


@contextlib.contextmanager
def hold_output(output: Path, part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Hold the lock of an output folder, or of one part of it; released when the process ends, however it ends.

    Raises:
        OutputLocked: If another process holds it, or one that overlaps.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(output, error) from error
    with contextlib.ExitStack() as held:
        # Parts wait for each other here, for the moment that it takes.
        with locked(output / ".lock", wait=part != (0, 1) and LOCK_SECONDS):
            if part == (0, 1):
                for path in output.glob(".lock-*-of-*"):
                    with locked(path):
                        pass
                yield
                return
            held.enter_context(locked(output / f".lock-{part[0]}-of-{part[1]}"))
        yield


def score_batch(batch: Mapping[str, Sequence[Any]], audio_column: str = "audio", **settings: Any) -> dict[str, list[Any]]:
    """Score a batch of recordings: the function for `datasets.map`, Ray, Spark and pipelines of one's own.

    The model is loaded once in a process and kept. Audio is left out of what is returned.

    Args:
        batch (mapping of column to values): Whatever `hf_sqa.load_recording` accepts under `audio_column`: paths, bytes, dicts of
            `datasets`, ...; the other columns are passed through.
        audio_column (`str`, *optional*, defaults to `"audio"`): Column of recordings.
        **settings: Fields of [`Settings`].

    Returns:
        `dict[str, list]`: The other columns, and those of a row: scores, `status`, `code`, `reason`, `duration_seconds`, ...
    """
    if audio_column not in batch:
        raise ValueError(f"Expected a column {audio_column!r} of recordings, got {', '.join(batch)}; name it by `audio_column`.")
    settings.setdefault("num_workers", 0)
    worker = _cached_worker(Settings(**settings))
    items = [Item(position, str(position), "", audio) for position, audio in enumerate(batch[audio_column])]
    for item in items:
        if item.audio is None:
            item.refusal = Refusal("failed", "bad_row", "there is no recording in this row")
    with worker.decoder() as decoder:
        rows = [row for row in worker.rows(decoder.decode(items)) if isinstance(row, dict)]
    rows.sort(key=lambda row: row["row"])
    names = [*worker.columns.values(), *(name for name, _ in TRAILING)]
    others = {name: list(values) for name, values in batch.items() if name != audio_column}
    return others | {name: [row.get(name) for row in rows] for name in names}


@lru_cache(maxsize=2)
def _cached_worker(settings: Settings) -> CorpusScorer:
    return CorpusScorer(settings)


def _loaded(settings: Settings, chosen: dict[str, Any]) -> Any:
    from safetensors import SafetensorError

    import hf_sqa.pipelines

    try:
        return hf_sqa.pipelines.pipeline(settings.model, dtype=settings.dtype, device=settings.device, **chosen)
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError, SafetensorError) as error:  # Assertion: no CUDA
        raise ValueError(f"The model {settings.model or 'default'!r} cannot be used: {' '.join(str(error).split())}") from error


def _check_part(part: tuple[int, int]) -> None:
    index, number = part
    if number < 1 or not 0 <= index < number:
        raise ValueError(f"Expected a part i/n with i from 0 to n - 1, got {index}/{number}.")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "model"
