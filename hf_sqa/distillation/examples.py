"""Labelled windows as training examples: stored or newly made, optionally mixed with rated recordings."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.speech import SPLITS
from hf_sqa.data.windows import WINDOWS_PER_SHARD, WindowCache, WindowMaker, as_waveform
from hf_sqa.distillation.labels import combined_labels, mapped_scores, plan_shards
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.runs import digest_of
from hf_sqa.training.examples import Draw, Examples, RatedSpeech, make_example


class WindowExamples(Examples):
    """Base class of the examples for a student: windows labelled by teachers, under the corpus name `"windows"`."""

    features: np.ndarray | None = None  # pooled features of the first teacher, `(num_windows, D)`, if it has any
    lines: list[Any] | None = None  # lines that mapped the scores of several teachers, see [`combined_labels`]
    num_windows: int = 0  # number of windows, which are the first rows
    _fingerprint: str = ""

    @property
    def corpora(self) -> list[str]:
        return ["windows"] * len(self)

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """Return frames of the first teacher for some windows, float16 `(len(rows), F, 2 D)`; `None` if they were not kept."""
        return None

    def _example(self, draw: Draw) -> dict[str, Any]:
        waveform, labels = self._window(draw)
        return make_example(draw, labels, waveform if len(waveform) else None, self.sampling_rate)

    def _window(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Return samples (empty if there is no window) and labels."""
        raise NotImplementedError


def kinds_of(row: Mapping[str, Any]) -> set[str]:
    """Return the kinds of degradation applied to a window, from the facts about it."""
    return {step["kind"] for step in row.get("degradations", ())}


