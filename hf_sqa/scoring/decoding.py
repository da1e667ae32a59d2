"""From an item to a checked recording, in processes of their own: a decoder that hangs or dies costs one row, not the run.

The workers import neither torch nor transformers, and end with the process that started them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import numpy as np
import soundfile

from hf_sqa.audio import AudioError, Recording, open_stream
from hf_sqa.audio.sources import BLOCK_SECONDS, AudioStream, FileStream
from hf_sqa.scoring.items import Excerpt, Item, Refusal, TarMember
from hf_sqa.scoring.remote import is_remote, read_remote

DEFAULT_TIMEOUT_SECONDS = 300.0
#: Items given to one worker ahead of the one it is at.
AHEAD_PER_WORKER = 2
#: Finished and waiting items in all: what bounds the memory of a run.
AHEAD_IN_ALL = 4
STARTING_SECONDS = 120.0
#: Formats in which the frame asked for is the frame found; in others a stretch is reached by reading up to it.
SEEKS_EXACTLY = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "RF64", "W64"})
TRIES = 2
#: Manifests round.
STRETCH_TOLERANCE_SECONDS = 0.05


@dataclass(frozen=True)
class Decoding:
    """How recordings are decoded; part of a score's identity, but for the time limit.

    Args:
        sampling_rate (`int`): Rate the model wants, in Hz.
        channel (`str` or `int`): `"mean"`, or one channel by number.
        max_seconds (`float`, *optional*): Longer recordings are skipped, by a row that says so.
        timeout_seconds (`float`): Time limit for one recording. Without workers there is none.
    """

    sampling_rate: int
    channel: str | int = "mean"
    max_seconds: float | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS


class ExcerptStream(AudioStream):
    """A stretch of another stream, at its native rate."""

    def __init__(self, stream: AudioStream, excerpt: Excerpt):
        self.source = stream.source
        self.sampling_rate, self.num_channels = stream.sampling_rate, stream.num_channels
        self._stream = stream
        self._first = round(excerpt.start_seconds * self.sampling_rate)
        self._last = None
        if excerpt.duration_seconds is not None:
            self._last = round((excerpt.start_seconds + excerpt.duration_seconds) * self.sampling_rate)

    def blocks(self) -> Iterator[np.ndarray]:
        position, blocks = self._from_near_first()
        for block in blocks:
            begin = max(0, self._first - position)
            end = len(block) if self._last is None else min(len(block), self._last - position)
            position += len(block)
            if end > begin:
                yield block[begin:end]
            if self._last is not None and position >= self._last:
                return
        if self._last is not None and position < self._last - STRETCH_TOLERANCE_SECONDS * self.sampling_rate:
            raise AudioError(
                self.source,
                "truncated",
                f"expected a stretch up to {self._last / self.sampling_rate:.3f} s, got a recording that ends before; correct the "
                "manifest, or copy the recording again",
            )

    def _from_near_first(self) -> tuple[int, Iterator[np.ndarray]]:
        """Blocks, and the frame the first of them begins with."""
        if isinstance(self._stream, FileStream) and self._first > 0 and not self._stream._is_unclosed_wav:
            with self._stream._open() as opened:
                if opened.format in SEEKS_EXACTLY and opened.frames > self._first:
                    return self._first, self._blocks_from(self._first)
        return 0, self._stream.blocks()

    def _blocks_from(self, first: int) -> Iterator[np.ndarray]:
        with self._stream._open() as opened:  # type: ignore[attr-defined]
            opened.seek(first)
            try:
                while len(block := opened.read(int(BLOCK_SECONDS * self.sampling_rate), dtype="float32", always_2d=True)):
                    yield block
            except soundfile.LibsndfileError as error:
                message = f"decoding stopped ({error.error_string.strip()}): the file is damaged; copy or encode it again"
                raise AudioError(self.source, "truncated", message) from None


class MemberStream(FileStream):
    """A member of a tar, in memory; between processes only its place travels."""

    def __init__(self, member: TarMember):
        self._member = member
        super().__init__(_member_bytes(member), member.name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._file = _member_bytes(self._member)


def load(item: Item, decoding: Decoding) -> Recording | Refusal:
    """Open, check, mix down and resample one item; whatever goes wrong is a refusal."""
    try:
        stream, channel = _opened(item.audio), decoding.channel
        if isinstance(item.audio, Excerpt):
            stream = ExcerptStream(stream, item.audio)
            channel = item.audio.channel if item.audio.channel is not None else channel
        recording = Recording(stream, decoding.sampling_rate, channel)
    except AudioError as error:
        return Refusal(error.status, error.code, error.message)
    except MemoryError:
        return Refusal("failed", "out_of_memory", "the recording does not fit into memory; cut it into pieces")
    except Exception as error:  # one recording must not stop a million
        return Refusal("failed", "undecodable", f"it cannot be decoded ({type(error).__name__}: {error})")
    if decoding.max_seconds is not None and recording.duration_seconds > decoding.max_seconds:
        reason = f"longer than the limit asked for: {recording.duration_seconds:.2f} s, limit {decoding.max_seconds:g} s"
        return Refusal("skipped", "too_long", reason)
    return recording


def _opened(audio: Any) -> AudioStream:
    if isinstance(audio, Excerpt):
        return _opened(audio.audio)
    if isinstance(audio, TarMember):
        return MemberStream(audio)
    if isinstance(audio, str) and is_remote(audio):
        try:
            return FileStream(read_remote(audio), audio)
        except FileNotFoundError:
            raise AudioError(audio, "missing", "there is no such file; check the address") from None
        except ImportError as error:
            raise AudioError(audio, "unsupported", f"this kind of URL needs another package: {error}") from None
        except PermissionError as error:
            raise AudioError(audio, "unreachable", f"it may not be read ({error}); check the credentials") from None
        except AudioError:
            raise
        except Exception as error:  # every file system of fsspec has its own
            raise AudioError(audio, "unreachable", f"the download failed ({error}); try again later") from None
    return open_stream(audio)


def _member_bytes(member: TarMember) -> bytes:
    try:
        with open(member.archive, "rb") as archive:
            archive.seek(member.offset)
            content = archive.read(member.size)
    except FileNotFoundError:
        raise AudioError(member.name, "missing", f"the archive {member.archive!r} is gone; check the path") from None
    except OSError as error:
        raise AudioError(member.name, "unreachable", f"the archive {member.archive!r} cannot be read ({error.strerror})") from None
    if len(content) < member.size:
        message = f"the archive {member.archive!r} ends inside this member; copy it again"
        raise AudioError(member.name, "truncated", message)
    return content


class Decoder:
    """Decodes items in order, ahead of whoever takes them.

    Args:
        decoding ([`Decoding`]): How.
        num_workers (`int`, *optional*, defaults to 0): Processes; 0 decodes in this one, without a time limit.

    Use as a context manager: leaving it ends the workers.
    """

    def __init__(self, decoding: Decoding, num_workers: int = 0):
        if num_workers and sys.platform == "win32":
            raise ValueError("Decoding in processes of its own is not available on Windows; use num_workers=0.")
        self._decoding = decoding
        self._num_workers = num_workers
        self._workers: list[_Worker] = []
        self._starts_in_vain = 0

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run now."""
        return [worker.process.pid for worker in self._workers]

    def decode(self, items: Iterable[Item]) -> Iterator[tuple[Item, Recording | Refusal | None]]:
        """Yield every item in order with its recording or the reason why there is none; `None` where an item brings no audio."""
        if not self._num_workers:
            for item in items:
                yield item, self._known(item) if item.refusal is not None or item.audio is None else load(item, self._decoding)
            return
        yield from self._decode_in_workers(iter(items))

    @staticmethod
    def _known(item: Item) -> Refusal | None:
        return item.refusal

    def _decode_in_workers(self, items: Iterator[Item]) -> Iterator[tuple[Item, Recording | Refusal | None]]:
        order: deque[_Job] = deque()
        queued: deque[_Job] = deque()
        most = self._num_workers * AHEAD_PER_WORKER + AHEAD_IN_ALL
        exhausted = False
        while True:
            while not exhausted and len(order) < most:
                item = next(items, None)
                if item is None:
                    exhausted = True
                    break
                job = _Job(item)
                order.append(job)
                if item.refusal is not None or item.audio is None:
                    job.finish(item.refusal)
                else:
                    queued.append(job)
            self._hand_out(queued)
            while order and order[0].done:
                job = order.popleft()
                yield job.item, job.result
                break
            else:
                if exhausted and not order:
                    return
                self._collect(queued)

    def _hand_out(self, queued: deque[_Job]) -> None:
        while len(self._workers) < self._num_workers and len(queued) > sum(worker.room for worker in self._workers):
            self._workers.append(_Worker(self._decoding))
        for _ in range(AHEAD_PER_WORKER):
            for worker in self._workers:
                if queued and worker.room:
                    worker.give(queued.popleft())

    def _collect(self, queued: deque[_Job]) -> None:
        """Wait for one result, death or overrun of the time limit."""
        now = time.monotonic()
        deadline = min((worker.deadline for worker in self._workers if worker.jobs), default=now + 1.0)
        ready = wait([worker.connection for worker in self._workers], timeout=max(0.0, deadline - now))
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker, queued)
            else:
                self._starts_in_vain = 0
                worker.take(message)
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.jobs and worker.deadline <= now]:
            if not worker.started:
                raise RuntimeError(f"A decoder process did not start within {STARTING_SECONDS:g} s; use fewer workers.")
            limit = self._decoding.timeout_seconds
            reason = f"decoding took longer than {limit:g} s and was stopped; check the file, or raise the time limit"
            worker.jobs.popleft().finish(Refusal("failed", "timed_out", reason))
            self._replace(worker, queued)

    def _bury(self, worker: _Worker, queued: deque[_Job]) -> None:
        if not worker.started:
            self._starts_in_vain += 1
            if self._starts_in_vain > 2 * self._num_workers:
                raise RuntimeError("The decoder processes end as soon as they start; see the messages above, or use num_workers=0.")
        elif worker.jobs:
            job = worker.jobs[0]
            job.tries += 1
            if job.tries >= TRIES:
                worker.jobs.popleft()
                reason = (
                    "the decoding process died twice at this recording (out of memory, or a fault in the decoder); check the file"
                )
                job.finish(Refusal("failed", "decoder_died", reason))
        self._replace(worker, queued)

    def _replace(self, worker: _Worker, queued: deque[_Job]) -> None:
        queued.extendleft(reversed(worker.jobs))
        self._workers.remove(worker)
        worker.stop(at_once=True)


