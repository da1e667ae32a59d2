"""Scores items with a loaded model, in packs; every engine runs this, in every process."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from hf_sqa.audio import Recording
from hf_sqa.scoring.decoding import DEFAULT_TIMEOUT_SECONDS, Decoder, Decoding
from hf_sqa.scoring.items import Item, Refusal
from hf_sqa.scoring.packing import PACK_SECONDS, PACK_SECONDS_ELSEWHERE, PackedScorer
from hf_sqa.scoring.processes import Scoring, ScoringDecoder, cores, one_thread
from hf_sqa.scoring.shards import OWN_COLUMNS, TRAILING, WORST, kept_name, kept_text

#: Largest error of `dtype="auto"`, in points of the score.
LARGEST_ERROR = 0.01

#: An item with its recording, its result if another process has scored it, the reason why it has none, or `None`.
Decoded = tuple[Item, Recording | Refusal | dict[str, Any] | None]


@dataclass(frozen=True)
class Settings:
    """How recordings are scored: everything that a worker process needs."""

    model: str | None = None  # As in `hf_sqa.pipeline`; the default if not given
    mode: str | None = None  # One of the model's modes
    hop_seconds: float | None = None  # Distance between windows
    interval: float | None = None  # Adds columns with the ends of an interval; see [`AudioQualityPipeline`]
    #: `float32`, `bfloat16` or `float16`; `auto` is bfloat16 on a processor that computes in it if the model states an error
    #: under 0.01, else float32. A corpus continues in the precision in which its output folder was begun
    dtype: str = "float32"
    device: str | None = None  # The first accelerator, else the CPU, if not given
    channel: str | int = "mean"  # How several channels become one
    max_seconds: float | None = None  # Longer recordings are rows with the status `skipped`
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS  # Time limit for decoding one recording
    num_workers: int | None = None  # Processes that decode; if not given, 1 on a CPU and up to 8 with an accelerator
    #: Processes on a CPU that decode and score, each with the model and one thread. If not given, as many as torch has threads
    #: if the model is small and the work takes seconds, unless `num_workers` is 0 or `pack_seconds` is given; otherwise 1
    num_processes: int | None = None
    pack_seconds: float | None = None  # Seconds of audio given to the model together; never changes a score
    suffix: str | None = None  # Score columns end in `__` and this; the model's name if not given; empty for bare names
    timeline: bool = False  # Whether to find where every recording is worst

    @property
    def windows(self) -> dict[str, Any]:
        """The given options of the pipeline that say how recordings are cut into windows."""
        options = {"mode": self.mode, "hop_seconds": self.hop_seconds}
        return {name: value for name, value in options.items() if value is not None}


class CorpusScorer:
    """A loaded model that scores items."""

    def __init__(self, settings: Settings, scorer: Any = None):
        chosen = settings.windows
        if scorer is None:
            scorer = load_pipeline(settings)
        else:
            chosen = {**scorer._forward_params, **chosen}  # the options that the pipeline was made with apply here too
        self.settings, self.scorer = settings, scorer
        self.model = scorer.model
        device = self.model.device.type
        usual_seconds = PACK_SECONDS.get(device, PACK_SECONDS_ELSEWHERE)
        self._pack_seconds = usual_seconds if settings.pack_seconds is None else settings.pack_seconds
        self.num_workers = settings.num_workers
        if self.num_workers is None:
            self.num_workers = 0 if os.name == "nt" else 1 if device == "cpu" else max(1, min(8, (os.cpu_count() or 2) - 1))
        self.cores = cores(scorer, settings.num_processes, settings.num_workers == 0 or settings.pack_seconds is not None)
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
        if settings.timeline:
            self.identity["timeline"] = True
        #: Coverage of the intervals in the rows, if any.
        self.interval = settings.interval if settings.interval is not None else scorer._postprocess_params.get("interval")
        if self.interval is not None:
            self.identity["interval"] = self.interval
        options = {"return_timeline": settings.timeline, "interval": self.interval, "return_details": True, "on_error": "row"}
        self._score = Scoring(scorer, **{**chosen, **options})
        slug = re.sub(r"[^a-z0-9]+", "_", str(self.identity["id"]).lower()).strip("_") or "model"
        suffix = settings.suffix if settings.suffix is not None else slug
        #: Column name of every score of the model.
        self.columns = {name: f"{name}__{suffix}" if suffix else name for name in scorer.columns(self.interval)}
        clash = OWN_COLUMNS & set(self.columns.values())
        if clash:
            raise ValueError(f"Expected columns of scores that differ from {', '.join(sorted(clash))}; give a suffix.")

    def decoder(self, num_items: int | None = None) -> Decoder:
        """Return the decoder for [`rows`], of at most `num_items` if known, which also scores if several processes do."""
        return ScoringDecoder(self._score, self.decoding, self.cores, self.num_workers or 0, num_items)

    def rows(self, decoded: Iterable[Decoded], kept_columns: Sequence[str] = ()) -> Iterator[dict[str, Any] | Item]:
        """Yield a row for every decoded item, pack by pack and so not in order. Items without audio are yielded unchanged."""
        packed = PackedScorer(self._score.together, self._pack_seconds, by_length=self.model.window_samples is None)
        for item, result in decoded:
            if result is None:
                yield item
            elif not isinstance(result, Recording):  # a refusal, or a result from another process
                packed.count(result)
                yield self._row(item, result, kept_columns)
            else:
                item.audio = None  # frees the bytes
                for packed_item, scored in packed.add(item, result):
                    yield self._row(packed_item, scored, kept_columns)
        for packed_item, scored in packed.flush():
            yield self._row(packed_item, scored, kept_columns)

    def _row(self, item: Item, result: dict[str, Any] | Refusal, kept_columns: Sequence[str]) -> dict[str, Any]:
        row: dict[str, Any] = {"row": item.position, "key": item.key, "audio": item.name}
        if isinstance(result, Refusal):
            row |= dict.fromkeys(self.columns.values())
            row |= asdict(result) | {"warnings": []}
        else:
            row |= {column: result[name] for name, column in self.columns.items()}
            row |= {name: result[name] for name in ("status", "code", "reason", "duration_seconds", "sampling_rate")}
            row["num_windows"] = result["num_segments"]
            row["warnings"] = [warning["code"] for warning in result["warnings"]]
            row["speech_ratio"] = round(min(1.0, result["speech_seconds"] / max(result["duration_seconds"], 1e-9)), 4)
            row |= {name: result[name] for name in ("level_dbfs", "clipped_share")}
            if worst := result.get("worst"):
                first = self.model.config.score_names[0]
                row |= dict(zip(WORST, (worst[first], worst["start"], worst["end"]), strict=True))
        return row | self.kept(item, kept_columns)

    def kept(self, item: Item, kept_columns: Sequence[str]) -> dict[str, str | None]:
        """Return the kept columns of the source for an item."""
        scores = list(self.columns.values())
        return {kept_name(name, scores): kept_text(item.columns.get(name)) for name in kept_columns}


def score_batch(batch: Mapping[str, Sequence[Any]], audio_column: str = "audio", **settings: Any) -> dict[str, list[Any]]:
    """Score a batch of recordings; for `datasets.map`, Ray, Spark and your own pipelines.

    The model is loaded once per process and kept. The returned columns do not include the audio.

    Args:
        batch (mapping of column to values): `audio_column` holds whatever `hf_sqa.load_recording` accepts: paths, bytes, dicts of
            `datasets`, ...; the other columns are passed through.
        audio_column (`str`, *optional*, defaults to `"audio"`): Column of recordings.
        **settings: Fields of [`Settings`].

    Returns:
        `dict[str, list]`: The other columns, and those of a scored row: scores, `status`, `code`, `reason`, `duration_seconds`, ...
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
    names = [*worker.columns.values(), *(name for name, _ in TRAILING), *(WORST if worker.settings.timeline else ())]
    others = {name: list(values) for name, values in batch.items() if name != audio_column}
    return others | {name: [row.get(name) for row in rows] for name in names}


