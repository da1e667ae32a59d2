"""Folders that survive a kill: files are whole or absent, one process writes at a time, and an interrupted run can resume.

| to | use |
|---|---|
| write a file or a folder whole or not at all | [`whole_file`], [`write_whole`], [`whole_folder`], [`move_into`] |
| keep other processes out | [`locked`], which raises [`Locked`] |
| share jobs among processes | [`claim`] |
| keep rows as they come and read them after a kill | [`journal`], [`read_journal`], [`write_rows`] |
| refuse a folder that holds another run | [`check_same_run`], which raises [`RunMismatch`]; [`digest_of`], [`differences`] |
| run a function in processes | [`in_processes`] |
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

Task = TypeVar("Task")
Result = TypeVar("Result")

#: A killed process may leave a child that holds its lock until the child has begun to run.
LET_GO_SECONDS = 1.0
#: Characters of a value in a message about another run.
SHOWN_CHARACTERS = 80


class Locked(RuntimeError):  # noqa: N818
    """Another process holds the lock."""


class RunMismatch(ValueError):  # noqa: N818
    """A folder holds another run than the requested one; `differences` are the dotted keys that differ, each with both values."""

    def __init__(self, message: str, differences: Mapping[str, tuple[Any, Any]] | None = None):
        super().__init__(message)
        self.differences = dict(differences or {})


@contextlib.contextmanager
def whole_file(path: Path, sole_writer: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside a file; what is written there replaces the file if the block ends without an error.

    With `sole_writer`, which says that no other process writes the file, the temporary name is always the same, so that the file of
    a killed writer is overwritten and not left behind. With `durable`, it waits until the file is on disk, to survive a power cut.
    """
    unfinished = path.with_name(f".{path.name}-{'part' if sole_writer else uuid.uuid4().hex[:8]}")
    try:
        yield unfinished
        if durable:
            _sync(unfinished)
        os.replace(unfinished, path)
        if durable and os.name != "nt":
            _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, and the first error says so
            unfinished.unlink(missing_ok=True)


def write_whole(path: Path, text: str, sole_writer: bool = False, durable: bool = False) -> None:
    """Write UTF-8 text; see [`whole_file`]."""
    with whole_file(path, sole_writer, durable) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces a missing or empty one if the block ends without an error, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp, whose folder other users of a shared cache could not read.
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    unfinished.mkdir()
    try:
        yield unfinished
        if os.name == "nt":  # elsewhere an empty folder is replaced
            with contextlib.suppress(OSError):
                folder.rmdir()
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def move_into(finished: Path, folder: Path) -> None:
    """Move everything from a finished folder into another, sorted by name; existing files and folders are replaced."""
    for path in sorted(finished.iterdir()):
        target = folder / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(path, target)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool | float | None = None, refusal: str | None = None) -> Iterator[None]:
    """Hold a lock. The operating system releases it when the process ends, however it ends; the empty file stays.

    Args:
        path (`Path`): The lock file, such as `folder / ".lock"`; its folder is created.
        wait (`bool` or `float`, *optional*): Whether to wait until the lock is free, or for how many seconds; `LET_GO_SECONDS` if
            not given.

    Raises:
        Locked: If another process, or another call in this process, holds it.
        OSError: If the file cannot be created, or the file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise type(error)(
            f"Expected a folder to write into, got {str(path.parent)!r}, which cannot be made ({error.strerror}); choose another."
        ) from error
    wait = LET_GO_SECONDS if wait is None else wait
    lock = FileLock(path, timeout=(-1 if wait else 0) if isinstance(wait, bool) else wait)
    try:
        lock.acquire()
    except Timeout:
        message = f"Another process is writing into {str(path.parent)!r}; wait until it ends, or choose another folder."
        raise Locked(refusal or message) from None
    except NotImplementedError as error:  # raised by filelock for a file system without locks
        raise OSError(
            f"There are no file locks at {str(path.parent)!r} ({error}); choose a folder on another file system."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Hold the lock of a job if it is free, and yield whether it was. A job whose process died is free again; see [`locked`]."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=False))
            is_ours = True
        except Locked:
            is_ours = False
        yield is_ours


@contextlib.contextmanager
def journal(path: Path, rows: Iterable[Mapping[str, Any]] = ()) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Begin a journal, with one JSON object per line, and yield the function that appends a row to it.

    A row is handed to the operating system before the function returns: a process killed later loses no row, one killed while it
    writes leaves a torn last line, which [`read_journal`] drops. The file begins with `rows`; the caller keeps other writers out.
    """
    write_rows(path, rows)
    with path.open("a", encoding="utf-8", errors="surrogateescape", newline="\n") as file:

        def append(row: Mapping[str, Any]) -> None:
            file.write(json_line(row))
            file.flush()

        yield append


