"""Degrading files: each by a draw of its own, on all cores, with a manifest; a run that was killed goes on where it stopped."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.degradations.chain import Chain
from hf_sqa.degradations.noise import RecordingFolder
from hf_sqa.runs import whole_file, write_whole

#: What is written as it is read. Everything else becomes WAV, with `.wav` added to its name, so that `a.mp3` and `a.wav` both fit.
WRITTEN_SUFFIXES = (".wav", ".flac")
#: Peak of a file whose degraded samples go beyond full scale: 16-bit files hold no more, and the manifest has the gain.
PEAK_ROOM_DB = -0.1
#: Files in the hands of each worker at a time.
QUEUE_PER_WORKER = 4


@dataclass(frozen=True)
class Job:
    """One file to degrade.

    Args:
        name (`str`): Its name in the manifest, relative to the folder; chance depends on it and on the seed, on nothing else.
        source (`str`): The recording.
        target (`str`): The file to write, `.wav` or `.flac`.
        output (`str`): Its name in the manifest.
    """

    name: str
    source: str
    target: str
    output: str


@dataclass(frozen=True)
class Run:
    """What all files of a run have in common.

    Args:
        chain ([`Chain`]): What to draw from.
        seed (`int`): Seed of the run.
        sampling_rate (`int`, *optional*): Rate of the outputs in Hz; by default, each keeps its own.
    """

    chain: Chain
    seed: int
    sampling_rate: int | None = None

    @property
    def digest(self) -> str:
        """Twelve digits that differ where chain, seed, rate or the names of the noise recordings differ."""
        sources = [
            source.names if isinstance(source, RecordingFolder) else source is not None
            for source in (self.chain.noises, self.chain.talkers)
        ]
        content = json.dumps([self.chain.steps, self.seed, self.sampling_rate, sources], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def degrade_files(
    jobs: Sequence[Job], run: Run, *, manifest: str | Path | None, num_workers: int = 1, overwrite: bool = False
) -> Iterator[dict[str, Any]]:
    """Degrade files and yield a row for each, in the order in which they are done.

    A row has `input`, `output`, `status` (`"ok"`, `"failed"`, `"abstained"`), `code` and `reason` where it is not ok,
    `sampling_rate`, `num_samples`, `gain_db` (0 unless the file had to be turned down to fit full scale), `degradations` (the
    record of the chain), `seed` (of this file) and `run`. Rows go to the manifest as they come; when all are done it is written
    anew in the order of the jobs. Outputs appear whole or not at all. Files that are in the manifest of the same run, and exist,
    are not done again, so a run that was killed ends with the very files and manifest that it would have had; failed files are
    tried again.

    Args:
        jobs (list of [`Job`]): The files.
        run ([`Run`]): Chain, seed and rate.
        manifest (`str` or `Path`): JSON lines; `None` for none, and then nothing is skipped.
        num_workers (`int`, *optional*, defaults to `1`): Processes. They change nothing in the results.
        overwrite (`bool`, *optional*, defaults to `False`): Begin anew even if the manifest is that of another run.

    Raises:
        ValueError: If the manifest is that of another run, or two jobs write the same file.
        CodecUnavailableError, ModuleNotFoundError: If the chain needs a library that is not installed.
    """
    targets = [job.target for job in jobs]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise ValueError(f"Expected one recording for each file to write, got two for {twice!r}; rename one of them.")
    run.chain.check_requirements()
    path = Path(manifest) if manifest is not None else None
    rows = {} if path is None or overwrite else _finished(path, run.digest)
    rows = {job.name: rows[job.name] for job in jobs if job.name in rows and Path(job.target).is_file()}
    if path is None:
        yield from _rows([job for job in jobs if job.name not in rows], run, num_workers)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(_line(row) for row in rows.values()), sole_writer=True)
    yield from rows.values()
    with path.open("a", encoding="utf-8") as file:
        for row in _rows([job for job in jobs if job.name not in rows], run, num_workers):
            rows[row["input"]] = row
            file.write(_line(row))
            file.flush()
            yield row
    write_whole(path, "".join(_line(rows[job.name]) for job in jobs), sole_writer=True)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _finished(path: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Good rows of an earlier run by input; a last line that was cut short is left out."""
    rows = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            made_by, name, status = row["run"], row["input"], row["status"]
        except (json.JSONDecodeError, KeyError, TypeError):
            if number == len(lines):
                continue
            raise ValueError(
                f"Line {number} of {str(path)!r} is not a row of a manifest; move the file away, or overwrite it."
            ) from None
        if made_by != digest:
            raise ValueError(
                f"The manifest {str(path)!r} was made with other options (run {made_by}, now {digest}). Its files would be mixed "
                "with new ones: choose another folder, repeat the options, or overwrite."
            )
        if status == "ok":
            rows[name] = row
    return rows


