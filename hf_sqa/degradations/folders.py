"""Degrade files, each with a random draw of its own, on all cores, with a manifest; a killed run resumes where it stopped."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.degradations.chain import Chain
from hf_sqa.degradations.noise import RecordingFolder
from hf_sqa.runs import (
    RunMismatch,
    check_same_run,
    digest_of,
    in_processes,
    journal,
    locked,
    read_journal,
    whole_file,
    write_rows,
    write_whole,
)

#: Formats that outputs keep. Other files become WAV, with `.wav` added to the name, so that `a.mp3` and `a.wav` do not collide.
WRITTEN_SUFFIXES = (".wav", ".flac")
#: Peak in dBFS of an output that would exceed full scale: 16-bit files hold no more, and the manifest has the gain.
PEAK_ROOM_DB = -0.1
#: Files queued for each worker at a time.
QUEUE_PER_WORKER = 4


@dataclass(frozen=True)
class Job:
    """One file to degrade."""

    name: str  # its name in the manifest, relative to the folder; random choices depend only on it and on the seed
    source: str  # the recording
    target: str  # the file to write, `.wav` or `.flac`
    output: str  # name of the target in the manifest


@dataclass(frozen=True)
class Run:
    """What all files of a run have in common."""

    chain: Chain  # what to draw from
    seed: int  # seed of the run
    sampling_rate: int | None = None  # rate of the outputs in Hz; by default, each keeps its own

    @property
    def definition(self) -> dict[str, Any]:
        """Chain, seed, rate and names of the noise recordings: all that determines the outputs, ready for JSON."""
        sources = [
            source.names if isinstance(source, RecordingFolder) else source is not None
            for source in (self.chain.noises, self.chain.talkers)
        ]
        return {"steps": self.chain.steps, "seed": self.seed, "sampling_rate": self.sampling_rate, "recordings": sources}

    @property
    def digest(self) -> str:
        """Twelve digits that change with the definition."""
        return digest_of(list(self.definition.values()), 12)


def degrade_files(
    jobs: Sequence[Job], run: Run, *, manifest: str | Path | None, num_workers: int = 1, overwrite: bool = False
) -> Iterator[dict[str, Any]]:
    """Degrade files and yield a row for each as it is done.

    A row has `input`, `output`, `status` (`"ok"`, `"failed"`, `"abstained"`), `code` and `reason` where it is not ok,
    `sampling_rate`, `num_samples`, `gain_db` (0 unless the file had to be attenuated to fit full scale), `degradations` (the
    record of the chain), `seed` (of this file) and `run`. Rows are appended to the manifest as they come; at the end it is
    rewritten in the order of the jobs. Outputs appear whole or not at all. Files that exist and are in the manifest of the same run
    are not degraded again, so a killed run, resumed, ends with the same files and manifest as an uninterrupted one; failed files
    are tried again. The manifest is a file of JSON lines; with `None`, none is written and no job is skipped. `overwrite` starts
    over, even if the manifest belongs to another run. Results do not depend on the number of processes.

    Raises:
        RunMismatch: If the manifest belongs to another run.
        FileExistsError: If there is no manifest, but a file to write exists.
        ValueError: If the file is not a manifest, or if two jobs write the same file.
        Locked: If another process is writing the manifest.
        CodecUnavailableError, ModuleNotFoundError: If the chain needs a library that is not installed.
    """
    targets = [job.target for job in jobs]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise ValueError(f"Expected one recording for each file to write, got two for {twice!r}; rename one of them.")
    run.chain.check_requirements()

    def made(wanted: Sequence[Job]) -> Iterator[dict[str, Any]]:
        return in_processes(degrade_file, wanted, min(num_workers, len(wanted)), run, tasks_per_worker=QUEUE_PER_WORKER)

    if manifest is None:
        yield from made(jobs)
        return
    path = Path(manifest)
    with locked(path.with_name(f".{path.name}-lock")):
        earlier = [] if overwrite else read_journal(path, ("run", "input", "status"), "move the file away, or overwrite it")
        if not (overwrite or path.exists()):
            _refuse_files_of_others(path, targets)
        _check_run(path, earlier, run)
        good = {row["input"]: row for row in earlier if row["status"] == "ok"}
        rows = {job.name: good[job.name] for job in jobs if job.name in good and Path(job.target).is_file()}
        missing = [job for job in jobs if job.name not in rows]
        with journal(path, rows.values()) as append:
            yield from list(rows.values())
            for row in made(missing):
                rows[row["input"]] = row
                append(row)
                yield row
        write_rows(path, (rows[job.name] for job in jobs))


def _refuse_files_of_others(manifest: Path, targets: Sequence[str]) -> None:
    """Refuse to write over files that are not of a run, which begins its manifest before its first file."""
    if there := next((target for target in targets if Path(target).exists()), None):
        raise FileExistsError(
            f"{there!r} exists, and no manifest {str(manifest)!r} says that an earlier run wrote it: choose another folder, or "
            "overwrite."
        )


def _check_run(path: Path, earlier: Sequence[dict[str, Any]], run: Run) -> None:
    """Refuse the manifest of another run; a file beside it has the definition of its run, to say what differs."""
    definition = path.with_name(f".{path.name}-run")
    others = {row["run"] for row in earlier} - {run.digest}
    if not others:
        write_whole(definition, json.dumps(run.definition), sole_writer=True)
        return
    remedy = "choose another folder, repeat the options, or overwrite"
    if definition.is_file():
        check_same_run(definition, run.definition, remedy)
    raise RunMismatch(f"The manifest {str(path)!r} was made with other options (run {others.pop()}, now {run.digest}): {remedy}.")


def degrade_file(job: Job, run: Run) -> dict[str, Any]:
    """Degrade one file and write it. What is wrong with the recording is never raised: the row says so."""
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
    """Return the seed of one file, below 2^48, from the run's seed and the file's name: neither order nor other files matter."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big")


def write_recording(path: Path, waveform: np.ndarray, sampling_rate: int) -> float:
    """Write a 16-bit file, whole or not at all, and return the gain in dB that brought it within full scale, or 0."""
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
