"""What teachers say of windows, shard by shard, and what students learn of it; the folder is described in `hf_sqa.data.windows`."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_sqa.audio import AudioError, Recording, load_recording
from hf_sqa.data.speech import SPLITS
from hf_sqa.data.windows import WINDOWS_PER_SHARD, Shard, WindowCache
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.runs import whole_file, write_whole

#: Splits of twenty shards, in the order in which they are made.
CYCLE = (*["train"] * 3, "validation", *["train"] * 3, "test", *["train"] * 12)


def label_shard(cache: WindowCache, teacher: Teacher, path: Path, with_frames: bool = False) -> Path:
    """Labels of one file of windows by one teacher, made now if they are not there, or without the frames asked for.

    Raises:
        ValueError: If the labels there are of other windows.
    """
    folder = cache.folder / "labels" / teacher.digest
    labels_path = folder / path.name
    shard = Shard.read(path)
    if labels_path.exists():
        with safe_open(labels_path, "np") as file:
            if file.metadata()["windows"] != shard.digest:
                raise ValueError(f"The labels in {str(labels_path)!r} are of other windows than {str(path)!r}; delete them.")
            complete = not with_frames or "frames" in file.keys()  # noqa: SIM118  # no mapping
        if complete:
            return labels_path
    if teacher.model.config.sampling_rate not in (None, cache.sampling_rate):
        raise ValueError(
            f"Expected windows at the rate of the teacher, {teacher.model.config.sampling_rate} Hz, got {cache.sampling_rate} Hz."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "teacher.json").exists():
        text = json.dumps(teacher.description, indent=1)
        write_whole(folder / "teacher.json", text)
    scores = np.full((len(shard.rows), teacher.model.config.num_labels), np.nan, np.float32)
    features: np.ndarray | None = None
    frames: np.ndarray | None = None
    reasons: dict[int, str] = {}
    recordings: dict[int, Recording] = {}
    for place, row in enumerate(shard.rows):
        if row["status"] == "ok":
            try:
                recordings[place] = load_recording({"array": shard.waveform(place), "sampling_rate": cache.sampling_rate})
            except AudioError as error:
                reasons[place] = error.message
    places = list(recordings)
    # A processor's caches hold one window; an accelerator wants many.
    size = 1 if teacher.model.device.type == "cpu" else WINDOWS_PER_SHARD
    for first in range(0, len(places), size):
        together = places[first : first + size]
        seen: list[np.ndarray] | None = [] if with_frames else None
        scores[together], own = teacher.label([recordings[place] for place in together], seen)
        if seen:
            stacked = np.concatenate(seen)
            frames = np.full((len(shard.rows), *stacked.shape[1:]), np.nan, np.float16) if frames is None else frames
            if len(stacked) == len(together):
                frames[together] = stacked
        if own is not None:
            features = np.full((len(shard.rows), own.shape[1]), np.nan, np.float16) if features is None else features
            features[together] = own
    reasons |= {place: "the teacher gave no score" for place in places if np.isnan(scores[place]).any()}
    found = {"scores": scores, "features": features, "frames": frames}
    tensors: dict[str, Any] = {name: array for name, array in found.items() if array is not None}
    metadata = {"windows": shard.digest, "reasons": json.dumps(reasons)}
    with whole_file(labels_path) as unfinished:
        save_file(tensors, unfinished, metadata=metadata)
    return labels_path


def plan_shards(splits: Sequence[str], num_windows: int) -> list[tuple[str, int]]:
    """`(split, index)` of shards in the order in which they are made: of twenty, one each for validation and test.

    Stopped anywhere, the shares are about right. `num_windows` counts all splits and is rounded up to whole shards.
    """
    order = [split for split in CYCLE if split in splits]
    counts = dict.fromkeys(SPLITS, 0)
    plan = []
    for number in range(-(-num_windows // WINDOWS_PER_SHARD)):
        split = order[number % len(order)]
        plan.append((split, counts[split]))
        counts[split] += 1
    return plan


def label_windows(
    cache: WindowCache,
    teachers: Sequence[Teacher],
    num_windows: int | Sequence[tuple[str, int]],
    *,
    num_workers: int = 0,
    with_frames: bool = False,
) -> Iterator[dict[str, Any]]:
    """Make and label windows, shard by shard; yields a row a shard: `split`, `index`, `num_windows`, `num_labelled`, `num_skipped`.

    What is there is not made again.

    Args:
        cache ([`WindowCache`]): Where.
        teachers (sequence of [`Teacher`]): Who labels.
        num_windows (`int`, or sequence of `(split, index)`): How many, see [`plan_shards`]; or which shards.
        num_workers (`int`, *optional*, defaults to 0): Processes that make windows ahead of the teachers; they change no window.
        with_frames (`bool`, *optional*, defaults to `False`): Whether to keep the frames of the first teacher, 150 KB a window.
    """
    splits = cache.maker.pool.splits if cache.maker is not None else [split for split in SPLITS if cache.shards(split)]
    plan = plan_shards(splits, num_windows) if isinstance(num_windows, int) else list(num_windows)
    for (split, index), path in zip(plan, _made_shards(cache, plan, num_workers), strict=True):
        labelled = np.ones(WINDOWS_PER_SHARD, bool)
        for number, teacher in enumerate(teachers):
            with safe_open(label_shard(cache, teacher, path, with_frames and number == 0), "np") as file:
                labelled &= np.isfinite(file.get_tensor("scores")).all(axis=1)
        counts = {"num_windows": len(labelled), "num_labelled": int(labelled.sum()), "num_skipped": int((~labelled).sum())}
        yield {"split": split, "index": index, **counts}


def _made_shards(cache: WindowCache, plan: Sequence[tuple[str, int]], num_workers: int) -> Iterator[Path]:
    """Files of windows in the order of the plan, made here or in processes that are a few shards ahead."""
    if num_workers < 1 or cache.maker is None:
        yield from (cache.ensure_shard(split, index) for split, index in plan)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, context, _begin_worker, (cache,)) as executor:
        waiting: list[concurrent.futures.Future[Path]] = []
        todo = iter(plan)
        try:
            for _ in plan:
                while len(waiting) < 2 * num_workers and (task := next(todo, None)) is not None:
                    waiting.append(executor.submit(_make_in_worker, *task))
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


#: In a worker: the cache it makes windows for, with the speech it has read so far.
_cache_of_worker: WindowCache | None = None


def _begin_worker(cache: WindowCache) -> None:
    global _cache_of_worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that labels
    torch.set_num_threads(1)
    _cache_of_worker = cache


def _make_in_worker(split: str, index: int) -> Path:
    assert _cache_of_worker is not None
    return _cache_of_worker.ensure_shard(split, index)


def mapped_scores(scores: np.ndarray, teacher: Any, student: Any, options: TeacherOptions) -> np.ndarray:
    """Scores `(W, L_t)` of a teacher as labels `(W, L)` in the student's columns and, unless aligned by moments, on its scale."""
    columns = [teacher.score_names.index((options.scores or {}).get(one, one)) for one in student.score_names]
    labels = scores[:, columns].astype(np.float64)
    if options.align == "scale":
        share = (labels - teacher.score_min) / (teacher.score_max - teacher.score_min)
        labels = student.score_min + share * (student.score_max - student.score_min)
    return labels


