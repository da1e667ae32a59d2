"""Build the bench corpus: clips, then labels, on all cores; every file is whole or absent, and a stopped run resumes."""

import csv
import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_sqa.audio import AudioError
from hf_sqa.choices import check_choice
from hf_sqa.data.bench.conditions import CONDITIONS, FORMS, ladders, place_on_ladder
from hf_sqa.data.bench.speech import (
    FORM_VOICES,
    G722_CODEC,
    SAMPLING_RATE,
    VOICES,
    MissingPackagesError,
    Phrase,
    find_phrases,
    reference_waveform,
)
from hf_sqa.degradations import Chain, CodecUnavailableError
from hf_sqa.degradations.codec.shared_library import find_ffmpeg
from hf_sqa.degradations.folders import seed_of, write_recording
from hf_sqa.metrics import full_reference_scores
from hf_sqa.runs import digest_of, in_processes, journal, locked, read_journal, write_rows, write_whole

CORPUS = "bench"
TABLE, CONDITION_TABLE, LADDER_TABLE = "bench.csv", "conditions.csv", "ladders.csv"
MANIFEST, LABEL_MANIFEST, LOCK = "manifest.jsonl", "labels.jsonl", ".lock"
SUFFIXES = (".flac", ".wav")
LABELS = ("pesq", "stoi", "sdi")
#: Phrases of each voice in the small form: 25 phrases x 25 conditions.
CI_PHRASES = 5
#: Ends of the scale of the listeners' scores.
SCALE = (1, 5)
#: Increased whenever the same phrase and condition give other samples.
VERSION = 1
COLUMNS = (
    *("audio", "mos", "s_mos", "n_mos", "g_mos", "utterance_id", "condition_id", "corpus", "language", "talker_id", "source_id"),
    *("split", "scale_min", "scale_max", "reference_audio", "ladder", "ladder_step", "origin", "licence", "duration_seconds"),
    *("gain_db", "sha256"),
)
#: Rows of a journal by the name of the clip.
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Clip:
    """One clip to make: a phrase in a condition."""

    phrase: Phrase
    condition_id: str
    suffix: str

    @property
    def name(self) -> str:
        """Its file, relative to the folder of the corpus."""
        return f"{self.condition_id}/{self.phrase.voice}/{self.phrase.stem}{self.suffix}"

    @property
    def digest(self) -> str:
        """Twelve digits that change with all that its samples and file depend on: recording, condition, container, version."""
        steps = CONDITIONS[self.condition_id].chain().steps
        return digest_of([VERSION, self.phrase.name, self.phrase.num_bytes, self.suffix, self.condition_id, steps], 12)


@dataclass(frozen=True)
class BenchPlan:
    """The clips that a build makes."""

    folder: Path  # the folder of the corpus
    form: str  # `"ci"` or `"training"`
    clips: tuple[Clip, ...]  # all clips, in the order of the table: phrase by phrase, condition by condition


def plan_bench(
    folder: str | Path,
    *,
    form: str = "ci",
    packages: str | Path | None = None,
    num_phrases: int | None = None,
    suffix: str = ".flac",
) -> BenchPlan:
    """Find the recordings, check that all libraries are installed, and list the clips to make.

    The form `"ci"` has 25 phrases in five languages and 25 conditions; `"training"` all 1663 phrases of seven voices in six
    languages and 42 conditions, 69,846 clips. `packages` is a folder of unpacked Debian packages, by default those installed;
    `num_phrases` is for each voice, by default 5 in `"ci"` and all in `"training"`; `suffix` is `".flac"` or `".wav"`, of 16 bits.

    Raises:
        MissingPackagesError: If recordings, ffmpeg or codec libraries are missing; the message names their packages.
        ValueError: If an option has a value not listed here, or a voice has fewer phrases than asked for.
    """
    for option, value, choices in (("form", form, tuple(FORMS)), ("suffix", suffix, SUFFIXES)):
        check_choice(option, value, choices)
    if num_phrases is not None and num_phrases < 1:
        raise ValueError(f"Expected `num_phrases` of 1 or more, got {num_phrases}.")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"Expected a folder for the corpus, got the file {str(folder)!r}.")
    problems = []
    try:
        phrases = find_phrases(form, packages, CI_PHRASES if num_phrases is None and form == "ci" else num_phrases)
    except MissingPackagesError as error:
        problems.append(str(error))
    checks: list[Callable[[], Any]] = [condition.chain().check_requirements for condition in FORMS[form]]
    if any(VOICES[voice].codec == G722_CODEC for voice in FORM_VOICES[form]):
        checks.append(partial(find_ffmpeg, G722_CODEC))
    for check in checks:
        try:
            check()
        except (CodecUnavailableError, ImportError) as error:
            problems.append(str(error))
    if problems:
        raise MissingPackagesError("\n".join(dict.fromkeys(problems)))
    clips = tuple(Clip(phrase, condition.condition_id, suffix) for phrase in phrases for condition in FORMS[form])
    return BenchPlan(Path(folder), form, clips)


