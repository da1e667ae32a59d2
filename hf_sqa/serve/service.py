"""Decodes recordings in separate processes, and scores them together in the thread that has the model."""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO, Self

from hf_sqa.audio import Recording
from hf_sqa.cells import file_row
from hf_sqa.scoring import CorpusScorer, Item, Settings
from hf_sqa.scoring.decoding import Decoder
from hf_sqa.scoring.items import Refusal
from hf_sqa.scoring.processes import Scoring

logger = logging.getLogger("hf_sqa.serve")

#: Most recordings, and seconds of audio, that are scored in one batch.
BATCH_RECORDINGS, BATCH_SECONDS = 16, 300.0


@dataclass(frozen=True)
class Limits:
    """Limits on one request."""

    max_bytes: int = 100_000_000  # Size of a request, and of the content of a URL
    max_seconds: float = 600.0  # Length of a recording
    timeout_seconds: float = 120.0  # Time from the end of the upload to the answer, waiting included
    max_files: int = 64  # Recordings of one batch
    max_waiting: int = 256  # Recordings that wait or are being scored at one time; further ones are refused
    allow_urls: bool = False  # Whether recordings are read from public http(s) URLs in requests
    private_hosts: Collection[str] = ()  # Hosts with a private address that such URLs may also name


@dataclass(eq=False)
class _Job:
    recording: Recording
    asked: Mapping[str, Any]
    scored: Future[Any] = field(default_factory=Future)