def _rows(jobs: Sequence[Job], run: Run, num_workers: int) -> Iterator[dict[str, Any]]:
    if num_workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield degrade_file(job, run)
        return
    # Started afresh, not forked: a fork copies the threads of a progress bar in whatever state they are.
    context = multiprocessing.get_context("spawn")
    workers = min(num_workers, len(jobs))
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(run,))
    try:
        waiting = iter(jobs)
        pending = {pool.submit(_in_worker, job) for job in itertools.islice(waiting, QUEUE_PER_WORKER * workers)}
        while pending:
            done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                pending |= {pool.submit(_in_worker, job) for job in itertools.islice(waiting, 1)}
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_run_of_worker: list[Run] = []


def _begin_worker(run: Run) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _run_of_worker[:] = [run]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop: they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_worker(job: Job) -> dict[str, Any]:
    return degrade_file(job, _run_of_worker[0])


def degrade_file(job: Job, run: Run) -> dict[str, Any]:
    """Degrade one file and write it. Never raises for what is wrong with the recording: the row says so."""
    seed = seed_of(run.seed, job.name)
    row: dict[str, Any] = {"input": job.name, "output": None, "status": "ok", "code": None, "reason": None}
    row |= {"sampling_rate": None, "num_samples": None, "gain_db": None, "degradations": None, "seed": seed, "run": run.digest}
    try:
        recording = load_recording(job.source, sampling_rate=run.sampling_rate)
        row |= {"sampling_rate": recording.sampling_rate, "num_samples": recording.num_samples}
        degraded, record = run.chain(recording.waveform, recording.sampling_rate, np.random.default_rng(seed))
        gain_db = write_recording(Path(job.target), degraded, recording.sampling_rate)
    except AudioError as error:
        return row | {"status": error.status, "code": error.code, "reason": error.message}
    except ValueError as error:
        return row | {"status": "failed", "code": "not_degraded", "reason": str(error)}
    except (OSError, RuntimeError) as error:
        return row | {"status": "failed", "code": "not_written", "reason": str(error)}
    return row | {"output": job.output, "gain_db": gain_db, "degradations": record}


def seed_of(seed: int, name: str) -> int:
    """Seed of one file, below 2^48, from the seed of the run and the name of the file: neither order nor company matters."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big")


def write_recording(path: Path, waveform: np.ndarray, sampling_rate: int) -> float:
    """Write a 16-bit file, whole or not at all, and return the gain in dB that brought it within full scale, 0 if it was."""
    peak = float(np.abs(waveform).max())
    gain_db = 0.0
    if peak > 32767 / 32768:
        gain_db = round(PEAK_ROOM_DB - 20 * float(np.log10(peak)), 4)
        waveform = waveform * np.float32(10 ** (gain_db / 20))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Rounded here: libsndfile takes 32767 for full scale when it writes floating point, and 32768 when it reads.
    samples = np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767).astype(np.int16)
    with whole_file(path, sole_writer=True) as unfinished:
        soundfile.write(unfinished, samples, sampling_rate, subtype="PCM_16", format=path.suffix[1:].upper())
    return gain_db