def combined_labels(
    each: Sequence[np.ndarray], options: Sequence[TeacherOptions], lines: Sequence[Any] | None = None
) -> tuple[np.ndarray, list[Any]]:
    """Weighted mean of the labels `(W, L)` of several teachers, over those that gave one.

    Args:
        each (sequence of arrays): Of [`mapped_scores`], NaN where a teacher abstained.
        options (sequence of [`TeacherOptions`]): Of the teachers, in the same order.
        lines (sequence, *optional*): Slopes and offsets `(2, L)` of an earlier call, to map other windows in the same way.

    Returns:
        `(labels, lines)`: `(W, L)` float32, NaN where no teacher gave a label; and the lines used, `None` where there is none.
    """
    used: list[Any] = []
    mapped = []
    for number, (labels, one) in enumerate(zip(each, options, strict=True)):
        line = lines[number] if lines is not None else None
        if one.align == "moments" and line is None:
            line = _line_to(labels, each[0])
        used.append(line)
        mapped.append(labels if line is None else labels * line[0] + line[1])
    weights = np.array([one.weight for one in options])[:, None, None] * np.isfinite(mapped)
    total = weights.sum(axis=0)
    labels = np.where(total > 0, (weights * np.nan_to_num(mapped)).sum(axis=0) / np.maximum(total, 1e-12), np.nan)
    return labels.astype(np.float32), used


def _line_to(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Slope and offset `(2, L)` that give labels the mean and deviation of the reference where both are known."""
    both = np.isfinite(labels) & np.isfinite(reference)
    ours, theirs = np.where(both, labels, np.nan), np.where(both, reference, np.nan)
    slope = np.nanstd(theirs, axis=0) / np.maximum(np.nanstd(ours, axis=0), 1e-6)
    return np.stack([slope, np.nanmean(theirs, axis=0) - slope * np.nanmean(ours, axis=0)])
