"""The rated and readable clips of a table, which fine-tuning uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.audio import AudioError, load_recording
from hf_sqa.data.schema import first_few
from hf_sqa.finetune.plan import MIN_CLIPS
from hf_sqa.training.pseudo_label import content_digest

#: Function that wraps an iterable in a progress bar, given a title and a length.
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


class RatedClips:
    """Rated and readable clips: rows of a data set with names, labels `(num_clips, num_scores)` and groups."""

    def __init__(self, data: Any, labels: np.ndarray, groups: list[str] | None, excluded: list[dict[str, str]]):
        self.data, self.labels, self.groups, self.excluded = data, labels, groups, excluded
        self.audio = data["audio"][:]
        self.names = [clip_name(audio) for audio in self.audio]
        self.digests = [content_digest(audio) for audio in self.audio]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def read(
        cls,
        data: Any,
        scores: Sequence[str],
        group: str | None,
        sampling_rate: int | None,
        track: Track,
        *,
        at_least: int,
        name: str = "clips",
    ) -> RatedClips:
        """Read the rated and readable rows; list the others in `excluded`."""
        labels = np.array([list(data[score]) for score in scores], np.float64).T
        kept: list[int] = []
        excluded: list[dict[str, str]] = []
        audio = data["audio"][:]
        for row in track(range(len(audio)), f"reading {name}", len(audio)):
            if np.isnan(labels[row]).all():
                excluded.append({"file": clip_name(audio[row]), "code": "unrated", "reason": "no label"})
                continue
            try:
                load_recording(audio[row], sampling_rate=sampling_rate)
                kept.append(row)
            except AudioError as error:
                excluded.append({"file": clip_name(audio[row]), "code": error.code, "reason": error.message})
        if len(kept) < at_least:
            causes = first_few([f"{clip['file']} ({clip['code']})" for clip in excluded])
            raise ValueError(
                f"Expected {at_least} rated and readable {name} or more, got {len(kept)} of {len(audio)}"
                + (f"; left out: {causes}" if excluded else "")
                + ". Fewer are too few to train on or to test with: rate more, or mend the files."
            )
        chosen = data.select(kept)
        groups = None if group is None else list(chosen[group])
        if groups is not None and None in groups:  # held-out clips need no group
            groups = None
        return cls(chosen, labels[kept], groups, excluded)

    def select(self, rows: Sequence[int]) -> RatedClips:
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        return RatedClips(self.data.select(list(rows)), self.labels[list(rows)], groups, self.excluded)

    def rows(self, numbers: np.ndarray, anchors: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Return rows for the trainer. Scores that nobody rated get the labels in `anchors`, each `(num_clips,)`."""
        rows = self.data.select(numbers.tolist()).to_list()
        for row, number in zip(rows, numbers.tolist(), strict=True):
            row |= {name: float(values[number]) for name, values in anchors.items()}
        return rows

    def without_those_of(self, other: RatedClips) -> tuple[RatedClips, list[str]]:
        """Return these clips without those that are also in `other`, compared by file content, and remarks."""
        theirs = set(other.digests) - {None}
        rows = [row for row, digest in enumerate(self.digests) if digest not in theirs]
        if len(rows) == len(self):
            return self, []
        gone = [name for name, digest in zip(self.names, self.digests, strict=True) if digest in theirs]
        if len(rows) < MIN_CLIPS:
            raise ValueError(
                f"Expected other clips in the two tables, got {len(gone)} of {len(self)} in both ({first_few(gone)}), which leaves "
                f"{len(rows)} to train on. Give other clips to `--test`, or leave it out."
            )
        return self.select(rows), [f"{len(gone)} clips are in both tables and are not trained on: {first_few(gone)}."]

    def about_excluded(self) -> list[str]:
        """Return remarks about clips that are left out."""
        if not self.excluded:
            return []
        files = first_few([f"{clip['file']} ({clip['code']})" for clip in self.excluded])
        return [f"{len(self.excluded)} clips are left out: {files}; report.json names them all."]

    def about_repeated(self) -> list[str]:
        """Return remarks about files with the same content in several rows."""
        rows_of: dict[str, list[int]] = {}
        for row, digest in enumerate(self.digests):
            if digest is not None:
                rows_of.setdefault(digest, []).append(row)
        owners = self.groups if self.groups is not None else range(len(self))
        across = [rows for rows in rows_of.values() if len({owners[row] for row in rows}) > 1]
        if not across:
            return []
        where = "groups" if self.groups is not None else "rows"
        return [
            f"{len(across)} recordings lie in several {where} under different names "
            f"({first_few([self.names[rows[0]] for rows in across])}): they may be on both sides of the evaluation, and its "
            "numbers too good."
        ]


def rated_scores(model: Any, data: Any, data_name: str) -> list[str]:
    """Return the model's scores that the table rates, in the model's order."""
    names = model.config.score_names
    rated = [name for name in names if name in data.column_names and _any_label(data[name])]
    if not rated:
        about = ("num_ratings", "mos_std", "mos_ci95", "scale_min", "scale_max")
        others = [
            name for name in data.column_names if name not in about and isinstance(data[name][0], float) and _any_label(data[name])
        ]
        raise ValueError(
            f"The model predicts {', '.join(names)}, of which {data_name} rates none; rated are "
            f"{', '.join(others) or 'no scores'}. Choose another model, or name the column (`--column mos=<column>`)."
        )
    return rated


def _any_label(labels: Any) -> bool:
    return not np.isnan(np.array(list(labels), float)).all()


def clip_name(audio: Any) -> str:
    """Return the name of a recording: the last two parts of its path."""
    path = audio.get("path") if isinstance(audio, dict) else audio
    return "/".join(Path(path).parts[-2:]) if path else "a recording in the table"