def read_journal(path: Path, columns: Sequence[str] = (), remedy: str = "move the file away") -> list[dict[str, Any]]:
    """Return the rows of a journal, in order; empty if it does not exist. A torn last line is dropped.

    A line other than the last that is not a row with all `columns` is a `ValueError`.
    """
    rows = []
    # Not splitlines, because file names may hold other line separators of Unicode.
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n").split("\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            is_row = isinstance(row, dict) and all(name in row for name in columns)
        except (ValueError, RecursionError):
            is_row = False
        if is_row:
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"Line {number} of {str(path)!r} is no row of this kind of file; {remedy}.")
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rewrite a journal, whole or not at all."""
    with (
        whole_file(path, sole_writer=True) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        file.writelines(json_line(row) for row in rows)


def json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def check_same_run(path: Path, definition: Mapping[str, Any], remedy: str = "choose another folder") -> bool:
    """Compare the definition of a run with that of an earlier run, and return whether there was one; write it if not.

    Another definition is a [`RunMismatch`], which names the keys that differ; a damaged file is a `ValueError`.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(definition, indent=1, default=str) + "\n", durable=True)
        return False
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); {remedy}.") from None
    if found := differences(earlier, definition):
        message = f"{str(path.parent)!r} holds another run ({describe_differences(found)}): {remedy}."
        raise RunMismatch(message, found)
    return True


def differences(earlier: Any, wanted: Any) -> dict[str, tuple[Any, Any]]:
    """Return the differences between two definitions of a run, compared as JSON: dotted key to `(earlier, wanted)`."""
    return dict(_differences("", _as_json(earlier), _as_json(wanted)))


def describe_differences(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Describe differences in words: `"seed was 1, is 2; model was 'a', is 'b'"`."""
    return "; ".join(f"{key} was {_shown(earlier)}, is {_shown(wanted)}" for key, (earlier, wanted) in found.items())


def digest_of(content: Any, num_digits: int = 16) -> str:
    """Return a hexadecimal digest of the content's JSON; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:num_digits]


def in_processes(
    function: Callable[..., Result],
    tasks: Iterable[Task],
    num_workers: int,
    *shared: Any,
    tasks_per_worker: int = 2,
    in_order: bool = False,
    ahead: bool = False,
) -> Iterator[Result]:
    """Yield the result of a function for every task, computed in processes that end with this one.

    The processes are started afresh, never forked: a fork copies the threads of torch and of a progress bar in whatever state they
    are in. Only this process handles Ctrl-C.

    Args:
        function (callable): A function of a module, called with a task and the `shared` values.
        tasks (iterable): Tasks, taken as workers become free.
        num_workers (`int`): Number of processes; 1 or fewer computes in this process.
        ahead (`bool`, *optional*, defaults to `False`): Whether to start a process even for `num_workers=1`, so that it works
            while this one does something else.
        tasks_per_worker (`int`, *optional*, defaults to 2): Tasks that each worker holds: few, so that Ctrl-C acts soon.
        in_order (`bool`, *optional*, defaults to `False`): Whether to yield in the order of the tasks, not as they finish.
        shared (*optional*): Values that all tasks need. They are sent to every process once, and keep their state there.
    """
    if num_workers < 1 or (num_workers == 1 and not ahead):
        yield from (function(task, *shared) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, context, _begin_worker, shared)
    waiting = iter(tasks)
    try:
        pending = [pool.submit(_in_worker, function, task) for task in itertools.islice(waiting, tasks_per_worker * num_workers)]
        while pending:
            if in_order:
                done = {pending[0]}
            else:
                done = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED).done
            pending = [future for future in pending if future not in done]
            for future in done:
                result = future.result()
                pending += [pool.submit(_in_worker, function, task) for task in itertools.islice(waiting, 1)]
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


#: The `shared` values, in a worker.
_shared: tuple[Any, ...] = ()


def _begin_worker(*shared: Any) -> None:
    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _shared = shared


def _in_worker(function: Callable[..., Result], task: Any) -> Result:
    return function(task, *_shared)


def _end_with_parent() -> None:
    """End a worker when its parent ends: a killed parent cannot stop its workers, which would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _differences(key: str, earlier: Any, wanted: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(earlier, list) and isinstance(wanted, list) and len(earlier) == len(wanted):
        earlier, wanted = (dict(zip(map(str, range(len(values))), values, strict=True)) for values in (earlier, wanted))
    if isinstance(earlier, dict) and isinstance(wanted, dict):
        for name in {**earlier, **wanted}:
            yield from _differences(f"{key}.{name}" if key else name, earlier.get(name), wanted.get(name))
    elif earlier != wanted:
        yield key, (earlier, wanted)


def _as_json(content: Any) -> Any:
    return json.loads(json.dumps(content, default=str))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _sync(path: Path) -> None:
    # Windows syncs only files that are open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
