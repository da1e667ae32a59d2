"""Labelled windows as examples for a trainer: kept ones, fresh ones, and rated recordings among them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.windows import WINDOWS_PER_SHARD, WindowCache, WindowMaker, as_waveform
from hf_sqa.distillation.labels import combined_labels, mapped_scores, plan_shards
from hf_sqa.distillation.recipe import TeacherOptions
from hf_sqa.distillation.teacher import Teacher
from hf_sqa.training.batches import Draw
from hf_sqa.training.examples import RatedSpeech


class WindowExamples(RatedSpeech):
    """What examples for a student have in common: labels of teachers, no systems, no cutting.

    Attributes:
        features (`np.ndarray` of shape `(num_windows, D)`, *optional*): Pooled features of the first teacher, where it has some.
        lines (`list`, *optional*): How the scores of several teachers were mapped, see [`combined_labels`].
        num_windows (`int`): Rows below it are windows.
    """

    features: np.ndarray | None = None
    lines: list[Any] | None = None
    num_windows: int = 0
    _fingerprint: str = ""

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """Frames of the first teacher for windows; none unless they were kept."""
        return None

    def _begin(self, name: str, score_names: Sequence[str], sampling_rate: int) -> None:
        self.name, self.score_names, self.sampling_rate = name, list(score_names), sampling_rate
        self.max_seconds, self.window_samples, self.augmentation, self.seed = None, None, None, 0
        self.excluded: Counter[str] = Counter()
        self._lengths = None

    def _sign(self, *parts: Any) -> None:
        self._fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def systems(self) -> None:
        """Windows belong to no system."""
        return None

    @property
    def conditions(self) -> None:
        """Windows are of no condition."""
        return None

    @property
    def corpora(self) -> list[str]:
        """One for all."""
        return ["windows"] * len(self)

    @property
    def label_variances(self) -> np.ndarray:
        """Not known."""
        return np.full(len(self), np.nan)


def kinds_of(row: Mapping[str, Any]) -> set[str]:
    """Kinds of degradation that a window went through, by its facts."""
    return {step["kind"] for step in row.get("degradations", ())}


class CachedWindows(WindowExamples):
    """Windows of a cache with the teachers' labels, as examples for a trainer.

    Args:
        cache ([`WindowCache`]): The windows.
        teachers (sequence of [`Teacher`]), options (sequence of [`TeacherOptions`]): Whose labels.
        student_config (`AudioQualityConfig`): Of the student: its score names and scale.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        num_windows (`int`, *optional*): Of all splits together, see [`plan_shards`]; all that are labelled if not given.
        like ([`WindowExamples`], *optional*): Windows whose alignment of teachers to use.
        leave_out (sequence of `str`, *optional*): Talkers, and kinds of degradation, whose windows are not taken.

    Attributes:
        facts (`list[dict]`): What is known of every window: talker, language, degradations.

    Raises:
        ValueError: If there are no labels of a teacher; it says whose there are.
    """

    def __init__(
        self,
        cache: WindowCache,
        teachers: Sequence[Teacher],
        options: Sequence[TeacherOptions],
        student_config: Any,
        split: str,
        num_windows: int | None = None,
        like: WindowExamples | None = None,
        leave_out: Sequence[str] = (),
    ):
        self._begin(f"{split} windows", student_config.score_names, cache.sampling_rate)
        self.split, self.cache = split, cache
        self._labels_folder = cache.folder / "labels" / teachers[0].digest
        self._readers: dict[Path, Any] = {}
        paths = self._labelled_shards(teachers, num_windows)
        if not paths:
            raise ValueError(
                f"Expected windows of the split {split!r} among {num_windows} of all splits together, got none: they come in "
                f"shards of {WINDOWS_PER_SHARD}; make 10 of these or more (`labels.num_windows={10 * WINDOWS_PER_SHARD}`)."
            )
        self.facts: list[dict[str, Any]] = []
        self._places: list[tuple[Path, int]] = []
        scores: list[list[np.ndarray]] = [[] for _ in teachers]
        features: list[np.ndarray] = []
        for path in paths:
            with safe_open(path, "np") as file:
                rows = json.loads(file.metadata()["rows"])
            self._places += [(path, place) for place in range(len(rows))]
            self.facts += rows
            for number, teacher in enumerate(teachers):
                with safe_open(cache.folder / "labels" / teacher.digest / path.name, "np") as file:
                    scores[number].append(file.get_tensor("scores"))
                    if number == 0:
                        known = "features" in file.keys()  # noqa: SIM118  # no mapping
                        features.append(file.get_tensor("features") if known else np.zeros((0, 0)))
        each = [
            mapped_scores(np.concatenate(own), teacher.model.config, student_config, one)
            for own, teacher, one in zip(scores, teachers, options, strict=True)
        ]
        labels, self.lines = combined_labels(each, options, like.lines if like is not None else None)
        labelled = np.isfinite(labels).any(axis=1)
        for row, is_labelled in zip(self.facts, labelled, strict=True):
            if not is_labelled:
                self.excluded["window: no degradation" if row["status"] != "ok" else "window: no teacher gave a score"] += 1
        own = np.array([not {row["talker"], *kinds_of(row)} & set(leave_out) for row in self.facts], bool)
        if unknown := sorted(set(leave_out).difference(*({row["talker"], *kinds_of(row)} for row in self.facts))):
            raise ValueError(
                f"Expected `labels.leave_out` to name talkers, or kinds of degradation, of the {split} windows, got "
                f"{', '.join(unknown)}; there are {', '.join(sorted({row['talker'] for row in self.facts}))}."
            )
        if left_out := int((labelled & ~own).sum()):
            self.excluded["window: talker or degradation left out"] = left_out
        labelled &= own
        if not labelled.any():
            raise ValueError(f"Expected labelled windows of the split {split!r} in {str(cache.folder)!r}, got none.")
        kept = np.flatnonzero(labelled)
        self.labels = labels[kept]
        self._places, self.facts = [self._places[row] for row in kept], [self.facts[row] for row in kept]
        self.num_windows = len(kept)
        widths = {one.shape[1:] for one in features}
        self.features = np.concatenate(features)[kept] if len(widths) == 1 and sum(map(len, features)) == len(labels) else None
        self._sign(
            cache.description, [teacher.digest for teacher in teachers], list(options), len(paths), split, *sorted(leave_out)
        )

    def _labelled_shards(self, teachers: Sequence[Teacher], num_windows: int | None) -> list[Path]:
        if num_windows is not None:
            splits = [split for split in ("train", "validation", "test") if self.cache.shards(split)]
            numbers = [number for split, number in plan_shards(splits, num_windows) if split == self.split]
            return [self.cache.folder / "windows" / f"{self.split}-{number:05}.safetensors" for number in numbers]
        labels = self.cache.folder / "labels"
        paths = [
            path for path in self.cache.shards(self.split) if all((labels / one.digest / path.name).exists() for one in teachers)
        ]
        if not paths:
            there = []
            for path in sorted(labels.glob("*/teacher.json")):
                identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
                there.append(f"{identity['id']} (weights {identity['weights']})")
            wanted = ", ".join(f"{one.identity['id']} (weights {one.identity['weights']})" for one in teachers)
            raise ValueError(
                f"Expected labels by {wanted} in {str(self.cache.folder)!r}, got labels by {', '.join(there) or 'nobody'}. Labels "
                "of another teacher, or of the same in another precision, are not used; give `labels.num_windows` to make them."
            )
        return paths

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """Frames of the first teacher for windows, float16 `(len(rows), F, 2 D)`; none if they were not kept."""
        found = []
        for row in rows:
            path, place = self._places[row]
            reader = self._reader(self._labels_folder / path.name)
            if "frames" not in reader.keys():  # noqa: SIM118  # no mapping
                return None
            found.append(reader.get_slice("frames")[place : place + 1])
        return np.concatenate(found) if found else None

    def __len__(self) -> int:
        return len(self._places)

    def lengths(self) -> list[tuple[int, int]]:
        if self._lengths is None:
            counts: dict[Path, np.ndarray] = {}
            for path, _ in self._places:
                if path not in counts:
                    counts[path] = self._reader(path).get_tensor("num_samples")
            self._lengths = [(int(counts[path][place]), self.cache.sampling_rate) for path, place in self._places]
        return self._lengths

    def source(self, row: int) -> str:
        path, place = self._places[row]
        return f"{path.name}, window {place}"

    def waveform(self, row: int) -> np.ndarray:
        """Samples of a window."""
        path, place = self._places[row]
        reader = self._reader(path)
        length = int(reader.get_slice("num_samples")[place : place + 1][0])
        peak = float(reader.get_slice("peak")[place : place + 1][0])
        return as_waveform(reader.get_slice("samples")[place : place + 1][0, :length], peak)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> dict[str, Any]:
        row, _, is_filler = Draw.of(key)
        return {
            "row": -1 if is_filler else row,
            "labels": np.full_like(self.labels[row], np.nan) if is_filler else self.labels[row],
            "offset": 0.0,
            "failure": None,
            "waveform": self.waveform(row),
            "sampling_rate": self.sampling_rate,
        }

    def _reader(self, path: Path) -> Any:
        if path not in self._readers:
            self._readers[path] = safe_open(path, "np")
        return self._readers[path]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}


class FreshWindows(WindowExamples):
    """Windows made and labelled when they are asked for: in every epoch others, or, fixed, always the same.

    Args:
        maker ([`WindowMaker`]): What makes windows.
        num_windows (`int`): Windows of an epoch.
        fixed (`bool`, *optional*, defaults to `False`): Make and label them now and keep them.
    """

    def __init__(
        self,
        maker: WindowMaker,
        teachers: Sequence[Teacher],
        options: Sequence[TeacherOptions],
        student_config: Any,
        split: str,
        num_windows: int,
        fixed: bool = False,
    ):
        self._begin(f"{split} windows", student_config.score_names, maker.pool.sampling_rate)
        self.split, self._maker = split, maker
        self._teachers, self._options, self._student_config = list(teachers), list(options), student_config
        if any(one.align == "moments" for one in options):
            raise ValueError("Expected `labels.folder` for teachers with `align: moments`: the line is fitted to kept labels.")
        self._num_windows = num_windows
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        if fixed:
            for number in range(num_windows):
                waveform, labels = self._labelled(number)
                if np.isfinite(labels).any():
                    self._kept.append((waveform, labels))
                else:
                    self.excluded["window: no degradation, or no teacher gave a score"] += 1
            self._num_windows = len(self._kept)
        kept = [labels for _, labels in self._kept]
        self.labels = np.stack(kept) if kept else np.zeros((self._num_windows, len(self.score_names)), np.float32)
        self._sign(maker.description, [one.digest for one in teachers], list(options), num_windows, split)

    def __len__(self) -> int:
        return self._num_windows

    def lengths(self) -> list[tuple[int, int]]:
        rate = self._maker.pool.sampling_rate
        kept = [(len(waveform), rate) for waveform, _ in self._kept]
        return kept or [(self._maker.window_samples, rate)] * len(self)

    def source(self, row: int) -> str:
        return f"window {row}"

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> dict[str, Any]:
        row, epoch, is_filler = Draw.of(key)
        waveform, labels = self._kept[row] if self._kept else self._labelled(epoch * self._num_windows + row)
        failed = not len(waveform)
        return {
            "row": -1 if is_filler or failed else row,
            "labels": np.full_like(labels, np.nan) if is_filler else labels,
            "offset": 0.0,
            "failure": None,
            "waveform": None if failed else waveform,
            "sampling_rate": self.sampling_rate,
        }

    def _labelled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        nothing = np.full(len(self.score_names), np.nan, np.float32)
        waveform, row = self._maker.make(self.split, number)
        if row["status"] != "ok":
            return waveform, nothing
        try:
            recording = load_recording({"array": waveform, "sampling_rate": self.sampling_rate})
        except AudioError:
            return waveform, nothing
        each = [
            mapped_scores(teacher.label([recording])[0], teacher.model.config, self._student_config, one)
            for teacher, one in zip(self._teachers, self._options, strict=True)
        ]
        return waveform, combined_labels(each, self._options)[0][0]


class MixedSpeech(WindowExamples):
    """Windows, and rated recordings among them: a share of the examples, all recordings equally often.

    Args:
        windows ([`WindowExamples`]): The windows.
        rated ([`RatedSpeech`]): The rated recordings.
        share (`float`): Share of the examples that are rated.
    """

    def __init__(self, windows: WindowExamples, rated: RatedSpeech, share: float):
        self._begin(windows.name, windows.score_names, windows.sampling_rate or 0)
        self.windows, self.rated, self.share = windows, rated, share
        self._num_rated = round(len(windows) * share / (1 - share))
        repeated = rated.labels[np.arange(self._num_rated) % len(rated)]
        self.labels = np.concatenate([windows.labels, repeated])
        self.features, self.num_windows = windows.features, len(windows)
        self.excluded = windows.excluded + rated.excluded
        self._sign(windows._fingerprint, len(rated), share, rated.labels.tolist())

    def frames(self, rows: Sequence[int]) -> np.ndarray | None:
        """As for the windows; `rows` are theirs."""
        return self.windows.frames(rows)

    def __len__(self) -> int:
        return len(self.windows) + self._num_rated

    @property
    def corpora(self) -> list[str]:
        own = self.rated.corpora
        return self.windows.corpora + [own[place % len(own)] for place in range(self._num_rated)]

    def lengths(self) -> list[tuple[int, int]]:
        own = self.rated.lengths()
        return self.windows.lengths() + [own[place % len(own)] for place in range(self._num_rated)]

    def num_longer(self) -> int:
        return 0

    def source(self, row: int) -> str:
        return (
            self.windows.source(row) if row < len(self.windows) else self.rated.source((row - len(self.windows)) % len(self.rated))
        )

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> dict[str, Any]:
        row, epoch, is_filler = draw = Draw.of(key)
        if row < len(self.windows):
            return self.windows[draw]
        # A recording that comes twice in an epoch is cut at two places.
        turn, place = divmod(row - len(self.windows), len(self.rated))
        example = self.rated[Draw(place, epoch * (1 + self._num_rated // len(self.rated)) + turn, is_filler)]
        return example | {"row": -1 if is_filler else row}