def build_clips(plan: BenchPlan, *, num_workers: int = 1) -> Iterator[dict[str, Any]]:
    """Make the clips of a plan and yield a row for each, as they are done.

    The folder gets `<condition>/<voice>/<phrase>.flac`, where `c0` holds the originals; `manifest.jsonl`, with each clip's draw;
    and, when all clips are done, `bench.csv` (columns: `COLUMNS`), `conditions.csv` and `ladders.csv`. Files and tables appear
    whole or not at all. Clips in the manifest whose file exists and whose recipe is the same are not made again, so a stopped run
    ends with the same files as an uninterrupted one. Random choices depend only on voice, phrase and condition.

    A row is as in the manifest: `audio`, `status` (`"ok"` or `"failed"`), `reason`, `num_samples`, `gain_db` (0 unless it was
    attenuated to fit full scale), `sha256` (of the 16-bit little-endian samples, whatever the container), `degradations`, `digest`.
    FFTs round differently from one processor to the next, which may move a sample by one step of 16 bits, and then the hash.

    Raises:
        Locked: If another process is building or labelling in the folder.
        ValueError: If `manifest.jsonl` in the folder is some other file.
    """
    with locked(plan.folder / LOCK):
        done = _finished(plan.folder / MANIFEST)
        good = {name: row for name, row in done.items() if row["status"] == "ok" and (plan.folder / name).is_file()}
        rows = {clip.name: row for clip in plan.clips if (row := good.get(clip.name)) and row["digest"] == clip.digest}
        yield from list(rows.values())
        missing = (clip for clip in plan.clips if clip.name not in rows)
        tasks = [list(clips) for _, clips in itertools.groupby(missing, key=lambda clip: clip.phrase)]
        for row in _done(_make_clips, tasks, num_workers, plan.folder, MANIFEST, done):
            rows[row["audio"]] = row
            yield row
        _write_tables(plan, rows)


def label_clips(plan: BenchPlan, labels: Sequence[str], *, num_workers: int = 1) -> Iterator[dict[str, Any]]:
    """Measure the clips of a plan against their originals and yield a row for each; `bench.csv` gets a column for each label.

    Labels are `"pesq"` (wideband), `"stoi"` and `"sdi"`, see [`~hf_sqa.metrics.full_reference_scores`]. What cannot be measured is
    NaN, with the reason in `labels.jsonl`. Labels already in it for the same samples are not measured again.

    Raises:
        ValueError: If a label is unknown, or the corpus is not built.
        ImportError: If the package of a label is not installed.
    """
    for label in labels:
        if label not in LABELS:
            raise ValueError(f"Expected `labels` out of {', '.join(LABELS)}, got {label!r}.")
    hashes = {name: row["sha256"] for name, row in _finished(plan.folder / MANIFEST).items() if row["status"] == "ok"}
    if not any(clip.name in hashes for clip in plan.clips):
        raise ValueError(f"Expected a corpus in {str(plan.folder)!r} to label, got none; build it first.")
    with locked(plan.folder / LOCK):
        done = _finished(plan.folder / LABEL_MANIFEST)
        rows, tasks = {}, []
        for clip in plan.clips:
            if clip.name not in hashes:
                continue
            row = done.get(clip.name)
            if row is None or row["sha256"] != hashes[clip.name]:
                row = {"audio": clip.name, "labels": {}, "reasons": {}, "sha256": hashes[clip.name]}
            if all(label in row["labels"] for label in labels):
                rows[clip.name] = row
            else:
                tasks.append((row, _reference(clip), labels))
        yield from list(rows.values())
        for row in _done(_measure, tasks, num_workers, plan.folder, LABEL_MANIFEST, done):
            rows[row["audio"]] = row
            yield row
        _write_tables(plan, _finished(plan.folder / MANIFEST))


def _reference(clip: Clip) -> str:
    return Clip(clip.phrase, "c0", clip.suffix).name


def _make_clips(clips: Sequence[Clip], folder: Path) -> list[dict[str, Any]]:
    """Make the clips of one phrase. Problems with the recording are not raised: they are in the rows."""
    rows: list[dict[str, Any]] = []
    waveform, broken = np.zeros(0, np.float32), None
    try:
        waveform = reference_waveform(clips[0].phrase)
    except (AudioError, RuntimeError, ValueError, OSError) as error:
        broken = f"{clips[0].phrase.path}: {error}"
    for clip in clips:
        row: dict[str, Any] = {"audio": clip.name, "status": "failed", "reason": broken, "digest": clip.digest}
        row |= {"num_samples": None, "gain_db": None, "sha256": None, "degradations": None}
        if broken is None:
            try:
                row |= _make_clip(folder, clip, waveform) | {"status": "ok"}
            except (RuntimeError, ValueError, OSError) as error:
                row["reason"] = str(error)
        rows.append(row)
    return rows


