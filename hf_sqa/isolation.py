"""Applies a function in separate processes: if it hangs on an item, or kills its process, only that item is lost.

It is made for decoders, which are libraries in C. The processes have one thread, and end with the process that started them. If
this process has one thread too, they are forks, which share what it has loaded and start at once; otherwise they are fresh
processes, and import neither torch nor transformers unless the function does.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

Item = TypeVar("Item")

DEFAULT_TIMEOUT_SECONDS = 300.0
#: Items that one worker holds at a time.
AHEAD_PER_WORKER = 2
#: Further finished and waiting items over all workers; this bounds the memory.
AHEAD_IN_ALL = 4
STARTING_SECONDS = 120.0
TRIES = 2
#: A thread that was joined is listed until the system has ended it; copies wait for that, because a fresh start takes longer.
EXITING_SECONDS = 1.0
#: Threads that do not prevent forking: that of pyarrow's allocator, which handles forks.
HARMLESS_THREADS = frozenset({"jemalloc_bg_thd"})


@dataclass(frozen=True)
class Lost:
    """Replaces the result of an item that has none."""

    code: str  # `"timed_out"` or `"decoder_died"`
    message: str  # What happened, and what to do


@dataclass(frozen=True)
class Unusable:
    """Returned by a function that cannot handle any item: `map` raises it as a `RuntimeError`."""

    message: str  # What happened, and what to do


def may_fork(wait_seconds: float = 0.0) -> bool:
    """Whether a fork of this process can work: it must have one thread only, as a fork may lack the locks and pools of others.

    The operating system is asked, because Python does not know the threads of libraries in C. Only Linux answers; on macOS the
    system's own libraries forbid forks. Other threads get `wait_seconds` to end.
    """
    until = time.monotonic() + wait_seconds
    while (num_threads := _num_threads()) not in (1, None) and time.monotonic() < until:
        time.sleep(0.001)
    return num_threads == 1


def _num_threads() -> int | None:
    """Number of threads that matter to a fork; `None` if the operating system does not say."""
    names = []
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
                names.append((thread / "comm").read_text(encoding="utf-8").strip())
    except OSError:
        return None
    return len([name for name in names if name not in HARMLESS_THREADS])


class Isolated:
    """Applies a function to items, in order, ahead of the consumer of the results.

    Args:
        function (callable): A function of a module, or a `functools.partial` of one, called with an item. If it returns a callable,
            the time limit ends there, and the result is what the callable returns.
        num_workers (`int`): Number of processes; 0 computes in this process, without a time limit. Windows allows only 0.
        timeout_seconds (`float`, *optional*, defaults to 300): Time limit for one item.

    Use as a context manager: leaving it ends the workers.
    """

    def __init__(self, function: Callable[[Any], Any], num_workers: int, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS):
        if num_workers and sys.platform == "win32":
            raise ValueError("Decoding in processes of its own is not available on Windows; use num_workers=0.")
        self._function, self._num_workers, self._timeout_seconds = function, num_workers, timeout_seconds
        self._workers: list[_Worker] = []
        self._queued: deque[_Job] = deque()
        self._starts_in_vain = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        self._queued.clear()

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the running workers."""
        return [worker.process.pid for worker in self._workers]

    def map(self, items: Iterable[Item], argument: Callable[[Item], Any] = lambda item: item) -> Iterator[tuple[Item, Any]]:
        """Yield every item in order with the function's result, or with [`Lost`]. Items are taken as workers become free.

        `argument` returns the function's argument for an item; if that is `None`, the function is not called and the result is
        `None`. An argument that cannot be pickled is handled in this process.
        """
        if not self._num_workers:
            for item in items:
                given = argument(item)
                yield item, None if given is None else _usable(_applied(self._function, given))
            return
        waiting = iter(items)
        order: deque[_Job] = deque()
        exhausted, num_done = False, 0
        while True:
            # Grows with every result, so that a few long recordings are not queued while another process could begin them.
            ahead = self._num_workers * AHEAD_PER_WORKER + min(AHEAD_IN_ALL, num_done)
            while not exhausted and len(order) < ahead:
                try:
                    item = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                order.append(self._job(item, argument(item)))
            self._hand_out()
            if order and order[0].done:
                job = order.popleft()
                num_done += 1
                yield job.item, _usable(job.result)
            elif exhausted and not order:
                return
            else:
                self._collect()

    def _job(self, item: Any, argument: Any) -> _Job:
        job = _Job(item)
        if argument is None:
            job.done = True
            return job
        try:
            job.message = pickle.dumps(argument, pickle.HIGHEST_PROTOCOL)
        except Exception:  # whatever a class raises that cannot be pickled, such as a decoder or an open file
            job.finish(_applied(self._function, argument))
        else:
            self._queued.append(job)
        return job

    def _hand_out(self) -> None:
        while len(self._workers) < self._num_workers and len(self._queued) > sum(not worker.jobs for worker in self._workers):
            wait_seconds = 0.0 if self._workers else EXITING_SECONDS  # the first has waited for all
            self._workers.append(_Worker(self._function, self._timeout_seconds, wait_seconds))
        for _ in range(AHEAD_PER_WORKER):
            for worker in self._workers:
                if self._queued and worker.room:
                    worker.give(self._queued.popleft())

    def _collect(self) -> None:
        """Wait until a result arrives, a worker dies or a time limit passes."""
        now = time.monotonic()
        deadline = min((worker.deadline for worker in self._workers if worker.jobs), default=now + 1.0)
        timeout = None if math.isinf(deadline) else max(0.0, deadline - now)
        ready = wait([worker.connection for worker in self._workers], timeout=timeout)
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                result = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker)
            else:
                self._starts_in_vain = 0
                worker.take(result)
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.jobs and worker.deadline <= now]:
            if not worker.started:
                raise RuntimeError(f"A decoder process did not start within {STARTING_SECONDS:g} s; use fewer workers.")
            message = (
                f"decoding took longer than {self._timeout_seconds:g} s and was stopped; check the file, or raise the time limit"
            )
            worker.jobs.popleft().finish(Lost("timed_out", message))
            self._replace(worker)

    def _bury(self, worker: _Worker) -> None:
        if not worker.started:
            self._starts_in_vain += 1
            if self._starts_in_vain > 2 * self._num_workers:
                raise RuntimeError("The decoder processes end as soon as they start; see the messages above, or use num_workers=0.")
        elif worker.jobs:
            job = worker.jobs[0]
            job.tries += 1
            if job.tries >= TRIES:
                worker.jobs.popleft()
                message = (
                    "the decoding process died twice at this recording (out of memory, or a fault in the decoder); check the file"
                )
                job.finish(Lost("decoder_died", message))
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        self._queued.extendleft(reversed(worker.jobs))
        self._workers.remove(worker)
        worker.stop(at_once=True)