@dataclass
class _Job:
    item: Item
    done: bool = False
    result: Any = None
    tries: int = 0

    def finish(self, result: Any) -> None:
        self.done, self.result = True, result


class _Worker:
    """A process that decodes, seen from the one that asks."""

    def __init__(self, decoding: Decoding):
        self.connection, theirs = Pipe()
        self._timeout_seconds = decoding.timeout_seconds
        # Called `hf-sqa`, so that importing hf_sqa does not load torch; see the end of hf_sqa/__init__.py.
        code = "import sys; sys.argv[0] = 'hf-sqa'; from hf_sqa.scoring.decoding import serve; serve(int(sys.argv[1]))"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        self.jobs: deque[_Job] = deque()
        self.started = False
        self.deadline = time.monotonic() + STARTING_SECONDS
        self._decoding = decoding

    @property
    def room(self) -> int:
        return AHEAD_PER_WORKER - len(self.jobs)

    def give(self, job: _Job) -> None:
        if self.started and not self.jobs:
            self.deadline = time.monotonic() + self._timeout_seconds
        self.jobs.append(job)
        with contextlib.suppress(OSError):  # it died: the next look at its connection will tell
            self.connection.send((replace(job.item, columns={}, record=None), self._decoding))

    def take(self, message: Any) -> None:
        if not self.started:
            self.started = True
        else:
            self.jobs.popleft().finish(message)
        self.deadline = time.monotonic() + self._timeout_seconds

    def stop(self, at_once: bool = False) -> None:
        self.connection.close()
        if at_once:
            self.process.kill()
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(descriptor: int) -> None:
    """Decode what comes through a connection until it closes: the main loop of a worker."""
    import queue
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for us
    connection = Connection(descriptor)
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def receive() -> None:
        # Always taken at once: two processes that both wait to be read would wait for ever.
        try:
            while True:
                received.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    try:
        connection.send("ready")
        while True:
            item, decoding = received.get()
            connection.send(load(item, decoding))
    except OSError:  # nobody waits for us any more
        os._exit(0)