class CachedWindows(WindowExamples):
    """Windows of one split of a folder, with teachers' labels, for a student.

    `num_windows` counts windows of all splits together, see [`plan_shards`]; all labelled ones if not given. Teachers are aligned
    as for the windows `like`, if given. Windows of talkers and kinds of degradation in `leave_out` are left out. `facts` is what is
    known about every window: talker, language, degradations.

    Raises:
        ValueError: If there are no windows, or no labels of a teacher; the message names the teachers with labels.
    """

    def __init__(
        self,
        cache: WindowCache,
        teachers: Sequence[Teacher],
        student_config: Any,
        split: str,
        num_windows: int | None = None,
        like: WindowExamples | None = None,
        leave_out: Sequence[str] = (),
    ):
        super().__init__(f"{split} windows", student_config.score_names, cache.sampling_rate)
        self.split, self.cache = split, cache
        self._labels_folder = cache.folder / "labels" / teachers[0].digest
        self._readers: dict[Path, Any] = {}
        paths = self._planned_shards(num_windows) if num_windows is not None else self._labelled_shards(teachers)
        if not paths:
            raise ValueError(
                f"Expected windows of the split {split!r} among {num_windows} of all splits together, got none: they come in "
                f"shards of {WINDOWS_PER_SHARD}; make 10 of these or more (`labels.num_windows={10 * WINDOWS_PER_SHARD}`)."
            )
        self.facts: list[dict[str, Any]] = []
        self._places: list[tuple[Path, int]] = []
        features = []
        for path in paths:
            with safe_open(path, "np") as file:
                self.facts += json.loads(file.metadata()["rows"])
            self._places += [(path, place) for place in range(len(self.facts) - len(self._places))]
            features.append(self._tensor(self._labels_folder / path.name, "features"))
        labels_by_teacher, options = [], [teacher.options for teacher in teachers]
        for teacher in teachers:
            files = [cache.folder / "labels" / teacher.digest / path.name for path in paths]
            scores = np.concatenate([self._tensor(file, "scores") for file in files])
            labels_by_teacher.append(mapped_scores(scores, teacher.model.config, student_config, teacher.options))
        self.labels, self.lines = combined_labels(labels_by_teacher, options, like.lines if like is not None else None)
        kept = self._kept_rows(leave_out)
        if all(tensor is not None for tensor in features):
            self.features = np.concatenate(features)[kept]
        self.labels, self.num_windows = self.labels[kept], len(kept)
        self._places, self.facts = [self._places[row] for row in kept], [self.facts[row] for row in kept]
        digests = [teacher.digest for teacher in teachers]
        self._fingerprint = digest_of((cache.description, digests, options, len(paths), split, *sorted(leave_out)))

    def _kept_rows(self, leave_out: Sequence[str]) -> np.ndarray:
        """Return rows that have a label and no left-out talker or degradation. Count the others by reason."""
        labelled = np.isfinite(self.labels).any(axis=1)
        for row in np.flatnonzero(~labelled):
            has_audio = self.facts[row]["status"] == "ok"
            self.excluded["window: no teacher gave a score" if has_audio else "window: no degradation"] += 1
        names = [{row["talker"], *kinds_of(row)} for row in self.facts]
        if unknown := sorted(set(leave_out).difference(*names)):
            raise ValueError(
                f"Expected `labels.leave_out` to name talkers, or kinds of degradation, of the {self.split} windows, got "
                f"{', '.join(unknown)}; there are {', '.join(sorted({row['talker'] for row in self.facts}))}."
            )
        kept = labelled & np.array([names_of_row.isdisjoint(leave_out) for names_of_row in names], bool)
        if num_left_out := int((labelled & ~kept).sum()):
            self.excluded["window: talker or degradation left out"] = num_left_out
        if not kept.any():
            raise ValueError(f"Expected labelled windows of the split {self.split!r} in {str(self.cache.folder)!r}, got none.")
        return np.flatnonzero(kept)

    def _planned_shards(self, num_windows: int) -> list[Path]:
        splits = [split for split in SPLITS if self.cache.shards(split)]
        numbers = [number for split, number in plan_shards(splits, num_windows) if split == self.split]
        return [self.cache.folder / "windows" / f"{self.split}-{number:05}.safetensors" for number in numbers]

    def _labelled_shards(self, teachers: Sequence[Teacher]) -> list[Path]:
        labels = self.cache.folder / "labels"
        folders = [labels / teacher.digest for teacher in teachers]
        paths = [path for path in self.cache.shards(self.split) if all((folder / path.name).exists() for folder in folders)]
        if not paths:
            files = sorted(labels.glob("*/teacher.json"))
            there = [_named(json.loads(file.read_text(encoding="utf-8"))["identity"]) for file in files]
            raise ValueError(
                f"Expected labels by {', '.join(_named(teacher.identity) for teacher in teachers)} in {str(self.cache.folder)!r}, "
                f"got labels by {', '.join(there) or 'nobody'}. Labels of another teacher, or of the same in another precision, "
                "are not used; give `labels.num_windows` to make them."
            )
        return paths

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        frames = []
        for row in rows:
            path, place = self._places[row]
            reader = self._reader(self._labels_folder / path.name)
            if "frames" not in reader.keys():  # noqa: SIM118  # no mapping
                return None
            frames.append(reader.get_slice("frames")[place : place + 1])
        return np.concatenate(frames) if frames else None

    @cached_property
    def lengths(self) -> list[tuple[int, int]]:  # type: ignore[override]
        counts = {path: self._tensor(path, "num_samples") for path in dict.fromkeys(path for path, _ in self._places)}
        return [(int(counts[path][place]), self.cache.sampling_rate) for path, place in self._places]

    def source(self, row: int) -> str:
        path, place = self._places[row]
        return f"{path.name}, window {place}"

    def waveform(self, row: int) -> np.ndarray:
        """Return the samples of a window."""
        path, place = self._places[row]
        reader = self._reader(path)
        length = int(reader.get_slice("num_samples")[place : place + 1][0])
        peak = float(reader.get_slice("peak")[place : place + 1][0])
        return as_waveform(reader.get_slice("samples")[place : place + 1][0, :length], peak)

    def _window(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        return self.waveform(draw.row), self.labels[draw.row]

    def _tensor(self, path: Path, name: str) -> Any:
        with safe_open(path, "np") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118  # no mapping

    def _reader(self, path: Path) -> Any:
        if path not in self._readers:
            self._readers[path] = safe_open(path, "np")
        return self._readers[path]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}  # open files cannot be sent to the workers of a data loader