@dataclass(eq=False)
class _Job:
    item: Any
    done: bool = False
    result: Any = None
    message: bytes = b""
    tries: int = 0

    def finish(self, result: Any) -> None:
        self.done, self.result, self.message = True, result, b""


class _Begun:
    """Sent by a worker when its function has returned a callable; the time limit ends here."""


class _Worker:
    """A worker process, from the side of its parent."""

    def __init__(self, function: Callable[[Any], Any], timeout_seconds: float, wait_seconds: float):
        self._timeout_seconds = timeout_seconds
        self.process: _Copy | subprocess.Popen[bytes]
        if may_fork(wait_seconds):
            self.connection, theirs = Pipe()
            self.process = _Copy(theirs, function)
            theirs.close()
        else:
            message = pickle.dumps(function, pickle.HIGHEST_PROTOCOL)
            self.connection, theirs = Pipe()
            self.process = _started_afresh(theirs)
            theirs.close()
            with contextlib.suppress(OSError):  # it died: reading its connection will show that
                self.connection.send_bytes(message)
        self.jobs: deque[_Job] = deque()
        self.started = False
        self.deadline = time.monotonic() + STARTING_SECONDS

    @property
    def room(self) -> int:
        return AHEAD_PER_WORKER - len(self.jobs)

    def give(self, job: _Job) -> None:
        if self.started and not self.jobs:
            self.deadline = time.monotonic() + self._timeout_seconds
        self.jobs.append(job)
        with contextlib.suppress(OSError):
            self.connection.send_bytes(job.message)

    def take(self, result: Any) -> None:
        if isinstance(result, _Begun):
            self.deadline = math.inf
            return
        if not self.started:
            self.started = True
        else:
            self.jobs.popleft().finish(result)
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


class _Copy:
    """A fork of this process that serves a connection, with the methods of `subprocess.Popen` that are used here."""

    def __init__(self, connection: Connection, function: Callable[[Any], Any]):
        # A signal during the fork must reach the fork's own handlers, not those inherited from this process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12 for forks beside any thread
                self.pid = os.fork()
            if self.pid == 0:
                _serve_as_copy(connection, function, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._has_ended = False

    def kill(self) -> None:
        if not self._has_ended:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._has_ended:
            try:
                self._has_ended = os.waitpid(self.pid, 0 if timeout is None else os.WNOHANG)[0] == self.pid
            except ChildProcessError:  # this process ignores SIGCHLD
                self._has_ended = True
            if not self._has_ended:
                if time.monotonic() > until:
                    raise subprocess.TimeoutExpired("a copy of this process", timeout or 0.0)
                time.sleep(0.005)


def _serve_as_copy(connection: Connection, function: Callable[[Any], Any], signals: Iterable[int]) -> NoReturn:
    """Serve with nothing of the parent process but its memory, then exit."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        gc.freeze()  # a garbage collection would copy the shared memory
        # Close locks, sockets and pipes, whose end others wait for. Their numbers stay taken, because objects here may close them.
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if descriptor not in (1, 2, nothing, connection.fileno()):
                os.dup2(nothing, descriptor, inheritable=False)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not those of a progress bar
        serve(connection, function)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _started_afresh(connection: Connection) -> subprocess.Popen[bytes]:
    """Start a fresh process that serves a connection. Its first message must be the function."""
    code = (
        "import sys; from multiprocessing.connection import Connection; from hf_sqa.isolation import serve; "
        "connection = Connection(int(sys.argv[1])); serve(connection, connection.recv())"
    )
    search_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(connection.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[connection.fileno()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search_path},
    )


def serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """Main loop of a worker: answer every message of a connection until it closes."""
    import queue
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for us
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        # Messages are always read at once: two processes that both wait to be read would wait forever.
        try:
            while True:
                received.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    try:
        connection.send("ready")
        while True:
            result = function(pickle.loads(received.get()))
            if callable(result):
                connection.send(_Begun())
                result = result()
            connection.send(result)
    except OSError:  # nobody reads the results any more
        os._exit(0)


def _applied(function: Callable[[Any], Any], given: Any) -> Any:
    result = function(given)
    return result() if callable(result) else result


def _usable(result: Any) -> Any:
    if isinstance(result, Unusable):
        raise RuntimeError(result.message)
    return result