class Service:
    """A loaded model with the processes that decode for it. Use it as a context manager: leaving it ends them.

    Args:
        settings ([`~hf_sqa.scoring.Settings`]): Model, mode, device and channel.
        limits ([`Limits`], *optional*): Limits on one request.
        num_decoders (`int`, *optional*, defaults to 1): Processes that decode. A decoder that dies or hangs is replaced. Windows
            has none: a recording that kills the decoder ends the service there.
        scorer (`AudioQualityPipeline`, *optional*): A pipeline that is already loaded.
    """

    def __init__(self, settings: Settings, limits: Limits | None = None, num_decoders: int = 1, scorer: Any = None):
        self.limits = limits or Limits()
        settings = replace(
            settings,
            max_seconds=self.limits.max_seconds,
            timeout_seconds=self.limits.timeout_seconds,
            num_workers=0 if os.name == "nt" else 1,  # for each of the decoders below
            num_processes=1,
        )
        self._worker = CorpusScorer(settings, scorer)
        self.scorer = self._worker.scorer
        self.score_names: list[str] = self._worker.model.config.score_names
        self.identity = self._worker.identity
        #: Whether every row names the worst stretch; as in `hf-sqa score`, it does if that costs little.
        self.names_worst: bool = self.scorer.local_is_cheap
        #: For each coverage, why there are no such intervals, or `None`.
        self._intervals: dict[float, str | None] = {}
        #: Recordings that wait or are being scored.
        self.num_waiting = 0
        #: Called with the size of every scored batch.
        self.on_batch: Callable[[int], object] = lambda _: None
        #: Called with `num_waiting` whenever it changes.
        self.on_waiting: Callable[[int], object] = lambda _: None
        self._decoders: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        self._num_decoders = num_decoders
        self._decoding = ThreadPoolExecutor(num_decoders, thread_name_prefix="decode")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._scoring = threading.Thread(target=self._score_jobs, name="score", daemon=True)

    def __enter__(self) -> Self:
        for _ in range(self._num_decoders):
            self._decoders.put(self._worker.decoder())
        self._scoring.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._decoding.shutdown(wait=True, cancel_futures=True)
        self._jobs.put(None)
        self._scoring.join()
        while not self._decoders.empty():
            self._decoders.get().__exit__()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that scores is running."""
        return self._scoring.is_alive()

    async def why_no_interval(self, coverage: float) -> str | None:
        """Why rows cannot have intervals of this coverage; `None` if they can."""
        if coverage not in self._intervals:
            check = partial(self.scorer._sanitize_parameters, interval=coverage)  # reads all weights, so not in the event loop
            try:
                await asyncio.get_running_loop().run_in_executor(None, check)
                self._intervals[coverage] = None
            except ValueError as error:
                self._intervals[coverage] = str(error)
        return self._intervals[coverage]

    async def row(self, name: str, audio: bytes | BinaryIO, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of one encoded recording, as `hf-sqa score` writes it: with scores or a reason, and no NaN.

        `asked` holds options of the pipeline, such as `return_segments`; an `interval` must have passed [`why_no_interval`].
        """
        if self.num_waiting >= self.limits.max_waiting:
            reason = f"{self.num_waiting} recordings are waiting; try again in a few seconds"
            return self.refused(name, Refusal("failed", "busy", reason), asked)
        self._wait(1)
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                decoded = await asyncio.get_running_loop().run_in_executor(self._decoding, self._decode, name, audio)
                if isinstance(decoded, Refusal):
                    return self.refused(name, decoded, asked)
                job = _Job(decoded, asked)
                self._jobs.put(job)
                scored = await asyncio.wrap_future(job.scored)
                return file_row(name, self.scorer.columns(asked.get("interval")), scored, asked)
        except TimeoutError:
            reason = f"it was not scored within {self.limits.timeout_seconds:g} s; try again later, or send a shorter recording"
            return self.refused(name, Refusal("failed", "timed_out", reason), asked)
        except Exception as error:
            logger.exception("A recording was not scored")
            reason = f"the service failed at it ({type(error).__name__}), and wrote why into its log"
            return self.refused(name, Refusal("failed", "service_failed", reason), asked)
        finally:
            self._wait(-1)

    def _wait(self, more: int) -> None:
        self.num_waiting += more
        self.on_waiting(self.num_waiting)

    def refused(self, name: str, refusal: Refusal, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the row of a recording that was not scored."""
        return file_row(name, self.scorer.columns((asked or {}).get("interval")), asdict(refusal), asked)

    def _decode(self, name: str, audio: bytes | BinaryIO) -> Recording | Refusal:
        """Decode in a separate process. Uploads are read here, not earlier, so that waiting ones stay on disk."""
        content = audio if isinstance(audio, bytes) else audio.read()
        if not content:
            return Refusal("failed", "empty", "the upload has no bytes; send the recording itself")
        decoder = self._decoders.get()
        try:
            ((_, decoded),) = decoder.decode([Item(0, name, name, content)])
        except RuntimeError as error:  # its processes cannot be started
            decoder.__exit__()
            decoder = self._worker.decoder()
            return Refusal("failed", "service_failed", str(error))
        finally:
            self._decoders.put(decoder)
        assert decoded is not None
        return decoded

    def _score_jobs(self) -> None:
        ended = False
        while not ended and (job := self._jobs.get()) is not None:
            jobs, seconds = [job], job.recording.duration_seconds
            while len(jobs) < BATCH_RECORDINGS and seconds < BATCH_SECONDS and not self._jobs.empty():
                another = self._jobs.get()
                if another is None:
                    ended = True
                    break
                jobs.append(another)
                seconds += another.recording.duration_seconds
            waited_for = [job for job in jobs if job.scored.set_running_or_notify_cancel()]
            for asked in {tuple(sorted(job.asked.items())) for job in waited_for}:
                self._score([job for job in waited_for if tuple(sorted(job.asked.items())) == asked])

    def _score(self, jobs: list[_Job]) -> None:
        """Score a batch; if it fails, score each recording alone, so that only the one at fault has no score."""
        try:
            score = Scoring(self.scorer, **{**jobs[0].asked, "return_details": True, "on_error": "row"})
            rows = score.together([job.recording for job in jobs])
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._score([job])
            else:
                jobs[0].scored.set_exception(error)
            return
        self.on_batch(len(jobs))
        for job, row in zip(jobs, rows, strict=True):
            job.scored.set_result(row)
