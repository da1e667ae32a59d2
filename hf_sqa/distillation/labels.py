"""The teachers' labels of windows, shard by shard, and how they are combined for a student; see `hf_sqa.data.windows`."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_sqa.audio import AudioError, Recording, load_recording
from hf_sqa.data.speech import SPLITS
from hf_sqa.data.windows import WINDOWS_PER_SHARD, Shard, WindowCache
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.runs import whole_file, write_whole

#: Splits of twenty shards, in the order of making them.
CYCLE = (*["train"] * 3, "validation", *["train"] * 3, "test", *["train"] * 12)


def label_shard(cache: WindowCache, teacher: Teacher, path: Path, with_frames: bool = False) -> Path:
    """Return the file of one teacher's labels for one file of windows. Make it now if labels or requested frames are missing."""
    folder = cache.folder / "labels" / teacher.digest
    labels_path = folder / path.name
    shard = Shard.read(path)
    if labels_path.exists():
        with safe_open(labels_path, "np") as file:
            if file.metadata()["windows"] != shard.digest:
                raise ValueError(f"The labels in {str(labels_path)!r} are of other windows than {str(path)!r}; delete them.")
            if not with_frames or "frames" in file.keys():  # noqa: SIM118  # no mapping
                return labels_path
    rate = teacher.model.config.sampling_rate
    if rate not in (None, cache.sampling_rate):
        raise ValueError(f"Expected windows at the rate of the teacher, {rate} Hz, got {cache.sampling_rate} Hz.")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "teacher.json").exists():
        write_whole(folder / "teacher.json", json.dumps(teacher.description, indent=1))
    tensors, reasons = _label(shard, teacher, cache.sampling_rate, with_frames)
    with whole_file(labels_path) as unfinished:
        save_file(tensors, unfinished, metadata={"windows": shard.digest, "reasons": json.dumps(reasons)})
    return labels_path


def _label(shard: Shard, teacher: Teacher, rate: int, with_frames: bool) -> tuple[dict[str, Any], dict[int, str]]:
    """Return scores of a shard's windows, with features and frames if there are any, and the reasons for missing scores."""
    num_windows = len(shard.rows)
    recordings: dict[int, Recording] = {}
    reasons: dict[int, str] = {}
    for place, row in enumerate(shard.rows):
        if row["status"] == "ok":
            try:
                recordings[place] = load_recording({"array": shard.waveform(place), "sampling_rate": rate})
            except AudioError as error:
                reasons[place] = error.message
    tensors = {"scores": np.full((num_windows, teacher.model.config.num_labels), np.nan, np.float32)}

    def put(name: str, places: list[int], values: np.ndarray) -> None:
        if name not in tensors:
            tensors[name] = np.full((num_windows, *values.shape[1:]), np.nan, np.float16)
        tensors[name][places] = values

    places = list(recordings)
    # The caches of a CPU hold one window; an accelerator is faster with many.
    size = 1 if teacher.model.device.type == "cpu" else WINDOWS_PER_SHARD
    for first in range(0, len(places), size):
        batch = places[first : first + size]
        frames: list[np.ndarray] | None = [] if with_frames else None
        tensors["scores"][batch], features = teacher.label([recordings[place] for place in batch], frames)
        if features is not None:
            put("features", batch, features)
        if frames:
            stacked = np.concatenate(frames)
            owners = batch if len(stacked) == len(batch) else []  # frames of a recording in several pieces are not kept
            put("frames", owners, stacked[: len(owners)])
    without: Any = np.isnan(tensors["scores"]).any(axis=1).tolist()
    return tensors, reasons | {place: "the teacher gave no score" for place in places if without[place]}