_cached_worker = lru_cache(maxsize=2)(CorpusScorer)


def load_pipeline(settings: Settings) -> Any:
    """Load the pipeline that the settings describe."""
    from safetensors import SafetensorError

    import hf_sqa.pipelines
    from hf_sqa.blocks.precision import computes_in_bfloat16

    options = settings.windows | ({} if settings.interval is None else {"interval": settings.interval})

    def loaded(dtype: str) -> Any:
        with one_thread():  # a process that never had several threads can be forked for every core
            try:
                scorer = hf_sqa.pipelines.pipeline(settings.model, dtype=dtype, device=settings.device)
            except (OSError, ValueError, RuntimeError, KeyError, AssertionError, SafetensorError) as error:  # Assertion: no CUDA
                message = " ".join(str(error).split())
                raise ValueError(f"The model {settings.model or 'default'!r} cannot be used: {message}") from error
            # Set only after loading, so that an unknown option is not reported as a fault of the model.
            scorer._preprocess_params, scorer._forward_params, scorer._postprocess_params = scorer._sanitize_parameters(**options)
        return scorer

    if settings.dtype != "auto":
        return loaded(settings.dtype)
    scorer = loaded("float32")
    error = scorer.model.bfloat16_error
    is_small = error is not None and error < LARGEST_ERROR and scorer.device.type == "cpu"  # the error was measured on CPUs
    return loaded("bfloat16") if is_small and computes_in_bfloat16() else scorer