def _make_clip(folder: Path, clip: Clip, waveform: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(seed_of(0, f"{clip.phrase.voice}/{clip.phrase.name}/{clip.condition_id}"))
    chain: Chain = CONDITIONS[clip.condition_id].chain()
    degraded, record = chain(waveform, SAMPLING_RATE, rng)
    gain_db = write_recording(folder / clip.name, degraded, SAMPLING_RATE)
    samples, _ = soundfile.read(folder / clip.name, dtype="int16")
    digest = hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
    return {"num_samples": len(samples), "gain_db": gain_db, "sha256": digest, "degradations": record}


def _measure(task: tuple[dict[str, Any], str, Sequence[str]], folder: Path) -> list[dict[str, Any]]:
    """Add labels to the row of a clip; a task is the row, the file of its original, and the labels wanted."""
    row, reference_name, labels = task
    values, reasons = row["labels"], row["reasons"]
    wanted = tuple(label for label in labels if label not in values)
    try:
        degraded, reference = (soundfile.read(folder / file, dtype="float32")[0] for file in (row["audio"], reference_name))
        # Clips are aligned with their originals, so an estimated delay could only be wrong.
        measured = full_reference_scores(degraded, reference, SAMPLING_RATE, labels=wanted, max_delay_seconds=0)
        values |= {label: None if math.isnan(value) else round(value, 5) for label, value in measured.scores.items()}
        reasons |= measured.reasons
    except (RuntimeError, OSError) as error:
        values |= dict.fromkeys(wanted, None)
        reasons |= dict.fromkeys(wanted, str(error))
    return [row]


def _write_tables(plan: BenchPlan, rows: Rows) -> None:
    made = [clip for clip in plan.clips if rows.get(clip.name, {}).get("status") == "ok"]
    measured = _finished(plan.folder / LABEL_MANIFEST)
    measured = {name: row for name, row in measured.items() if name in rows and row["sha256"] == rows[name]["sha256"]}
    labels = [label for label in LABELS if any(label in row["labels"] for row in measured.values())]
    values = [measured.get(clip.name, {"labels": {}})["labels"] for clip in made]
    table = [[*_table_row(clip, rows[clip.name]), *map(labelled.get, labels)] for clip, labelled in zip(made, values, strict=True)]
    _write_csv(plan.folder / TABLE, [*COLUMNS, *labels], table)
    conditions = [
        [condition.condition_id, condition.description, *_human_scores(condition.condition_id), json.dumps(condition.chain().steps)]
        for condition in FORMS[plan.form]
    ]
    columns = ["condition_id", "description", "mos", "s_mos", "n_mos", "steps"]
    _write_csv(plan.folder / CONDITION_TABLE, columns, conditions)
    places = [[name, step, condition] for name, rungs in ladders(plan.form).items() for step, condition in enumerate(rungs)]
    _write_csv(plan.folder / LADDER_TABLE, ["ladder", "ladder_step", "condition_id"], places)


def _table_row(clip: Clip, row: Mapping[str, Any]) -> list[Any]:
    voice = VOICES[clip.phrase.voice]
    overall, signal_score, background = _human_scores(clip.condition_id)
    ladder, step = place_on_ladder(clip.condition_id) or (None, 0)
    source = f"{voice.name}/{clip.phrase.stem}"
    seconds = row["num_samples"] / SAMPLING_RATE
    return [
        *(clip.name, overall, signal_score, background, overall, f"{source}@{clip.condition_id}", clip.condition_id, CORPUS),
        *(voice.language, voice.talker, source, voice.split, *SCALE, _reference(clip), ladder, step),
        *(f"{voice.package}:{clip.phrase.name}", voice.licence, seconds, row["gain_db"], row["sha256"]),
    ]


def _human_scores(condition_id: str) -> tuple[float | None, float | None, float | None]:
    return CONDITIONS[condition_id].human_scores or (None, None, None)


def _done(
    function: Callable[..., list[dict[str, Any]]], tasks: Sequence[Any], num_workers: int, folder: Path, name: str, earlier: Rows
) -> Iterator[dict[str, Any]]:
    """Yield rows of tasks as they are done and append them to a journal, which is rewritten at the end, sorted, a row per clip."""
    path, latest = folder / name, dict(earlier)
    with journal(path, latest.values()) as append:
        for rows in in_processes(function, tasks, min(num_workers, len(tasks)), folder):
            for row in rows:
                latest[row["audio"]] = row
                append(row)
                yield row
    write_rows(path, (latest[name] for name in sorted(latest)))


def _finished(path: Path) -> Rows:
    rows = read_journal(path, ("audio", "sha256"), "choose another folder, or move the file away")
    return {row["audio"]: row for row in rows}


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_whole(path, text.getvalue(), sole_writer=True)