def plan_shards(splits: Sequence[str], num_windows: int) -> list[tuple[str, int]]:
    """Return `(split, index)` of shards in the order of making them. In twenty shards, one is for validation and one for test.

    `num_windows` counts the windows of all splits and is rounded up to whole shards. The shares fit wherever the plan stops.
    """
    order = itertools.cycle(split for split in CYCLE if split in splits)
    indices: dict[str, Iterator[int]] = {split: itertools.count() for split in splits}
    return [(split, next(indices[split])) for split in itertools.islice(order, -(-num_windows // WINDOWS_PER_SHARD))]


def label_windows(
    cache: WindowCache,
    teachers: Sequence[Teacher],
    num_windows: int | Sequence[tuple[str, int]],
    *,
    num_workers: int = 0,
    with_frames: bool = False,
) -> Iterator[dict[str, Any]]:
    """Make and label the missing windows, and yield `split`, `index`, and numbers of windows for each shard.

    `num_windows` are windows of all splits together, see [`plan_shards`], or the shards as `(split, index)`. `num_workers`
    processes make windows ahead of the teachers. `with_frames` keeps the frames of the first teacher too, 150 KB per window.
    """
    splits = cache.maker.pool.splits if cache.maker is not None else [split for split in SPLITS if cache.shards(split)]
    plan = plan_shards(splits, num_windows) if isinstance(num_windows, int) else list(num_windows)
    for (split, index), path in zip(plan, cache.ensure_shards(plan, num_workers), strict=True):
        labelled = np.ones(WINDOWS_PER_SHARD, bool)
        for number, teacher in enumerate(teachers):
            with safe_open(label_shard(cache, teacher, path, with_frames and number == 0), "np") as file:
                labelled &= np.isfinite(file.get_tensor("scores")).all(axis=1)
        counts = {"num_windows": len(labelled), "num_labelled": int(labelled.sum()), "num_skipped": int((~labelled).sum())}
        yield {"split": split, "index": index, **counts}


def mapped_scores(scores: np.ndarray, teacher: Any, student: Any, options: TeacherOptions) -> np.ndarray:
    """Return a teacher's scores `(W, L_t)` in the student's columns, `(W, L)`; with `align: scale`, also on its scale."""
    columns = [teacher.score_names.index(options.teacher_score(name)) for name in student.score_names]
    labels = scores[:, columns].astype(np.float64)
    if options.align == "scale":
        share = (labels - teacher.score_min) / (teacher.score_max - teacher.score_min)
        labels = student.score_min + share * (student.score_max - student.score_min)
    return labels


def combined_labels(
    labels_by_teacher: Sequence[np.ndarray], options: Sequence[TeacherOptions], lines: Sequence[Any] | None = None
) -> tuple[np.ndarray, list[Any]]:
    """Average the labels `(W, L)` of several teachers from [`mapped_scores`], weighted, over the teachers that gave one (not NaN).

    Return float32 labels `(W, L)`, NaN if no teacher gave one, and the line of every teacher, slope and offset `(2, L)` or `None`.
    Given as `lines`, those of an earlier call map other windows in the same way.
    """
    used: list[Any] = []
    mapped = []
    for number, (labels, teacher) in enumerate(zip(labels_by_teacher, options, strict=True)):
        line = lines[number] if lines is not None else None
        if teacher.align == "moments" and line is None:
            line = _line_to(labels, labels_by_teacher[0])
        used.append(line)
        mapped.append(labels if line is None else labels * line[0] + line[1])
    weights = np.array([teacher.weight for teacher in options])[:, None, None] * np.isfinite(mapped)
    total = weights.sum(axis=0)
    combined = np.where(total > 0, (weights * np.nan_to_num(mapped)).sum(axis=0) / np.maximum(total, 1e-12), np.nan)
    return combined.astype(np.float32), used


def _line_to(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return slope and offset `(2, L)` that give labels the mean and deviation of the reference, fitted where both are known."""
    both = np.isfinite(labels) & np.isfinite(reference)
    ours, theirs = np.where(both, labels, np.nan), np.where(both, reference, np.nan)
    slope = np.nanstd(theirs, axis=0) / np.maximum(np.nanstd(ours, axis=0), 1e-6)
    return np.stack([slope, np.nanmean(theirs, axis=0) - slope * np.nanmean(ours, axis=0)])