class FreshWindows(WindowExamples):
    """Windows, `num_windows` per epoch, made and labelled on demand; with `fixed`, made and labelled now, and kept.

    Raises:
        ValueError: If a teacher is aligned by moments, which requires stored labels.
    """

    def __init__(
        self,
        maker: WindowMaker,
        teachers: Sequence[Teacher],
        student_config: Any,
        split: str,
        num_windows: int,
        fixed: bool = False,
    ):
        super().__init__(f"{split} windows", student_config.score_names, maker.pool.sampling_rate)
        self.split, self._maker = split, maker
        self._teachers, self._student_config = list(teachers), student_config
        options = [teacher.options for teacher in teachers]
        if any(teacher.align == "moments" for teacher in options):
            raise ValueError("Expected `labels.folder` for teachers with `align: moments`: the line is fitted to kept labels.")
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.labels = np.zeros((num_windows, len(self.score_names)), np.float32)
        if fixed:
            windows = [self._labelled(number) for number in range(num_windows)]
            self._kept = [(waveform, labels) for waveform, labels in windows if np.isfinite(labels).any()]
            self.labels = np.array([labels for _, labels in self._kept], np.float32).reshape(-1, len(self.score_names))
            if num_excluded := num_windows - len(self):
                self.excluded["window: no degradation, or no teacher gave a score"] = num_excluded
        digests = [teacher.digest for teacher in teachers]
        self._fingerprint = digest_of((maker.description, digests, options, num_windows, split))

    @property
    def lengths(self) -> list[tuple[int, int]]:  # type: ignore[override]
        rate = self._maker.pool.sampling_rate
        kept = [(len(waveform), rate) for waveform, _ in self._kept]
        return kept or [(self._maker.window_samples, rate)] * len(self)

    def _window(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        return self._kept[draw.row] if self._kept else self._labelled(draw.epoch * len(self) + draw.row)

    def _labelled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        unlabelled = np.full(len(self.score_names), np.nan, np.float32)
        waveform, row = self._maker.make(self.split, number)
        if row["status"] != "ok":
            return waveform, unlabelled
        try:
            recording = load_recording({"array": waveform, "sampling_rate": self.sampling_rate})
        except AudioError:
            return waveform, unlabelled
        labels_by_teacher = [
            mapped_scores(teacher.label([recording])[0], teacher.model.config, self._student_config, teacher.options)
            for teacher in self._teachers
        ]
        return waveform, combined_labels(labels_by_teacher, [teacher.options for teacher in self._teachers])[0][0]


class MixedSpeech(WindowExamples):
    """Windows mixed with rated recordings, each of which comes equally often."""

    def __init__(self, windows: WindowExamples, rated: RatedSpeech, share: float):
        super().__init__(windows.name, windows.score_names, windows.sampling_rate)
        self.windows, self.rated, self.share = windows, rated, share
        self._num_rated = round(len(windows) * share / (1 - share))
        self.labels = np.concatenate([windows.labels, rated.labels[np.arange(self._num_rated) % len(rated)]])
        self.features, self.num_windows = windows.features, len(windows)
        self.excluded = windows.excluded + rated.excluded
        self._fingerprint = digest_of((windows._fingerprint, len(rated), share, rated.labels.tolist()))

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        return self.windows.frames(rows)

    @property
    def corpora(self) -> list[str]:
        return self.windows.corpora + self._repeated(self.rated.corpora)

    @property
    def lengths(self) -> list[tuple[int, int]]:  # type: ignore[override]
        return self.windows.lengths + self._repeated(self.rated.lengths)

    def source(self, row: int) -> str:
        if row < len(self.windows):
            return self.windows.source(row)
        return self.rated.source((row - len(self.windows)) % len(self.rated))

    def _example(self, draw: Draw) -> dict[str, Any]:
        if draw.row < len(self.windows):
            return self.windows[draw]
        turn, place = divmod(draw.row - len(self.windows), len(self.rated))
        # A recording that comes twice in an epoch is cut at two different places.
        epoch = draw.epoch * (1 + self._num_rated // len(self.rated)) + turn
        return self.rated[Draw(place, epoch, draw.is_filler)] | {"row": -1 if draw.is_filler else draw.row}

    def _repeated(self, values: Sequence[Any]) -> list[Any]:
        return [values[place % len(values)] for place in range(self._num_rated)]


def _named(identity: dict[str, Any]) -> str:
    return f"{identity['id']} (weights {identity['weights']})"
